"""Verified, unverifiable or wrong: what a signed value is worth under the key that was registered for its meter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes

from drivers.device import SignatureVerdict
from drivers.ocmf.curves import HASHES, curve_named
from drivers.ocmf.errors import OcmfError, RecordError
from drivers.ocmf.keys import MeterKey
from drivers.ocmf.record import Payload, Register, is_ocmf, read_record

ENCODING: Final = "OCMF"
"""As OCPP's encodingMethod names it."""
ROUNDING_MILLIWATT_HOURS: Final = 1_000
"""A charger's plain value may be rounded to whole watt-hours where the meter signs more digits."""
_ALGORITHM: Final = re.compile(r"ECDSA-([A-Za-z0-9]+)-(SHA[0-9]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Of one signed value."""

    verdict: SignatureVerdict
    reason: str
    """For a person; empty when there is nothing to add."""
    payload: Payload | None = None
    """What the meter said; only of a verified record that can be read."""


def judge(record: bytes, encoding_method: str, key: MeterKey | None) -> Judgement:
    """Judge a signed value, exactly as it came, under the registered key of its meter; None: none is registered.

    Unverifiable says that the means are lacking. Whatever the means are there for, and does not hold, is wrong: what
    cannot be read of a record whose key is known, too, for a flipped byte makes that as well.
    """
    claims = encoding_method.casefold().startswith("ocmf") or is_ocmf(record)
    if not claims:
        return _unverifiable(f"its format {encoding_method[:50]!a} is not read here, only {ENCODING}")
    if key is None:
        return _unverifiable("no key is registered for this meter (meter_key_file)")
    try:
        parts = read_record(record)
        signature = parts.signature()
    except RecordError as error:
        return _wrong(str(error))
    named = _ALGORITHM.fullmatch(signature.algorithm.strip())
    curve = curve_named(named[1]) if named else None
    if named is None or curve is not key.curve:
        return _wrong(f"says {signature.algorithm[:40]!a}, and the registered key is one of {key.curve.name}")
    hash_name = named[2].casefold()
    if hash_name not in HASHES:
        return _unverifiable(f"hashes with {named[2][:20]!a}, which is not known here")
    hasher = hashes.Hash(HASHES[hash_name]())
    hasher.update(parts.signed)
    try:
        r, s = signature.r_and_s(key.curve)
    except RecordError as error:
        return _wrong(str(error))
    if not key.curve.verifies(key.point, hasher.finalize(), hash_name, r, s):
        return _wrong("the signature does not verify under the registered key")
    try:
        payload = parts.payload()
    except OcmfError as error:
        return Judgement(SignatureVerdict.VERIFIED, f"signed, but its readings cannot be read: {error}")
    return Judgement(SignatureVerdict.VERIFIED, "", payload)


@dataclass(frozen=True, slots=True)
class Registers:
    """Those of a plain reading, in milliwatt-hours; None where it has none."""

    imported: int | None
    exported: int | None


def covers(payloads: list[Payload], plain: Registers) -> bool:
    """Whether verified records hold every register of a plain reading, to within rounding and the record's digits."""
    wanted = [(Register.IMPORT, plain.imported), (Register.EXPORT, plain.exported)]
    present = [(register, value) for register, value in wanted if value is not None]
    return bool(present) and all(
        any(_holds(payload, register, value) for payload in payloads) for register, value in present
    )


def contradictions(payloads: list[Payload], plain: Registers) -> list[str]:
    """Registers that the meter signed and the charger tells otherwise, in words."""
    found = []
    for register, value in ((Register.IMPORT, plain.imported), (Register.EXPORT, plain.exported)):
        signed = [p.newest(register) for p in payloads]
        known = [reading.milliwatt_hours for reading in signed if reading is not None]
        if value is not None and known and not any(_holds(payload, register, value) for payload in payloads):
            found.append(f"the {register.value} is {value} milliwatt-hours, and the meter signed {known[-1]}")
    return found


def _holds(payload: Payload, register: Register, value: int) -> bool:
    reading = payload.newest(register)
    if reading is None or reading.milliwatt_hours is None:
        return False
    tolerance = max(ROUNDING_MILLIWATT_HOURS, reading.resolution_milliwatt_hours)
    return abs(reading.milliwatt_hours - value) <= tolerance


def _wrong(reason: str) -> Judgement:
    return Judgement(SignatureVerdict.WRONG, reason)


def _unverifiable(reason: str) -> Judgement:
    return Judgement(SignatureVerdict.UNVERIFIABLE, reason)
