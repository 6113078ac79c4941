"""A grid command as a value: its signed body, its identity, and its rendering in the published contract's plain fields.

The body is a deterministic CBOR array; a command *is* SHA-256 of it. Layout and meaning: proto/COMMANDS.md sections 2
and 4. The signatures around it: `authorization.py`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from agent.control.errors import CommandFormatError, quoted
from agent.evidence import cbor
from agent.evidence.errors import MalformedError
from proto.energysettlement.v1 import device_pb2

BODY_VERSION: Final = 1
MAX_BODY_BYTES: Final = 16 * 1024
MAX_POWER_W: Final = 1_000_000_000
"""A gigawatt at one site is a mistake, whoever signs it."""
MAX_ENERGY_WH: Final = 10**12
MAX_TIME_US: Final = 2**53
"""Year 2255: exact in every language's numbers."""
MAX_TARGETS: Final = 200
MAX_CANCELS: Final = 64
MAX_NAME: Final = 255
"""Characters of an issuer, campaign or zone name, and of a command id."""
MAX_PRICE_MICRO: Final = 10**12

_AUDIENCE: Final = re.compile(r"did:(?:key|v2g):z[1-9A-HJ-NP-Za-km-z]{10,200}|zone:[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CLASS_PREFIX: Final = "class:"
"""Begins a target that names all devices of one class."""
_TARGET: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}|class:(?:battery|charger|pv)")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")


class Mode(IntEnum):
    """What the power of a command is. Numbers are for ever."""

    SETPOINT = 0
    """A power to reach, within what devices and site can."""
    IMPORT_LIMIT = 1
    """Import stays at or below the power."""
    EXPORT_LIMIT = 2
    """Export stays at or below the power."""


class Point(IntEnum):
    """Where the power is counted. Numbers are for ever."""

    CONNECTION = 0
    """At the grid meter: everything at the site, the house included."""
    DEVICE = 1
    """The sum of the target devices' own powers."""


class CommandType(IntEnum):
    """Of the published contract: numbers are the platform's."""

    CHARGE = 0
    DISCHARGE = 1
    IDLE = 2
    CURTAIL = 3

    @property
    def restrictive(self) -> bool:
        """Only takes power away, so it may act without proof that it is wanted (DESIGN: law 5; unsigned commands)."""
        return self in (CommandType.IDLE, CommandType.CURTAIL)


class Priority(IntEnum):
    """Tiers of the platform; the lower number goes first."""

    GRID_BALANCING = 0
    PEER_TO_PEER = 1
    CARBON = 2


_TYPES_OF_MODE: Final[dict[Mode, frozenset[CommandType]]] = {
    Mode.SETPOINT: frozenset({CommandType.CHARGE, CommandType.DISCHARGE, CommandType.IDLE}),
    Mode.IMPORT_LIMIT: frozenset({CommandType.CURTAIL}),
    Mode.EXPORT_LIMIT: frozenset({CommandType.CURTAIL}),
}


@dataclass(frozen=True, slots=True)
class Price:
    """The most that is paid for the energy of a command."""

    micro_per_kwh: int
    """Millionths of the currency's unit per kWh."""
    currency: str
    """ISO 4217."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command, checked on construction: one that exists is well formed, which says nothing about its right to be.

    Raises CommandFormatError. Which type goes with which mode: `CHARGE`, `DISCHARGE` and `IDLE` are setpoints,
    `CURTAIL` is a limit. `IDLE` has power 0 and is said to devices, never to the connection.
    """

    audience: str
    """"did:key:..." or "did:v2g:..." of one gateway, or "zone:NAME"."""
    targets: tuple[str, ...] = ()
    """Device ids and classes ("class:battery") that shall deliver it; empty: the whole site."""
    mode: Mode
    point: Point
    type: CommandType
    power_w: int
    """Zero or positive; the type gives the direction."""
    max_energy_wh: int | None = None
    """The command is complete when so much has been delivered."""
    start_us: int
    end_us: int
    price: Price | None = None
    issuer: str
    epoch: int = 0
    """Of the issuer's sequence numbers; a new epoch starts them anew."""
    sequence: int
    priority: Priority = Priority.GRID_BALANCING
    campaign: str | None = None
    cancels: tuple[bytes, ...] = ()
    """Hashes of this issuer's commands that end when this one is admitted."""
    resume: bool = False
    """An earlier command that this one replaces comes back when this one has ended."""

    def __post_init__(self) -> None:
        _require(_AUDIENCE.fullmatch(self.audience) is not None,
                 f"audience {quoted(self.audience)} is neither a did:key, a did:v2g nor zone:NAME")  # fmt: skip
        _require(
            len(self.targets) <= MAX_TARGETS, f"names {len(self.targets)} targets, at most {MAX_TARGETS} are right"
        )
        for target in self.targets:
            _require(
                _TARGET.fullmatch(target) is not None, f"target {quoted(target)} is neither a device id nor a class"
            )
        _require(len(set(self.targets)) == len(self.targets), "names a target twice")
        allowed = _TYPES_OF_MODE[self.mode]
        _require(self.type in allowed,
                 f"type {self.type.name} does not go with mode {self.mode.name}; "
                 f"right here: {', '.join(sorted(t.name for t in allowed))}")  # fmt: skip
        if self.type is CommandType.IDLE:
            _require(self.power_w == 0, f"IDLE has power 0, not {self.power_w} W")
            _require(self.point is Point.DEVICE,
                     "IDLE is said to devices; for 0 W at the connection send CHARGE with 0")  # fmt: skip
        _in_range("power_w", self.power_w, MAX_POWER_W)
        if self.max_energy_wh is not None:
            _in_range("max_energy_wh", self.max_energy_wh, MAX_ENERGY_WH)
            _require(self.max_energy_wh > 0, "max_energy_wh 0 allows nothing; leave it null, or send IDLE")
        _in_range("start_us", self.start_us, MAX_TIME_US)
        _in_range("end_us", self.end_us, MAX_TIME_US)
        _require(self.start_us < self.end_us, f"ends at {self.end_us}, which is not after its start {self.start_us}")
        if self.price is not None:
            _in_range("price", self.price.micro_per_kwh, MAX_PRICE_MICRO)
            _require(_CURRENCY.fullmatch(self.price.currency) is not None,
                     f"currency {quoted(self.price.currency)} is no ISO 4217 code")  # fmt: skip
        _require(
            0 < len(self.issuer) <= MAX_NAME, f"issuer has {len(self.issuer)} characters, 1 to {MAX_NAME} are right"
        )
        _in_range("epoch", self.epoch, 2**32 - 1)
        _in_range("sequence", self.sequence, 2**63 - 1)
        _require(self.campaign is None or 0 < len(self.campaign) <= MAX_NAME,
                 f"campaign is longer than {MAX_NAME} characters, or empty: null is no campaign")  # fmt: skip
        _require(len(self.cancels) <= MAX_CANCELS, f"cancels {len(self.cancels)}, at most {MAX_CANCELS} are right")
        _require(all(len(h) == 32 for h in self.cancels), "cancels something that is no SHA-256 hash")
        _require(len(set(self.cancels)) == len(self.cancels), "cancels one command twice")

    @property
    def restrictive(self) -> bool:
        """It can only take power away: IDLE, CURTAIL, and CHARGE or DISCHARGE of 0 W by devices."""
        return self.type.restrictive or (self.power_w == 0 and self.point is Point.DEVICE)

    @property
    def signed_power_w(self) -> int:
        """The power with its sign, + import: of a setpoint, or of the bound that a limit sets."""
        if self.type is CommandType.DISCHARGE or self.mode is Mode.EXPORT_LIMIT:
            return -self.power_w
        return self.power_w


def encode_body(command: Command) -> bytes:
    """The bytes that are signed and hashed."""
    price: cbor.Value = None if command.price is None else [command.price.micro_per_kwh, command.price.currency]
    return cbor.encode([
        BODY_VERSION, command.audience, list(command.targets), int(command.mode), int(command.point),
        int(command.type), command.power_w, command.max_energy_wh, command.start_us, command.end_us, price,
        command.issuer, command.epoch, command.sequence, int(command.priority), command.campaign,
        list(command.cancels), command.resume,
    ])  # fmt: skip


def decode_body(body: bytes) -> Command:
    """The command of a body. Raises CommandFormatError for all but the one encoding of a well-formed command."""
    try:
        value = cbor.decode(body, what="command body", most_bytes=MAX_BODY_BYTES)
    except MalformedError as error:
        raise CommandFormatError(str(error)) from error
    match value:
        case [version, *_] if version is not True and version == BODY_VERSION:
            pass
        case [version, *_]:
            raise CommandFormatError(f"command body: version {quoted(version)} is not known here, {BODY_VERSION} is")
        case _:
            raise CommandFormatError("command body: not an array that starts with its version")
    if len(value) != 18:
        raise CommandFormatError(f"command body: has {len(value)} elements, 18 are right")
    (_, audience, targets, mode, point, type_, power_w, energy, start, end, price, issuer, epoch, sequence,
     priority, campaign, cancels, resume) = value  # fmt: skip
    return Command(
        audience=_text("audience", audience),
        targets=tuple(_text("targets", item) for item in _items("targets", targets)),
        mode=_member("mode", Mode, mode),
        point=_member("point", Point, point),
        type=_member("type", CommandType, type_),
        power_w=_uint("power_w", power_w),
        max_energy_wh=None if energy is None else _uint("max_energy_wh", energy),
        start_us=_uint("start_us", start),
        end_us=_uint("end_us", end),
        price=_price(price),
        issuer=_text("issuer", issuer),
        epoch=_uint("epoch", epoch),
        sequence=_uint("sequence", sequence),
        priority=_member("priority", Priority, priority),
        campaign=None if campaign is None else _text("campaign", campaign),
        cancels=tuple(_octets("cancels", item) for item in _items("cancels", cancels)),
        resume=_flag("resume", resume),
    )


def command_hash(body: bytes) -> bytes:
    """The identity of a command: SHA-256 of its body, 32 bytes."""
    return hashlib.sha256(body).digest()


def power_limit_kw(power_w: int) -> float:
    """`power_limit_kw` of a body: the binary64 quotient by 1000, rounded to binary32 (ties to even, both)."""
    return _float32(power_w / 1000)


def price_per_kwh_cents(price: Price | None) -> float:
    """`price_per_kwh_cents` of a body: micro-units by 10,000, rounded to binary32; 0 where there is no price."""
    return 0.0 if price is None else _float32(price.micro_per_kwh / 10_000)


def same_float32(a: float, b: float) -> bool:
    """Bit for bit, so that -0.0 is not 0.0 and no NaN passes for a number."""
    return struct.pack(">f", a) == struct.pack(">f", b)


def grid_command(command_id: str, command: Command, authorization: bytes = b"") -> device_pb2.GridCommand:
    """The message of the published contract for a command: the plain fields as its body renders them.

    Without `authorization` it is the unsigned command that a platform of the published contract would send; its
    `command_hash` is then still the body's, which a gateway cannot check.
    """
    return device_pb2.GridCommand(
        command_id=command_id,
        type=device_pb2.CommandType.ValueType(int(command.type)),
        power_limit_kw=power_limit_kw(command.power_w),
        price_per_kwh_cents=price_per_kwh_cents(command.price),
        valid_until_timestamp_us=command.end_us,
        command_hash=command_hash(encode_body(command)),
        authorization=authorization,
    )


def _float32(value: float) -> float:
    number: float = struct.unpack(">f", struct.pack(">f", value))[0]
    return number


_Member = TypeVar("_Member", bound=IntEnum)


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise CommandFormatError(f"command body: {fault}")


def _in_range(name: str, value: int, most: int) -> None:
    _require(0 <= value <= most, f"{name} {value} is outside 0 to {most}")


def _uint(name: str, value: cbor.Value) -> int:
    if type(value) is not int or value < 0:
        raise CommandFormatError(f"command body: {name} {quoted(value)} is no unsigned integer")
    return value


def _text(name: str, value: cbor.Value) -> str:
    if not isinstance(value, str):
        raise CommandFormatError(f"command body: {name} {quoted(value)} is no text")
    return value


def _octets(name: str, value: cbor.Value) -> bytes:
    if not isinstance(value, bytes):
        raise CommandFormatError(f"command body: {name} {quoted(value)} is no byte string")
    return value


def _flag(name: str, value: cbor.Value) -> bool:
    if not isinstance(value, bool):
        raise CommandFormatError(f"command body: {name} {quoted(value)} is no boolean")
    return value


def _items(name: str, value: cbor.Value) -> list[cbor.Value]:
    if not isinstance(value, list):
        raise CommandFormatError(f"command body: {name} {quoted(value)} is no array")
    return value


def _member(name: str, kind: type[_Member], value: cbor.Value) -> _Member:
    if type(value) is int and value in kind.__members__.values():
        return kind(value)
    known = ", ".join(f"{member.value} {member.name}" for member in kind)
    raise CommandFormatError(f"command body: {name} {quoted(value)} is not known; known are {known}")


def _price(value: cbor.Value) -> Price | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise CommandFormatError(f"command body: price {quoted(value)} is neither null nor [micro-units, currency]")
    return Price(_uint("price", value[0]), _text("currency", value[1]))
