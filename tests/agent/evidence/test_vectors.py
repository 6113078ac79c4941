"""The test vectors hold our code, a stranger's verifier and the generator to one and the same format."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from agent.evidence import errors, merkle, statements
from agent.evidence.acknowledgement import verify_acknowledgement
from agent.evidence.signed_values import SignedValueCheck
from agent.evidence.thinning_check import ThinningCheck
from agent.evidence.tpm_quote import check_attestation
from agent.evidence.verify import first_break
from hil_tests import evidence_cases, generate_vectors
from tests.agent.evidence import independent, independent_claims, independent_quote, vectors

ERRORS = {
    "malformed": errors.MalformedError,
    "unsupported": errors.UnsupportedError,
    "signature": errors.SignatureError,
    "proof": errors.ProofError,
}


def their_verifier() -> independent.Verifier:
    return independent.Verifier(
        {
            (entry["gateway_id"], bytes.fromhex(entry["key_id"])): (
                entry["algorithm"],
                bytes.fromhex(entry["public_key_der"]),
            )
            for entry in vectors.load("keys.json")["trusted"]
        }
    )


def test_files_are_what_the_generator_makes() -> None:
    made = generate_vectors.files()
    assert {path.name for path in vectors.FOLDER.iterdir()} == set(made)
    for name, content in made.items():
        assert (vectors.FOLDER / name).read_text(encoding="utf-8") == content, f"{name}: generate the vectors again"


@pytest.mark.parametrize("case", vectors.cases("statements.json"), ids=vectors.name_of)
def test_statement_vector(case: Any) -> None:
    encoded = bytes.fromhex(case["statement"])
    if case["valid"]:
        statement = statements.decode(encoded)
        assert evidence_cases.plain(statement) == case["fields"]
        assert statements.encode(statement) == encoded
        independent.statement(encoded)
        return
    with pytest.raises(ERRORS[case["error"]]):
        statements.decode(encoded)
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent.statement(encoded)


def test_merkle_vectors() -> None:
    for tree in vectors.load("merkle.json"):
        leaves = [bytes.fromhex(leaf) for leaf in tree["leaves"]]
        hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
        assert merkle.root(hashes).hex() == independent.root_of(leaves).hex() == tree["root"]
        for index, path in enumerate(tree["paths"]):
            siblings = [bytes.fromhex(sibling) for sibling in path]
            assert merkle.inclusion_path(hashes, index) == siblings
            assert independent.climb(leaves[index], index, len(leaves), siblings).hex() == tree["root"]


@pytest.mark.parametrize("case", vectors.cases("batches.json"), ids=vectors.name_of)
def test_batch_vector(case: Any) -> None:
    encoded = bytes.fromhex(case["batch"])
    if case["valid"]:
        verified = vectors.verifier().verify_batch(encoded)
        assert verified.root.hex() == case["root"]
        assert verified.sealed.hash.hex() == case["hash"]
        assert verified.identity.number == case["number"]
        assert len(verified.statements) == case["leaf_count"]
        assert verified.sealed.encode() == encoded
        assert their_verifier().batch(encoded)[1].hex() == case["root"]
        return
    with pytest.raises(ERRORS[case["error"]]):
        vectors.verifier().verify_batch(encoded)
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        their_verifier().batch(encoded)


@pytest.mark.parametrize("case", vectors.cases("receipts.json"), ids=vectors.name_of)
def test_receipt_vector(case: Any) -> None:
    receipt, statement = bytes.fromhex(case["receipt"]), bytes.fromhex(case["statement"])
    if case["valid"]:
        verified = vectors.verifier().verify_receipt(receipt, statement)
        assert (verified.index, verified.root.hex()) == (case["index"], case["root"])
        index, root = their_verifier().receipt(receipt, statement)
        assert (index, root.hex()) == (case["index"], case["root"])
        return
    with pytest.raises(ERRORS[case["error"]]):
        vectors.verifier().verify_receipt(receipt, statement)
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        their_verifier().receipt(receipt, statement)


@pytest.mark.parametrize("case", vectors.cases("chains.json"), ids=vectors.name_of)
def test_chain_vector(case: Any) -> None:
    run = [vectors.verifier().verify_batch(bytes.fromhex(encoded)) for encoded in case["batches"]]
    found = first_break(run)
    if case["breaks_at"] is None:
        assert found is None
    else:
        assert found is not None
        assert found.at == run[case["breaks_at"]].identity
    theirs = [their_verifier().batch(bytes.fromhex(encoded)) for encoded in case["batches"]]
    assert independent.breaks_at(theirs) == case["breaks_at"]


@pytest.mark.parametrize("case", vectors.cases("attestations.json"), ids=vectors.name_of)
def test_attestation_vector(case: Any) -> None:
    encoded = bytes.fromhex(case["statement"])
    attestation = statements.decode(encoded)
    assert isinstance(attestation, statements.Attestation)
    assert statements.encode(attestation) == encoded
    if case["valid"]:
        quoted = check_attestation(attestation)
        said = (
            (None, {}, None)
            if quoted is None
            else (
                quoted.key_name.hex(),
                {str(index): pcr.hex() for index, pcr in quoted.pcrs.items()},
                quoted.reset_count,
            )
        )
        assert said == (case["key_name"], case["pcrs"], case["reset_count"])
        assert said == independent_quote.quote(encoded)
        return
    with pytest.raises(ERRORS[case["error"]]):
        check_attestation(attestation)
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent_quote.quote(encoded)


@pytest.mark.parametrize("case", vectors.cases("acknowledgements.json"), ids=vectors.name_of)
def test_acknowledgement_vector(case: Any) -> None:
    encoded, key = bytes.fromhex(case["acknowledgement"]), vectors.platform_key()
    if case["valid"]:
        read = verify_acknowledgement(encoded, key)
        assert read.gateway_id == case["gateway_id"]
        assert (read.incarnation, read.batch_number) == (case["incarnation"], case["batch_number"])
        assert (read.root.hex(), read.platform_time_us) == (case["root"], case["platform_time_us"])
        independent.acknowledgement(encoded, key.algorithm, key.public_key_der)
        return
    with pytest.raises(ERRORS[case["error"]]):
        verify_acknowledgement(encoded, key)
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent.acknowledgement(encoded, key.algorithm, key.public_key_der)


@pytest.mark.parametrize("case", vectors.cases("signed_values.json"), ids=vectors.name_of)
def test_signed_value_vector(case: Any) -> None:
    encoded = [bytes.fromhex(statement) for statement in case["statements"]]
    check = SignedValueCheck()
    wrong = [said for leaf in encoded for said in check.see(statements.decode(leaf), hashlib.sha256(leaf).digest())]
    if case["valid"]:
        assert wrong == []
        assert check.signed_readings == case["signed_readings"]
        energies = [session.imported_milliwatt_hours for session in check.sessions()]
        assert energies == ([] if case["session_milliwatt_hours"] is None else [case["session_milliwatt_hours"]])
        independent_claims.signed_values(encoded)
        return
    assert len(wrong) == 1
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        independent_claims.signed_values(encoded)


@pytest.mark.parametrize("case", vectors.cases("partial_batches.json"), ids=vectors.name_of)
def test_partial_batch_vector(case: Any) -> None:
    encoded = bytes.fromhex(case["batch"])
    if case["valid"]:
        verified = vectors.verifier().verify_batch(encoded)
        assert (verified.root.hex(), verified.sealed.hash.hex()) == (case["root"], case["hash"])
        assert ([s.index for s in verified.statements], verified.absent) == (case["indexes"], case["absent"])
        assert verified.sealed.encode() == encoded
        header, root, leaves = their_verifier().partial(encoded)
        assert (header.number, root.hex(), sorted(leaves)) == (case["number"], case["root"], case["indexes"])
        return
    with pytest.raises(ERRORS[case["error"]]):
        vectors.verifier().verify_batch(encoded)
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        their_verifier().any_batch(encoded)


@pytest.mark.parametrize("case", vectors.cases("thinned_chains.json"), ids=vectors.name_of)
def test_thinned_chain_vector(case: Any) -> None:
    encoded = [bytes.fromhex(batch) for batch in case["batches"]]
    run = [vectors.verifier().verify_batch(batch) for batch in encoded]
    assert first_break(run) is None
    check = ThinningCheck()
    for batch in run:
        check.see(batch)
    theirs = [their_verifier().any_batch(batch) for batch in encoded]
    if case["valid"]:
        assert check.false_claims() == []
        (merged,) = check.devices()
        said = case["merged_readings"], case["net_energy_wh"]
        assert (merged.readings, merged.net_energy_wh) == said == independent_claims.thinned(theirs)
        return
    assert check.false_claims()
    with pytest.raises(independent.RefusedError):
        independent_claims.thinned(theirs)
