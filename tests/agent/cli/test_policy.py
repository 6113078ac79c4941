"""`verify --policy`: what a bundle with second signatures proves, and what a person must give for it."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.cli.evidence import verify_file
from agent.cli.policy import PolicyError, Second, second_of
from agent.evidence.bundle import BundleHead, encode_batch_item
from agent.evidence.countersignature import Policy
from agent.evidence.errors import SignatureError
from agent.identity.did import did_of
from hil_tests import countersignature_cases
from hil_tests import evidence_cases as made

GATEWAY = did_of(made.GATEWAY_KEY.public_key_der)
KEY = countersignature_cases.SECOND_KEY.verify_key


def bundle(*countersigned: bool) -> BytesIO:
    """A chain of batches, each with or without a second signature."""
    out, root = BundleHead(GATEWAY, ()).encode(), None
    for number, twice in enumerate(countersigned, start=1):
        leaves = made.leaves(number)
        batch = (
            made.make_batch(leaves, gateway_id=GATEWAY)
            if root is None
            else made.make_batch(leaves, number=number, previous_root=root, gateway_id=GATEWAY)
        )
        root = batch.root
        out += encode_batch_item((countersignature_cases.countersigned(batch) if twice else batch).encode())
    return BytesIO(out)


def pem(path: Path, public_key_der: bytes) -> Path:
    public = load_der_public_key(public_key_der)
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_both_signatures_are_counted_where_both_are_asked_for() -> None:
    found = verify_file(bundle(True, True), GATEWAY, [], second=Second(KEY, Policy.BOTH))
    assert found.holds
    expected = {"policy": "both", "held": {"ES256": 2, "ML-DSA-65": 2}, "countersigned": 2}
    assert found.signatures.as_json() == expected
    assert "ML-DSA-65 in 2" in found.signatures.lines()[0]


def test_the_first_batch_without_a_second_signature_is_named() -> None:
    with pytest.raises(SignatureError, match=r"the one after batch 1 of incarnation 1: there is no"):
        verify_file(bundle(True, False), GATEWAY, [], second=Second(KEY, Policy.BOTH))


def test_either_lets_a_missing_second_signature_pass_and_says_so() -> None:
    found = verify_file(bundle(True, False), GATEWAY, [], second=Second(KEY, Policy.EITHER))
    assert found.holds
    assert "Not every root is countersigned" in found.signatures.lines()[1]


def test_countersignatures_without_a_trusted_key_are_said_to_prove_nothing() -> None:
    (line,) = verify_file(bundle(True), GATEWAY, []).signatures.lines()
    assert "proves nothing without --countersigner" in line
    assert verify_file(bundle(False), GATEWAY, []).signatures.lines() == []


def test_one_batch_by_itself_is_known_by_its_second_signature_too() -> None:
    batch = countersignature_cases.countersigned(made.make_batch(made.leaves(1), gateway_id=GATEWAY))
    found = verify_file(BytesIO(batch.encode()), GATEWAY, [], second=Second(KEY, Policy.BOTH))
    assert (found.holds, found.batches) == (True, 1)


def test_the_policy_and_its_key_are_checked_before_the_file(tmp_path: Path) -> None:
    good = pem(tmp_path / "good.pem", KEY.public_key_der)
    assert second_of("pq-only", good) == Second(KEY, Policy.PQ_ONLY)
    assert second_of("either", None) == Second()
    with pytest.raises(PolicyError, match="policy 'all' is not known"):
        second_of("all", good)
    with pytest.raises(PolicyError, match="needs the key"):
        second_of("both", None)
    with pytest.raises(PolicyError, match="no ML-DSA-65 key"):
        second_of("both", pem(tmp_path / "first.pem", made.GATEWAY_KEY.public_key_der))
    with pytest.raises(PolicyError, match="No such file"):
        second_of("both", tmp_path / "none.pem")
    (tmp_path / "torn.pem").write_bytes(good.read_bytes()[:100])
    with pytest.raises(PolicyError):
        second_of("both", tmp_path / "torn.pem")
