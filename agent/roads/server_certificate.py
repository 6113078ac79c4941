"""The certificate that the OCPP listener shows, from the site's own CA: made, and renewed in time, without a restart.

Python's TLS servers need the key in a file: key and chain are one file of mode 0600 in the state directory, so that
they are never of two makings. A new key for each certificate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.identity.site_ca import SiteCa, SiteCaError
from agent.roads.charger_passwords import write_private
from drivers.device import SignerUnavailableError

FILE: Final = "ocpp-server.pem"
LOOK_EVERY_S: Final = 3600.0
"""Whether it is to be renewed."""
RETRY_S: Final = 30.0

log = structlog.get_logger()


def made_before(file: Path) -> x509.Certificate | None:
    """The certificate in the file; None: there is none that could be used."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError, IndexError):
        return None


async def keep_server_certificate(
    authority: SiteCa,
    names: Collection[str],
    file: Path,
    *,
    use: Callable[[Path], None],
    note_problem: Callable[[str, str], None],
    solved: Callable[[str], None],
) -> None:
    """Until cancelled. `use` loads the file into the listener: it raises OSError for one that TLS cannot use."""
    wait_s = LOOK_EVERY_S
    while True:
        try:
            await _look(authority, names, file, use)
            solved("OCPP certificate")
            wait_s = LOOK_EVERY_S
        except (SignerUnavailableError, SiteCaError, OSError) as error:
            note_problem("OCPP certificate", f"the listener's certificate cannot be made: {error}")
            wait_s = RETRY_S
        await asyncio.sleep(wait_s)


async def _look(authority: SiteCa, names: Collection[str], file: Path, use: Callable[[Path], None]) -> None:
    there = await asyncio.to_thread(made_before, file)
    if there is not None and authority.holds_for(there, names):
        try:
            await asyncio.to_thread(use, file)
            return
        except (OSError, ssl.SSLError):
            log.warning("ocpp.certificate_unusable", file=str(file))
    key = ec.generate_private_key(ec.SECP256R1())
    chain = await authority.issue_server(key.public_key(), names)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    await asyncio.to_thread(write_private, file, private + chain.encode())
    await asyncio.to_thread(use, file)
    made = x509.load_pem_x509_certificates(chain.encode())[0]
    log.info("ocpp.certificate_made", names=sorted(names), until=made.not_valid_after_utc.isoformat())
