"""The file of allowed tokens: what it may say, and that its faults are told without telling a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config.tokens import TokensError, read_tokens


def write(folder: Path, text: str, mode: int = 0o640) -> Path:
    file = folder / "tokens.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_tokens_are_read_with_group_and_expiry(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        '[[token]]\nid = "04AA"\ngroup = "G"\nexpires = 2027-01-01T01:00:00+01:00\ndevices = ["car-1"]\n'
        f'[[token]]\nsha256 = "{"ab" * 32}"\nblocked = true\n',
    )
    first, second = read_tokens(file)
    assert (first.id, first.group, first.expires_us, first.devices) == ("04AA", "G", 1_798_761_600_000_000, ["car-1"])
    assert (second.id, second.blocked) == (None, True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[token]]\nid = "SECRET"\nsha256 = "' + "ab" * 32 + '"', "exactly one of id and sha256"),
        ('[[token]]\nid = "SECRET"\n[[token]]\n', "number 2"),
        ('[[token]]\nid = "SECRET"\nexpires = 2027-01-01T00:00:00', "time zone"),
        ('[[token]]\nid = "SECRET"\ncolour = "red"', "colour"),
        ('[[token]]\nid = "SECRET-SECRET-SECRET-SECRET-SECRET-SECRET"', "number 1 id"),
        ('[[token]]\nid = "SECRET', "is not TOML"),
    ],
)
def test_what_is_wrong_is_told_without_the_token(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(TokensError) as error:
        read_tokens(write(tmp_path, text))
    assert why in str(error.value)
    assert "SECRET" not in str(error.value)


def test_a_file_that_everybody_may_read_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(TokensError, match="chmod 640"):
        read_tokens(write(tmp_path, "", 0o644))


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokensError, match=r"none\.toml"):
        read_tokens(tmp_path / "none.toml")
