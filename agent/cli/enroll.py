"""`v2g-gateway enroll`: requests for the platform's CA, and what it gave back: looked at, then installed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from agent.cli import enroll_est
from agent.cli import identity_orders as work
from agent.cli import init as initialising
from agent.cli.asking import settings_of
from agent.cli.identity import gateway_id_of
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain
from agent.config import DEFAULT_PATH, SecretError, Settings
from agent.identity.csr import server_request
from agent.identity.enrolment import (
    EnrolmentError,
    Usage,
    check_chain,
    fingerprint_words,
    gateway_qr,
    is_gateway,
    read_root,
    root_code,
    roots_of,
)
from agent.identity.errors import IdentityError
from agent.identity.purposes import UPLINK_KEY
from agent.roads.charger_passwords import write_private
from agent.token.pin import read_pin
from agent.token.softhsm import SoftHsmError

NEXT: Final = "Give {folder} to the platform; it shows which gateway it enrolled, and the code of its root."


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the platform gave back, as files, and the codes that came another way."""

    root: str | None
    gateway: str | None
    ca: Path | None
    certificate: Path | None
    ocpp_certificate: Path | None
    secret_file: Path | None
    replace_roots: bool

    @property
    def anything(self) -> bool:
        return any((self.root, self.gateway, self.ca, self.certificate, self.ocpp_certificate, self.secret_file))


def enroll(
    root: Annotated[
        str | None, typer.Option(metavar="CODE", help="Fingerprint of the platform's root: its QR text or typed code.")
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Fingerprint of the gateway that the platform says it has enrolled."),
    ] = None,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="The platform's root certificate, PEM.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate for the uplink, with its intermediates, PEM.")
    ] = None,
    ocpp_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate for the chargers' listener, PEM.")
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="One-time secret of the platform (mode 0600): its CA is asked, at `est`."),
    ] = None,
    replace_roots: Annotated[
        bool, typer.Option("--replace-roots", help="With a new root: trust the older ones no more, at once.")
    ] = False,
    ocpp_name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Host name or address by which chargers reach this gateway; repeatable."),
    ] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Enrol: write what the platform needs, install what it gives.

    Without options: write the requests. With what the platform gave back: check it and put it in its place.

    The first time both codes are needed: the installer's for the platform's root, and the owner's confirmation of
    which gateway was enrolled. Later a new certificate is enough. Nothing is installed unless all of it is right.

    With --secret-file the root and the certificate come from the platform's CA by themselves; the secret stands for the
    owner's confirmation, and --root CODE is still needed.
    """
    settings = settings_of(config, as_json)
    given = Given(
        root=root, gateway=gateway, ca=ca, certificate=certificate, ocpp_certificate=ocpp_certificate,
        secret_file=secret_file, replace_roots=replace_roots,
    )  # fmt: skip
    try:
        if given.anything:
            installed = asyncio.run(_install(settings, given, _gateway_id(settings), datetime.now(UTC)))
            _tell_installed(installed, as_json)
        else:
            _tell_requests(settings, asyncio.run(_request(settings, ocpp_name or [])), as_json)
    except (initialising.InitError, work.OrderError, IdentityError, SecretError, SoftHsmError) as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, config), as_json=as_json)


# -- Asking -----------------------------------------------------------------------------------------------------------


async def _request(settings: Settings, ocpp_names: list[str]) -> initialising.Initialised:
    """Everything that the platform needs, in STATE/enrolment."""
    settings.gateway.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    initialising.choose_softhsm(settings.token, settings.gateway.state_dir)
    done = await initialising.make_keys(
        settings.token,
        read_pin(settings.token.pin_secret),
        name=settings.gateway.name,
        state_dir=settings.gateway.state_dir,
        settled=[device.id for device in settings.device if device.settled],
        site_ca=settings.ocpp.site_ca,
    )
    ocpp = settings.ocpp
    if ocpp.certificate_file is not None and ocpp.certificate_key_file is not None:
        key_pem = _key_file(ocpp.certificate_key_file)
        if ocpp_names:
            request = server_request(key_pem, common_name=settings.gateway.name, names=ocpp_names)
        elif ocpp.certificate_file.exists():
            request = server_request(key_pem, like=ocpp.certificate_file.read_bytes())
        else:
            raise EnrolmentError(
                "--ocpp-name HOST is missing: chargers accept a certificate only for the name by which they connect"
            )
        (done.enrolment_dir / "ocpp.csr").write_bytes(request)
    elif ocpp_names:
        raise EnrolmentError("--ocpp-name: set [ocpp] certificate_file and certificate_key_file first")
    return done


def _key_file(path: Path) -> bytes:
    """The key of the chargers' listener, made (P-256, mode 0600) where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(path, pem)
        return pem


# -- Installing -------------------------------------------------------------------------------------------------------


async def _install(settings: Settings, given: Given, gateway_id: str, now: datetime) -> dict[str, str]:
    """Name -> file, of all that was put in its place. Everything is checked before anything is written."""
    if given.gateway is not None and not is_gateway(given.gateway, gateway_id):
        raise EnrolmentError(
            f"the platform has enrolled another gateway ({given.gateway.strip()[:40]!r}): the fingerprint of this one "
            f"is {fingerprint_words(gateway_id)}; nothing is installed, tell the platform"
        )
    platform = settings.platform
    files: dict[Path, tuple[str, bytes]] = {}
    if platform is None and (given.ca or given.certificate or given.secret_file):
        raise EnrolmentError("there is no [platform] in the configuration: add it, with the files' places, then enrol")
    if given.certificate is not None and given.secret_file is not None:
        raise EnrolmentError("--certificate and --secret-file are two ways to one certificate: give one")
    roots: list[x509.Certificate] = []
    if given.ca is not None or (given.secret_file is not None and given.root is not None):
        assert platform is not None
        if given.root is None:
            raise EnrolmentError("--root CODE is missing: a root certificate is believed by its fingerprint only")
        found = given.ca.read_bytes() if given.ca else await enroll_est.fetched_root(settings, given.root, now)
        roots = [read_root(found, given.root, now)]
        if platform.ca_file.exists() and not given.replace_roots:
            # The platform changes its own certificate some day after this one: until then the older root is needed.
            before = roots_of(platform.ca_file.read_bytes(), f"the platform's root {platform.ca_file}")
            roots += [root for root in before if root != roots[0] and now < root.not_valid_after_utc]
        pem = b"".join(root.public_bytes(Encoding.PEM) for root in roots)
        files[platform.ca_file] = ("platform root", pem)
    elif platform is not None and platform.ca_file.exists():
        roots = roots_of(platform.ca_file.read_bytes(), f"the platform's root {platform.ca_file}")
    if given.certificate is not None or given.secret_file is not None:
        assert platform is not None
        if not roots:
            raise EnrolmentError("the platform's root is not here yet: give --ca FILE and --root CODE too")
        if given.secret_file is None and given.gateway is None and not platform.certificate_file.exists():
            raise EnrolmentError(
                "--gateway CODE is missing: let the platform show the fingerprint of the gateway that it enrolled; "
                f"the owner confirms that it is this one ({fingerprint_words(gateway_id)})"
            )
        async with work.token_of(settings) as token:
            public_key_der = await token.signer(UPLINK_KEY).meet()
        if given.certificate is not None:
            pem, what = given.certificate.read_bytes(), f"certificate {given.certificate}"
        else:
            assert given.secret_file is not None
            what = f"the certificate from {enroll_est.est_url(settings)}"
            pem = await enroll_est.first_certificate(
                settings, given.secret_file, roots, public_key_der=public_key_der, gateway_id=gateway_id, now=now
            )
        check_chain(
            pem, roots, what=what, public_key_der=public_key_der, gateway_id=gateway_id, usage=Usage.CLIENT, now=now
        )
        files[platform.certificate_file] = ("uplink certificate", pem)
    if given.ocpp_certificate is not None:
        files |= _ocpp(settings, given.ocpp_certificate, roots, now)
    if not files:
        ways = "--ca, --certificate, --ocpp-certificate or --secret-file"
        raise EnrolmentError(f"there is nothing to install: give {ways}")
    for path, (_, content) in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        initialising.put(path, content, mode=0o644)
    return {name: str(path) for path, (name, _) in files.items()}


def _ocpp(
    settings: Settings, file: Path, roots: list[x509.Certificate], now: datetime
) -> dict[Path, tuple[str, bytes]]:
    ocpp = settings.ocpp
    if ocpp.certificate_file is None or ocpp.certificate_key_file is None:
        raise EnrolmentError("--ocpp-certificate: set [ocpp] certificate_file and certificate_key_file first")
    try:
        key = load_pem_private_key(ocpp.certificate_key_file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise EnrolmentError(f"{ocpp.certificate_key_file}: no private key in PEM: {str(error)[:80]}") from error
    public_key_der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not roots:
        raise EnrolmentError("the root that certifies the listener is not here yet: give --ca FILE and --root CODE too")
    pem = file.read_bytes()
    check_chain(
        pem, roots, what=f"certificate {file}", public_key_der=public_key_der, gateway_id=None, usage=Usage.SERVER,
        now=now,
    )  # fmt: skip
    return {ocpp.certificate_file: ("ocpp certificate", pem)}


def _gateway_id(settings: Settings) -> str:
    gateway_id = gateway_id_of(settings)
    if not gateway_id:
        raise EnrolmentError("this gateway has no key yet: run v2g-gateway init")
    return gateway_id


# -- Words ------------------------------------------------------------------------------------------------------------


def _tell_requests(settings: Settings, done: initialising.Initialised, as_json: bool) -> None:
    files = sorted(path.name for path in done.enrolment_dir.iterdir() if path.is_file())
    if as_json:
        emit_json(
            {
                "ok": True,
                "gateway_id": done.gateway_id,
                "fingerprint": fingerprint_words(done.gateway_id),
                "qr": gateway_qr(done.gateway_id),
                "enrolment_dir": str(done.enrolment_dir),
                "files": files,
                "root": _root_shown(settings),
            }
        )
        return
    _say(f"Gateway {done.gateway_id}")
    _say(f"Fingerprint for people: {fingerprint_words(done.gateway_id)}")
    _say(f"For a QR code: {gateway_qr(done.gateway_id)}")
    _say(NEXT.format(folder=done.enrolment_dir))
    _say("Then: v2g-gateway enroll --root CODE --gateway CODE --ca root.pem --certificate uplink.pem")


def _root_shown(settings: Settings) -> str | None:
    """The code of the root that is installed."""
    if settings.platform is None or not settings.platform.ca_file.exists():
        return None
    try:
        return root_code(roots_of(settings.platform.ca_file.read_bytes(), "the platform's root")[0])
    except (IdentityError, OSError):
        return None


def _tell_installed(installed: dict[str, str], as_json: bool) -> None:
    if as_json:
        emit_json({"ok": True, "installed": installed})
        return
    for name, file in installed.items():
        _say(f"Installed: {name} in {file}")
    _say("A running agent takes it for its next connection.")


def _say(line: str) -> None:
    console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
