"""Which SunSpec device is there: find the map, walk the models, read who it is. Bounded in requests and time.

A description that was kept is not found again but verified: marker, identity and the models in use, a dozen requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from drivers.sunspec.codec import Value, layout
from drivers.sunspec.connection import BACKOFF_LEAST_S, ConnectionPool, Unit, Words
from drivers.sunspec.description import (
    INVERTER_MODELS,
    METER_MODELS,
    MOST_MODELS,
    STORAGE_MODELS,
    DeviceDescription,
    FoundModel,
    identity_of,
    recall,
    remember,
)
from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError, NoAnswerError, NotSunSpecError
from drivers.sunspec.models import HEADER_SIZE, model_definition
from drivers.sunspec.plausibility import judged_plausible, phantoms
from drivers.sunspec.registers import MapPoll, ModelPoll, Read

__all__ = [
    "BASES",
    "INVERTER_MODELS",
    "LIKELY_UNITS",
    "METER_MODELS",
    "MOST_MODELS",
    "STORAGE_MODELS",
    "DeviceDescription",
    "FoundModel",
    "describe",
    "discover",
    "discover_units",
    "goes_on",
    "identity_of",
    "lacks_nameplate",
    "read_identity",
    "recall",
    "remember",
    "verify",
]

BASES: Final = (40000, 0, 50000)
"""Where a SunSpec map may begin, in order of likelihood. SunSpec Information Model Specification, section 6.2.1."""
UNUSUAL_BASES: Final = (40001, 39999, 1, 50001, 49999, 30000, 60000)
"""Where maps begin on devices that count registers from 1, or put input registers' numbers there. Asked only of a
device that answers, and has no map where one belongs."""
LIKELY_UNITS: Final = (1, 126, 2, 3, 71, 100, 200, 240, 247)
"""Unit ids that makers ship with SunSpec: most 1, SMA 126, Kostal 71, Fronius meters 200 and 240."""
MARKER: Final = [0x5375, 0x6E53]
"""The two registers that a map begins with: "SunS"."""
END_MODEL: Final = 0xFFFF
_IDENTITY: Final = {"Mn": "manufacturer", "Md": "model", "Opt": "options", "Vr": "version", "SN": "serial"}
"""Texts of model 1, and what they are called in a description."""
DISCOVERY_S: Final = 60.0
"""A whole discovery takes at most this long, however slow the device."""
MOST_REQUESTS: Final = 400
"""And asks at most this much: a hundred models need about half of it."""
VERIFIED_MODELS: Final = frozenset(
    {*METER_MODELS, *INVERTER_MODELS, *STORAGE_MODELS, 1, 120, 121, 122, 123, 160, 702, 703, 704, 711, 714}
)
"""What we read or write: these must be where they were."""


NAMEPLATE_MODELS: Final = (702, 120, 121)


class _Bounded:
    """Reads of one discovery, counted."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._left = MOST_REQUESTS

    async def __call__(self, address: int, count: int) -> Words:
        if self._left <= 0:
            raise NotSunSpecError(f"{self._unit}: a map that takes more than {MOST_REQUESTS} requests to look at")
        self._left -= 1
        return await self._unit.read(address, count)


async def discover(
    address: str, unit: int, *, timeout_s: float = 1.0, connections: ConnectionPool | None = None
) -> DeviceDescription:
    """Describe the SunSpec device at "tcp://host:port" under a Modbus unit id.

    Raises AddressError, NoAnswerError (nobody there), BadAnswerError (something that is not Modbus),
    NotSunSpecError (Modbus without a SunSpec map). `connections` shares the endpoint with others; without it a
    connection is opened and closed again.
    """
    pool = ConnectionPool(time.monotonic) if connections is None else connections
    try:
        return await describe(Unit(pool.connection(address), unit, timeout_s))
    finally:
        if connections is None:
            pool.close()


async def discover_units(
    address: str,
    units: Iterable[int] = LIKELY_UNITS,
    *,
    timeout_s: float = 1.0,
    connections: ConnectionPool | None = None,
) -> tuple[DeviceDescription, ...]:
    """Every SunSpec device behind one endpoint, by unit ids in the order asked for.

    A device that answers under several ids, as those do that ignore the id, is given once. Raises AddressError, and
    NoAnswerError or BadAnswerError when the endpoint itself cannot be asked.
    """
    pool = ConnectionPool(time.monotonic) if connections is None else connections
    found: list[DeviceDescription] = []
    try:
        connection = pool.connection(address)
        for number in units:
            try:
                new = await describe(Unit(connection, number, timeout_s))
            except NoAnswerError:
                if connection.generation == 0:
                    raise  # nobody there at all: no unit id changes that
                continue
            except (NotSunSpecError, ModbusExceptionError):
                continue
            same = next((old for old in found if old.serial and _same_device(old, new)), None)
            if same is None:
                found.append(new)
            else:
                note = f"answers as unit {new.unit} too"
                found[found.index(same)] = replace(same, notes=(*same.notes, note))
    finally:
        if connections is None:
            pool.close()
    return tuple(found)


def _same_device(old: DeviceDescription, new: DeviceDescription) -> bool:
    return (old.meter_id, old.models) == (new.meter_id, new.models)


async def describe(unit: Unit, bases: Sequence[int] = (*BASES, *UNUSUAL_BASES)) -> DeviceDescription:
    """As `discover`, over a connection that is there. `bases`: where a map may begin; all but three only on demand."""
    read = _Bounded(unit)
    try:
        async with asyncio.timeout(DISCOVERY_S):
            base = await _find_base(unit, read, bases)
            models, notes = await _walk(unit, read, base)
            common = next((model for model in models if model.number == 1), None)
            if common is None:
                raise NotSunSpecError(f"{unit}: a SunSpec map at {base}, but without model 1 that says who it is")
            who = await _identity(unit, read, common)
            ghosts = await phantoms(read, models)
    except TimeoutError as error:
        raise NoAnswerError(
            f"{unit}: discovery took longer than {DISCOVERY_S:g} s; is the device overloaded?"
        ) from error
    notes += [
        f"model {ghost.number} at {ghost.address} is empty: nothing is there that it describes" for ghost in ghosts
    ]
    if not who["serial"]:
        notes.append("gives no serial number: another of its kind in its place would not be noticed")
    return DeviceDescription(
        address=str(unit.connection.endpoint),
        unit=unit.number,
        base=base,
        **who,
        models=models,
        phantoms=tuple(ghost.address for ghost in ghosts),
        notes=tuple(notes),
    )


async def verify(unit: Unit, description: DeviceDescription) -> bool:
    """Whether the device of a kept description still is there, with the same map; False: discover it anew.

    Also False when a model that was empty no longer is (a battery was added), or when models follow that were hidden
    while nothing said what it is built for. Raises NoAnswerError, BadAnswerError, and
    ModbusExceptionError where the device is busy: that says nothing about who it is.
    """
    common = description.find(1)
    if common is None or (description.address, description.unit) != (str(unit.connection.endpoint), unit.number):
        return False
    read = _Bounded(unit)
    try:
        async with asyncio.timeout(DISCOVERY_S):
            if (await read(description.base, len(MARKER))).words != MARKER:
                return False
            if not await _is_as_described(unit, read, description, common):
                return False
            if lacks_nameplate(description) and await goes_on(read, description):
                return False
            for phantom in (model for model in description.models if description.is_phantom(model)):
                if await judged_plausible(read, phantom):
                    return False
    except ModbusExceptionError as error:
        if error.is_transient:
            raise
        return False
    except TimeoutError as error:
        raise NoAnswerError(f"{unit}: verifying took longer than {DISCOVERY_S:g} s") from error
    return True


def lacks_nameplate(description: DeviceDescription) -> bool:
    """Whether it is an inverter that shows no model that says what it is built for."""
    return description.find(*INVERTER_MODELS) is not None and description.find(*NAMEPLATE_MODELS) is None


async def goes_on(read: Read, description: DeviceDescription) -> bool:
    """Whether a model begins where the chain of models ended when it was described. Raises as `verify` does."""
    last = description.models[-1]
    end = last.address + HEADER_SIZE + last.length
    if len(description.models) >= MOST_MODELS or end + HEADER_SIZE > 0x10000:
        return False
    try:
        number, length = (await read(end, HEADER_SIZE)).words
    except ModbusExceptionError as error:
        if error.is_transient:
            raise
        return False
    except NoAnswerError:
        return False  # as some chains end; who is altogether silent shows elsewhere
    return not _ends_with(number, length, end)


async def _is_as_described(unit: Unit, read: Read, description: DeviceDescription, common: FoundModel) -> bool:
    """Whether the models in use are where they were, and model 1 says the same; in requests that they share.

    Raises BadAnswerError when the device refuses to tell all of model 1.
    """
    used = [model for model in description.models if model.number in VERIFIED_MODELS]
    definitions = [model_definition(model.number) for model in used]
    poll = MapPoll(
        (layout(definition, model.length), model.address, ("ID", "L", *(_IDENTITY if model == common else ())))
        for model, definition in zip(used, definitions, strict=True)
        if definition is not None  # all of them are shipped with the library
    )
    look = await poll.read(read, 0.0)
    if {(used.index(common), path) for path in _IDENTITY} <= poll.unreadable:
        raise _refuses_to_tell(unit, common)
    for model, values in zip(used, look.values, strict=True):
        seen = [values[path].raw if path in values else None for path in ("ID", "L")]
        if seen != [model.number, model.length]:
            return False
        if model == common and any(
            getattr(description, name) != _printable(values.get(path)) for path, name in _IDENTITY.items()
        ):
            return False
    return True


async def read_identity(unit: Unit, common: FoundModel) -> dict[str, str]:
    """manufacturer, model, options, version and serial as model 1 at `common` has them; "" where absent.

    Raises BadAnswerError when the device refuses to tell any of them: that says nothing about who it is.
    """
    return await _identity(unit, unit.read, common)


async def _identity(unit: Unit, read: Read, common: FoundModel) -> dict[str, str]:
    definition = model_definition(1)
    assert definition is not None  # shipped with the library
    poll = ModelPoll(layout(definition, common.length), common.address, _IDENTITY)
    look = await poll.read(read, 0.0)
    if look.monotonic_s is None:
        raise _refuses_to_tell(unit, common)
    return {name: _printable(look.values.get(path)) for path, name in _IDENTITY.items()}


def _refuses_to_tell(unit: Unit, common: FoundModel) -> BadAnswerError:
    """A device that wakes refuses everything: it is not another one for that."""
    return BadAnswerError(f"{unit}: refuses to tell who it is at present (model 1 at {common.address})")


def _printable(value: Value | None) -> str:
    text = "" if value is None else str(value.raw)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


async def _find_base(unit: Unit, read: Read, bases: Sequence[int]) -> int:
    seen: list[tuple[int, str]] = []
    silent: NoAnswerError | None = None
    answered = False
    for base in bases:
        if base not in BASES and silent is not None and not answered:
            break  # nothing but silence so far: each further guess costs a whole time-out
        try:
            words = (await read(base, len(MARKER))).words
        except ModbusExceptionError as error:
            if error.is_transient:
                # A gateway speaks for the unit behind it, or the device has no time: that is silence, not an answer.
                if silent is None:
                    silent = NoAnswerError(str(error))
                    silent.__cause__ = error
            else:
                answered = True
            seen.append((base, f"exception {error.code} ({error.means})"))
            continue
        except NoAnswerError as error:
            # A wrong base may hang a device that answers at the right one, or make it hang up.
            silent = silent or error
            seen.append((base, "no answer"))
            if not unit.connection.is_open:
                if unit.connection.generation == 0:
                    break
                await asyncio.sleep(BACKOFF_LEAST_S)
            continue
        if words == MARKER:
            return base
        answered = True
        seen.append((base, f"{words[0]:04x} {words[1]:04x}"))
    if silent is not None and not answered:
        if unit.connection.generation == 0 or isinstance(silent.__cause__, ModbusExceptionError):
            raise silent  # it says already what to look at
        raise NoAnswerError(
            f"{silent}; the same wherever a SunSpec map may begin: is the unit id right, does another program hold the "
            "device (many take one client only)?"
        )
    raise NotSunSpecError(
        f"{unit}: speaks Modbus, but has no SunSpec map where one may begin: {_in_words(seen)}; "
        "is the unit id right, is SunSpec switched on in the device?"
    )


def _in_words(seen: Sequence[tuple[int, str]]) -> str:
    """(address, what was there), each answer once."""
    places: dict[str, list[str]] = {}
    for address, answer in seen:
        places.setdefault(answer, []).append(str(address))
    return "; ".join(f"{answer} at {', '.join(at)}" for answer, at in places.items())


async def _walk(unit: Unit, read: Read, base: int) -> tuple[tuple[FoundModel, ...], list[str]]:
    """The chain of models from `base`. Where and how it ends is up to the device: anything odd ends it with a note."""
    models: list[FoundModel] = []
    notes: list[str] = []
    address = base + len(MARKER)
    while True:
        if len(models) >= MOST_MODELS:
            notes.append(f"more than {MOST_MODELS} models: the rest was not looked at")
            break
        if address + HEADER_SIZE > 0x10000:
            notes.append("the chain of models runs past the last address")
            break
        try:
            number, length = await _header(unit, read, address, base)
        except ModbusExceptionError as error:
            if error.is_transient:
                raise
            notes.append(f"the chain of models ends at {address} with exception {error.code} instead of an end model")
            break
        except _EndsInSilenceError:
            notes.append(f"the chain of models ends at {address} in silence instead of an end model")
            break
        if number == END_MODEL:
            break
        if _ends_with(number, length, address):
            notes.append(f"the chain of models ends at {address} with ID {number} and length {length}")
            break
        if any(model.number == number for model in models):
            notes.append(f"model {number} appears again at {address}; the first one is used")
        models.append(FoundModel(number, address, length))
        address += HEADER_SIZE + length
    return tuple(models), notes


def _ends_with(number: int, length: int, address: int) -> bool:
    """Whether this is no header of a model."""
    return number in (0, END_MODEL) or length == 0 or address + HEADER_SIZE + length > 0x10000


class _EndsInSilenceError(Exception):
    """No answer where the next model would begin, from a device that answers elsewhere."""


async def _header(unit: Unit, read: Read, address: int, base: int) -> tuple[int, int]:
    """ID and L at an address; what fails once is tried twice."""
    try:
        return await _header_once(read, address)
    except ModbusExceptionError as error:
        if not error.is_transient:
            raise
        return await _header_once(read, address)
    except (NoAnswerError, BadAnswerError):
        if not unit.connection.is_open:
            await asyncio.sleep(BACKOFF_LEAST_S)
    try:
        return await _header_once(read, address)
    except (NoAnswerError, BadAnswerError):
        if (await read(base, len(MARKER))).words == MARKER:
            raise _EndsInSilenceError from None
        raise


async def _header_once(read: Read, address: int) -> tuple[int, int]:
    try:
        number, length = (await read(address, HEADER_SIZE)).words
    except ModbusExceptionError as error:
        # Some devices have the end model's ID and not its length.
        if error.is_transient or (await read(address, 1)).words != [END_MODEL]:
            raise
        return END_MODEL, 0
    return number, length
