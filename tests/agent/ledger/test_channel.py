"""Tests of the leading side of a channel, against the following side, over loss, crashes and rollback."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ledger.channel import Phase
from agent.ledger.events import Commit, Send, Sign
from agent.ledger.frames import Reestablish
from agent.ledger.state import decode_signed
from agent.store import Stage
from tests.agent.ledger.bench import Bench, Kept, Platform
from tests.agent.ledger.examples import window


def running() -> Bench:
    """Connected and established, nothing settled yet."""
    bench = Bench()
    bench.connect()
    bench.settle()
    return bench


def settle_window(bench: Bench, number: int) -> None:
    bench.prove(window(number))
    bench.close_window(window(number))
    bench.settle()


def test_a_closed_window_is_signed_by_both_sides() -> None:
    bench = running()
    settle_window(bench, 0)
    assert bench.channel.phase is Phase.RESTING
    assert bench.platform.held is not None
    assert bench.channel.settled == bench.platform.held
    state = bench.platform.held.state
    assert (state.version, state.import_wh, state.export_wh, state.net_wh) == (1, 100, 30, 70)
    assert bench.kept.waiting == []


def test_states_are_chained_and_cumulative() -> None:
    bench = running()
    for number in range(3):
        settle_window(bench, number)
    settled = [decode_signed(r.encoded).state for r in bench.kept.rows if r.stage is Stage.COUNTERSIGNED]
    assert [s.version for s in settled] == [1, 2, 3]
    assert [s.previous_hash for s in settled] == [bytes(32), settled[0].digest, settled[1].digest]
    assert [s.net_wh for s in settled] == [70, 140, 210]


def test_each_stage_is_asked_for_only_after_the_one_before_is_committed() -> None:
    bench = running()
    bench.close_window(window(0))
    asked = []
    while bench.todo:
        asked.append(bench.todo[0])
        bench.do_one()
    assert [type(output) for output in asked] == [Commit, Sign, Commit, Send]
    assert [o.row.stage for o in asked if isinstance(o, Commit)] == [Stage.INTENT, Stage.SIGNED]


def test_nothing_is_signed_before_the_platform_has_told_what_it_holds() -> None:
    bench = Bench()
    bench.close_window(window(0))
    bench.settle()
    assert bench.signed == {}
    bench.connect()
    bench.prove(window(0))
    bench.settle()
    assert bench.channel.settled is not None


def test_windows_that_close_without_a_link_wait_and_are_settled_together() -> None:
    bench = running()
    bench.disconnect()
    for number in range(5):
        bench.close_window(window(number))
        bench.settle()
    assert len(bench.signed) == 1
    for number in range(5):
        bench.prove(window(number))
    bench.connect()
    bench.settle()
    assert bench.channel.settled is not None
    assert (bench.channel.settled.state.version, bench.channel.settled.state.import_wh) == (2, 500)


def test_a_proposal_ahead_of_its_window_waits_on_the_platform() -> None:
    bench = running()
    bench.close_window(window(0))
    bench.settle()
    assert bench.channel.phase is Phase.PROPOSED
    bench.prove(window(0))
    bench.settle()
    assert bench.channel.settled is not None


def test_a_lost_countersignature_is_taken_from_the_platforms_answer() -> None:
    bench = running()
    bench.close_window(window(0))
    while bench.todo:
        bench.do_one()
    bench.deliver_one()
    bench.prove(window(0))
    bench.disconnect()
    assert bench.channel.settled is None
    bench.connect()
    bench.settle()
    assert bench.channel.settled == bench.platform.held


def test_a_lost_proposal_is_sent_again_as_it_was() -> None:
    bench = running()
    bench.close_window(window(0))
    while bench.todo:
        bench.do_one()
    first = bench.link[-1][1]
    bench.disconnect()
    bench.connect()
    bench.do_one()
    bench.deliver_one()
    bench.deliver_one()
    assert isinstance(bench.todo[-1], Send)
    assert bench.todo[-1].message == first


def test_a_platform_that_lost_its_newest_state_is_given_it_back() -> None:
    bench = running()
    settle_window(bench, 0)
    before = bench.platform.held
    settle_window(bench, 1)
    newest, bench.platform.held = bench.platform.held, before
    bench.connect()
    bench.settle()
    assert bench.platform.held == newest
    assert bench.alerts == []


def test_a_platform_that_stays_behind_is_an_alarm_and_nothing_is_signed_for_it_anew() -> None:
    bench = running()
    settle_window(bench, 0)
    bench.connect()
    bench.todo.clear()
    bench.feed(Reestablish(nonce=bench.nonces.to_bytes(16), is_answer=True))
    bench.settle()
    assert bench.alerts == ["channel.platform_behind"]
    assert not bench.channel.in_step


def test_a_restored_backup_freezes_and_signs_nothing() -> None:
    bench = running()
    settle_window(bench, 0)
    backup = bench.kept.copy()
    settle_window(bench, 1)
    restored = Bench(bench.platform, backup, incarnation=2)
    restored.close_window(window(2))
    restored.connect()
    restored.settle()
    assert restored.channel.phase is Phase.FROZEN
    assert restored.alerts == ["channel.platform_ahead"]
    assert len(restored.conflicts) == 1
    assert restored.signed == {}
    restored.retry()
    restored.close_window(window(3))
    restored.settle()
    assert restored.signed == {}


def test_a_lost_store_freezes_and_signs_nothing() -> None:
    bench = running()
    settle_window(bench, 0)
    lost = Bench(bench.platform, Kept(), incarnation=2)
    lost.close_window(window(1))
    lost.connect()
    lost.settle()
    assert lost.channel.phase is Phase.FROZEN
    assert lost.signed == {}


def test_a_second_history_of_one_version_is_told_as_a_fork() -> None:
    bench = running()
    settle_window(bench, 0)
    backup = bench.kept.copy()
    settle_window(bench, 1)
    clone = Bench(Platform(), backup, incarnation=1)
    clone.platform.held = clone.channel.settled
    clone.connect()
    clone.settle()
    clone.close_window(window(1, import_wh=999))
    clone.platform.windows = [window(1, import_wh=999)]
    clone.settle()
    clone.platform = bench.platform
    clone.connect()
    clone.settle()
    assert clone.channel.phase is Phase.FROZEN
    assert clone.alerts == ["channel.fork"]


def test_no_more_windows_than_a_day_go_into_one_state() -> None:
    bench = running()
    bench.disconnect()
    for number in range(200):
        bench.close_window(window(number))
        bench.platform.windows.append(window(number))
    bench.connect()
    bench.settle()
    settled = [decode_signed(r.encoded).state for r in bench.kept.rows if r.stage is Stage.COUNTERSIGNED]
    assert [s.import_wh for s in settled] == [100, 9_700, 19_300, 20_000]


ACTIONS = st.lists(
    st.sampled_from(
        ["window", "prove", "do", "do", "do", "deliver", "deliver", "up", "down", "crash", "retry", "twice"]
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_whatever_is_lost_or_crashes_no_name_has_two_states_and_all_is_settled_in_the_end(actions: list[str]) -> None:
    bench = Bench()
    closed = proven = 0
    for action in actions:
        match action:
            case "window":
                bench.close_window(window(closed, import_wh=closed + 1))
                closed += 1
            case "prove" if proven < closed:
                bench.prove(window(proven, import_wh=proven + 1))
                proven += 1
            case "do":
                bench.do_one()
            case "deliver":
                bench.deliver_one()
            case "up":
                bench.connect()
            case "down":
                bench.disconnect()
            case "crash":
                bench.start()
            case "retry":
                bench.retry()
            case "twice" if bench.link:
                bench.link.appendleft(bench.link[0])
    bench.connect()
    while proven < closed:
        bench.prove(window(proven, import_wh=proven + 1))
        proven += 1
    bench.settle()
    assert all(len(digests) == 1 for digests in bench.signed.values())
    assert all(len(digests) == 1 for digests in bench.released.values())
    assert bench.alerts == []
    assert bench.kept.waiting == []
    assert bench.channel.settled == bench.platform.held
    if closed:
        assert bench.platform.held is not None
        assert bench.platform.held.state.import_wh == closed * (closed + 1) // 2
