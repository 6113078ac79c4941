"""The vectors of trust lists: what enough roots signed is taken, anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.evidence.cose import VerifyKey
from agent.identity.errors import KeyFileError, TrustListError
from agent.identity.trust import decode_trust_list
from agent.identity.trust_roots import TrustRoots, trust_roots_from_pem
from hil_tests import generate_identity_vectors, trust_cases
from hil_tests.trust_cases import TrustCase
from tests.agent.identity import independent_trust
from tests.agent.identity.software import SoftwareSigner

CASES = list(trust_cases.cases())


def test_the_file_is_what_the_generator_makes() -> None:
    file = generate_identity_vectors.TRUST_FOLDER / "lists.json"
    assert json.loads(file.read_text(encoding="utf-8")) == trust_cases.file()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_trust_vector(case: TrustCase) -> None:
    if case.expected is None:
        with pytest.raises(TrustListError):
            decode_trust_list(case.encoded, case.roots, trust_cases.NOW_US, pinned=case.pinned)
        return
    taken = decode_trust_list(case.encoded, case.roots, trust_cases.NOW_US, pinned=case.pinned)
    assert taken == case.expected


FILE = json.loads((generate_identity_vectors.TRUST_FOLDER / "lists.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", FILE["cases"], ids=lambda case: case["name"])
def test_a_verifier_written_from_the_page_alone_agrees(case: Any) -> None:
    roots = [(root["algorithm"], bytes.fromhex(root["public_key_der"])) for root in FILE["roots"]]
    pinned = case.get("pinned")
    pin = None if pinned is None else (pinned[0], bytes.fromhex(pinned[1]))

    def theirs() -> tuple[int, list[str], bool]:
        return independent_trust.trust_list(bytes.fromhex(case["list"]), roots, case["threshold"], FILE["now_us"], pin)

    if case["valid"]:
        assert theirs() == (case["version"], case["issuers"], case["expired"])
        return
    with pytest.raises(Exception):  # noqa: B017, PT011  # any refusal will do
        theirs()


def pem(*signers: SoftwareSigner) -> bytes:
    return b"\n".join(
        load_der_public_key(signer.public_key_der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for signer in signers
    )


def test_roots_are_read_one_after_the_other_from_one_file() -> None:
    first, second = SoftwareSigner(), SoftwareSigner()
    roots = trust_roots_from_pem(b"# two of them\n" + pem(first, second), 2, what="roots.pem")
    assert roots == TrustRoots((first.verify_key, second.verify_key), 2)


def test_roots_that_cannot_be_are_refused_and_named() -> None:
    one = SoftwareSigner()
    for content, threshold, said in (
        (pem(one, one), 1, "stands twice"),
        (pem(one), 2, "2 of 1 trust roots"),
        (b"", 1, "no public key"),
        (b"noise", 1, "no public key"),
        (pem(*(SoftwareSigner() for _ in range(17))), 1, "17 trust roots"),
    ):
        with pytest.raises(KeyFileError, match=f"roots.pem: .*{said}"):
            trust_roots_from_pem(content, threshold, what="roots.pem")


@pytest.mark.parametrize("threshold", [0, 4, -1])
def test_a_threshold_that_nobody_or_everybody_could_meet_is_no_threshold(threshold: int) -> None:
    keys = tuple(VerifyKey(root.algorithm, root.public_key_der) for root in trust_cases.ROOTS)
    with pytest.raises(ValueError, match="of 3 trust roots"):
        TrustRoots(keys, threshold)
