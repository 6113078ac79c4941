"""Statements: one encoding for each, and whatever bytes come, a statement or an EvidenceError."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import ClockQuality
from agent.evidence import statements
from agent.evidence.errors import EvidenceError, MalformedError, UnsupportedError
from agent.evidence.statements import Alarm, CommandState, Severity
from agent.measure.reading import Quality, Reading, SignatureReference
from drivers.device import SignatureVerdict, ValueSource
from hil_tests import evidence_cases as made
from hil_tests.signed_value_cases import signed_reading, signed_value
from tests.agent.evidence import independent

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
COUNTS = st.integers(0, (1 << 63) - 1)
ORDINALS = st.integers(1, (1 << 63) - 1)
READINGS = st.builds(
    Reading,
    device_id=st.text(max_size=64),
    incarnation=ORDINALS,
    boot_id=st.binary(min_size=16, max_size=16),
    sequence=ORDINALS,
    timestamp_us=COUNTS,
    net_energy_wh=INT64,
    import_register_milliwatt_hours=st.none() | COUNTS,
    export_register_milliwatt_hours=st.none() | COUNTS,
    meter_epoch=ORDINALS,
    power_w=st.none() | INT64,
    voltage_millivolts=st.none() | COUNTS,
    state_of_charge_permille=st.none() | COUNTS,
    frequency_millihertz=st.none() | COUNTS,
    quality=st.integers(0, 2047).map(Quality),
    source=st.sampled_from(ValueSource),
)


@given(READINGS)
def test_a_reading_decodes_to_itself(reading: Reading) -> None:
    encoded = statements.encode(reading)
    assert statements.decode(encoded) == reading
    independent.statement(encoded)


REFERENCES = st.builds(
    SignatureReference, statement_hash=st.binary(min_size=32, max_size=32), verdict=st.sampled_from(SignatureVerdict)
)
SIGNED_VALUES = st.builds(
    statements.SignedMeterValue,
    device_id=st.text(max_size=20),
    timestamp_us=COUNTS,
    verdict=st.sampled_from(SignatureVerdict),
    reason=st.text(max_size=20),
    encoding_method=st.text(max_size=20),
    record=st.binary(min_size=1, max_size=200),
    key_der=st.binary(max_size=100),
    transaction_id=st.none() | st.text(max_size=20),
    context=st.text(max_size=20),
)


@given(READINGS, st.lists(REFERENCES, min_size=1, max_size=16))
def test_a_reading_that_names_signed_values_decodes_to_itself(
    reading: Reading, signed: list[SignatureReference]
) -> None:
    if all(reference.verdict is not SignatureVerdict.VERIFIED for reference in signed):
        reading = replace(reading, source=ValueSource.AUTHENTICATED_LINK)
    reading = replace(reading, signed_values=tuple(signed))
    encoded = statements.encode(reading)
    assert statements.decode(encoded) == reading
    independent.statement(encoded)


@given(SIGNED_VALUES)
def test_a_signed_value_decodes_to_itself(value: statements.SignedMeterValue) -> None:
    encoded = statements.encode(value)
    assert statements.decode(encoded) == value
    independent.statement(encoded)


@given(READINGS, READINGS)
def test_different_readings_have_different_bytes(one: Reading, other: Reading) -> None:
    assert (one == other) == (statements.encode(one) == statements.encode(other))


@pytest.mark.parametrize("statement", made.one_of_each(), ids=lambda s: type(s).__name__)
def test_every_kind_decodes_to_itself(statement: statements.Statement) -> None:
    decoded = statements.decode(statements.encode(statement))
    assert decoded == statement
    assert type(decoded) is type(statement)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_statement_or_an_evidence_error(encoded: bytes) -> None:
    try:
        statement = statements.decode(encoded)
    except EvidenceError:
        return
    assert statements.encode(statement) == encoded


@given(st.data())
def test_one_changed_byte_is_another_statement_or_an_error(data: st.DataObject) -> None:
    every = [*made.one_of_each(), signed_value(), signed_reading(signed_value())]
    encoded = statements.encode(data.draw(st.sampled_from(every)))
    at = data.draw(st.integers(0, len(encoded) - 1))
    changed = encoded[:at] + bytes([data.draw(st.integers(0, 255))]) + encoded[at + 1 :]
    try:
        statement = statements.decode(changed)
    except EvidenceError:
        return
    assert statements.encode(statement) == changed


def test_a_statement_longer_than_64_kib_is_refused() -> None:
    alarm = Alarm(
        timestamp_us=0, severity=Severity.INFO, text="a", subject="b", code="x" * statements.MAX_STATEMENT_BYTES
    )
    with pytest.raises(MalformedError, match="at most"):
        statements.decode(statements.encode(alarm))


def test_an_unknown_version_is_unsupported_and_not_guessed() -> None:
    encoded = statements.encode(made.reading(1))
    with pytest.raises(UnsupportedError, match="version 2"):
        statements.decode(encoded.replace(b"\x91\x01\x01", b"\x91\x01\x02"))


def test_the_error_names_kind_and_field() -> None:
    encoded = statements.encode(made.sealing())
    with pytest.raises(MalformedError, match=r"SEALING: .*field 3"):
        statements.decode(encoded.replace(b"\x00\x19\x05\xdc", b"\xf5\x19\x05\xdc"))


def test_the_numbers_of_the_format_stay() -> None:
    """Written down once more, because a renumbered enumeration would change what old evidence says."""
    assert {kind.name: kind.value for kind in statements.Kind} == {
        "SEALING": 0, "READING": 1, "COMMAND_RECEIPT": 2, "SETTLEMENT_WINDOW": 3, "ATTESTATION": 4, "ALARM": 5,
        "METERING_TREE": 6, "SIGNED_METER_VALUE": 7, "THINNING": 8,
    }  # fmt: skip
    assert {flag.name: flag.value for flag in Quality} == {
        "ISLANDED": 1, "QUEUED": 2, "ESTIMATED": 4, "DEVICE_TIME": 8, "CLOCK_HOLDOVER": 16, "CLOCK_UNTRUSTED": 32,
        "EPOCH_START": 64, "NO_REGISTER": 128, "REGISTER_HELD": 256, "POWER_REJECTED": 512, "AFTER_GAP": 1024,
    }  # fmt: skip
    assert [state.value for state in CommandState if state.final] == [10, 11, 12, 13, 14]
    assert [quality.value for quality in ClockQuality] == [0, 1, 2]
    assert [source.value for source in ValueSource] == [0, 1, 2]


@pytest.mark.parametrize("words", ["half a character \ud800", "bytes of a header \udcff\udcfe", "x" * 100_000])
def test_words_for_a_person_never_make_a_statement_that_cannot_be_stored_or_verified(words: str) -> None:
    """Words come from faults and peers. One that no verifier can read would hold up every batch behind it."""
    alarm = Alarm(timestamp_us=1, severity=Severity.INFO, code="c", subject=words, text=words)
    receipt = statements.CommandReceipt(
        command_hash=bytes(32),
        command_id="c",
        state=CommandState.REJECTED,
        timestamp_us=1,
        reason=words,
        delivered_energy_wh=None,
    )
    for statement in (alarm, receipt):
        encoded = statements.encode(statement)
        assert len(encoded) <= statements.MAX_STATEMENT_BYTES
        assert statements.encode(statements.decode(encoded)) == encoded
