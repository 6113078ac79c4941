"""The store's key is 64 hexadecimal digits at a secret reference, and no error ever shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import SecretError
from agent.config.settings import EvidenceSettings
from agent.token.store_key import store_key


def written(path: Path, text: str, mode: int = 0o600) -> str:
    path.touch(mode=mode)
    path.write_text(text, encoding="ascii")
    return f"file:{path}"


def test_it_is_read_each_time_that_it_is_asked(tmp_path: Path) -> None:
    assert store_key(None) is None
    key = store_key(f"file:{tmp_path / 'key'}")
    assert key is not None
    with pytest.raises(SecretError, match="No such file"):
        key()
    written(tmp_path / "key", "ab" * 32 + "\n")
    assert key() == bytes.fromhex("ab" * 32)


@pytest.mark.parametrize("text", ["", "ab" * 31, "ab" * 33, "zz" * 32, "password of somebody"])
def test_what_is_no_key_is_refused_and_never_quoted(tmp_path: Path, text: str) -> None:
    key = store_key(written(tmp_path / "key", text))
    assert key is not None
    with pytest.raises(SecretError, match="64 hexadecimal digits") as raised:
        key()
    assert not text or text not in str(raised.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    key = store_key(written(tmp_path / "key", "ab" * 32, 0o644))
    assert key is not None
    with pytest.raises(SecretError, match="chmod 600"):
        key()


@pytest.mark.parametrize("reference", ["tpm:/etc/key", "file:/etc/key", "credential:store-key"])
def test_it_may_be_wherever_the_pin_may_be(reference: str) -> None:
    assert EvidenceSettings(store_key_secret=reference).store_key_secret == reference


@pytest.mark.parametrize("reference", ["ab" * 32, "tpm:key", "env:KEY"])
def test_the_key_itself_never_stands_in_the_configuration(reference: str) -> None:
    with pytest.raises(ValueError, match="never stands here"):
        EvidenceSettings(store_key_secret=reference)
