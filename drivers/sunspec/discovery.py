"""Which SunSpec device is there: find the map, walk the models, read who it is. Bounded in requests and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from drivers.device import DeviceKind
from drivers.sunspec.codec import Value, layout
from drivers.sunspec.connection import ConnectionPool, Unit
from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError, NoAnswerError, NotSunSpecError
from drivers.sunspec.models import HEADER_SIZE, model_definition
from drivers.sunspec.registers import ModelPoll

BASES: Final = (40000, 0, 50000)
"""Where a SunSpec map may begin, in order of likelihood. SunSpec Information Model Specification, section 6.2.1."""
MARKER: Final = [0x5375, 0x6E53]
"""The two registers that a map begins with: "SunS"."""
END_MODEL: Final = 0xFFFF
MOST_MODELS: Final = 100
DISCOVERY_S: Final = 60.0
"""A whole discovery takes at most this long, however slow the device."""

METER_MODELS: Final = (201, 202, 203, 204, 211, 212, 213, 214)
INVERTER_MODELS: Final = (701, 101, 102, 103, 111, 112, 113)
STORAGE_MODELS: Final = (713, 802, 124)


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model in a device's chain."""

    number: int
    address: int
    """Of its ID register."""
    length: int
    """Its L: registers after the header."""

    @property
    def label(self) -> str:
        """The official name; says so where the model is a vendor's own or unknown."""
        definition = model_definition(self.number)
        return "unknown or a vendor's own" if definition is None else definition.label


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescription:
    """Who answered, and what it has. Texts are the device's own words, printable."""

    address: str
    unit: int
    base: int
    manufacturer: str
    model: str
    options: str
    version: str
    serial: str
    models: tuple[FoundModel, ...]
    notes: tuple[str, ...]
    """What is unusual about its map, in sentences for a person."""

    @property
    def meter_id(self) -> str:
        """Names the physical device: another one under the same address has another."""
        return _meter_id(self.manufacturer, self.model, self.serial)

    @property
    def title(self) -> str:
        """Manufacturer and model, for a sentence."""
        return " ".join(part for part in (self.manufacturer, self.model) if part) or "a device without a name"

    def find(self, *numbers: int) -> FoundModel | None:
        """The first of these models that it has, in the order asked for."""
        for number in numbers:
            for found in self.models:
                if found.number == number:
                    return found
        return None

    @property
    def likely_kind(self) -> DeviceKind | None:
        """What it probably is, for ready configuration; None: nothing that we can use.

        A model says little here: PV inverters show storage models that they have no battery for.
        """
        if self.find(*INVERTER_MODELS) is not None:
            return DeviceKind.BATTERY if self.find(713, 802) is not None else DeviceKind.PV
        return DeviceKind.METER if self.find(*METER_MODELS) is not None else None


def _meter_id(*parts: str) -> str:
    return "/".join(part.replace("/", "_") or "-" for part in parts)


def identity_of(texts: Mapping[str, str]) -> str:
    """The meter_id that the texts of `read_identity` make."""
    return _meter_id(texts["manufacturer"], texts["model"], texts["serial"])


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


async def describe(unit: Unit) -> DeviceDescription:
    """As `discover`, over a connection that is there."""
    try:
        async with asyncio.timeout(DISCOVERY_S):
            base = await _find_base(unit)
            models, notes = await _walk(unit, base)
            common = next((model for model in models if model.number == 1), None)
            if common is None:
                raise NotSunSpecError(f"{unit}: a SunSpec map at {base}, but without model 1 that says who it is")
            who = await read_identity(unit, common)
    except TimeoutError as error:
        raise NoAnswerError(
            f"{unit}: discovery took longer than {DISCOVERY_S:g} s; is the device overloaded?"
        ) from error
    return DeviceDescription(
        address=str(unit.connection.endpoint), unit=unit.number, base=base, **who, models=models, notes=tuple(notes)
    )


async def read_identity(unit: Unit, common: FoundModel) -> dict[str, str]:
    """manufacturer, model, options, version and serial as model 1 at `common` has them; "" where absent."""
    definition = model_definition(1)
    assert definition is not None  # shipped with the library
    names = {"Mn": "manufacturer", "Md": "model", "Opt": "options", "Vr": "version", "SN": "serial"}
    poll = ModelPoll(layout(definition, common.length), common.address, names)
    look = await poll.read(unit.read, 0.0)
    return {name: _printable(look.values.get(path)) for path, name in names.items()}


def _printable(value: Value | None) -> str:
    text = "" if value is None else str(value.raw)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


async def _find_base(unit: Unit) -> int:
    seen: list[str] = []
    silent: NoAnswerError | None = None
    answered = False
    for base in BASES:
        try:
            words = (await unit.read(base, 2)).words
        except ModbusExceptionError as error:
            if error.code == 11:
                # A gateway speaks for the unit behind it: that is silence, not an answer.
                silent = silent or NoAnswerError(str(error))
            else:
                answered = True
                seen.append(f"{base}: exception {error.code}")
            continue
        except NoAnswerError as error:
            # A wrong base may hang a device that answers at the right one.
            silent = silent or error
            seen.append(f"{base}: no answer")
            continue
        if words == MARKER:
            return base
        answered = True
        seen.append(f"{base}: {words[0]:04x} {words[1]:04x}")
    if silent is not None and not answered:
        raise silent
    raise NotSunSpecError(f"{unit}: speaks Modbus, but has no SunSpec map where one may begin ({'; '.join(seen)})")


async def _walk(unit: Unit, base: int) -> tuple[tuple[FoundModel, ...], list[str]]:
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
            number, length = await _header(unit, address, base)
        except ModbusExceptionError as error:
            notes.append(f"the chain of models ends at {address} with exception {error.code} instead of an end model")
            break
        except _EndsInSilenceError:
            notes.append(f"the chain of models ends at {address} in silence instead of an end model")
            break
        if number == END_MODEL:
            break
        if number == 0 or length == 0 or address + HEADER_SIZE + length > 0x10000:
            notes.append(f"the chain of models ends at {address} with ID {number} and length {length}")
            break
        if any(model.number == number for model in models):
            notes.append(f"model {number} appears again at {address}; the first one is used")
        models.append(FoundModel(number, address, length))
        address += HEADER_SIZE + length
    return tuple(models), notes


class _EndsInSilenceError(Exception):
    """No answer where the next model would begin, from a device that answers elsewhere."""


async def _header(unit: Unit, address: int, base: int) -> tuple[int, int]:
    for attempt in (1, 2):
        try:
            words = (await unit.read(address, HEADER_SIZE)).words
        except (NoAnswerError, BadAnswerError):
            if attempt == 1:
                continue
            alive = (await unit.read(base, len(MARKER))).words
            if alive == MARKER:
                raise _EndsInSilenceError from None
            raise
        return words[0], words[1]
    raise AssertionError("unreachable")
