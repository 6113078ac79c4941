"""`v2g-gateway --help`: every command under a panel, each in one line that is not cut, each with --json."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from agent.cli import main
from agent.cli.commands import app
from agent.cli.grouped import PANELS


def _group() -> TyperGroup:
    made = get_command(app)
    assert isinstance(made, TyperGroup)
    return made


@pytest.fixture(autouse=True)
def _whole() -> Iterator[None]:
    """As the console script puts it together."""
    before = list(app.registered_groups)
    main.complete()
    yield
    app.registered_groups[:] = before


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
