"""Chargers that the installer approved and nobody wrote a section for: devices of the site, with safe defaults. Pure.

Kept in the store until a [[device]] of the configuration names the charger: that counts then, and only that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

import orjson

from agent.config import DeviceSettings, Settings
from drivers.device import DeviceKind

LONGEST_ID: Final = 40
MOST_DEVICES: Final = 200
"""As many as the configuration may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """One charger, as it was approved."""

    charger_id: str
    device_ids: tuple[str, ...]
    """By EVSE, from EVSE 1 on."""
    password_secret: str
    """Where its password is kept, as the configuration would name it."""
    approved_us: int

    @property
    def origin(self) -> str:
        """For a person."""
        day = datetime.fromtimestamp(self.approved_us / 1e6, UTC).isoformat(timespec="seconds")
        return (
            f"approved {day} with safe defaults: it charges with no more than the plan gives it, waits when the "
            f"gateway is silent, never discharges and is not settled; a [[device]] with its charger_id changes that"
        )

    def sections(self) -> list[DeviceSettings]:
        """As an installer would have written it."""
        return [
            DeviceSettings(
                id=device_id,
                kind=DeviceKind.CHARGER,
                driver="ocpp",
                charger_id=self.charger_id,
                evse_id=evse_id,
                password_secret=self.password_secret,
                fallback_import_w=0,
            )
            for evse_id, device_id in enumerate(self.device_ids, 1)
        ]


def adopted(settings: Settings, charger_id: str, password_secret: str, evses: int, now_us: int) -> Adopted:
    """A charger that was approved now; its devices get names of their own. Raises ValueError when there is no room."""
    taken = {device.id for device in settings.device}
    if len(taken) + evses > MOST_DEVICES:
        raise ValueError(f"this gateway has {len(taken)} devices; {MOST_DEVICES} is the most that it can have")
    stem = re.sub(r"[^a-z0-9]+", "-", charger_id.lower()).strip("-")[:LONGEST_ID].strip("-") or "charger"
    names: list[str] = []
    for number in range(1, evses + 1):
        wanted = stem if evses == 1 else f"{stem}-{number}"
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}-{count}"
        taken.add(name)
        names.append(name)
    return Adopted(charger_id=charger_id, device_ids=tuple(names), password_secret=password_secret, approved_us=now_us)


def still_adopted(settings: Settings, kept: Sequence[Adopted]) -> list[Adopted]:
    """Those that the configuration still leaves to their approval."""
    configured = {device.charger_id for device in settings.device}
    ids = {device.id for device in settings.device}
    found: list[Adopted] = []
    for each in kept:
        if each.charger_id in configured or ids & set(each.device_ids) or len(ids) >= MOST_DEVICES:
            continue
        ids |= set(each.device_ids)
        found.append(each)
    return found


def with_adopted(settings: Settings, kept: Sequence[Adopted]) -> Settings:
    """The settings with these chargers as if they had been written there."""
    sections = [section for each in kept for section in each.sections()]
    return settings.model_copy(update={"device": [*settings.device, *sections]})


def encode(kept: Sequence[Adopted]) -> bytes:
    """What must survive a restart."""
    return orjson.dumps([asdict(each) for each in kept])


def decode(note: bytes | None) -> list[Adopted]:
    """What `encode` gave. Raises ValueError when it is damaged."""
    if note is None:
        return []
    try:
        return [
            Adopted(
                charger_id=str(each["charger_id"]),
                device_ids=tuple(str(name) for name in each["device_ids"]),
                password_secret=str(each["password_secret"]),
                approved_us=int(each["approved_us"]),
            )
            for each in orjson.loads(note)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the record of approved chargers is damaged: {type(error).__name__}") from error
