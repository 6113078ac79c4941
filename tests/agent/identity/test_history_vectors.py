"""The vectors of identity hold our code, a stranger's verifier and the generator to one and the same format."""

from __future__ import annotations

import contextlib
import json
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.cli.online import ForkedError, HistoryFrom, longest
from agent.evidence.errors import EvidenceError
from agent.evidence.verify import Verifier
from agent.identity import history
from agent.identity.document import device_document, gateway_document, practice_document
from agent.identity.errors import HistoryError
from hil_tests import generate_identity_vectors, identity_cases, recovery_cases
from tests.agent.evidence import independent as evidence
from tests.agent.identity import independent, independent_documents

FOLDER = generate_identity_vectors.FOLDER


def load(name: str) -> list[Any]:
    return [dict(case) for case in json.loads((FOLDER / name).read_text(encoding="utf-8"))]


def name_of(case: Any) -> str:
    return str(case["name"])


def test_files_are_what_the_generator_makes() -> None:
    made = generate_identity_vectors.files()
    assert {path.name for path in FOLDER.iterdir()} == set(made)
    for name, content in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == content, f"{name}: generate the vectors again"


@pytest.mark.parametrize("case", load("histories.json"), ids=name_of)
def test_history_vector(case: Any) -> None:
    encoded = bytes.fromhex(case["history"])
    if not case["valid"]:
        with pytest.raises(HistoryError):
            history.replay(history.decode_history(encoded))
        with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
            independent.replay(encoded)
        return
    state = history.replay(history.decode_history(encoded), gateway_id=case["gateway_id"])
    assert identity_cases.facts_of(state) == {key: case[key] for key in identity_cases.facts_of(state)}
    theirs = independent.replay(encoded)
    assert (theirs.gateway_id, theirs.entries, theirs.head.hex()) == (case["gateway_id"], case["entries"], case["head"])
    assert [
        {"number": e.number, "algorithm": e.key[0], "key_id": independent.sha256(e.key[1]).hex(),
         "after": place(e.after), "until": place(e.until), "over": e.over}
        for e in theirs.epochs
    ] == case["epochs"]  # fmt: skip


@pytest.mark.parametrize("case", load("recoveries.json"), ids=name_of)
def test_recovery_vector(case: Any) -> None:
    test_history_vector(case)
    if case["valid"]:
        encoded = bytes.fromhex(case["history"])
        state = history.replay(history.decode_history(encoded))
        assert recovery_cases.facts(state) == {key: case[key] for key in recovery_cases.facts(state)}
        theirs = independent.replay(encoded)
        assert independent.facts(theirs) == {key: case[key] for key in independent.facts(theirs)}


@pytest.mark.parametrize("case", load("epochs.json"), ids=name_of)
def test_epoch_vector(case: Any) -> None:
    encoded, batch = bytes.fromhex(case["history"]), bytes.fromhex(case["batch"])
    verifier = Verifier(history.replay(history.decode_history(encoded)).trusted_keys())
    if case["valid"]:
        verifier.verify_batch(batch)
        strangers_view(encoded, batch)
        return
    with pytest.raises(EvidenceError):
        verifier.verify_batch(batch)
    with pytest.raises(evidence.RefusedError):
        strangers_view(encoded, batch)


@pytest.mark.parametrize("case", load("documents.json"), ids=name_of)
def test_document_vector(case: Any) -> None:
    if "did" in case:
        assert practice_document(case["did"]) == case["gateway"]
        # All that a name by a key says is the key.
        (method,) = case["gateway"]["verificationMethod"]
        jwk = method["publicKeyJwk"]
        x, y = (int.from_bytes(urlsafe_b64decode(jwk[name] + "==")) for name in ("x", "y"))
        spki = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )  # fmt: skip
        assert independent_documents.did_key(spki) == case["did"]
        assert independent_documents.head(case["did"], [], [-7, spki], 1) == case["gateway"]
        return
    encoded = bytes.fromhex(case["history"])
    ours, theirs = history.replay(history.decode_history(encoded)), independent.replay(encoded)
    url = case["public_url"]
    assert gateway_document(ours, url) == case["gateway"] == independent_documents.gateway(theirs, url)
    assert [device.device_id for device in ours.subject.devices] == list(case["devices"])
    for device_id, document in case["devices"].items():
        assert device_document(ours, device_id) == document == independent_documents.device(theirs, device_id)


@pytest.mark.parametrize("case", load("copies.json"), ids=name_of)
def test_copies_vector(case: Any) -> None:
    histories = [bytes.fromhex(each) for each in case["histories"]]
    assert independent_documents.counting(histories, case["gateway_id"]) == case["counts"]
    found: list[HistoryFrom] = []
    for number, encoded in enumerate(histories):
        with contextlib.suppress(HistoryError):
            entries = history.decode_history(encoded)
            found.append(HistoryFrom(str(number), entries, history.replay(entries, gateway_id=case["gateway_id"])))
    try:
        best = longest(found)
    except ForkedError:
        best = None
    assert (None if best is None else int(best.source)) == case["counts"]


def strangers_view(encoded: bytes, batch: bytes) -> None:
    """The history names the key, the verifier of evidence verifies with it."""
    state = independent.replay(encoded)
    keys = {
        (state.gateway_id, independent.sha256(epoch.key[1])): (epoch.key[0], epoch.key[1]) for epoch in state.epochs
    }
    header, root = evidence.Verifier(keys).batch(batch)
    independent.believes(state, header.incarnation, header.number, root, header.kid)


def place(of: Any) -> Any:
    return None if of is None else [of[0], of[1], of[2].hex()]
