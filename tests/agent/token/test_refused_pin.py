"""The PIN that was refused is known again, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.token.refused_pin import RefusedPin

SERIAL = b"serial 1"


def test_it_is_known_again_by_another_process_and_another_pin_or_token_is_not_it(tmp_path: Path) -> None:
    file = tmp_path / "refused"
    RefusedPin(file).note(SERIAL, "1234")
    later = RefusedPin(file)
    assert later.is_it(SERIAL, "1234")
    assert not later.is_it(SERIAL, "1235")
    assert not later.is_it(b"serial 2", "1234")
    later.forget()
    assert not RefusedPin(file).is_it(SERIAL, "1234")


@pytest.mark.parametrize("content", [b"", b"1 00 00\n", b"2 " + b"0" * 32 + b" " + b"0" * 64 + b"\n", b"\xff\xfe"])
def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "refused"
    file.write_bytes(content)
    assert not RefusedPin(file).is_it(SERIAL, "1234")


def test_where_nothing_can_be_written_it_is_known_while_the_process_lives(tmp_path: Path) -> None:
    refused = RefusedPin(tmp_path / "no such folder" / "refused")
    refused.note(SERIAL, "1234")
    assert refused.is_it(SERIAL, "1234")
    refused.forget()
    assert not refused.is_it(SERIAL, "1234")


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "refused"
    victim.write_text("untouched")
    file.symlink_to(victim)
    file.with_name("refused.new").symlink_to(victim)
    RefusedPin(file).note(SERIAL, "1234")
    assert victim.read_text() == "untouched"
    assert not file.is_symlink()
