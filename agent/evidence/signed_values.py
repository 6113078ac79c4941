"""What meters signed themselves, in evidence: made from a driver's values, and held against what statements claim.

The check needs nothing but the statements: the record is in its statement, verbatim, with the key that it was judged
by. Whether that key is the meter's is for the verifier to know: compare its fingerprint. proto/EVIDENCE.md section 2.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.evidence import statements
from agent.evidence.statements import SignedMeterValue, Statement
from agent.measure.reading import Reading, SignatureReference
from drivers.device import SignatureVerdict, SignedValue, ValueSource
from drivers.ocmf.errors import MeterKeyError
from drivers.ocmf.judge import Registers, covers, judge
from drivers.ocmf.keys import MeterKey, key_from_der
from drivers.ocmf.record import Payload, Register

MOST_REMEMBERED: Final = 20_000
"""Signed values that a later reading may still name; they stand close before it."""


def signed_statement(value: SignedValue, device_id: str, timestamp_us: int) -> SignedMeterValue:
    """The statement of a value that a driver judged; `timestamp_us` is the moment of the sample that it came with."""
    return SignedMeterValue(
        device_id=device_id,
        timestamp_us=timestamp_us,
        verdict=value.verdict,
        reason=value.reason,
        encoding_method=value.encoding_method,
        record=value.record,
        key_der=value.key_der,
        transaction_id=value.transaction_id,
        context=value.context,
    )


def references(signed: Sequence[SignedMeterValue]) -> tuple[SignatureReference, ...]:
    """What the reading beside them says of them."""
    return tuple(
        SignatureReference(hashlib.sha256(statements.encode(statement)).digest(), statement.verdict)
        for statement in signed
    )


@dataclass(frozen=True, slots=True)
class Session:
    """Signed energy of one transaction, from its signed begin to its signed end, by one meter's key."""

    device_id: str
    transaction_id: str
    fingerprint: str
    """SHA-256 of the meter's key, in hexadecimal."""
    imported_milliwatt_hours: int | None
    exported_milliwatt_hours: int | None


@dataclass(slots=True)
class SignedValueCheck:
    """Takes the statements of a run of batches in order, and finds claims about meters' signatures that are not so."""

    verdicts: Counter[SignatureVerdict] = field(default_factory=Counter)
    keys: dict[str, set[str]] = field(default_factory=dict)
    """Device -> fingerprints of the keys that verified its values, in hexadecimal."""
    signed_readings: int = 0
    """Readings whose registers a meter signed, and that are so."""
    absent: int = 0
    """References to statements that are not here: of before the first batch, left out, or too far back."""
    _seen: dict[bytes, tuple[str, SignatureVerdict, Payload | None]] = field(default_factory=dict)
    _begins: dict[tuple[str, str, str, Register], int] = field(default_factory=dict)
    _ends: dict[tuple[str, str, str, Register], int] = field(default_factory=dict)

    def see(self, statement: Statement, statement_hash: bytes) -> list[str]:
        """What is claimed and not so, in words; empty when all holds."""
        if isinstance(statement, SignedMeterValue):
            return self._see_value(statement, statement_hash)
        if isinstance(statement, Reading) and statement.signed_values:
            return self._see_reading(statement)
        return []

    def sessions(self) -> list[Session]:
        """Transactions with a signed begin and a signed end, in the order in which they began."""
        found: dict[tuple[str, str, str], dict[Register, int]] = {}
        for (device_id, transaction_id, fingerprint, register), begin in self._begins.items():
            end = self._ends.get((device_id, transaction_id, fingerprint, register))
            if end is not None:
                found.setdefault((device_id, transaction_id, fingerprint), {})[register] = end - begin
        return [
            Session(*where, energies.get(Register.IMPORT), energies.get(Register.EXPORT))
            for where, energies in found.items()
        ]

    def _see_value(self, value: SignedMeterValue, statement_hash: bytes) -> list[str]:
        self.verdicts[value.verdict] += 1
        key: MeterKey | None = None
        if value.key_der is not None:
            try:
                key = key_from_der(value.key_der)
            except MeterKeyError as error:
                return [f"a signed value of {value.device_id} names a key that is none: {error}"]
        found = judge(value.record, value.encoding_method, key)
        self._seen[statement_hash] = (value.device_id, value.verdict, found.payload)
        if len(self._seen) > MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        if found.verdict is not value.verdict and SignatureVerdict.UNVERIFIABLE not in (found.verdict, value.verdict):
            # Unverifiable says what the means were; ours may be others.
            said, is_so = value.verdict.name.lower(), found.verdict.name.lower()
            return [f"a signed value of {value.device_id} is said to be {said} and is {is_so} {found.reason}".rstrip()]
        if value.verdict is SignatureVerdict.VERIFIED and found.verdict is not SignatureVerdict.VERIFIED:
            return [f"a signed value of {value.device_id} is said to be verified, and cannot be: {found.reason}"]
        if value.verdict is SignatureVerdict.VERIFIED and key is not None:
            fingerprint = key.fingerprint.hex()
            self.keys.setdefault(value.device_id, set()).add(fingerprint)
            if found.payload is not None and value.transaction_id is not None:
                self._follow(found.payload, (value.device_id, value.transaction_id, fingerprint))
        return []

    def _follow(self, payload: Payload, where: tuple[str, str, str]) -> None:
        for reading in payload.readings:
            energy = reading.milliwatt_hours
            if not reading.usable or energy is None or reading.register not in (Register.IMPORT, Register.EXPORT):
                continue
            if reading.begins:
                self._begins.setdefault((*where, reading.register), energy)
            elif reading.ends:
                self._ends[(*where, reading.register)] = energy

    def _see_reading(self, reading: Reading) -> list[str]:
        where = f"reading {reading.sequence} of {reading.device_id}"
        wrong = []
        payloads = []
        absent = 0
        for reference in reading.signed_values:
            seen = self._seen.get(reference.statement_hash)
            if seen is None:
                absent += 1
                continue
            device_id, verdict, payload = seen
            if device_id != reading.device_id:
                wrong.append(f"{where} names a signed value of {device_id} as its own")
            elif verdict is not reference.verdict:
                said, is_so = reference.verdict.name.lower(), verdict.name.lower()
                wrong.append(f"{where} names a signed value as {said}, and its statement says {is_so}")
            elif verdict is SignatureVerdict.VERIFIED and payload is not None:
                payloads.append(payload)
        self.absent += absent
        if reading.source is not ValueSource.SIGNED_BY_METER or absent or wrong:
            return wrong
        plain = Registers(reading.import_register_milliwatt_hours, reading.export_register_milliwatt_hours)
        if covers(payloads, plain):
            self.signed_readings += 1
        else:
            wrong.append(f"{where} says that the meter signed its registers, and what it names does not hold them")
        return wrong
