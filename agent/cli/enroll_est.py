"""The first certificate over EST: what `enroll --secret-file` asks the platform's CA for (proto/IDENTITY.md section 9).

The secret comes from the platform to the owner, who gives it to this gateway: that is the word that no wire can give,
so no code of the gateway is needed beside it. The root is believed by its fingerprint alone, wherever it comes from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.config import PlatformSettings, Settings, read_secret
from agent.identity.enrolment import EnrolmentError, read_root, spki_of
from agent.identity.est import EstError, basic_login, names_of
from agent.roads.est import EstServer, Later, announced, obtain
from agent.uplink.errors import UplinkError


def est_url(settings: Settings) -> str:
    """Raises EnrolmentError where none is configured."""
    if settings.platform is None or settings.platform.est is None:
        raise EnrolmentError("--secret-file: set `est` of [platform] first: where the platform's CA answers")
    return settings.platform.est.rstrip("/")


async def fetched_root(settings: Settings, typed: str, now: datetime) -> bytes:
    """The platform's root by its fingerprint, PEM, from its EST server (RFC 7030 section 4.1.1).

    Nothing vouches for that server yet, and it is told nothing. Raises EnrolmentError.
    """
    url = est_url(settings)
    try:
        came = await announced(url, now)
    except (EstError, OSError) as error:
        raise EnrolmentError(f"{url}: {error}") from error
    for certificate in came:
        pem = certificate.public_bytes(Encoding.PEM)
        try:
            read_root(pem, typed, now)
        except EnrolmentError:
            continue
        return pem
    raise EnrolmentError(
        f"none of the {len(came)} certificates at {url}/cacerts is a root with the fingerprint {typed.strip()[:80]!r}: "
        "this is not the platform that you were told of, or somebody is between; nothing is installed"
    )


async def first_certificate(
    settings: Settings,
    secret_file: Path,
    roots: Sequence[x509.Certificate],
    *,
    public_key_der: bytes,
    gateway_id: str,
    now: datetime,
) -> bytes:
    """The uplink's certificate with its chain, PEM, not checked yet. Raises EnrolmentError and SecretError."""
    url, platform = est_url(settings), settings.platform
    assert platform is not None
    login = basic_login(read_secret(f"file:{secret_file}"))
    for place in (platform.ca_file, platform.certificate_file):
        _require_writable(place)
    request = _request(settings.gateway.state_dir / "enrolment" / "uplink.csr", public_key_der, gateway_id)

    async def told(_: datetime) -> str:
        return login

    with tempfile.TemporaryDirectory() as folder:
        server = EstServer(url=url, ca_file=_trusted(platform, roots, Path(folder)), login=told)
        try:
            came = await obtain(server, request, list(roots), public_key_der, now, again=False)
        except (EstError, OSError, UplinkError) as error:
            raise EnrolmentError(f"{url}: {error}") from error
    if isinstance(came, Later):
        when = "later" if came.after_s is None else f"in {came.after_s:.0f} s or later"
        said = f", and says: {came.said}" if came.said else ""
        raise EnrolmentError(f"{url}: the CA has the request and has not decided; give this command again {when}{said}")
    return came


def _require_writable(place: Path) -> None:
    """The secret is good once: what it buys must have somewhere to go. Raises EnrolmentError."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.parent):
            pass
    except OSError as error:
        raise EnrolmentError(
            f"{place}: cannot be written here ({error.strerror}); name a file below the state directory in [platform]. "
            "The secret was not used"
        ) from error


def _trusted(platform: PlatformSettings, roots: Sequence[x509.Certificate], folder: Path) -> Path:
    """Who certifies the server: the root may be nowhere on this disk yet."""
    if platform.est_ca_file is not None:
        return platform.est_ca_file
    file = folder / "roots.pem"
    file.write_bytes(b"".join(root.public_bytes(Encoding.PEM) for root in roots))
    return file


def _request(file: Path, public_key_der: bytes, gateway_id: str) -> bytes:
    """The one that lies there since `init` or `enroll`: a CA that thinks about it gets the same again."""
    advice = "run v2g-gateway enroll without options first: it writes the request"
    try:
        pem = file.read_bytes()
        request = x509.load_pem_x509_csr(pem)
    except FileNotFoundError:
        raise EnrolmentError(f"{file}: there is none; {advice}") from None
    except ValueError as error:
        raise EnrolmentError(f"{file}: is no certificate request; {advice}") from error
    if spki_of(request) != public_key_der or x509.UniformResourceIdentifier(gateway_id) not in names_of(request):
        raise EnrolmentError(f"{file}: is for another key or name than this gateway's; {advice}")
    return pem
