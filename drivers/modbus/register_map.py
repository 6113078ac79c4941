"""Register maps: what a TOML file says about a device without SunSpec, checked, with every fault named.

A map states where a value lies and how it is read; it never says anything about writing. `maps/eastron-sdm630.toml`
is an annotated example.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from drivers.device import DeviceKind
from drivers.sunspec.errors import quoted
from drivers.sunspec.pdu import MOST_READ, READ, READ_INPUT
from drivers.toml_lines import line_of

MOST_MAP_BYTES: Final = 64 * 1024
"""A map has a dozen points: a larger file is something else."""
_LAST_ADDRESS: Final = 0xFFFF


class MapError(Exception):
    """A register map cannot be used. Each line of the message says file, line, key and what would be right."""


class Quantity(StrEnum):
    """What a point can tell. Phase voltages are line to neutral."""

    POWER = "power"
    POWER_L1 = "power_l1"
    POWER_L2 = "power_l2"
    POWER_L3 = "power_l3"
    IMPORT_ENERGY = "import_energy"
    EXPORT_ENERGY = "export_energy"
    VOLTAGE = "voltage"
    VOLTAGE_L1 = "voltage_l1"
    VOLTAGE_L2 = "voltage_l2"
    VOLTAGE_L3 = "voltage_l3"
    FREQUENCY = "frequency"
    STATE_OF_CHARGE = "state_of_charge"
    CAPACITY = "capacity"
    SERIAL = "serial"


PHASE_POWERS: Final = (Quantity.POWER_L1, Quantity.POWER_L2, Quantity.POWER_L3)
PHASE_VOLTAGES: Final = (Quantity.VOLTAGE_L1, Quantity.VOLTAGE_L2, Quantity.VOLTAGE_L3)
_POWER: Final = {"W": 1, "kW": 1000}
_ENERGY: Final = {"Wh": 1000, "kWh": 1_000_000, "MWh": 1_000_000_000}
_VOLTAGE: Final = {"V": 1000, "mV": 1}
UNITS: Final[Mapping[Quantity, Mapping[str, int]]] = {
    **dict.fromkeys((Quantity.POWER, *PHASE_POWERS), _POWER),
    **dict.fromkeys((Quantity.IMPORT_ENERGY, Quantity.EXPORT_ENERGY), _ENERGY),
    **dict.fromkeys((Quantity.VOLTAGE, *PHASE_VOLTAGES), _VOLTAGE),
    Quantity.FREQUENCY: {"Hz": 1000, "mHz": 1},
    Quantity.STATE_OF_CHARGE: {"percent": 10, "permille": 1},
    Quantity.CAPACITY: {"Wh": 1, "kWh": 1000, "MWh": 1_000_000},
    Quantity.SERIAL: {},
}
"""Units that a quantity may be told in, and how many of ours they are: W, mWh, mV, mHz, permille, Wh."""

RegisterType = Literal["int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "string"]
SIZES: Final[Mapping[str, int]] = {
    "int16": 1,
    "uint16": 1,
    "int32": 2,
    "uint32": 2,
    "int64": 4,
    "uint64": 4,
    "float32": 2,
    "float64": 4,
}
"""Registers of each type but texts."""
_FUNCTIONS: Final = {"holding": READ, "input": READ_INPUT}
Address = Annotated[int, Field(ge=0, le=_LAST_ADDRESS, strict=True)]


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class RegisterPoint(BaseModel):
    """[points.NAME]: one value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Address = Field(description="first register, as it goes over the wire: 0 to 65535")
    type: RegisterType = Field(description="how the registers are read")
    registers: Literal["holding", "input"] | None = Field(None, description="read by function 3 or 4")
    word_order: Literal["big", "little"] | None = Field(None, description="big: the most significant register first")
    unit: str | None = Field(None, description="of the value once it is scaled")
    scale: Decimal = Field(Decimal(1), gt=0, le=10**9, ge=Decimal("1e-9"), description="what one count is worth")
    positive: Literal["import", "export"] | None = Field(None, description="what a positive power means")
    not_implemented: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], BeforeValidator(_listed)] = Field(
        [], max_length=8, description="bit patterns that say that there is no value, such as 0x7FFFFFFF"
    )
    length: int | None = Field(None, ge=1, le=32, strict=True, description="registers of a string")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.type == "string") != (self.length is not None):
            raise ValueError("a string needs `length`, in registers, and nothing else has it")
        if self.address + self.size - 1 > _LAST_ADDRESS:
            raise ValueError(f"{self.type} at {self.address} runs past the last address, {_LAST_ADDRESS}")
        if self.not_implemented and (self.type == "string" or max(self.not_implemented) >> (16 * self.size)):
            raise ValueError(f"not_implemented holds a bit pattern that {self.type} cannot have")
        return self

    @property
    def size(self) -> int:
        """Registers."""
        return self.length if self.length is not None else SIZES[self.type]


class RegisterMap(BaseModel):
    """A device model: where its values are. What points leave open is said once for all of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    title: str = Field(min_length=1, max_length=64, description="manufacturer and model, for people and readings")
    source: str = Field(min_length=1, max_length=500, description="where the registers are published")
    kinds: list[DeviceKind] = Field(min_length=1, max_length=3, description='what it can be: ["meter"]')
    registers: Literal["holding", "input"] = Field("holding", description="read by function 3 or 4")
    word_order: Literal["big", "little"] = Field("big", description="big: the most significant register first")
    most_registers: int = Field(MOST_READ, ge=4, le=MOST_READ, strict=True, description="the device takes in one read")
    readable: list[tuple[Address, Address]] = Field(
        [], max_length=100, description="[first, last] of stretches that may be read through, where nothing is mapped"
    )
    single_phase: bool = Field(False, strict=True, description="it measures one phase")
    points: dict[Quantity, RegisterPoint] = Field(min_length=1, description="values, by name")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if DeviceKind.CHARGER in self.kinds:
            raise ValueError("kinds: a charger speaks OCPP; a map can be of meter, pv and battery")
        for first, last in self.readable:
            if first > last:
                raise ValueError(f"readable: [{first}, {last}] ends before it begins")
        if Quantity.POWER not in self.points and not self.points.keys() >= set(PHASE_POWERS):
            raise ValueError("points: nothing tells power; there must be `power`, or power_l1 to power_l3")
        for quantity, point in self.points.items():
            _check_point(quantity, point)
            if point.size > self.most_registers:
                raise ValueError(f"points.{quantity}: is longer than most_registers {self.most_registers}")
        return self

    def function(self, quantity: Quantity) -> int:
        """The Modbus function that reads it."""
        return _FUNCTIONS[self.points[quantity].registers or self.registers]

    def words_are_swapped(self, quantity: Quantity) -> bool:
        """The least significant register comes first."""
        return (self.points[quantity].word_order or self.word_order) == "little"

    def factor(self, quantity: Quantity) -> Fraction:
        """What one count is in our units (W, mWh, mV, mHz, permille, Wh), exactly; power negative where + is export."""
        point = self.points[quantity]
        parts = UNITS[quantity][point.unit] if point.unit is not None else 1
        return Fraction(point.scale) * parts * (-1 if point.positive == "export" else 1)


def _check_point(quantity: Quantity, point: RegisterPoint) -> None:
    where = f"points.{quantity}"
    units = UNITS[quantity]
    if quantity is Quantity.SERIAL:
        if point.type.startswith("float") or point.unit is not None or point.scale != 1:
            raise ValueError(f"{where}: a serial number is a string or a whole number, without unit and scale")
    elif point.type == "string":
        raise ValueError(f"{where}: a string cannot be measured; only the serial number is one")
    elif point.unit not in units:
        raise ValueError(f"{where}: unit must be one of {', '.join(units)}")
    if units is _POWER and point.positive is None:
        raise ValueError(f'{where}: write positive = "import" or "export": what a positive number means')
    if units is not _POWER and point.positive is not None:
        raise ValueError(f"{where}: `positive` is for powers; energies are import_energy and export_energy")


def shipped_maps() -> tuple[str, ...]:
    """Names of the maps that come with us."""
    folder = resources.files("drivers.modbus").joinpath("maps")
    return tuple(sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")))


def load_map(name: str) -> RegisterMap:
    """The map of a shipped name ("eastron-sdm630") or of a file (a path, or anything that ends in .toml).

    Raises MapError.
    """
    if "/" in name or name.endswith(".toml"):
        return parse_map(_content(Path(name)), name)
    if name not in shipped_maps():
        raise MapError(
            f"{quoted(name)}: no map of this name is shipped; there are {', '.join(shipped_maps())}; "
            "a map of your own is a path, such as /etc/v2g-gateway/my-meter.toml"
        )
    file = resources.files("drivers.modbus").joinpath("maps", f"{name}.toml")
    return parse_map(file.read_text(encoding="utf-8"), name)


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_MAP_BYTES + 1)
        if len(content) > MOST_MAP_BYTES:
            raise MapError(f"{path}: is larger than {MOST_MAP_BYTES} bytes; is it a register map?")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise MapError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise MapError(f"{path}: cannot be read: {error}") from error


def parse_map(text: str, name: str) -> RegisterMap:
    """The map that a TOML text describes; `name` is for messages. Raises MapError."""
    try:
        raw = tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, ArithmeticError, RecursionError) as error:
        raise MapError(f"{name}: is not TOML: {error}") from error
    try:
        return RegisterMap.model_validate(raw)
    except ValidationError as error:
        faults = sorted(_explained(text, fault) for fault in error.errors())
        raise MapError("\n".join(f"{name}:{line}: {message}" for line, message in faults)) from error


def _explained(text: str, fault: ErrorDetails) -> tuple[int, str]:
    """Line and sentence of one fault."""
    where = tuple(str(part) for part in fault["loc"] if part != "[key]")
    message = str(fault["msg"]).removeprefix("Value error, ")
    in_point = len(where) > 2 and where[0] == "points"
    model: type[BaseModel] = RegisterPoint if in_point else RegisterMap
    if fault["type"] == "extra_forbidden":
        message = f"unknown key; known here: {', '.join(model.model_fields)}"
    elif where[:1] == ("points",) and fault["loc"][-1] == "[key]":
        message = f"is nothing that a map can tell; there are {', '.join(Quantity)}"
    elif len(where) not in (0, 2) and (field := model.model_fields.get(where[2 if in_point else 0])) is not None:
        if fault["type"] == "missing":
            message = "is missing"
        message += f" ({field.description})"
        if isinstance(fault["input"], str | int | float | Decimal) and fault["type"] != "value_error":
            message += f"; found {quoted(str(fault['input']))}"
    found = re.match(r"points\.(\w+): ", message) if not where else None
    at = ("points", found[1]) if found else where
    return line_of(text, at), f"{'.'.join(where)}: {message}" if where else message
