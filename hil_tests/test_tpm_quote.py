"""The TPM's quote holds for an independent check, for this nonce, this TPM and these PCRs only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.token import tpm
from agent.token.quote import quote
from agent.token.tpm import TpmError
from hil_tests.rig.tpm import SoftTpm, tpm_module

NONCE = bytes(range(16))

pytestmark = pytest.mark.skipif(
    tpm_module() is None or tpm.absence() is not None or shutil.which("tpm2_checkquote") is None,
    reason="swtpm, tpm2-pkcs11 or tpm2-tools is not installed",
)


def holds(folder: Path, nonce: bytes = NONCE) -> bool:
    """What tpm2_checkquote says, which asks no TPM."""
    done = subprocess.run(
        ["tpm2_checkquote", "-Q", "-u", "quote.pem", "-m", "quote.msg", "-s", "quote.sig", "-f", "quote.pcrs",
         "-g", "sha256", "-q", nonce.hex()],
        cwd=folder, capture_output=True, check=False, timeout=30, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    return done.returncode == 0


@pytest.fixture
def quoted(at_tpm: SoftTpm, tmp_path: Path) -> Path:
    """The files of the command."""
    folder = tmp_path / "quote"
    done = CliRunner().invoke(app, ["quote", NONCE.hex(), "--out", str(folder), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["pcrs"] == "sha256:0,1,2,3,4,5,6,7,8,9"
    return folder


def test_an_independent_check_believes_it_for_its_nonce_alone(quoted: Path) -> None:
    assert holds(quoted)
    assert not holds(quoted, NONCE[::-1])


@pytest.mark.parametrize(("name", "place"), [("quote.msg", -40), ("quote.sig", -40), ("quote.pcrs", 150)])
def test_a_changed_file_is_not_believed(quoted: Path, name: str, place: int) -> None:
    """Of the PCRs: a byte of the first one, not of the room beside it."""
    content = bytearray((quoted / name).read_bytes())
    content[place] ^= 1
    (quoted / name).write_bytes(content)
    assert not holds(quoted)


def test_the_key_is_the_same_on_the_same_tpm_and_another_on_another(
    quoted: Path, at_tpm: SoftTpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (quoted / "quote.pem").read_bytes()
    assert quote(NONCE[::-1]).key_pem == key
    other = SoftTpm(tmp_path / "other")
    try:
        for name, value in other.environment.items():
            monkeypatch.setenv(name, value)
        assert quote(NONCE).key_pem != key
    finally:
        other.close()


def test_another_boot_shows(quoted: Path, at_tpm: SoftTpm) -> None:
    before = quote(NONCE).pcrs
    assert before == quote(NONCE).pcrs
    extend = ["tpm2_pcrextend", f"8:sha256={'11' * 32}"]
    subprocess.run(extend, check=True, timeout=30, env={**os.environ, **at_tpm.environment})
    assert quote(NONCE).pcrs != before


@pytest.mark.parametrize("nonce", ["", "xyz", "00" * 7, "00" * 33])
def test_a_bad_nonce_is_refused_before_the_tpm_is_asked(nonce: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["quote", nonce, "--out", str(tmp_path), "--json"])
    assert done.exit_code == 2
    assert "nonce" in json.loads(done.stdout)["error"]


def test_a_file_is_never_written_over(quoted: Path) -> None:
    done = CliRunner().invoke(app, ["quote", NONCE.hex(), "--out", str(quoted), "--json"])
    assert done.exit_code == 1
    assert "is there already" in json.loads(done.stdout)["error"]


def test_without_a_tpm_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPM2TOOLS_TCTI", "device:/dev/none")
    with pytest.raises(TpmError, match="is there a TPM"):
        quote(NONCE)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(TpmError, match="install the package tpm2-tools"):
        quote(NONCE)
