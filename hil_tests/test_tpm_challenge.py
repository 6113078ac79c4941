"""A verifier learns whether a gateway's key is in a genuine TPM: swtpm, certified by an authority of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.identity.endorsement import read_certificate
from agent.token import tpm
from agent.token.quote import answer
from agent.token.tpm import TpmError
from hil_tests.rig.tpm import SoftTpm, maker_intermediate, maker_roots, tpm_module
from hil_tests.test_cli_evidence import pem
from tests.agent.identity.software import SoftwareSigner

NONCE = "00" * 16

pytestmark = pytest.mark.skipif(
    tpm_module() is None
    or tpm.absence() is not None
    or shutil.which("swtpm_localca") is None
    or shutil.which("certtool") is None,
    reason="swtpm, its authority (swtpm-tools, gnutls-bin), tpm2-pkcs11 or tpm2-tools is not installed",
)


def run(*arguments: object, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    said = json.loads(done.stdout)
    assert isinstance(said, dict)
    return said


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("makers")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory, makers: Path) -> Iterator[SoftTpm]:
    soft = SoftTpm(tmp_path_factory.mktemp("certified"), makers=makers)
    yield soft
    soft.close()


@dataclass
class Verifier:
    folder: Path
    makers: Path

    @property
    def roots(self) -> Path:
        """Root and what is between: all that this maker publishes."""
        path = self.folder / "roots.pem"
        path.write_bytes(maker_roots(self.makers) + maker_intermediate(self.makers))
        return path

    def make(self, quoted: Path, *more: object, code: int = 0, out: str = "challenge") -> dict[str, Any]:
        return run("challenge", "make", quoted, "--out", self.folder / out, *more, code=code)

    def check(self, answered: Path, code: int = 0, made: str = "challenge") -> dict[str, Any]:
        return run("challenge", "check", answered, "--made", self.folder / made, code=code)


@pytest.fixture
def verifier(tmp_path: Path, makers: Path) -> Verifier:
    return Verifier(tmp_path, makers)


@pytest.fixture
def quoted(certified: SoftTpm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the gateway sends first."""
    at(certified, monkeypatch)
    run("quote", NONCE, "--endorsement", "--out", tmp_path / "quoted")
    return tmp_path / "quoted"


def at(soft: SoftTpm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in soft.environment.items():
        monkeypatch.setenv(name, value)


def test_a_genuine_tpm_answers_and_its_key_is_known(quoted: Path, verifier: Verifier, tmp_path: Path) -> None:
    made = verifier.make(quoted, "--ek-roots", verifier.roots)
    assert (tmp_path / "challenge" / "challenge.json").stat().st_mode & 0o777 == 0o600
    run("quote", "--credential", tmp_path / "challenge" / "credential", "--out", tmp_path / "answered")
    found = verifier.check(tmp_path / "answered")
    assert found["key_name"] == made["key_name"]
    assert "swtpm-localca" in found["root"]
    words = ["challenge", "check", str(tmp_path / "answered"), "--made", str(tmp_path / "challenge")]
    told = CliRunner().invoke(app, words, catch_exceptions=False).output
    assert "PCRs 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, after" in told, "a person sees what was left out"
    assert (tmp_path / "answered" / "quote.pem").read_bytes() == (quoted / "quote.pem").read_bytes()


def test_the_certificate_may_come_from_a_file_with_what_is_between(
    quoted: Path, verifier: Verifier, tmp_path: Path, makers: Path
) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(read_certificate((quoted / "ek.crt").read_bytes()) + maker_intermediate(makers))
    (quoted / "ek.crt").unlink()
    root = tmp_path / "root.pem"
    root.write_bytes(maker_roots(makers))
    made = verifier.make(quoted, "--ek-roots", root, "--ek-certificate", chain)
    assert "swtpm-localca-rootca" in made["root"]
    verifier.make(quoted, "--ek-roots", root, out="again", code=1)  # there is no ek.crt any more


def test_an_answer_to_another_challenge_is_none(quoted: Path, verifier: Verifier, tmp_path: Path) -> None:
    for name in ("one", "two"):
        verifier.make(quoted, "--ek-roots", verifier.roots, out=name)
    run("quote", "--credential", tmp_path / "one" / "credential", "--out", tmp_path / "answered")
    verifier.check(tmp_path / "answered", made="one")
    assert "another nonce" in verifier.check(tmp_path / "answered", made="two", code=1)["error"]
    assert "another nonce" in verifier.check(quoted, made="one", code=1)["error"]


def test_another_tpm_cannot_answer(
    quoted: Path, verifier: Verifier, tmp_path: Path, makers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its maker is the same: neither for the key of the first, nor with that one's certificate for its own."""
    other = SoftTpm(tmp_path / "other", makers=makers)
    try:
        verifier.make(quoted, "--ek-roots", verifier.roots)
        at(other, monkeypatch)
        with pytest.raises(TpmError, match="tpm2_activatecredential"):
            answer((tmp_path / "challenge" / "credential").read_bytes())
        run("quote", NONCE, "--out", tmp_path / "theirs")
        verifier.make(
            tmp_path / "theirs", "--ek-roots", verifier.roots, "--ek-certificate", quoted / "ek.crt", out="borrowed"
        )
        run("quote", "--credential", tmp_path / "borrowed" / "credential", "--out", tmp_path / "no", code=1)
    finally:
        other.close()


def test_a_certificate_of_nobody_who_is_trusted_is_refused(quoted: Path, verifier: Verifier, tmp_path: Path) -> None:
    strangers = tmp_path / "strangers"
    foreign = SoftTpm(tmp_path / "foreign", makers=strangers)
    foreign.close()
    roots = tmp_path / "stranger.pem"
    roots.write_bytes(maker_roots(strangers) + maker_intermediate(strangers))
    assert "nor a root that is trusted" in verifier.make(quoted, "--ek-roots", roots, code=1)["error"]
    authority = tmp_path / "authority.pem"
    authority.write_bytes(maker_intermediate(verifier.makers))
    said = verifier.make(quoted, "--ek-roots", verifier.roots, "--ek-certificate", authority, code=1)
    assert "something else" in said["error"]
    (quoted / "ek.crt").write_bytes(b"\x30\x82\x00\x10 no certificate")
    assert "cannot be read" in verifier.make(quoted, "--ek-roots", verifier.roots, code=1)["error"]


def test_a_key_file_that_did_not_answer_is_not_passed_off(quoted: Path, verifier: Verifier, tmp_path: Path) -> None:
    verifier.make(quoted, "--ek-roots", verifier.roots)
    answered = tmp_path / "answered"
    run("quote", "--credential", tmp_path / "challenge" / "credential", "--out", answered)
    pem(answered / "quote.pem", SoftwareSigner().public_key_der)
    assert "is not the key that answered" in verifier.check(answered, code=1)["error"]


def test_a_flipped_bit_of_a_credential_is_not_opened(quoted: Path, verifier: Verifier, tmp_path: Path) -> None:
    verifier.make(quoted, "--ek-roots", verifier.roots)
    credential = (tmp_path / "challenge" / "credential").read_bytes()
    for place in (20, 50, -1):  # integrity, secret, seed
        changed = bytearray(credential)
        changed[place] ^= 1
        with pytest.raises(TpmError):
            answer(bytes(changed))


def test_a_tpm_that_nobody_certified_says_so(at_tpm: SoftTpm, tmp_path: Path) -> None:
    said = run("quote", NONCE, "--endorsement", "--out", tmp_path / "q", code=1)
    assert "tpm2_nvread" in said["error"]


@pytest.mark.parametrize("arguments", [[], [NONCE, "--credential", "x"]])
def test_one_thing_is_quoted_over(arguments: list[str], tmp_path: Path) -> None:
    assert "NONCE, or --credential" in run("quote", *arguments, "--out", tmp_path, code=2)["error"]
