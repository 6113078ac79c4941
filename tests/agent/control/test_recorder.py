"""The recorder writes in order and never gives up, and one statement that nobody could read holds nothing up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from agent.control.recorder import UNRECORDABLE, Recorder, fault_of
from agent.evidence.statements import Alarm, CommandReceipt, CommandState, Severity, Statement


def receipt(**changes: object) -> CommandReceipt:
    values: dict[str, object] = {
        "command_hash": bytes(32), "command_id": "c-1", "state": CommandState.RECEIVED, "timestamp_us": 1, "reason": "",
        "delivered_energy_wh": None,
    }  # fmt: skip
    return CommandReceipt(**{**values, **changes})  # type: ignore[arg-type]  # field names are checked when it runs


class Desk:
    """Takes everything, or fails so many times first."""

    def __init__(self) -> None:
        self.taken: list[Statement] = []
        self.notes: dict[str, bytes | None] = {}
        self.failures = 0
        self.arrived = asyncio.Event()

    async def put(self, taken: Sequence[Statement], notes: Mapping[str, bytes | None]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("away")
        self.taken += taken
        self.notes |= notes
        self.arrived.set()


@contextlib.asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


UNREADABLE = [
    receipt(command_id="c-\ud800"),  # half of a surrogate pair is no UTF-8
    receipt(delivered_energy_wh=1 << 63),
    receipt(delivered_energy_wh=1 << 80),
    receipt(timestamp_us=-1),
    receipt(command_hash=b"short"),
    receipt(state="received"),
    receipt(command_id="x" * 70_000),
]


@pytest.mark.parametrize("wrong", UNREADABLE, ids=["surrogate", "int64", "bignum", "time", "hash", "state", "size"])
async def test_a_statement_that_cannot_be_read_again_is_left_out_with_an_alarm_and_holds_nothing_up(
    wrong: CommandReceipt,
) -> None:
    desk, said, committed = Desk(), list[tuple[str, str]](), list[str]()
    recorder = Recorder(desk, lambda subject, text: said.append((subject, text)))
    recorder.submit([receipt(command_id="before"), wrong], {"note": b"1"}, lambda: committed.append("first"))
    recorder.submit([receipt(command_id="after")], {}, lambda: committed.append("second"))
    assert recorder.backlog == 2
    async with running(recorder):
        await desk.arrived.wait()
    assert [s.command_id for s in desk.taken if isinstance(s, CommandReceipt)] == ["before", "after"]
    assert (desk.notes, committed) == ({"note": b"1"}, ["first", "second"])
    ((subject, text),) = said
    assert (subject, recorder.refused, recorder.trouble) == ("CommandReceipt", 1, "")
    assert "cannot be recorded" in text
    assert (
        fault_of(Alarm(timestamp_us=1, severity=Severity.CRITICAL, code=UNRECORDABLE, subject=subject, text=text)) == ""
    ), "the alarm itself can be"


async def test_refused_statements_are_counted_and_the_alarm_of_one_is_never_the_cause_of_another() -> None:
    desk = Desk()
    recorder = Recorder(desk, lambda subject, text: recorder.submit([alarm("\ud800")], {}))
    recorder.submit([receipt(timestamp_us=-1)], {})
    assert recorder.refused == 2
    assert recorder.backlog == 0


def alarm(text: str) -> Alarm:
    return Alarm(timestamp_us=-1, severity=Severity.CRITICAL, code=UNRECORDABLE, subject="x", text=text)


async def test_what_the_store_does_not_take_waits_and_is_written_in_order() -> None:
    desk = Desk()
    desk.failures = 1
    recorder = Recorder(desk)
    async with running(recorder):
        recorder.submit([receipt(command_id="1")], {})
        recorder.submit([receipt(command_id="2")], {})
        await desk.arrived.wait()
    assert [s.command_id for s in desk.taken if isinstance(s, CommandReceipt)] == ["1", "2"]
    assert recorder.refused == 0


async def test_a_fault_of_one_that_is_told_of_its_commit_keeps_it_from_nobody_else() -> None:
    committed = list[str]()
    recorder = Recorder(Desk())

    def fault() -> None:
        raise RuntimeError("a fault of ours")

    recorder.submit([receipt(command_id="1")], {}, lambda: committed.append("before"))
    recorder.submit([receipt(command_id="2")], {}, fault)
    recorder.submit([receipt(command_id="3")], {}, lambda: committed.append("after"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await recorder.run()
    assert committed == ["before", "after"]
    assert recorder.backlog == 0
