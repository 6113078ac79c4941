"""A PIN sealed to a TPM: only that TPM gives it back, no plain PIN is left in a file, and without a TPM it is said."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.config import SecretError, TokenSettings
from agent.token import tpm
from agent.token.pin import read_pin
from agent.token.token import Token
from agent.token.tpm import TpmError
from hil_tests.rig.tpm import SoftTpm, tpm_module

PIN = "31415926"

pytestmark = pytest.mark.skipif(
    tpm_module() is None or tpm.absence() is not None, reason="swtpm, tpm2-pkcs11 or tpm2-tools is not installed"
)


def test_a_sealed_secret_comes_back_and_stands_nowhere_in_plain(at_tpm: SoftTpm) -> None:
    kept = tpm.seal(PIN)
    assert PIN.encode() not in kept
    assert PIN.encode().hex().encode() not in kept
    assert tpm.unseal(kept) == PIN


def test_another_tpm_does_not_open_it(at_tpm: SoftTpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tpm.seal(PIN)
    other = SoftTpm(tmp_path / "other")
    try:
        for name, value in other.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(TpmError, match="tpm2_load failed"):
            tpm.unseal(kept)
    finally:
        other.close()


@pytest.mark.parametrize("harm", ["empty", "cut", "other format", "flipped", "long"])
def test_a_damaged_file_is_refused(at_tpm: SoftTpm, harm: str) -> None:
    kept = tpm.seal(PIN)
    read = json.loads(kept)
    flipped = read | {"private": read["private"][:-2] + ("00" if read["private"][-2:] != "00" else "11")}
    bad = {
        "empty": b"",
        "cut": kept[:-10],
        "other format": json.dumps(read | {"version": 2}).encode(),
        "flipped": json.dumps(flipped).encode(),
        "long": kept + b" " * tpm.MOST_FILE_BYTES,
    }
    with pytest.raises(TpmError):
        tpm.unseal(bad[harm])


def test_what_a_tpm_cannot_hold_is_refused_before_it_is_asked() -> None:
    for secret in ("", "x" * 129):
        with pytest.raises(TpmError, match="1 to 128"):
            tpm.seal(secret)


async def test_the_command_seals_the_pin_and_the_token_opens_with_it(at_tpm: SoftTpm, tmp_path: Path) -> None:
    plain, sealed, config = tmp_path / "pin", tmp_path / "pin.sealed", tmp_path / "gateway.toml"
    plain.touch(mode=0o600)
    plain.write_text(at_tpm.pin, encoding="ascii")
    config.write_text(
        f'[token]\nmodule = "{at_tpm.module}"\nlabel = "{at_tpm.label}"\npin_secret = "file:{plain}"\n',
        encoding="utf-8",
    )
    arguments = ["seal-pin", str(sealed), "--config", str(config), "--json"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600
    assert at_tpm.pin not in first.output
    assert CliRunner().invoke(app, arguments).exit_code == 1, "a file is never written over"
    plain.unlink()
    settings = TokenSettings(module=at_tpm.module, label=at_tpm.label, pin_secret=f"tpm:{sealed}")
    token = Token(module=settings.module, label=settings.label, read_pin=lambda: read_pin(settings.pin_secret))
    token.start()
    try:
        await asyncio.wait_for(token.wait_ready(), 60)
    finally:
        await token.close()


def test_a_pin_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="none: No such file"):
        read_pin(f"tpm:{tmp_path / 'none'}")


def test_without_the_tools_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "tpm2-tools" in str(tpm.absence())
    with pytest.raises(TpmError, match="tpm2-tools"):
        tpm.seal(PIN)
