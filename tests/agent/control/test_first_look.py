"""In the first seconds after a start: what nobody can tell yet is not promised, and what restricts acts at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.control.authorization import authorize
from agent.control.command import Command, CommandType, Mode, Point, command_hash, encode_body, grid_command
from agent.control.first_look import unseen
from agent.control.intake import LOOK_PATIENCE_S
from agent.control.site import MeterView, Sharing
from agent.evidence.statements import CommandState
from tests.agent.control.boxes import Box
from tests.agent.control.support import BATTERY, HOUR_US, OPERATOR, PV, SOME_COMMAND, curtail, site

ASKED = replace(SOME_COMMAND, targets=("battery",), type=CommandType.CHARGE, power_w=3_000)


def _send(box: Box, name: str, command: Command) -> None:
    command = replace(command, start_us=box.wall_us, end_us=box.wall_us + HOUR_US)
    box.message(grid_command(name, command, asyncio.run(authorize(command, OPERATOR))))


def _states(box: Box, name: str) -> list[CommandState]:
    return [receipt.state for receipt in box.receipts if receipt.command_id == name]


@pytest.fixture
def dark(tmp_path: Path) -> Box:
    """A gateway whose devices have not answered yet since it started."""
    box = Box(tmp_path / "decisions")
    box.unseen = {"battery", "grid"}
    return box


def test_what_allows_power_is_answered_once_its_devices_and_the_meter_are_seen(dark: Box) -> None:
    _send(dark, "c", ASKED)
    dark.turn()
    assert _states(dark, "c") == []
    dark.unseen = {"grid"}
    dark.turn()
    assert _states(dark, "c") == []
    dark.unseen = set()
    dark.turn()
    assert _states(dark, "c")[0] is CommandState.RECEIVED
    assert len(_states(dark, "c")) == 2


def test_nobody_waits_longer_than_a_few_seconds_for_a_device_that_stays_away_and_the_receipt_names_it(
    dark: Box,
) -> None:
    _send(dark, "c", ASKED)
    for _ in range(round(LOOK_PATIENCE_S)):
        dark.turn()
    assert _states(dark, "c") == [CommandState.RECEIVED, CommandState.PARTIAL]
    assert "battery, the grid meter gave no values yet since the start" in dark.receipts[-1].reason


def test_a_command_that_would_end_while_it_waits_is_answered_at_once_with_what_is_not_seen(dark: Box) -> None:
    """It would only be refused as expired, though its device may come in time."""
    asked = replace(ASKED, start_us=dark.wall_us, end_us=dark.wall_us + 3_000_000)
    dark.message(grid_command("c", asked, asyncio.run(authorize(asked, OPERATOR))))
    assert _states(dark, "c") == [CommandState.RECEIVED, CommandState.PARTIAL]
    assert "battery, the grid meter gave no values yet since the start" in dark.receipts[-1].reason


def test_what_restricts_waits_for_no_device(dark: Box) -> None:
    _send(dark, "idle", replace(ASKED, type=CommandType.IDLE, power_w=0))
    _send(dark, "limit", replace(curtail(0), sequence=2))
    assert _states(dark, "idle")[0] is CommandState.RECEIVED
    assert _states(dark, "limit")[0] is CommandState.RECEIVED


def test_a_command_that_waits_is_ended_by_one_that_cancels_it(dark: Box) -> None:
    """Judged after it, it would stand although its issuer took it back."""
    asked = replace(ASKED, start_us=dark.wall_us, end_us=dark.wall_us + HOUR_US)
    dark.message(grid_command("c", asked, asyncio.run(authorize(asked, OPERATOR))))
    assert _states(dark, "c") == []
    _send(
        dark, "no", replace(curtail(9_000, targets=("car",)), sequence=2, cancels=(command_hash(encode_body(asked)),))
    )
    assert _states(dark, "c")[-1] is CommandState.SUPERSEDED
    for _ in range(10):
        dark.turn()
    assert [state for state in _states(dark, "c") if state.final] == [CommandState.SUPERSEDED]


def test_later_on_nobody_waits(dark: Box) -> None:
    dark.unseen = set()
    for _ in range(round(LOOK_PATIENCE_S)):
        dark.turn()
    dark.unseen = {"grid"}
    _send(dark, "c", ASKED)
    assert _states(dark, "c")[0] is CommandState.RECEIVED


def test_what_is_not_seen_is_named_and_only_where_it_matters() -> None:
    new = replace(BATTERY, capabilities=None, power_w=None)
    view = site(new, PV, house_w=None)
    assert unseen(SOME_COMMAND, view, metered=True) == "battery, the grid meter gave no values yet since the start"
    assert unseen(SOME_COMMAND, view, metered=False) == "battery gave no values yet since the start"
    assert unseen(replace(SOME_COMMAND, targets=("pv",)), view, metered=False) == ""
    assert unseen(curtail(0), view, metered=True) == ""
    import_limit = replace(SOME_COMMAND, mode=Mode.IMPORT_LIMIT, type=CommandType.CURTAIL, point=Point.CONNECTION)
    assert unseen(import_limit, view, metered=True) == ""
    assert unseen(SOME_COMMAND, replace(view, sharing=Sharing.QUARTER), metered=True) == ""
    seen = replace(view, devices={"battery": BATTERY}, meter=MeterView(power_w=0))
    assert unseen(SOME_COMMAND, seen, metered=True) == ""
