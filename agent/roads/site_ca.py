"""Brings up the site's CA: its key from the token, its root from the state directory, and both to the CSMS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from agent.clock import Clock, ClockQuality
from agent.config import Settings
from agent.identity.purposes import SITE_CA_KEY
from agent.identity.site_ca import SiteCa, SiteCaError, make_root
from agent.roads.charger_passwords import write_private
from agent.roads.problems import Problems
from agent.roads.server_certificate import FILE as SERVER_CERTIFICATE
from agent.roads.server_certificate import keep_server_certificate
from agent.token.token import Token
from drivers.device import Journal, SignerUnavailableError
from drivers.ocpp.server import OcppServer

ROOT_FILE: Final = "site-ca.pem"
RETRY_S: Final = 10.0

log = structlog.get_logger()


async def bring_up_site_ca(
    server: OcppServer,
    *,
    token: Token,
    journal: Journal,
    state_dir: Path,
    name: str,
    clock: Clock,
    note_problem: Callable[[str, str], None],
) -> SiteCa:
    """Returns when chargers can be certified. Until then their requests are refused; all else works."""
    said = ""
    while True:
        try:
            authority = await _site_ca(token, journal, state_dir, name, clock)
            break
        except (SignerUnavailableError, SiteCaError, OSError, ValueError) as error:
            if str(error) != said:
                said = str(error)
                note_problem("site CA", f"chargers cannot be certified: {error}")
            await asyncio.sleep(RETRY_S)
    server.use_authority(authority, authority.root_pem)
    log.info("site_ca.ready", file=str(state_dir / ROOT_FILE))
    return authority


async def certify_chargers(
    server: OcppServer, settings: Settings, *, token: Token, journal: Journal, clock: Clock, problems: Problems
) -> None:
    """Certificates for chargers as soon as the token is there, and, where the listener's own comes from the site's CA,
    that one too, kept until cancelled."""
    authority = await bring_up_site_ca(
        server,
        token=token,
        journal=journal,
        state_dir=settings.gateway.state_dir,
        name=settings.gateway.name,
        clock=clock,
        note_problem=problems.note,
    )
    problems.solved("site CA")
    if settings.ocpp.certificate_names:
        await keep_server_certificate(
            authority,
            settings.ocpp.certificate_names,
            settings.gateway.state_dir / SERVER_CERTIFICATE,
            use=server.use_certificate,
            note_problem=problems.note,
            solved=problems.solved,
        )


async def _site_ca(token: Token, journal: Journal, state_dir: Path, name: str, clock: Clock) -> SiteCa:
    signer = await token.pinned_signer(SITE_CA_KEY, journal)
    file = state_dir / ROOT_FILE

    def now() -> datetime | None:
        moment = clock.now()
        return None if moment.quality is ClockQuality.UNTRUSTED else datetime.fromtimestamp(moment.wall_us / 1e6, UTC)

    if not await asyncio.to_thread(file.exists):
        moment = now()
        if moment is None:
            raise SiteCaError("the clock cannot be trusted yet, and a certificate needs the time")
        await asyncio.to_thread(write_private, file, await make_root(signer, name=name, now=moment))
    root = x509.load_pem_x509_certificate(await asyncio.to_thread(file.read_bytes))
    return SiteCa(signer, root, now=now)
