"""Messages that wait to be judged: once each, not for ever, and not without bound."""

from __future__ import annotations

from agent.control.undecided import MOST_UNDECIDED, UNDECIDED_MOST_S, UndecidedMessages, Waiting
from proto.energysettlement.v1 import device_pb2


def waiting(name: str = "c-1", since_s: float = 0.0) -> Waiting:
    return Waiting(device_pb2.GridCommand(command_id=name), None, since_s)


def test_the_same_message_waits_once_and_since_it_first_came() -> None:
    messages = UndecidedMessages()
    assert messages.keep(waiting(since_s=1.0), 1.0)
    assert messages.keep(waiting(since_s=2.0), 2.0)
    assert messages.take() == [waiting(since_s=1.0)]
    assert messages.take() == []


def test_none_waits_longer_than_the_platform() -> None:
    messages = UndecidedMessages()
    assert messages.keep(waiting(), UNDECIDED_MOST_S - 0.1)
    assert not messages.keep(waiting(), UNDECIDED_MOST_S)


def test_a_flood_of_them_is_answered_instead_of_kept() -> None:
    messages = UndecidedMessages()
    assert all(messages.keep(waiting(f"c-{i}"), 0.0) for i in range(MOST_UNDECIDED))
    assert not messages.keep(waiting("one more"), 0.0)
    assert len(messages.take()) == MOST_UNDECIDED
