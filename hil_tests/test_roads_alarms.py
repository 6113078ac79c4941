"""Alarms reach the real store in their order, whatever the store does meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.evidence.statements import Alarm, Severity, decode
from agent.roads import alarms as module
from agent.roads.alarms import Alarms
from agent.store import Store
from hil_tests.roads_parts import START_US, FailingDesk, HandClock, running, until


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def desk(store: Store, monkeypatch: pytest.MonkeyPatch) -> FailingDesk:
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    return FailingDesk(store, lambda: HandClock().monotonic_s)


async def kept(store: Store) -> list[Alarm]:
    found = [decode(row.encoded) for row in await store.queued()]
    return [alarm for alarm in found if isinstance(alarm, Alarm)]


async def recorded(store: Store, count: int) -> None:
    async def all_there() -> bool:
        return (await store.counts()).queued == count

    await until(all_there, f"{count} alarms are recorded")


async def test_alarms_that_the_store_refuses_wait_and_keep_their_order(store: Store, desk: FailingDesk) -> None:
    alarms = Alarms(desk, lambda: START_US)
    desk.refusing = True
    async with running(alarms.run()):
        alarms.warn("a.first", "pv-1", "one")
        await until(lambda: desk.refusals > 1, "the store is tried")
        alarms.raise_alarm(Severity.CRITICAL, "a.second", "pv-1", "two")
        desk.refusing = False
        await recorded(store, 2)
    assert [(a.code, a.severity) for a in await kept(store)] == [
        ("a.first", Severity.WARNING),
        ("a.second", Severity.CRITICAL),
    ]
    assert all(row.urgent for row in await store.queued())


async def test_a_flood_of_alarms_keeps_the_oldest(
    store: Store, desk: FailingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    alarms = Alarms(desk, lambda: START_US)
    for number in range(10):
        alarms.warn(f"a.{number}", "pv-1", "again")
    async with running(alarms.run()):
        await recorded(store, 3)
    assert [a.code for a in await kept(store)] == ["a.0", "a.1", "a.2"]


async def test_a_text_without_end_is_cut(store: Store, desk: FailingDesk) -> None:
    alarms = Alarms(desk, lambda: START_US)
    alarms.warn("a.long", "s" * 10_000, "t" * 100_000)
    async with running(alarms.run()):
        await recorded(store, 1)
    [alarm] = await kept(store)
    assert (len(alarm.subject), len(alarm.text)) == (module.MOST_SUBJECT, module.MOST_TEXT)


async def test_alarms_that_one_life_could_not_record_are_recorded_by_the_next_before_its_own(
    store: Store, desk: FailingDesk
) -> None:
    before = Alarms(desk, lambda: START_US)
    before.warn("a.before", "pv-1", "one")
    alarms = Alarms(desk, lambda: START_US + 1)
    alarms.warn("a.after", "pv-1", "two")
    alarms.take_over(before.waiting)
    async with running(alarms.run()):
        await until(lambda: alarms.waiting == (), "all are recorded")
    assert [(a.code, a.timestamp_us) for a in await kept(store)] == [("a.before", START_US), ("a.after", START_US + 1)]


async def test_a_store_that_refuses_is_told_once_and_not_at_each_try(
    store: Store, desk: FailingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(module.log, "error", lambda code, **_: told.append(code))
    alarms = Alarms(desk, lambda: START_US)
    desk.refusing = True
    async with running(alarms.run()):
        alarms.warn("a.first", "pv-1", "one")
        await until(lambda: desk.refusals > 5, "the store is tried again and again")
        assert told == ["alarms.not_recorded"]
