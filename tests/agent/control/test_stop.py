"""The local STOP button: works without a disk, survives a restart, is cleared only on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.control.stop import StopButton, StopNotClearedError


def test_stop_survives_a_restart_with_the_name_of_who_pressed_it(tmp_path: Path) -> None:
    pressed = StopButton(tmp_path / "STOP")
    pressed.press("the page")
    assert pressed.keep()
    again = StopButton(tmp_path / "STOP")
    assert again.pressed_by() == "'the page'"
    again.clear("me")
    assert StopButton(tmp_path / "STOP").pressed_by() is None


def test_stop_holds_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    button = StopButton(tmp_path / "missing" / "STOP")
    button.press("me")
    assert not button.keep()
    assert button.pressed_by() == "me"
    (tmp_path / "missing").mkdir()
    assert button.keep()
    assert StopButton(tmp_path / "missing" / "STOP").pressed_by() == "'me'"


def test_what_was_cleared_is_not_written_after_all(tmp_path: Path) -> None:
    button = StopButton(tmp_path / "STOP")
    button.press("me")
    button.clear("me")
    assert button.keep()
    (tmp_path / "STOP").touch()
    assert button.pressed_by() is not None
    (tmp_path / "STOP").unlink()
    assert button.keep()
    assert button.pressed_by() is None


def test_making_and_removing_the_file_is_pressing_and_clearing(tmp_path: Path) -> None:
    button = StopButton(tmp_path / "STOP")
    (tmp_path / "STOP").touch()
    assert button.pressed_by() is not None
    (tmp_path / "STOP").unlink()
    assert button.pressed_by() is None


def test_stop_holds_while_its_file_cannot_be_removed(tmp_path: Path) -> None:
    (tmp_path / "STOP").mkdir()
    button = StopButton(tmp_path / "STOP")
    assert button.pressed_by() is not None
    with pytest.raises(StopNotClearedError):
        button.clear("me")
    assert button.pressed_by() is not None
