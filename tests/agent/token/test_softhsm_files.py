"""SoftHSM's token.object: told whole from cut wherever it is cut, and mended from its copy and from nothing else."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.token import softhsm_files
from agent.token.errors import TokenUnavailableError
from agent.token.softhsm_files import StrangeError, kept_labels, look_after, token_object

LABEL, SERIAL, FLAGS, SO_PIN, USER_PIN = range(0x80005349, 0x8000534E)
PIN_INITIALISED = 0x8


def number(value: int) -> bytes:
    return value.to_bytes(8)


def octets(name: int, value: bytes) -> bytes:
    return number(name) + number(3) + number(len(value)) + value


def written(*, generation: int = 7, label: str = "v2g", flags: int = 0x42D, pin: bytes | None = bytes(72)) -> bytes:
    """As SoftHSM 2 writes it: attributes in order of their types."""
    return b"".join(
        [
            number(generation),
            octets(LABEL, label.encode().ljust(32)),
            octets(SERIAL, b"1289cf5309f5a28a"),
            number(FLAGS) + number(2) + number(flags),
            octets(SO_PIN, bytes(range(72))),
            b"" if pin is None else octets(USER_PIN, pin),
        ]
    )


files = st.builds(
    written,
    generation=st.integers(0, 2**64 - 1),
    label=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=32),
    pin=st.binary(min_size=1, max_size=100),
) | st.builds(written, flags=st.just(0x42D & ~PIN_INITIALISED), pin=st.none())


@given(files, st.data())
def test_a_file_is_whole_as_it_was_written_and_cut_wherever_it_ends_before(content: bytes, data: st.DataObject) -> None:
    whole = token_object(content)
    assert whole is not None
    assert whole.content == content
    end = data.draw(st.integers(0, len(content) - 1))
    assert token_object(content[:end]) is None
    assert token_object(bytes(end)) is None, "a power cut may leave zeros"


@given(st.binary(max_size=200))
def test_no_content_is_more_than_whole_cut_or_strange(content: bytes) -> None:
    with contextlib.suppress(StrangeError):
        assert token_object(content) is None


def test_attributes_of_every_kind_that_softhsm_writes_are_passed_over() -> None:
    kinds = [number(1) + b"\xff", number(2) + number(5), number(3) + number(2) + b"ab", number(4) + number(1) + b"x"]
    kinds.append(number(5) + number(2) + bytes(16))
    more = b"".join(number(0x80005400 + n) + kind for n, kind in enumerate(kinds))
    assert token_object(written() + more) is not None
    with pytest.raises(StrangeError):
        token_object(written() + number(0x80005400) + number(6))


class Site:
    """A softhsm2.conf and one token, with a key."""

    def __init__(self, folder: Path) -> None:
        self.conf = folder / "softhsm2.conf"
        self.token = folder / "tokens" / "5309f5a28a"
        self.token.mkdir(parents=True)
        self.conf.write_text(f"objectstore.backend = file\n directories.tokendir = {folder / 'tokens'} \n")
        self.object, self.kept = self.token / "token.object", self.token / "token.kept"
        self.object.write_bytes(written())
        (self.token / "7a78.object").write_bytes(b"a key")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(softhsm_files, "SETTLES_S", 0.0)
    return Site(tmp_path)


def test_a_cut_file_is_put_back_from_the_copy(site: Site) -> None:
    assert look_after(site.conf) is None
    assert site.kept.stat().st_mode & 0o077 == 0
    for end in (0, 8, 100):
        site.object.write_bytes(written()[:end])
        assert look_after(site.conf) is None
        assert site.object.read_bytes() == written()
    site.object.write_bytes(bytes(2 * len(written())))
    assert look_after(site.conf) is None
    assert site.object.read_bytes() == written()


def test_the_copy_follows_a_change_and_not_a_mere_login(site: Site) -> None:
    look_after(site.conf)
    site.object.write_bytes(written(generation=8))
    look_after(site.conf)
    assert site.kept.read_bytes() == written(), "a login costs no write of ours"
    site.object.write_bytes(written(generation=9, pin=bytes(71) + b"\1"))
    look_after(site.conf)
    assert site.kept.read_bytes() == site.object.read_bytes()


def test_a_cut_file_without_a_whole_copy_is_told_and_left_alone(site: Site) -> None:
    site.object.write_bytes(b"")
    for copy in (None, b"", written()[:-1]):
        if copy is not None:
            site.kept.write_bytes(copy)
        lost = look_after(site.conf)
        assert lost is not None
        assert str(site.object) in lost
        assert site.object.read_bytes() == b""


def test_a_removed_file_is_told_and_never_put_back(site: Site) -> None:
    look_after(site.conf)
    site.object.unlink()
    lost = look_after(site.conf)
    assert lost is not None
    assert "is gone" in lost
    assert not site.object.exists()


def test_keys_are_never_put_back_nor_copied(site: Site) -> None:
    look_after(site.conf)
    (site.token / "7a78.object").unlink()
    site.object.write_bytes(b"")
    assert look_after(site.conf) is None
    assert sorted(path.name for path in site.token.iterdir()) == ["token.kept", "token.object", "token.put_back"]


def test_a_token_that_was_only_begun_is_not_told_as_lost(site: Site) -> None:
    (site.token / "7a78.object").unlink()
    site.object.write_bytes(b"")
    assert look_after(site.conf) is None


def test_a_file_of_another_kind_is_left_alone(site: Site) -> None:
    look_after(site.conf)
    strange = written(generation=9) + number(0x80005400) + number(6) + b"of another version"
    site.object.write_bytes(strange)
    assert look_after(site.conf) is None
    assert site.object.read_bytes() == strange


def test_a_link_is_not_followed(site: Site, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    look_after(site.conf)
    site.object.unlink()
    site.object.symlink_to(victim)
    with pytest.raises(TokenUnavailableError, match="lose the token"):
        look_after(site.conf)
    assert victim.read_bytes() == b""


def test_a_copy_that_cannot_be_brought_up_to_date_for_lack_of_room_forbids_the_login(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TokenUnavailableError, match="No space left on device"):
        look_after(site.conf)


def test_labels_are_those_of_the_copies(site: Site) -> None:
    assert kept_labels(site.conf) == []
    look_after(site.conf)
    site.object.write_bytes(b"")
    assert kept_labels(site.conf) == ["v2g"]


def test_without_a_configuration_there_is_nothing_to_look_after(tmp_path: Path) -> None:
    assert look_after(tmp_path / "none.conf") is None
    (tmp_path / "odd.conf").write_text("log.level = ERROR\n")
    assert look_after(tmp_path / "odd.conf") is None
    assert kept_labels(tmp_path / "odd.conf") == []
