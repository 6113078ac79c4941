"""What is true of one run from its start: the metering tree, and what software runs with what metrology settings."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from agent.config import Settings
from agent.evidence.statements import Attestation, MeteringPoint, Statement
from agent.ledger.metering import metering_tree
from agent.roads.devices import metrology_settings
from firmware_attest.measurement import Measurement, measure_settings

ATTESTATION_DAYS: Final = 30


def facts(settings: Settings, *, version: str, software: Measurement, now_us: int) -> list[Statement]:
    """The statements that a run begins with."""
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
    return [metering_tree(points, now_us), attestation]


def installed_version() -> str:
    """Of the installed wheel; a checkout says that it is one."""
    try:
        return metadata.version("v2g-gateway")
    except metadata.PackageNotFoundError:
        return "checkout"
