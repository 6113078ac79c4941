"""Tests of the leading side of a channel: what is refused, contradicted, lied about or frozen, and what that costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.ledger import channel as ch
from agent.ledger.channel import Phase
from agent.ledger.errors import LedgerError
from agent.ledger.events import Committed, LinkUp, Send, Signed, WindowClosed
from agent.ledger.frames import Countersignature, Reestablish, Refusal
from agent.ledger.state import SignedState
from agent.store import Stage
from tests.agent.ledger.bench import Bench, Kept, Platform
from tests.agent.ledger.examples import DEVICE_KEY, OTHER_KEY, window
from tests.agent.ledger.test_channel import running, settle_window


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
