"""Tests of proto/CHANNELS.md: its worked example holds, for this code and for a verifier written from the page."""

from __future__ import annotations

import hashlib
import json
import re
from functools import reduce
from pathlib import Path

import cbor2
import pytest
from Crypto.Hash import keccak
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.evidence.cose import verify_key_of
from agent.ledger import state as ledger_state
from agent.ledger.follower import Ruling, judge
from agent.ledger.frames import Proposal
from agent.ledger.state import decode_state
from tests.agent.ledger.examples import TERMS

PAGE = (Path(__file__).parents[3] / "proto" / "CHANNELS.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example() -> dict[str, str | list[str]]:
    match = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    return dict(json.loads(match.group(1)))


def octets(example: dict[str, str | list[str]], name: str) -> bytes:
    value = example[name]
    assert isinstance(value, str)
    return bytes.fromhex(value)


def windows(example: dict[str, str | list[str]]) -> list[bytes]:
    return [bytes.fromhex(text) for text in example["windows"]]


def test_the_page_names_the_types_that_are_hashed() -> None:
    assert ledger_state.STATE_TYPE in PAGE
    assert ledger_state.DOMAIN_TYPE in PAGE
    assert f"`{ledger_state.DOMAIN_NAME}`" in PAGE


def test_the_example_is_read_and_countersigned_by_this_code(example: dict[str, str | list[str]]) -> None:
    state = decode_state(octets(example, "state"))
    assert state.digest == octets(example, "digest")
    proposal = Proposal(state=octets(example, "state"), gateway_signature=octets(example, "gateway_signature"))
    verdict = judge(None, proposal, TERMS, verify_key_of(octets(example, "device_key")), windows(example))
    assert verdict.ruling is Ruling.COUNTERSIGN
    signed = verdict.countersigned(octets(example, "platform_signature"))
    signed.verify(verify_key_of(octets(example, "device_key")), verify_key_of(octets(example, "platform_key")))


def test_a_verifier_written_from_the_page_alone_agrees(example: dict[str, str | list[str]]) -> None:
    """Nothing of ours below: sections 3, 4 and 5 in a screen of code."""

    def keccak256(*parts: bytes) -> bytes:
        return bytes(keccak.new(digest_bits=256, data=b"".join(parts)).digest())

    def word(value: int) -> bytes:
        return (value % (1 << 256)).to_bytes(32)

    fields = cbor2.loads(octets(example, "state"))
    (_, chain, contract, channel, participant, counterparty, agreement, incarnation, version, previous, start, end,
     imported, exported, net, epoch, root, quality, final, algorithm, key) = fields  # fmt: skip
    terms = [
        "v2g-gateway/channel", 1, example["gateway_id"], example["device_id"], chain, contract, participant,
        counterparty, agreement,
    ]  # fmt: skip
    assert channel == hashlib.sha256(cbor2.dumps(terms)).digest()
    type_line = re.search(r"^    (ChannelState\(.*\))$", PAGE, re.MULTILINE)
    assert type_line is not None
    domain_type = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
    state_type = keccak256(type_line.group(1).encode())
    assert (domain_type, state_type) == (octets(example, "domain_type_hash"), octets(example, "state_type_hash"))
    domain = keccak256(
        domain_type, keccak256(b"V2G Settlement Channel"), keccak256(b"1"), word(chain), bytes(12) + contract
    )
    struct = keccak256(
        state_type, channel, bytes(12) + participant, bytes(12) + counterparty, agreement, word(incarnation),
        word(version), previous, word(start), word(end), word(imported), word(exported), word(net), word(epoch), root,
        word(quality), word(final), word(algorithm), key,
    )  # fmt: skip
    digest = keccak256(b"\x19\x01", domain, struct)
    assert digest == octets(example, "digest")
    for who in ("device_key", "platform_key"):
        signature = octets(example, {"device_key": "gateway_signature"}.get(who, "platform_signature"))
        public = load_der_public_key(octets(example, who))
        assert isinstance(public, ec.EllipticCurvePublicKey)
        der = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        public.verify(der, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    assert key == hashlib.sha256(octets(example, "device_key")).digest()
    leaves = [hashlib.sha256(b"\x00" + w).digest() for w in windows(example)]
    assert root == reduce(lambda left, right: hashlib.sha256(b"\x01" + left + right).digest(), leaves)
    settled = [cbor2.loads(w) for w in windows(example)]
    assert (imported, exported) == (sum(w[7] for w in settled), sum(w[8] for w in settled))
    assert (start, end) == (settled[0][4], settled[-1][5])
