"""Where the token's PIN may be: in a file, a credential, or sealed to the TPM; and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.config import TokenSettings, WebSettings
from agent.token import pin, tpm
from agent.token.pin import read_pin
from agent.token.tpm import TpmError
from tests.agent.token.test_sealed_file import KEPT


@pytest.mark.parametrize("reference", ["file:/etc/pin", "credential:token-pin", "tpm:/var/lib/pin.sealed"])
def test_a_pin_is_named_by_its_place(reference: str) -> None:
    assert TokenSettings(label="t", pin_secret=reference).pin_secret == reference


@pytest.mark.parametrize("reference", ["1234", "tpm:relative", "tpm:", "file:pin", "tpm:/a\nb"])
def test_no_other_place_is_taken(reference: str) -> None:
    with pytest.raises(ValidationError):
        TokenSettings(label="t", pin_secret=reference)


def test_only_the_pin_may_be_sealed() -> None:
    with pytest.raises(ValidationError):
        WebSettings(password_secret="tpm:/var/lib/page.sealed")


def test_a_sealed_pin_is_asked_of_the_tpm_and_a_plain_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pin"
    path.touch(mode=0o600)
    path.write_text("1234\n", encoding="ascii")
    asked: list[bytes] = []

    def unseal(kept: bytes) -> str:
        asked.append(kept)
        raise TpmError("no, says the test")

    monkeypatch.setattr(tpm, "unseal", unseal)
    assert read_pin(f"file:{path}") == "1234"
    with pytest.raises(TpmError, match=f"{path}: not a secret that was sealed here"):
        read_pin(f"{pin.SEALED}{path}")
    assert asked == []
    path.write_bytes(KEPT)
    with pytest.raises(TpmError, match=f"{path}: no, says the test"):
        read_pin(f"{pin.SEALED}{path}")
    assert asked == [KEPT]
