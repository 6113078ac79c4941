"""A backup carries the identity's history: a box that is lost keeps its name, and no other history is taken for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.evidence import cose
from agent.identity.folder import IdentityFolder
from agent.identity.history import encode_history, replay, step
from agent.roads.sealing_keys import second_key_problem
from agent.store import Store
from hil_tests.identity_cases import BOTH, CLOSING, FIRST, SECOND, THIRD, create, created, entry, rotated, rotation


class Box:
    """A gateway's folder with an empty store."""

    def __init__(self, folder: Path) -> None:
        self.state_dir = folder / "state"
        self.config = folder / "gateway.toml"
        folder.mkdir(exist_ok=True)
        self.config.write_text(
            f'[gateway]\nstate_dir = "{self.state_dir}"\n[token]\nlabel = "any"\npin_secret = "file:/nowhere"\n'
        )
        self.identity = IdentityFolder(self.state_dir)

    def with_store(self) -> Box:
        async def make() -> None:
            async with await Store.open(self.state_dir):
                pass

        asyncio.run(make())
        return self

    def run(self, *arguments: str | Path, code: int = 0) -> Any:
        done = CliRunner().invoke(app, [*map(str, arguments), "--config", str(self.config), "--json"])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """With a history of two entries."""
    made = Box(tmp_path / "box").with_store()
    made.identity.write_history(rotated()[0])
    return made


@pytest.fixture
def backup(box: Box, tmp_path: Path) -> Path:
    file = tmp_path / "backup.db"
    told = box.run("backup", file)
    assert (told["history_entries"], told["history_damage"]) == (2, "")
    return file


def test_an_empty_box_gets_the_history_with_the_store(backup: Path, tmp_path: Path) -> None:
    other = Box(tmp_path / "other").with_store()
    assert other.run("restore", backup)["history_taken"] == 2
    held = other.identity.history()
    assert held is not None
    assert held.entries == rotated()[0]


def test_a_history_that_went_on_stays(box: Box, backup: Path) -> None:
    entries, state = rotated()
    third = entry(rotation(state, THIRD, FIRST), BOTH, [SECOND, THIRD], closing=type(CLOSING)(2, 9, bytes(32)))
    longer = (*entries, third)
    assert step(state, third).number == 2
    box.identity.write_history(longer)
    assert box.run("restore", backup)["history_taken"] is None
    held = box.identity.history()
    assert held is not None
    assert held.entries == longer


def test_a_shorter_history_is_continued_by_the_backups(box: Box, backup: Path) -> None:
    box.identity.write_history(rotated()[0][:1])
    assert box.run("restore", backup)["history_taken"] == 2


def test_the_history_of_another_gateway_is_refused_and_nothing_is_put_back(box: Box, backup: Path) -> None:
    other = entry(create(THIRD, SECOND), BOTH, [THIRD])
    assert replay([other]).gateway_id != replay([created()[0]]).gateway_id
    box.identity.write_history([other])
    said = box.run("restore", backup, code=1)["error"]
    assert "does not continue it" in said
    held = box.identity.history()
    assert held is not None
    assert held.entries == (other,)
    assert not list(box.state_dir.glob("*replaced*"))


def test_a_damaged_history_stops_no_backup_and_is_set_aside_by_a_restore(
    box: Box, backup: Path, tmp_path: Path
) -> None:
    box.identity.history_file.write_bytes(encode_history(rotated()[0])[:-1])
    told = box.run("backup", tmp_path / "second.db")
    assert told["history_entries"] == 0
    assert "history" in told["history_damage"]
    assert box.run("restore", backup)["history_taken"] == 2
    assert box.identity.history() is not None
    assert (box.identity.path / "history.cose.damaged").exists()


def test_a_backup_without_a_history_leaves_the_one_that_is_here(box: Box, tmp_path: Path) -> None:
    plain = Box(tmp_path / "plain").with_store()
    file = tmp_path / "plain.db"
    assert plain.run("backup", file)["history_entries"] == 0
    assert box.run("restore", file)["history_taken"] is None
    assert box.identity.history() is not None


def test_another_second_key_than_the_histories_is_told() -> None:
    named = cose.VerifyKey(cose.ML_DSA_65, b"a key")
    assert second_key_problem(None, None) == ""
    assert "none signs here" in second_key_problem(named, None)
