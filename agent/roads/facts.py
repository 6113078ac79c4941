"""What is true of a run, at its start and again later: the metering tree, what software runs, what a TPM says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib import metadata
from typing import Final

import structlog

from agent.config import Settings
from agent.evidence.statements import Attestation, MeteringPoint, Statement, TpmQuote
from agent.evidence.tpm_quote import nonce_of
from agent.ledger.metering import metering_tree
from agent.roads.devices import metrology_settings
from agent.roads.patience import patiently
from agent.token import quote as quotes
from agent.token.tpm import TpmError
from firmware_attest.measurement import Measurement, measure_settings

ATTESTATION_DAYS: Final = 30
AGAIN_S: Final = 10 * 86_400.0
"""An agent that runs for months attests again long before the last one ends, also where it waits for its token."""

log = structlog.get_logger()


def facts(
    settings: Settings,
    *,
    version: str,
    software: Measurement,
    now_us: int,
    quote: Callable[[bytes], TpmQuote | None] = lambda _: None,
) -> list[Statement]:
    """The statements that a run begins with. `quote`: the TPM's, over a nonce; None where there is none."""
    points = [
        MeteringPoint(device_id=device.id, parent_id=device.parent, settled=device.settled)
        for device in settings.device
    ]
    attestation = Attestation(
        timestamp_us=now_us,
        valid_until_us=now_us + ATTESTATION_DAYS * 86_400_000_000,
        software_version=version,
        software_digest=software.digest,
        metrology_digest=measure_settings(metrology_settings(settings)),
    )
    attestation = replace(attestation, quote=quote(nonce_of(attestation)))
    return [metering_tree(points, now_us), attestation]


def tpm_quote(nonce: bytes) -> TpmQuote | None:
    """Of this machine's TPM. Blocks. One that does not answer costs the quote and not the attestation."""
    if not quotes.is_there():
        return None
    try:
        return quotes.quote_for_evidence(nonce)
    except TpmError as error:
        log.warning("attestation.no_quote", reason=str(error))
        return None


def installed_version() -> str:
    """Of the installed wheel; a checkout says that it is one."""
    try:
        return metadata.version("v2g-gateway")
    except metadata.PackageNotFoundError:
        return "checkout"


async def keep_stating(state: Callable[[], Awaitable[None]], *, every_s: float = AGAIN_S) -> None:
    """State the facts now and again, until cancelled."""
    while True:
        await patiently(state)
        await asyncio.sleep(every_s)
