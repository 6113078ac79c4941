"""Who knocked: bounded, newest kept, approvals not pushed out, and remembered over a restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.ocpp.waiting_room import LOCKED_OUT, MOST_RECORDS, UNKNOWN, WaitingRoom


def test_a_new_name_pushes_out_the_oldest_that_nobody_approved() -> None:
    room = WaitingRoom()
    room.knock("kept", UNKNOWN, "192.0.2.1", 0)
    room.approve("kept")
    for number in range(MOST_RECORDS):
        room.knock(f"X-{number}", UNKNOWN, "192.0.2.1", number)
    names = [knock.charger_id for knock in room.all()]
    assert len(names) == MOST_RECORDS
    assert names[0] == "kept"
    assert names[-1] == f"X-{MOST_RECORDS - 1}"
    assert "X-0" not in names


def test_where_all_are_approved_nobody_is_pushed_out() -> None:
    room = WaitingRoom()
    for number in range(MOST_RECORDS):
        room.knock(f"X-{number}", UNKNOWN, "192.0.2.1", number)
        room.approve(f"X-{number}")
    assert not room.knock("one more", UNKNOWN, "192.0.2.1", 0)
    assert room.find("one more") is None


def test_only_what_is_new_is_news() -> None:
    room = WaitingRoom()
    assert room.knock("X", UNKNOWN, "192.0.2.1", 1)
    assert not room.knock("X", UNKNOWN, "192.0.2.1", 2)
    assert room.knock("X", LOCKED_OUT, "192.0.2.1", 3)
    assert room.says("X", "a charger")
    assert not room.says("X", "a charger")
    assert not room.says("somebody else", "a charger")
    knock = room.find("X")
    assert knock is not None
    assert (knock.times, knock.first_us, knock.last_us, knock.says) == (3, 1, 3, "a charger")


@pytest.mark.parametrize("remembered", [b"", b"{", b"[1]", b'[{"charger_id": "X"}]', b'{"a": 1}'])
def test_damaged_memory_is_an_error_and_changes_nothing(remembered: bytes) -> None:
    room = WaitingRoom()
    room.knock("X", UNKNOWN, "192.0.2.1", 1)
    with pytest.raises(ValueError, match="damaged"):
        room.restore(remembered)
    assert room.find("X") is not None


@given(st.lists(st.tuples(st.text(max_size=48), st.text(max_size=60)), max_size=100))
def test_whoever_knocks_is_remembered_over_a_restart(knocks: list[tuple[str, str]]) -> None:
    room, again = WaitingRoom(), WaitingRoom()
    for number, (name, text) in enumerate(knocks):
        room.knock(name, UNKNOWN, "192.0.2.1", number)
        room.says(name, text)
    again.restore(room.encode())
    assert again.all() == room.all()
    assert len(again.as_json()) <= MOST_RECORDS
