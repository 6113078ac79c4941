"""The record of decisions beside an encrypted store: the same record, and nobody reads or rearranges it without key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.control.decision_log import recode_all, segments
from agent.control.errors import RestoreError
from agent.control.sealed_file import MARK, is_sealed, piece
from agent.control.segments import Framed, Header, SegmentWriter, read_segment
from agent.store.cipher import Cipher

MASTER, SALTS = os.urandom(32), {1: os.urandom(16)}
CIPHER = Cipher(MASTER, SALTS, 1)
NAME = f"{1_000:020d}.decisions"
HEADER = Header(version=2, software="MARKED-SOFTWARE", previous=b"")


def write(folder: Path, cipher: Cipher | None, pieces: int = 3) -> Path:
    """A segment of a header, written in so many pieces of what nobody looks into here."""
    folder.mkdir(exist_ok=True)
    path = folder / NAME
    writer = SegmentWriter(HEADER)
    with path.open("wb") as file:
        for number in range(pieces):
            file.write(piece(cipher, NAME, number, writer.take([])))
    return path


def headers(path: Path, cipher: Cipher | None) -> list[Framed]:
    return [value for value, _ in read_segment(path, cipher)]


def test_an_encrypted_segment_reads_the_same_and_shows_nothing(tmp_path: Path) -> None:
    plain, sealed = write(tmp_path / "plain", None), write(tmp_path / "sealed", CIPHER)
    assert headers(plain, None) == headers(sealed, CIPHER) == [HEADER]
    assert sealed.read_bytes().startswith(MARK)
    assert plain.read_bytes()[:40] not in sealed.read_bytes()


def test_without_the_key_it_is_said_that_it_is_encrypted(tmp_path: Path) -> None:
    path = write(tmp_path, CIPHER)
    with pytest.raises(RestoreError, match="is encrypted"):
        headers(path, None)
    with pytest.raises(RestoreError, match="does not open"):
        headers(path, Cipher(os.urandom(32), SALTS, None))


def test_a_torn_last_piece_is_not_there_and_one_out_of_its_place_does_not_open(tmp_path: Path) -> None:
    path = write(tmp_path, CIPHER)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert headers(path, CIPHER) == [HEADER]
    first = piece(CIPHER, NAME, 0, SegmentWriter(HEADER).take([]))
    path.write_bytes(first + first[len(MARK) :])
    with pytest.raises(RestoreError, match="piece 1"):
        headers(path, CIPHER)
    path.rename(other := path.with_name(f"{2_000:020d}.decisions"))
    with pytest.raises(RestoreError, match="piece 0"):
        headers(other, CIPHER)


def test_a_record_is_encrypted_as_the_store_is_and_put_in_the_clear_with_it(tmp_path: Path) -> None:
    plain = write(tmp_path, None).read_bytes()
    (tmp_path / f"{NAME}.new").write_bytes(b"of a process that was killed")
    assert recode_all(tmp_path, None, CIPHER) == []
    (path,) = segments(tmp_path)
    assert is_sealed(path)
    assert sorted(os.listdir(tmp_path)) == [NAME]
    sealed = path.read_bytes()
    assert recode_all(tmp_path, None, CIPHER) == []
    assert path.read_bytes() == sealed, "it is not encrypted twice"
    assert recode_all(tmp_path, CIPHER, None) == []
    assert path.read_bytes() == plain


def test_what_cannot_be_opened_stays_as_it_is_and_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, CIPHER)
    before = path.read_bytes()
    (said,) = recode_all(tmp_path, Cipher(os.urandom(32), SALTS, None), None)
    assert said.startswith(NAME)
    assert path.read_bytes() == before
