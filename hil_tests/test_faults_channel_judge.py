"""The judge of channels finds each violation when it is planted, and nothing in sound states."""

from __future__ import annotations

from dataclasses import replace

from agent.ledger.settle import read_window, successor
from agent.ledger.state import SignedState
from hil_tests.faults.channel_judge import look
from hil_tests.faults.judge import ChannelStage, Rule
from tests.agent.ledger.examples import DEVICE_KEY, TERMS, window

STATE = successor(
    None, [read_window(window(0), "pv-1")], terms=TERMS, incarnation=1, version=1, device_key=DEVICE_KEY.public
)


def stage(number: int, state: SignedState) -> ChannelStage:
    return ChannelStage(state.state.incarnation, state.state.version, number, state.encode())


INTENT = stage(0, SignedState(STATE))
SIGNED = stage(1, SignedState(STATE, bytes(64)))
CLOSED = SignedState(STATE, bytes(64), bytes(64))
STAGES = [INTENT, SIGNED, stage(2, CLOSED)]
OTHER = SignedState(replace(STATE, import_wh=STATE.import_wh + 1, net_wh=STATE.net_wh + 1), bytes(64), bytes(64))


def test_three_stages_of_one_state_are_sound() -> None:
    assert look(STAGES, STAGES, [CLOSED.encode()]) == []
    assert look([], [], []) == []


def test_a_stage_that_was_kept_and_is_gone_is_found() -> None:
    (found,) = look(STAGES, STAGES[:1], [])[:1]
    assert found.rule is Rule.CHANNEL_LOST
    assert "stage 1" in found.what


def test_two_states_of_one_version_are_found_wherever_they_are() -> None:
    for told, held, countersigned in (
        (STAGES, [*STAGES, stage(2, OTHER)], []),
        (STAGES, STAGES, [OTHER.encode()]),
    ):
        assert {found.rule for found in look(told, held, countersigned)} == {Rule.CHANNEL_FORK}


def test_what_is_no_state_is_found() -> None:
    (found,) = look([], [], [b"\x00"])
    assert found.rule is Rule.CHANNEL_FORK
