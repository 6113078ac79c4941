"""Rows of statements: what each is found by, and which ones may not wait."""

from __future__ import annotations

import pytest

from agent.clock import ClockQuality
from agent.evidence import merkle, statements
from agent.evidence.statements import (
    Alarm,
    Attestation,
    CommandReceipt,
    CommandState,
    Kind,
    MeteringTree,
    Sealing,
    SettlementWindow,
    Severity,
    Statement,
)
from agent.measure.reading import Quality
from agent.roads.desk import row_of
from tests.agent.roads.readings import reading

READING = reading(7)
WINDOW = SettlementWindow(
    device_id="pv-1",
    incarnation=1,
    window_start_us=900,
    window_end_us=1_800,
    revision=0,
    import_wh=0,
    export_wh=0,
    net_energy_wh=0,
    first_sequence=None,
    last_sequence=None,
    reading_count=0,
    readings_root=merkle.EMPTY_ROOT,
    meter_epoch=1,
    quality=Quality.GOOD,
    command_hashes=(),
)
ALARM = Alarm(timestamp_us=5, severity=Severity.INFO, code="c", subject="pv-1", text="t")
RECEIPT = CommandReceipt(
    command_hash=bytes(32),
    command_id="c-1",
    state=CommandState.RECEIVED,
    timestamp_us=6,
    reason="",
    delivered_energy_wh=None,
)
ATTESTATION = Attestation(
    timestamp_us=8, valid_until_us=9, software_version="1", software_digest=bytes(32), metrology_digest=bytes(32)
)


@pytest.mark.parametrize(
    ("statement", "found_by"),
    [
        (READING, (Kind.READING, "pv-1", 7, READING.timestamp_us)),
        (WINDOW, (Kind.SETTLEMENT_WINDOW, "pv-1", None, 900)),
        (ALARM, (Kind.ALARM, None, None, 5)),
        (RECEIPT, (Kind.COMMAND_RECEIPT, None, None, 6)),
        (ATTESTATION, (Kind.ATTESTATION, None, None, 8)),
        (MeteringTree(timestamp_us=4, points=()), (Kind.METERING_TREE, None, None, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_statement_is_found_by_what_it_is_about(
    statement: Statement, found_by: tuple[Kind, str | None, int | None, int]
) -> None:
    row = row_of(statement)
    assert (row.kind, row.device_id, row.sequence, row.timestamp_us) == found_by
    assert statements.decode(row.encoded) == statement


def test_receipts_and_alarms_are_urgent_and_nothing_else_is() -> None:
    assert [row_of(s).urgent for s in (RECEIPT, ALARM, READING, WINDOW, ATTESTATION)] == [True, True, *[False] * 3]


def test_a_sealing_has_no_row() -> None:
    with pytest.raises(ValueError, match="made with its batch"):
        row_of(Sealing(sealed_at_us=1, clock_quality=ClockQuality.SYNCED, clock_error_bound_us=1))
