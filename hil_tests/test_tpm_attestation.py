"""A TPM's quote in a sealed attestation holds for `verify` and tpm2_checkquote, and for its attestation alone."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.evidence import statements
from agent.evidence.bundle import BundleHead, encode_batch_item
from agent.evidence.errors import ProofError
from agent.evidence.kinds import Attestation, TpmQuote
from agent.evidence.partial import receipts
from agent.evidence.tpm_quote import check_attestation, check_quote, nonce_of
from agent.identity.did import did_of
from agent.roads.facts import facts, tpm_quote
from agent.token import tpm
from agent.token.quote import is_there, quote_for_evidence
from agent.token.tpm import TpmError
from firmware_attest.measurement import Measurement
from hil_tests.gateway_parts import gateway_site, needs_softhsm, until
from hil_tests.rig.tpm import SoftTpm, tpm_module
from tests.agent.cli.test_evidence import KEY, sealed
from tests.agent.evidence import independent_quote
from tests.agent.roads.test_devices import settings

GATEWAY = did_of(KEY.public_key_der)

pytestmark = pytest.mark.skipif(
    tpm_module() is None or tpm.absence() is not None or shutil.which("tpm2_checkquote") is None,
    reason="swtpm, tpm2-pkcs11 or tpm2-tools is not installed",
)


@pytest.fixture
def attestation(at_tpm: SoftTpm) -> Attestation:
    """As the agent states it at its start."""
    software = Measurement((("agent/gateway.py", bytes(32)),))
    stated = facts(settings(), version="1.2.3", software=software, now_us=1_800_000_000_000_000,
                   quote=tpm_quote)  # fmt: skip
    (found,) = (each for each in stated if isinstance(each, Attestation))
    return found


def verify(folder: Path, attestation: Attestation, *arguments: object, code: int = 0) -> dict[str, Any]:
    """What `verify --json` says of a bundle with it."""
    file = folder / "evidence"
    file.write_bytes(BundleHead(GATEWAY, ()).encode() + encode_batch_item(sealed(1, None, attestation).encode()))
    return run("verify", file, "--gateway", GATEWAY, *arguments, code=code)


def run(*arguments: object, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def quoted_key(folder: Path) -> Path:
    """The TPM's key as `quote` writes it: what a verifier has from enrolment."""
    run("quote", "00" * 16, "--out", folder)
    return folder / "quote.pem"


def test_the_attestation_holds_a_quote_that_two_readers_and_the_tools_believe(
    attestation: Attestation, tmp_path: Path
) -> None:
    quoted = check_attestation(attestation)
    assert quoted is not None
    assert list(quoted.pcrs) == list(range(10))
    assert quoted.pcrs[0] == bytes(32)
    encoded = statements.encode(attestation)
    assert statements.decode(encoded) == attestation
    assert independent_quote.quote(encoded)[0] == quoted.key_name.hex()
    quote = attestation.quote
    assert quote is not None
    pem = quoted_key(tmp_path / "q")
    (tmp_path / "message").write_bytes(quote.message)
    (tmp_path / "signature").write_bytes(quote.signature)
    subprocess.run(
        ["tpm2_checkquote", "-Q", "-u", str(pem), "-m", "message", "-s", "signature", "-g", "sha256", "-q",
         nonce_of(attestation).hex()],
        cwd=tmp_path, check=True, timeout=30, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip


def test_verify_says_what_was_booted_and_by_whose_word(attestation: Attestation, tmp_path: Path) -> None:
    answer = verify(tmp_path, attestation)
    assert (answer["ok"], answer["attestations"]["count"]) == (True, 1)
    newest = answer["attestations"]["newest"]
    assert newest["quote"]["pcrs"]["9"] == "00" * 32
    assert any("--tpm-key" in text for text in answer["not_proven"])
    answer = verify(tmp_path, attestation, "--tpm-key", quoted_key(tmp_path / "q"))
    assert (answer["ok"], answer["not_proven"]) == (True, [])


def test_a_receipt_of_an_attestation_is_held_against_its_quote_too(attestation: Attestation, tmp_path: Path) -> None:
    for each, code in ((attestation, 0), (replace(attestation, software_digest=bytes(range(32))), 1)):
        batch = sealed(1, None, each)
        (tmp_path / "receipt").write_bytes(receipts(batch, [1])[0])
        (tmp_path / "statement").write_bytes(batch.leaves[1])
        run("verify", tmp_path / "receipt", "--statement", tmp_path / "statement", "--gateway", GATEWAY, code=code)


def test_a_quote_of_another_attestation_is_a_false_claim(attestation: Attestation, tmp_path: Path) -> None:
    answer = verify(tmp_path, replace(attestation, software_digest=bytes(range(32))), code=1)
    (claim,) = answer["false_claims"]
    assert "another nonce" in claim


def test_no_bit_of_a_quote_can_be_flipped_unseen(attestation: Attestation) -> None:
    quote = attestation.quote
    assert quote is not None
    nonce = nonce_of(attestation)
    parts: list[tuple[str, bytes, Callable[[bytes], TpmQuote]]] = [
        ("message", quote.message, lambda changed: replace(quote, message=changed)),
        ("signature", quote.signature, lambda changed: replace(quote, signature=changed)),
        ("public", quote.public, lambda changed: replace(quote, public=changed)),
    ]
    for name, whole, with_it in parts:
        for bit in range(len(whole) * 8):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            try:
                found = check_quote(with_it(bytes(changed)), nonce)
            except ProofError:
                continue
            # Who may use the key: another attribute is another name, which is not the trusted one.
            assert name == "public"
            assert found.key_name != check_quote(quote, nonce).key_name


def test_the_quote_of_another_tpm_is_not_believed_by_who_knows_the_key(
    attestation: Attestation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = quoted_key(tmp_path / "q")
    other = SoftTpm(tmp_path / "other")
    try:
        for name, value in other.environment.items():
            monkeypatch.setenv(name, value)
        foreign = replace(attestation, quote=quote_for_evidence(nonce_of(attestation)))
    finally:
        other.close()
    assert verify(tmp_path, foreign)["ok"]
    answer = verify(tmp_path, foreign, "--tpm-key", key, code=1)
    assert "not the one that you trust" in answer["false_claims"][0]


def test_another_boot_shows_in_the_next_attestation(attestation: Attestation, at_tpm: SoftTpm) -> None:
    extend = ["tpm2_pcrextend", f"9:sha256={'22' * 32}"]
    subprocess.run(extend, check=True, timeout=30, env={**os.environ, **at_tpm.environment})
    quote = tpm_quote(nonce_of(attestation))
    assert quote is not None
    assert attestation.quote is not None
    assert quote.pcrs[9] != attestation.quote.pcrs[9]


def test_without_a_tpm_the_attestation_is_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TPM2TOOLS_TCTI", raising=False)
    monkeypatch.setattr("agent.token.quote._DEVICES", (tmp_path / "none",))
    assert not is_there()
    assert tpm_quote(bytes(32)) is None
    monkeypatch.setenv("TPM2TOOLS_TCTI", "device:/dev/none")  # there, and does not answer
    assert is_there()
    assert tpm_quote(bytes(32)) is None
    with pytest.raises(TpmError):
        quote_for_evidence(bytes(32))


@needs_softhsm
async def test_the_running_agent_seals_its_tpms_quote(at_tpm: SoftTpm, tmp_path: Path) -> None:
    """Its evidence key is in another token: the quote is of the machine."""
    async with gateway_site(tmp_path) as site:
        await site.stage.start_site()
        await site.stage.start_gateway()
        await site.shows(lambda status: status["evidence"]["sealed"] > 0, "readings sealed")
        pem = await asyncio.to_thread(quoted_key, tmp_path / "q")

        async def attested() -> bool:
            bundle = await site.stage.export()
            answer = await asyncio.to_thread(
                run, "verify", bundle, "--gateway", site.stage.gateway_id, "--tpm-key", pem
            )
            newest = answer["attestations"]["newest"]
            return newest is not None and newest["quote"] is not None

        await until(attested, "an attestation with the TPM's quote")
        assert await site.stage.gateway.end() == 0
