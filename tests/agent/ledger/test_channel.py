"""Tests of the leading side of a channel, against the following side, over loss, crashes, rollback and lies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ledger import channel as ch
from agent.ledger.channel import Phase
from agent.ledger.errors import LedgerError
from agent.ledger.events import Commit, Committed, LinkUp, Send, Sign, Signed, WindowClosed
from agent.ledger.frames import Countersignature, Reestablish, Refusal
from agent.ledger.state import SignedState, decode_signed
from agent.store import Stage
from tests.agent.ledger.bench import Bench, Kept, Platform
from tests.agent.ledger.examples import DEVICE_KEY, OTHER_KEY, window


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


def test_a_refused_version_is_never_used_again_and_its_windows_go_into_the_next() -> None:
    bench = running()
    bench.close_window(window(0))
    bench.settle()
    state = bench.channel.current
    assert state is not None
    bench.feed(Refusal(incarnation=1, version=1, digest=state.state.digest, reason="no"))
    bench.settle()
    assert bench.alerts == ["channel.refused"]
    assert bench.channel.phase is Phase.RESTING
    bench.platform.proposed = None
    bench.prove(window(0))
    settle_window(bench, 1)
    assert bench.channel.settled is not None
    assert (bench.channel.settled.state.version, bench.channel.settled.state.import_wh) == (2, 200)


def test_a_refusal_of_something_else_changes_nothing() -> None:
    bench = running()
    bench.close_window(window(0))
    bench.settle()
    bench.feed(Refusal(incarnation=1, version=1, digest=bytes(32), reason="no"))
    assert bench.channel.phase is Phase.PROPOSED


def test_a_countersignature_by_another_key_is_refused_and_the_proposal_stands() -> None:
    bench = running()
    bench.close_window(window(0))
    bench.settle()
    state = bench.channel.current
    assert state is not None
    digest = state.state.digest
    for wrong in (
        Countersignature(incarnation=1, version=1, digest=digest, platform_signature=OTHER_KEY.sign(digest)),
        Countersignature(incarnation=1, version=1, digest=bytes(32), platform_signature=OTHER_KEY.sign(bytes(32))),
    ):
        bench.feed(wrong)
    bench.settle()
    assert bench.alerts == ["channel.bad_countersignature"]
    assert bench.channel.phase is Phase.PROPOSED


def test_an_answer_with_a_state_that_we_never_signed_is_an_alarm_and_no_reason_to_freeze() -> None:
    bench = running()
    settle_window(bench, 0)
    held = bench.platform.held
    assert held is not None
    ahead = replace(held.state, version=9)
    bench.platform.held = SignedState(ahead, OTHER_KEY.sign(ahead.digest), b"")
    bench.connect()
    bench.settle()
    assert bench.alerts == ["channel.bad_answer"]
    assert bench.channel.phase is Phase.RESTING


def test_an_answer_to_an_old_question_is_not_believed() -> None:
    bench = running()
    bench.connect()
    bench.feed(Reestablish(nonce=bytes(16), is_answer=True))
    assert not bench.channel.in_step


def test_the_platforms_question_is_answered_with_its_nonce() -> None:
    bench = running()
    settle_window(bench, 0)
    bench.feed(Reestablish(nonce=b"q" * 16, is_answer=False))
    (output,) = bench.todo
    assert isinstance(output, Send)
    assert isinstance(output.message, Reestablish)
    assert (output.message.nonce, output.message.is_answer, output.message.version) == (b"q" * 16, True, 1)


def test_our_own_bad_signature_is_never_released() -> None:
    bench = running()
    bench.close_window(window(0))
    bench.do_one()
    bench.todo.clear()
    bench.feed(Signed(1, OTHER_KEY.sign(bytes(32))))
    bench.settle()
    assert bench.alerts == ["channel.bad_signature"]
    assert bench.released == {}
    bench.retry()
    bench.settle()
    assert bench.released.keys() == {(1, 1)}


def test_a_report_about_a_version_that_was_never_intended_is_our_own_fault() -> None:
    with pytest.raises(LedgerError, match="nothing was asked"):
        ch.step(running().channel, Committed(1, Stage.INTENT))


def test_an_overlapping_window_is_refused() -> None:
    bench = running()
    settle_window(bench, 1)
    with pytest.raises(LedgerError, match="overlaps"):
        bench.feed(WindowClosed(window(0)))


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


def test_a_refused_state_is_not_replaced_by_another_until_a_window_closes() -> None:
    """A platform that refuses everything must not have us sign a new state, for ever kept, every few seconds."""
    bench = running()
    bench.close_window(window(0))
    bench.settle()
    current = bench.channel.current
    assert current is not None
    bench.feed(Refusal(incarnation=1, version=1, digest=current.state.digest, reason="no"))
    bench.settle()
    for _ in range(20):
        bench.retry()
        bench.settle()
    assert bench.channel.version == 1
    bench.platform.proposed = None
    bench.prove(window(0))
    settle_window(bench, 1)
    assert bench.channel.settled is not None
    assert bench.channel.settled.state.version == 2


def test_a_lie_that_is_repeated_is_one_alarm() -> None:
    """Each alarm is signed, stored and sent: a peer must not be able to fill the disk with them."""
    bench = running()
    bench.close_window(window(0))
    bench.settle()
    current = bench.channel.current
    assert current is not None
    for signature in (bytes(64), OTHER_KEY.sign(current.state.digest)) * 50:
        bench.feed(
            Countersignature(incarnation=1, version=1, digest=current.state.digest, platform_signature=signature)
        )
        bench.feed(Countersignature(incarnation=1, version=1, digest=bytes(32), platform_signature=signature))
    bench.settle()
    assert bench.alerts == ["channel.bad_countersignature"]


def test_a_liar_that_connects_again_and_again_is_one_alarm() -> None:
    bench = running()
    settle_window(bench, 0)
    bench.platform.held = None
    for nonce in range(100, 150):
        bench.link.clear()
        bench.feed(LinkUp(nonce.to_bytes(16)))
        bench.todo.clear()
        bench.feed(Reestablish(nonce=nonce.to_bytes(16), is_answer=True))
        while bench.todo:
            bench.do_one()
    assert bench.alerts == ["channel.platform_behind"]


def test_a_state_of_another_channel_is_no_proof_against_this_one() -> None:
    """Other terms are another channel, with states that the same key has rightly signed."""
    bench = running()
    settle_window(bench, 0)
    assert bench.channel.settled is not None
    other = replace(bench.channel.settled.state, channel_id=bytes(32), contract=bytes(20), version=9)
    bench.connect()
    nonce = bench.channel.question
    assert nonce is not None
    bench.feed(
        Reestablish(
            nonce=nonce,
            is_answer=True,
            incarnation=other.incarnation,
            version=other.version,
            state=other.encode(),
            gateway_signature=DEVICE_KEY.sign(other.digest),
        )
    )
    while bench.todo:
        bench.do_one()
    assert bench.channel.phase is Phase.RESTING
    assert bench.alerts == ["channel.bad_answer"]


def test_a_frozen_channel_stays_frozen_over_a_restart() -> None:
    """Else whoever has seen our other history need only wait, and then deny that there was one."""
    platform = Platform()
    bench = Bench(platform)
    bench.connect()
    settle_window(bench, 0)
    restored = Bench(platform, Kept())
    restored.connect()
    restored.settle()
    assert restored.channel.phase is Phase.FROZEN
    restored.platform = Platform()
    restored.start()
    restored.connect()
    restored.settle()
    restored.close_window(window(0, import_wh=7))
    restored.settle()
    assert restored.channel.phase is Phase.FROZEN
    assert restored.channel.frozen_because
    assert restored.signed == {}


def test_what_froze_a_channel_is_kept_at_the_next_answer_when_it_could_not_be_before() -> None:
    platform = Platform()
    bench = Bench(platform)
    bench.connect()
    settle_window(bench, 0)
    restored = Bench(platform, Kept())
    restored.connect()
    while restored.channel.phase is not Phase.FROZEN:
        restored.do_one()
        restored.deliver_one()
    restored.todo.clear()  # the disk was full
    assert restored.kept.conflicts == []
    restored.connect()
    restored.settle()
    assert len(restored.kept.conflicts) == 1
