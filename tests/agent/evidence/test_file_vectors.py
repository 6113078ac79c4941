"""Vectors of files (bundles, extracts, JSON exports, proofs) hold our code and a stranger's verifier to one format."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from agent.cli.evidence import Findings, VerifyError, verify_file
from agent.evidence.errors import SignatureError
from agent.evidence.kinds import Kind
from agent.evidence.proof import decode_proof, verify_proof
from agent.ledger.errors import LedgerError
from agent.ledger.proof import verify_channel
from agent.measure.reading import Reading
from hil_tests import evidence_cases as made
from tests.agent.evidence import independent_files, vectors
from tests.agent.evidence.test_vectors import ERRORS, their_verifier


def our_findings(content: bytes) -> Findings:
    """As `v2g-gateway verify FILE --gateway NAME` judges it."""
    return verify_file(io.BytesIO(content), made.FILES_GATEWAY, [])


def refused_by_us(content: bytes, name: str, error: str) -> None:
    """Either not readable or not signed, or read and said not to hold."""
    if error == "proof":
        assert not our_findings(content).holds
        return
    # Our command line trusts the one gateway that it was told: of another one it has no key, or reads nothing at all.
    with pytest.raises((ERRORS[error], *((SignatureError, VerifyError) if "gateway" in name else ()))):
        our_findings(content)


def agrees(case: Any, found: Findings, theirs: independent_files.Read) -> None:
    assert found.holds
    assert (found.gateway_id, found.batches) == (case["gateway_id"], len(case["numbers"]))
    assert (theirs.gateway_id, theirs.numbers) == (case["gateway_id"], case["numbers"])
    if "device_id" in case:
        assert found.scope is not None
        scope = case["device_id"], case["from_us"], case["to_us"]
        assert (found.scope.device_id, found.scope.from_us, found.scope.to_us) == scope == theirs.scope
        assert found.missing == theirs.missing == case["missing"]
    else:
        assert found.scope is None
        assert theirs.scope is None


@pytest.mark.parametrize("case", [*vectors.cases("bundles.json"), *vectors.cases("extracts.json")], ids=vectors.name_of)
def test_bundle_vector(case: Any) -> None:
    content = bytes.fromhex(case["bundle"])
    if case["valid"]:
        agrees(case, our_findings(content), independent_files.bundle(content, their_verifier()))
        return
    refused_by_us(content, case["name"], case["error"])
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent_files.bundle(content, their_verifier())


@pytest.mark.parametrize("case", vectors.cases("json_exports.json"), ids=vectors.name_of)
def test_json_export_vector(case: Any) -> None:
    content = case["json"].encode()
    if case["valid"]:
        agrees(case, our_findings(content), independent_files.json_export(case["json"], their_verifier()))
        return
    refused_by_us(content, case["name"], case["error"])
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent_files.json_export(case["json"], their_verifier())


@pytest.mark.parametrize("case", vectors.cases("proofs.json"), ids=vectors.name_of)
def test_proof_vector(case: Any) -> None:
    encoded, platform = bytes.fromhex(case["proof"]), vectors.platform_key()

    def ours() -> tuple[int, bool, str | None]:
        file = decode_proof(encoded)
        found = verify_proof(file, vectors.verifier())
        assert isinstance(found.reading.statement, Reading)
        if file.channel is None or found.window is None:
            return found.reading.statement.sequence, found.window is not None, None
        signed = verify_channel(file.channel, found.window, device_key=None, platform_key=platform)
        # The enrolled key is the one that the file has.
        again = verify_channel(file.channel, found.window, device_key=vectors.device_key(), platform_key=platform)
        assert again == signed
        return found.reading.statement.sequence, True, signed.state.digest.hex()

    if case["valid"]:
        sequence, in_window, digest = independent_files.proof(encoded, their_verifier(), platform.public_key_der)
        said = case["sequence"], case["in_window"], case["state_digest"]
        assert ours() == said == (sequence, in_window, None if digest is None else digest.hex())
        return
    with pytest.raises((ERRORS[case["error"]], LedgerError)):
        ours()
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent_files.proof(encoded, their_verifier(), platform.public_key_der)


def test_the_page_names_every_field_as_the_json_does() -> None:
    page = (vectors.FOLDER.parents[1] / "EVIDENCE.md").read_text(encoding="utf-8")
    (case,) = [case for case in vectors.cases("json_exports.json") if case["name"].startswith("every kind")]
    said = {words["kind"]: words for batch in json.loads(case["json"])["batches"] for words in batch["statements"]}
    assert set(said) == {kind.name.lower() for kind in Kind}
    for kind, words in said.items():
        (row,) = re.findall(rf"^\| `{kind}` \| (.*) \|$", page, re.MULTILINE)
        names = re.findall(r"`(\w+)`", re.sub(r" \(of [^)]*\)", "", row))
        assert names == [name for name in words if name not in ("index", "kind")]
        for name, values in words.items():
            if isinstance(values, list) and values and isinstance(values[0], dict):
                (inner,) = re.findall(rf"`{name}` \(of ([^)]*)\)", row)
                assert re.findall(r"`(\w+)`", inner) == list(values[0])
