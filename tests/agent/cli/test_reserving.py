"""A name is taken by one command, and free again where that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.reserving import TakenError, reserved


def test_a_name_is_there_while_the_work_goes_on_and_gone_where_it_fails(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    seen: list[int] = []

    def fails() -> None:
        with reserved(paths):
            seen.extend(path.stat().st_mode & 0o777 for path in paths)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert seen == [0o600, 0o600]
    assert list(tmp_path.iterdir()) == []
    with reserved(paths):
        paths[0].write_text("made")
    assert [path.read_text() for path in paths] == ["made", ""]


def test_the_second_of_two_commands_leaves_what_the_first_makes(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with reserved([theirs]):
        theirs.write_text("theirs")
        with (
            pytest.raises(TakenError, match=f"{theirs}: is there already; name another file$"),
            reserved([ours, theirs]),
        ):
            raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert theirs.read_text() == "theirs"


def test_one_name_for_two_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(TakenError, match="two of the files"), reserved([path, path]):
        raise AssertionError
    assert not path.exists()


def test_what_a_killed_command_left_is_named_as_such_and_a_missing_folder_too(tmp_path: Path) -> None:
    (tmp_path / "left").touch()
    with pytest.raises(TakenError, match="it is empty"), reserved([tmp_path / "left"]):
        raise AssertionError
    with pytest.raises(TakenError, match="there is no folder"), reserved([tmp_path / "nowhere" / "key"]):
        raise AssertionError


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TakenError), reserved([tmp_path / "link"]):
        raise AssertionError
    assert not (tmp_path / "elsewhere").exists()
