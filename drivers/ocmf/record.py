"""One OCMF record taken apart: the exact bytes that were signed, how, and the readings in them.

`OCMF|{payload}|{signature}` (OCMF 1.0 to 1.3). What is signed are the bytes between the first and the last pipe,
exactly as they came: nothing is parsed and written again. The two halves are read apart, so that a payload that
cannot be read can still be judged by its signature.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from drivers.ocmf.curves import Curve
from drivers.ocmf.errors import RecordError

MOST_BYTES: Final = 32 * 1024
"""As OCPP 2.1 bounds signedMeterData; a record with two readings has about 800."""
MOST_DEPTH: Final = 8
MOST_BRACKETS: Final = 600
"""Opening ones, in strings too: bounds the parser's recursion before it starts."""
MOST_READINGS: Final = 256
DEFAULT_ALGORITHM: Final = "ECDSA-secp256r1-SHA256"
"""Where SA is missing."""
_HEAD: Final = b"OCMF|"
_LARGEST_EXPONENT: Final = 18
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_Json: TypeAlias = "None | bool | int | Decimal | str | list[_Json] | dict[str, _Json]"


class Register(Enum):
    """What a reading counts, by its OBIS code."""

    IMPORT = "import register"
    EXPORT = "export register"
    IMPORT_SESSION = "energy taken in this transaction"
    EXPORT_SESSION = "energy given in this transaction"
    OTHER = "something else"


_REGISTERS: Final = {
    # Group C of the code; the B and C ones are OCMF's own, at the mains side and behind the cable (table 25).
    "1": Register.IMPORT,
    "B0": Register.IMPORT,
    "B1": Register.IMPORT,
    "B2": Register.IMPORT_SESSION,
    "B3": Register.IMPORT_SESSION,
    "2": Register.EXPORT,
    "C0": Register.EXPORT,
    "C1": Register.EXPORT,
    "C2": Register.EXPORT_SESSION,
    "C3": Register.EXPORT_SESSION,
}
_CUMULATIVE: Final = "8"
"""Group D: time integral since the beginning."""
_TO_MILLIWATT_HOURS: Final = {"wh": 3, "kwh": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One entry of RD, with what it takes over from the one before it."""

    time: str
    """TM, as it stands."""
    timestamp_us: int | None
    """Of TM; None where it cannot be read."""
    clock: str
    """U unknown, I informative, S synchronised, R relative; empty where it is not said."""
    transaction: str
    """TX: B begin, C charging, X error, S suspended, T tariff change; E, L, R, A, P are ends. Empty: none."""
    obis: str
    unit: str
    value: Decimal | None
    error_flags: str
    status: str
    """ST: G is good."""

    @property
    def begins(self) -> bool:
        return self.transaction == "B"

    @property
    def ends(self) -> bool:
        return self.transaction in ("E", "L", "R", "A", "P")

    @property
    def usable(self) -> bool:
        """Whether the meter itself stands by the energy."""
        return self.value is not None and self.status == "G" and "E" not in self.error_flags

    @property
    def register(self) -> Register:
        """By groups C and D of the OBIS code, however it is written: 1-b:1.8.0, 01-00:01.08.00.FF, 1-0:B2.8.0*FF."""
        groups = re.split(r"[.*]", self.obis.rpartition(":")[2])
        if len(groups) < 2 or groups[1].lstrip("0") != _CUMULATIVE or self.unit.casefold() not in _TO_MILLIWATT_HOURS:
            return Register.OTHER
        return _REGISTERS.get(groups[0].lstrip("0").upper(), Register.OTHER)

    @property
    def milliwatt_hours(self) -> int | None:
        """The energy, exact but for what is below a milliwatt-hour; None for other units and without a value."""
        exponent = _TO_MILLIWATT_HOURS.get(self.unit.casefold())
        if self.value is None or exponent is None:
            return None
        return round(self.value.scaleb(exponent))

    @property
    def resolution_milliwatt_hours(self) -> int:
        """What the last digit is worth; at least 1."""
        exponent = _TO_MILLIWATT_HOURS.get(self.unit.casefold(), 0)
        places = 0 if self.value is None else int(self.value.as_tuple().exponent)
        return int(10 ** max(0, min(exponent + places, _LARGEST_EXPONENT)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What the meter says."""

    version: str
    meter_serial: str
    """MS; empty where the gateway GS is what has the key."""
    gateway_serial: str
    pagination: str
    """PG: T and a number that counts transactions, F one for fiscal readings."""
    readings: tuple[Reading, ...]

    def newest(self, register: Register) -> Reading | None:
        """The last reading of a register that the meter stands by."""
        return next((r for r in reversed(self.readings) if r.usable and r.register is register), None)


@dataclass(frozen=True, slots=True)
class Signature:
    """The signature half. `octets` is DER or r and s, big-endian, one after the other."""

    algorithm: str
    octets: bytes

    def r_and_s(self, curve: Curve) -> tuple[int, int]:
        """Raises RecordError where it is neither form."""
        try:
            r, s = decode_dss_signature(self.octets)
        except ValueError:
            if len(self.octets) != 2 * curve.octets:
                raise RecordError(
                    f"a signature of {len(self.octets)} octets, neither DER nor r and s of {curve.name}"
                ) from None
            return int.from_bytes(self.octets[: curve.octets]), int.from_bytes(self.octets[curve.octets :])
        return r, s


@dataclass(frozen=True, slots=True)
class Record:
    """The parts of a record. `signed` is what the signature is over."""

    signed: bytes
    tail: bytes

    def payload(self) -> Payload:
        """Raises RecordError."""
        found = _object(self.signed, "payload")
        readings = found.get("RD")
        if not isinstance(readings, list) or not 0 < len(readings) <= MOST_READINGS:
            raise RecordError(f"payload: RD is no list of 1 to {MOST_READINGS} readings")
        return Payload(
            version=_text(found, "FV"),
            meter_serial=_text(found, "MS"),
            gateway_serial=_text(found, "GS"),
            pagination=_text(found, "PG"),
            readings=_readings(readings),
        )

    def signature(self) -> Signature:
        """Raises RecordError."""
        found = _object(self.tail, "signature")
        text = re.sub(r"\s", "", _text(found, "SD"))
        encoding = _text(found, "SE").casefold()
        try:
            if encoding == "base64" or (not encoding and not re.fullmatch(r"[0-9A-Fa-f]+", text)):
                octets = base64.b64decode(text, validate=True)
            elif encoding in ("", "hex"):
                octets = bytes.fromhex(text)
            else:
                raise RecordError("signature: its encoding SE is neither hex nor base64")
        except (binascii.Error, ValueError) as error:
            raise RecordError("signature: SD is not what its encoding allows") from error
        return Signature(_text(found, "SA") or DEFAULT_ALGORITHM, octets)


def is_ocmf(text: bytes) -> bool:
    """Whether this claims to be a record, plain or in base64."""
    return _unwrapped(text[:MOST_BYTES]).startswith(_HEAD)


def read_record(text: bytes) -> Record:
    """Take a record apart, plain or wrapped in base64. Raises RecordError."""
    if len(text) > MOST_BYTES:
        raise RecordError(f"a record of {len(text)} octets; {MOST_BYTES} is the most")
    plain = _unwrapped(text)
    if not plain.startswith(_HEAD):
        raise RecordError("does not begin with OCMF|")
    first, last = len(_HEAD) - 1, plain.rindex(b"|")
    if first == last:
        raise RecordError("has no signature: a record is OCMF|{...}|{...}")
    return Record(plain[first + 1 : last], plain[last + 1 :])


def _unwrapped(text: bytes) -> bytes:
    plain = text.strip()
    if plain.startswith(_HEAD):
        return plain
    try:
        bare = b"".join(plain.split())
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True).strip()
    except (binascii.Error, ValueError):
        return plain


def _object(encoded: bytes, what: str) -> Mapping[str, _Json]:
    if encoded.count(b"[") + encoded.count(b"{") > MOST_BRACKETS:
        raise RecordError(f"{what}: too many brackets")
    try:
        found: _Json = json.loads(
            encoded.decode("utf-8"),
            object_pairs_hook=_without_doubles,
            parse_float=_decimal,
            parse_int=_decimal,
            parse_constant=_refused,
        )
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{what}: not JSON that can be read: {str(error)[:80]}") from error
    if not isinstance(found, dict) or _depth(found) > MOST_DEPTH:
        raise RecordError(f"{what}: not an object at most {MOST_DEPTH} deep")
    return found


def _without_doubles(pairs: list[tuple[str, _Json]]) -> dict[str, _Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _decimal(text: str) -> Decimal:
    """Numbers stay what they are: 2935.60 keeps its zero, and 1e999999999 never becomes a number of that length."""
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ValueError("a number that cannot be read") from error
    if not number.is_finite() or len(text) > 40 or abs(number.adjusted()) > _LARGEST_EXPONENT:
        raise ValueError("a number that no meter shows")
    return number


def _refused(name: str) -> _Json:
    raise ValueError(f"{name} is no number")


def _depth(value: _Json) -> int:
    """Brackets around brackets."""
    depth, layer = 0, [value]
    while layer := [item for item in layer if isinstance(item, dict | list)]:
        depth += 1
        layer = [inner for item in layer for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _text(found: Mapping[str, _Json], key: str) -> str:
    """Empty where it is absent. Numbers stand for text in the field: GS and PG are met as such."""
    value = found.get(key)
    if value is None or isinstance(value, bool | list | dict):
        return ""
    return value if isinstance(value, str) else str(value)


def _readings(entries: list[_Json]) -> tuple[Reading, ...]:
    readings = []
    before: Mapping[str, _Json] = {}
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise RecordError(f"payload: reading {number} is no object")
        # What is the same as in the reading before may be left out (OCMF, table 7); a value never is.
        taken_over = {key: item for key, item in before.items() if key != "RV"}
        before = {**taken_over, **entry}
        readings.append(_reading(before, number))
    return tuple(readings)


def _reading(entry: Mapping[str, _Json], number: int) -> Reading:
    time, _, clock = _text(entry, "TM").partition(" ")
    return Reading(
        time=time,
        timestamp_us=_timestamp_us(time),
        clock=clock,
        transaction=_text(entry, "TX"),
        obis=_text(entry, "RI"),
        unit=_text(entry, "RU"),
        value=_value(entry.get("RV"), number),
        error_flags=_text(entry, "EF"),
        status=_text(entry, "ST"),
    )


def _value(value: _Json, number: int) -> Decimal | None:
    """RV: a number, or in the field a padded text of one."""
    if value is None:
        return None
    try:
        return _decimal(value.strip()) if isinstance(value, str) else value if isinstance(value, Decimal) else None
    except ValueError as error:
        raise RecordError(f"payload: RV of reading {number} is no number") from error


def _timestamp_us(text: str) -> int | None:
    """2018-07-24T13:22:04,000+0200, in Unix microseconds."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.tzinfo is None else (moment - _EPOCH) // _MICROSECOND
