"""Two signatures over one root: what each policy accepts, by the vectors, our verifier and a stranger's."""

from __future__ import annotations

from typing import Any

import pytest

from agent.evidence import cose, errors
from agent.evidence.countersignature import Policy, policy_of, protected_header
from agent.evidence.verify import TrustedKey, VerifiedBatch, VerifiedStatement, Verifier
from hil_tests import countersignature_cases
from hil_tests import evidence_cases as made
from tests.agent.evidence import independent, vectors

ERRORS = {
    "unsupported": errors.UnsupportedError,
    "signature": errors.SignatureError,
    "malformed": errors.MalformedError,
}


def ours(policy: str) -> Verifier:
    keys = vectors.load("keys.json")
    second = keys["countersigner"]
    (first,) = (entry for entry in keys["trusted"] if entry["key_id"] == second["beside"])
    epoch = TrustedKey(first["gateway_id"], _key(first), countersigner=_key(second), policy=policy_of(policy))
    return Verifier([epoch])


def _key(entry: Any) -> cose.VerifyKey:
    return cose.VerifyKey(entry["algorithm"], bytes.fromhex(entry["public_key_der"]))


def theirs(policy: str) -> independent.Verifier:
    keys = vectors.load("keys.json")
    second = keys["countersigner"]
    place = (second["gateway_id"], bytes.fromhex(second["beside"]))
    first = made.GATEWAY_KEY
    return independent.Verifier(
        {place: (first.algorithm, first.public_key_der)}, {place: bytes.fromhex(second["public_key_der"])}, policy
    )


@pytest.mark.parametrize("case", vectors.cases("countersignatures.json"), ids=vectors.name_of)
def test_countersignature_vector(case: Any) -> None:
    parts = {part: bytes.fromhex(case[part]) for part in ("batch", "receipt", "statement") if part in case}

    def verify() -> VerifiedBatch | VerifiedStatement:
        verifier = ours(case["policy"])
        if "batch" in parts:
            return verifier.verify_batch(parts["batch"])
        return verifier.verify_receipt(parts["receipt"], parts["statement"])

    def verify_independently() -> None:
        verifier = theirs(case["policy"])
        if "batch" in parts:
            verifier.any_batch(parts["batch"])
        else:
            verifier.receipt(parts["receipt"], parts["statement"])

    if case["valid"]:
        verified = verify()
        assert list(verified.proven_by) == case["proven_by"]
        if isinstance(verified, VerifiedBatch):
            assert verified.sealed.encode() == parts["batch"]
        verify_independently()
        return
    with pytest.raises(ERRORS[case["error"]]):
        verify()
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        verify_independently()


def test_a_policy_that_is_not_known_is_refused() -> None:
    with pytest.raises(errors.UnsupportedError, match="pq-only"):
        policy_of("any")


def test_a_countersignature_does_not_change_what_the_batch_is() -> None:
    once = made.make_batch(made.leaves())
    twice = countersignature_cases.countersigned(once)
    assert (twice.hash, twice.root) == (once.hash, once.root)
    assert twice.encode() != once.encode()


def test_without_an_enrolled_key_a_countersignature_proves_nothing_and_spoils_nothing() -> None:
    twice = countersignature_cases.countersigned(made.make_batch(made.leaves()))
    first = made.GATEWAY_KEY.verify_key
    assert Verifier([TrustedKey(made.GATEWAY, first)]).verify_batch(twice.encode()).proven_by == (cose.ES256,)
    strict = Verifier([TrustedKey(made.GATEWAY, first, policy=Policy.BOTH)])
    with pytest.raises(errors.SignatureError, match="no key for it was enrolled"):
        strict.verify_batch(twice.encode())


def test_only_algorithms_for_it_make_a_countersignature() -> None:
    with pytest.raises(ValueError, match="-7"):
        protected_header(cose.ES256, bytes(32))
