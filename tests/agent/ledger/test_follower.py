"""Tests of the following side: what a platform refuses, each for its own reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.ledger.errors import ChannelError
from agent.ledger.follower import Ruling, Verdict, answer, countersignature, judge
from agent.ledger.frames import Proposal, Reestablish, reestablish
from agent.ledger.settle import read_window, successor
from agent.ledger.state import ChannelState, SignedState
from agent.measure.reading import Quality
from tests.agent.ledger.examples import DEVICE_KEY, OTHER_KEY, PLATFORM_KEY, TERMS, SoftwareKey, window

WINDOWS = [window(0), window(1), window(2, quality=Quality.ESTIMATED)]


def made(before: ChannelState | None, *numbers: int, version: int = 1) -> ChannelState:
    return successor(
        before,
        [read_window(WINDOWS[n], "pv-1") for n in numbers],
        terms=TERMS,
        incarnation=1,
        version=version,
        device_key=DEVICE_KEY.public,
    )


def proposal(state: ChannelState, key: SoftwareKey = DEVICE_KEY) -> Proposal:
    return Proposal(state=state.encode(), gateway_signature=key.sign(state.digest))


def both(state: ChannelState) -> SignedState:
    return SignedState(state, DEVICE_KEY.sign(state.digest), PLATFORM_KEY.sign(state.digest))


FIRST = made(None, 0)
HELD = both(FIRST)
SECOND = made(FIRST, 1, 2, version=2)


def ruled(state: ChannelState, held: SignedState | None = HELD, windows: list[bytes] = WINDOWS) -> Verdict:
    return judge(held, proposal(state), TERMS, DEVICE_KEY.public, windows)


def test_the_first_state_is_countersigned() -> None:
    verdict = ruled(FIRST, None)
    assert verdict.ruling is Ruling.COUNTERSIGN
    signed = verdict.countersigned(PLATFORM_KEY.sign(verdict.digest))
    signed.verify(DEVICE_KEY.public, PLATFORM_KEY.public)
    assert countersignature(signed).digest == FIRST.digest


def test_a_state_that_follows_from_what_is_held_and_the_windows_is_countersigned() -> None:
    assert ruled(SECOND).ruling is Ruling.COUNTERSIGN
    assert Quality.ESTIMATED in SECOND.quality


def test_a_window_that_was_sealed_twice_counts_once() -> None:
    assert ruled(SECOND, windows=[*WINDOWS, *WINDOWS]).ruling is Ruling.COUNTERSIGN


def test_the_state_that_is_held_is_answered_again() -> None:
    assert ruled(FIRST).ruling is Ruling.REPEAT


def test_a_state_ahead_of_its_windows_waits_for_them() -> None:
    assert ruled(SECOND, windows=WINDOWS[:2]).ruling is Ruling.WAIT


def test_two_states_of_one_name_are_a_fork() -> None:
    other = replace(FIRST, quality=Quality.ESTIMATED)
    assert ruled(other).ruling is Ruling.FORK


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (replace(SECOND, import_wh=SECOND.import_wh + 1, net_wh=SECOND.net_wh + 1), "import_wh, net_wh"),
        (replace(SECOND, export_wh=SECOND.export_wh - 1, net_wh=SECOND.net_wh + 1), "export_wh, net_wh"),
        (replace(SECOND, windows_root=bytes(32)), "windows_root"),
        (replace(SECOND, quality=Quality.GOOD), "quality"),
        (replace(SECOND, meter_epoch=2), "meter_epoch"),
        (replace(SECOND, previous_hash=bytes(32)), "previous_hash"),
        (replace(SECOND, window_start_us=SECOND.window_start_us + 1), "window_start_us"),
        (made(FIRST, 2, version=2), "window_start_us"),
        (replace(SECOND, version=1, incarnation=2), "countersigned already"),
        (replace(SECOND, participant=bytes(20)), "terms"),
        (replace(SECOND, channel_id=bytes(32)), "terms"),
        (replace(SECOND, key_id=bytes(32)), "another algorithm or key"),
    ],
)
def test_what_does_not_follow_is_refused_by_name(state: ChannelState, reason: str) -> None:
    verdict = ruled(state)
    assert verdict.ruling is Ruling.REFUSE
    assert reason in verdict.reason
    assert verdict.refused().version == state.version


def test_a_proposal_by_another_key_is_refused() -> None:
    verdict = judge(HELD, proposal(SECOND, OTHER_KEY), TERMS, DEVICE_KEY.public, WINDOWS)
    assert verdict.ruling is Ruling.REFUSE
    assert "does not verify" in verdict.reason


def test_garbage_is_refused_without_a_name() -> None:
    verdict = judge(HELD, Proposal(state=b"\xff", gateway_signature=bytes(64)), TERMS, DEVICE_KEY.public, WINDOWS)
    assert (verdict.ruling, verdict.state, verdict.refused().version) == (Ruling.REFUSE, None, 0)


def test_nothing_follows_a_final_state() -> None:
    end = replace(FIRST, final=True)
    after = successor(
        end,
        [read_window(WINDOWS[1], "pv-1")],
        terms=TERMS,
        incarnation=1,
        version=2,
        device_key=DEVICE_KEY.public,
    )
    verdict = ruled(after, both(end))
    assert verdict.ruling is Ruling.REFUSE
    assert "ended" in verdict.reason


def test_a_question_is_answered_with_the_newest_that_both_signed() -> None:
    told = answer(HELD, Reestablish(nonce=bytes(16), is_answer=False), TERMS, DEVICE_KEY.public, PLATFORM_KEY.public)
    assert (told.message, told.adopt) == (reestablish(HELD, bytes(16), is_answer=True), None)


def test_a_newer_state_with_our_own_signature_is_taken_back() -> None:
    newer = both(SECOND)
    told = answer(HELD, reestablish(newer, bytes(16), is_answer=False), TERMS, DEVICE_KEY.public, PLATFORM_KEY.public)
    assert (told.adopt, told.message.version) == (newer, 2)


def test_a_newer_state_without_our_signature_changes_nothing() -> None:
    newer = SignedState(SECOND, DEVICE_KEY.sign(SECOND.digest))
    told = answer(HELD, reestablish(newer, bytes(16), is_answer=False), TERMS, DEVICE_KEY.public, PLATFORM_KEY.public)
    assert (told.adopt, told.message.version) == (None, 1)


def test_a_state_under_a_signature_that_is_not_ours_is_an_error() -> None:
    forged = SignedState(SECOND, DEVICE_KEY.sign(SECOND.digest), OTHER_KEY.sign(SECOND.digest))
    with pytest.raises(ChannelError, match="does not verify"):
        answer(HELD, reestablish(forged, bytes(16), is_answer=False), TERMS, DEVICE_KEY.public, PLATFORM_KEY.public)
