"""What a TPM sealed lies there twice: either file may be damaged, and the other one gives it back and mends it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from agent.token.sealed_file import both, damaged_one, read_sealed_file, sealed_file_problem, write_sealed
from agent.token.tpm import TpmError


def sealed(public: bytes = b"public", private: bytes = b"private", **more: object) -> bytes:
    kept = {
        "format": "v2g-gateway/tpm-sealed",
        "version": 1,
        "public": public.hex(),
        "private": private.hex(),
        "sha256": sha256(public + private).hexdigest(),
    }
    return json.dumps(kept | more).encode() + b"\n"


KEPT = sealed()
HARMS: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(bytes(len(KEPT))),
    lambda path: path.write_bytes(KEPT[: len(KEPT) // 2]),
    lambda path: path.write_bytes(sealed(sha256="00" * 32)),
    lambda path: path.write_bytes(b"[]"),
    lambda path: path.unlink(),
]
harms = pytest.mark.parametrize("harm", HARMS, ids=["empty", "zeros", "cut", "flipped", "other", "gone"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key.tpm"
    write_sealed(path, KEPT, owner_of=tmp_path)
    return path


def test_it_is_written_twice_for_its_owner_alone(file: Path) -> None:
    for each in both(file):
        assert each.read_bytes() == KEPT
        assert each.stat().st_mode & 0o777 == 0o600
    assert sealed_file_problem(file) == ("", False)


@harms
@pytest.mark.parametrize("which", [0, 1], ids=["first", "copy"])
def test_one_that_is_damaged_is_made_anew_from_the_other(
    file: Path, which: int, harm: Callable[[Path], object]
) -> None:
    harm(both(file)[which])
    assert read_sealed_file(file) == KEPT
    assert [each.read_bytes() for each in both(file)] == [KEPT, KEPT]
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in both(file))


def test_of_a_damaged_one_people_are_told_until_they_have_seen_to_it(file: Path) -> None:
    file.write_bytes(b"")
    read_sealed_file(file)
    said, was_damaged = sealed_file_problem(file)
    assert "look after the disk" in said
    assert was_damaged
    assert damaged_one(file).read_bytes() == b""
    damaged_one(file).unlink()
    assert sealed_file_problem(file) == ("", False)


@harms
def test_where_both_are_damaged_both_are_named_and_neither_is_touched(
    file: Path, harm: Callable[[Path], object]
) -> None:
    for each in both(file):
        harm(each)
    before = [each.read_bytes() if each.exists() else None for each in both(file)]
    with pytest.raises(TpmError, match=str(file)) as raised:
        read_sealed_file(file)
    assert (f"its copy {both(file)[1]}" in str(raised.value)) == (before[1] is not None)
    assert [each.read_bytes() if each.exists() else None for each in both(file)] == before


def test_one_of_a_version_that_kept_one_gets_its_second_when_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "key.tpm"
    kept = json.loads(KEPT)
    del kept["sha256"]
    file.write_text(json.dumps(kept))
    assert read_sealed_file(file) == both(file)[1].read_bytes() == file.read_bytes()


def test_another_one_that_a_person_put_in_the_first_place_is_the_one(file: Path) -> None:
    other = sealed(b"another")
    file.write_bytes(other)
    assert read_sealed_file(file) == other
    assert both(file)[1].read_bytes() == other


def test_one_that_this_user_may_not_read_is_not_taken_for_a_damaged_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path == file:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(TpmError, match="Permission denied"):
        read_sealed_file(file)
    assert not damaged_one(file).exists()


def test_in_a_folder_that_cannot_be_written_the_good_one_is_read_and_people_are_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))

    monkeypatch.setattr("agent.token.sealed_file.write_whole", refused)
    both(file)[1].write_bytes(b"")
    assert read_sealed_file(file) == KEPT
    said, was_damaged = sealed_file_problem(file)
    assert f"cp -p {file} {both(file)[1]}" in said
    assert not was_damaged


def test_a_disk_that_gives_back_something_else_leaves_nothing_to_be_relied_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: bytes(len(KEPT)))
    with pytest.raises(TpmError, match="take another disk"):
        write_sealed(tmp_path / "key.tpm", KEPT, owner_of=tmp_path)
    assert list(tmp_path.iterdir()) == []
