"""`v2g-gateway --help`: every command under a panel, each in one line that is not cut, each with --json."""

from __future__ import annotations

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.cli.grouped import PANELS
from agent.cli.table import COMMANDS, GROUPS, alone


def _group() -> TyperGroup:
    made = get_command(app)
    assert isinstance(made, TyperGroup)
    return made


def test_every_command_stands_under_one_panel() -> None:
    named = [name for names in PANELS.values() for name in names]
    assert sorted(named) == sorted(_group().commands)


def test_no_command_is_cut_on_a_terminal_of_80_columns() -> None:
    told = CliRunner().invoke(app, ["--help"], prog_name="v2g-gateway", terminal_width=78)
    assert told.exit_code == 0
    assert [title for title in PANELS if f"\n{title}:\n" in told.stdout] == list(PANELS)
    assert "..." not in told.stdout.split("Set up:")[1]


def test_every_command_has_json() -> None:
    for name, command in _group().commands.items():
        for each in command.commands.values() if isinstance(command, TyperGroup) else [command]:
            assert any("--json" in option.opts for option in each.params), f"{name} {each.name}"


@pytest.mark.parametrize("name", [*COMMANDS, *GROUPS])
def test_a_command_without_the_others_is_the_same_command(name: str) -> None:
    one = alone(name)
    assert one is not None
    among, by_itself = (CliRunner().invoke(each, [name, "--help"], prog_name="v2g-gateway") for each in (app, one))
    assert among.exit_code == by_itself.exit_code == 0
    assert among.stdout == by_itself.stdout


def test_a_name_that_no_command_has_is_answered_by_all_of_them() -> None:
    assert alone("expotr") is None
    assert alone("--help") is None
