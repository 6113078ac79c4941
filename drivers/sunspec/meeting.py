"""Who is there: a device that is on record is verified with few requests, any other discovered and put on record."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import structlog

from drivers.device import Journal
from drivers.sunspec.codec import layout
from drivers.sunspec.connection import Unit
from drivers.sunspec.description import DeviceDescription, recall, remember
from drivers.sunspec.discovery import describe, verify
from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError, NoAnswerError
from drivers.sunspec.models import model_definition
from drivers.sunspec.profile import Profile, recalled
from drivers.sunspec.registers import NO_REFUSALS, Hole

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Met:
    """Who answers, and what was known of it before."""

    description: DeviceDescription
    profile: Profile
    was: str | None
    """meter_id of the device that was here before, where it is another one."""


async def meet(unit: Unit, journal: Journal, *, by_record: bool = True) -> Met:
    """Raises SunSpecErrors as `describe` does. Without the journal, or `by_record`, everybody is discovered anew."""
    key = f"device/{unit.connection.endpoint}/{unit.number}"
    kept = await _recall(journal, key)
    earlier = None if kept is None else recall(kept)
    if earlier is not None:
        profile = recalled(await _recall(journal, profile_key(earlier)), earlier.version)
        unit.connection.pace.known(profile.gap_s)
    if earlier is not None and by_record and await _is_still_there(unit, earlier):
        description = earlier
    else:
        description = await describe(unit)
        if description != earlier:
            await keep(journal, key, remember(description))
    profile = recalled(await _recall(journal, profile_key(description)), description.version)
    if profile.refusals.holes and not await _is_hidden(unit, description, profile.refusals.holes):
        profile = replace(profile, refusals=NO_REFUSALS)
    was = None if earlier is None or earlier.meter_id == description.meter_id else earlier.meter_id
    return Met(description, profile, was)


def profile_key(description: DeviceDescription) -> str:
    """Where a device's profile is kept."""
    return f"profile/{description.meter_id}"


async def keep(journal: Journal, key: str, value: bytes) -> bool:
    """Whether it is on record now. Never in the way: what is not kept is learned again."""
    try:
        await journal.remember(key, value)
    except Exception as error:  # the store's own errors are not known here, and none may stop a measurement
        _log.error("sunspec.not_recorded", key=key, error=str(error))
        return False
    return True


async def _recall(journal: Journal, key: str) -> bytes | None:
    try:
        return await journal.recall(key)
    except Exception as error:  # as above
        _log.error("sunspec.not_recalled", key=key, error=str(error))
        return None


async def _is_still_there(unit: Unit, earlier: DeviceDescription) -> bool:
    try:
        return await verify(unit, earlier)
    except (NoAnswerError, BadAnswerError):
        # Silent altogether, or only where the other one had its models?
        await unit.read(earlier.base, 2)
        return False


async def _is_hidden(unit: Unit, description: DeviceDescription, holes: Collection[Hole]) -> bool:
    """Whether a device still hides what it hid: one of the registers is asked for, in the place of all."""
    for address, path in sorted(holes):
        model = next((model for model in description.models if model.address == address), None)
        definition = None if model is None else model_definition(model.number)
        if model is None or definition is None:
            continue
        field = layout(definition, model.length).fields.get(path)
        if field is None:
            continue  # of a repeating group: how many there are is not known here
        try:
            await unit.read(address + field.offset, field.point.size)
        except ModbusExceptionError as error:
            if error.is_transient:
                raise
            return True
        return False
    return False
