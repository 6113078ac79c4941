"""What goes past a backlog: receipts of commands and critical alarms, proven alone, once on each connection."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from agent.evidence.kinds import Alarm, CommandReceipt, CommandState, Severity
from agent.evidence.partial import cut, decode_any
from agent.evidence.verify import TrustedKey, Verifier
from agent.uplink import ahead
from agent.uplink.ahead import Ahead, Found
from tests.agent.uplink.parts import FIRST_US, Evidence, MemoryOutbox, row_of

NOTHING = None


def receipt(name: str) -> CommandReceipt:
    return CommandReceipt(
        command_hash=name.encode().ljust(32, b"\0"),
        command_id=name,
        state=CommandState.COMPLETED,
        timestamp_us=FIRST_US,
        reason="",
        delivered_energy_wh=1,
    )


def alarm(severity: Severity) -> Alarm:
    return Alarm(timestamp_us=FIRST_US, severity=severity, code="test.code", subject="pv", text="It is so.")


class Bench:
    def __init__(self, incarnation: int = 1) -> None:
        self.evidence = Evidence(incarnation=incarnation)
        self.outbox = MemoryOutbox(incarnation=incarnation)
        self.ahead = Ahead(self.outbox)
        self._verifier = Verifier([TrustedKey(self.evidence.gateway_id, self.evidence.key.verify_key)])

    def seal(self, *statements: CommandReceipt | Alarm) -> None:
        batch = self.evidence.seal(self.evidence.reading("pv"), *statements, self.evidence.reading("pv"))
        self.outbox.rows.append(row_of(batch))

    def all(self, turn: tuple[int, int] | None = NOTHING) -> list[CommandReceipt | Alarm]:
        async def run() -> list[Found]:
            found: list[Found] = []
            while urgent := await self.ahead.next(turn):
                found += urgent
            return found

        seen = []
        for each in asyncio.run(run()):
            statement = self._verifier.verify_receipt(each.receipt, each.statement).statement
            assert isinstance(statement, CommandReceipt | Alarm)
            seen.append(statement)
        return seen


def test_receipts_and_critical_alarms_of_all_that_waits_go_in_order_and_can_be_proven_alone() -> None:
    bench = Bench()
    bench.seal(receipt("first"), alarm(Severity.WARNING))
    bench.seal()
    bench.seal(alarm(Severity.CRITICAL), receipt("second"))
    bench.ahead.begin([1])
    assert bench.all() == [receipt("first"), alarm(Severity.CRITICAL), receipt("second")]
    assert bench.all() == []


def test_what_is_sealed_later_goes_by_itself_and_the_next_connection_begins_anew() -> None:
    bench = Bench()
    bench.seal(receipt("first"))
    bench.ahead.begin([1])
    bench.all()
    bench.seal(receipt("second"))
    assert bench.all() == []
    bench.ahead.sealed(1)
    assert bench.all() == [receipt("second")]
    bench.ahead.begin([1])
    assert bench.all() == [receipt("first"), receipt("second")]


def test_nothing_goes_twice_when_its_batch_is_sent_now() -> None:
    bench = Bench()
    bench.seal(receipt("first"))
    bench.ahead.begin([1])
    assert bench.all(turn=(1, 1)) == []
    assert bench.all() == []


def test_what_is_acknowledged_and_what_was_thinned_away_does_not_go() -> None:
    bench = Bench()
    bench.seal(receipt("first"))
    bench.seal(receipt("second"), receipt("third"))
    bench.outbox.acknowledged[1] = 1
    bench.outbox.rows[1] = replace(
        bench.outbox.rows[1], encoded=cut(decode_any(bench.outbox.rows[1].encoded), {0, 3}).encode()
    )
    bench.ahead.begin([1])
    assert bench.all() == [receipt("third")]


def test_a_damaged_batch_is_passed_over() -> None:
    bench = Bench()
    bench.seal(receipt("first"))
    bench.seal(receipt("second"))
    bench.ahead.begin([1])
    assert bench.all(turn=NOTHING)[:1] == [receipt("first")]
    assert ahead.urgent_of(replace(bench.outbox.rows[0], encoded=b"\x83")) == ()


def test_a_connection_carries_so_many_at_most() -> None:
    bench = Bench()
    for number in range(4):
        bench.seal(receipt(f"c{number}"))
    bench.ahead.begin([1])
    bench.ahead._batches_left = 3
    assert bench.all() == [receipt(f"c{number}") for number in range(3)]


def test_those_of_an_older_incarnation_go_first() -> None:
    bench, older = Bench(incarnation=2), Evidence(incarnation=1)
    older.key, older.gateway_id = bench.evidence.key, bench.evidence.gateway_id
    bench.seal(receipt("new"))
    bench.outbox.rows.append(row_of(older.seal(receipt("old"))))
    bench.ahead.begin([1, 2])
    assert bench.all() == [receipt("old"), receipt("new")]
