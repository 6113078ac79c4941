"""The picture of `v2g-gateway status`: complete, and deaf to what devices and peers put into their texts."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agent.cli.status import band, picture, watts

MARKUP = "[red]x[/] [link=http://evil]y[/link] :smiley:"
DEVICE = {
    "device_id": "pv-1",
    "link": "online",
    "power_w": -4200,
    "state_of_charge_percent": None,
    "lowest_w": -5000,
    "highest_w": -5000,
    "reason": "command c-1",
    "vehicle": "",
    "detail": "an inverter",
}
COMMAND = {"text": "CURTAIL", "state": "executing", "start_us": 0, "end_us": None, "in_force": True, "reason": ""}


def status(**changes: object) -> dict[str, object]:
    return {
        "name": "roof",
        "verdict": "well",
        "sentence": "All is well.",
        "safe_mode": None,
        "stopped_by": None,
        "connection_power_w": 12_345,
        "devices": [DEVICE],
        "commands": [],
        "problems": [],
        "parts": [{"name": "link", "state": "gateway link"}],
        "evidence": {"readings": 7, "sealed": 6, "acknowledged": 5},
        "settlement": {"windows_closed": 4, "windows_countersigned": 3},
        **changes,
    }


def drawn(shown: object, *, colours: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200, emoji=False, force_terminal=colours)
    console.print(picture(shown))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_person_sees_headline_devices_and_counts() -> None:
    text = drawn(status())
    for expected in (
        "roof",
        "All is well.",
        "At the connection: +12.3 kW",
        "pv-1",
        "-4200 W",
        "-5000 W",
        "command c-1",
        "gateway link",
        "7 stored",
        "6 sealed, 5 acknowledged",
        "3 of 4 signed",
    ):
        assert expected in text


def test_stop_safe_mode_problems_and_commands_are_shown() -> None:
    text = drawn(
        status(
            verdict="trouble",
            stopped_by="somebody",
            safe_mode="no meter",
            problems=[{"subject": "token", "sentence": "gone"}],
            commands=[COMMAND],
        )
    )
    assert "STOP was pressed (somebody). no meter" in text
    assert "! token: gone" in text
    assert "> CURTAIL" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"name": MARKUP},
        {"sentence": MARKUP},
        {"stopped_by": MARKUP},
        {"safe_mode": MARKUP},
        {"problems": [{"subject": MARKUP, "sentence": "s"}]},
        {"devices": [{**DEVICE, "reason": MARKUP}]},
        {"devices": [{**DEVICE, "link": "silent", "reason": "", "detail": MARKUP}]},
        {"commands": [{**COMMAND, "text": MARKUP}]},
        {"commands": [{**COMMAND, "reason": MARKUP}]},
    ],
)
def test_markup_in_what_others_wrote_is_shown_and_not_interpreted(changes: dict[str, object]) -> None:
    assert MARKUP in drawn(status(**changes))


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "\x1b[2J", "\x9b2J", "a\rb", "[/]", "[", "\\", "\\["])
def test_nothing_that_others_wrote_moves_the_terminal_or_breaks_the_picture(text: str) -> None:
    device = {**DEVICE, "reason": text, "device_id": text}
    problem = {"subject": text, "sentence": text}
    shown = drawn(status(name=text, sentence=text, devices=[device], problems=[problem]))
    assert not any(letter in shown for letter in "\x1b\x07\x9b\r")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c, max_size=3)))
def test_an_answer_of_another_version_is_no_crash(value: object) -> None:
    drawn(value)
    drawn(status(devices=value, commands=value, problems=value, parts=value, evidence=value, name=value))
    drawn(status(devices=[value], commands=[value], problems=[value], parts=[value]))


def test_powers_are_read_at_a_glance() -> None:
    assert [watts(value) for value in (0, 950, -9_999, 11_000, -12_345, None, "x")] == [
        "0 W",
        "+950 W",
        "-9999 W",
        "+11.0 kW",
        "-12.3 kW",
        "-",
        "-",
    ]


def test_bands_say_what_is_left_free() -> None:
    assert band(None, None) == "free"
    assert band(0, 0) == "0 W"
    assert band(-2_000, None) == "-2000 W and up"
    assert band(None, 7_400) == "up to +7400 W"
    assert band(0, 7_400) == "0 W to +7400 W"
