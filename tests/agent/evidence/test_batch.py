"""Sealed batches and receipts: what cannot be assembled, what they cost, and what a flipped bit does to them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evidence import batch, merkle, seal, statements
from agent.evidence.batch import KeyProtection
from agent.evidence.errors import EvidenceError
from agent.evidence.statements import Alarm, Severity
from hil_tests import evidence_cases as made
from tests.agent.evidence import vectors

SEALED = made.make_batch(made.leaves())


def assemble(
    of: list[bytes], number: int = 1, boot_id: bytes = made.BOOT_ID, key_id: bytes = bytes(32)
) -> batch.Unsigned:
    return batch.assemble(
        of,
        gateway_id=made.GATEWAY,
        incarnation=1,
        boot_id=boot_id,
        number=number,
        previous_root=batch.FIRST_PREVIOUS_ROOT,
        key_protection=KeyProtection.TPM,
        algorithm=-7,
        key_id=key_id,
    )


def test_a_batch_reads_back_as_it_was_made() -> None:
    assert batch.decode_batch(SEALED.encode()) == SEALED


def test_the_header_signs_number_count_and_protection() -> None:
    identity = batch.decode_header(assemble(made.leaves(), number=7).protected).identity
    assert (identity.number, identity.leaf_count, identity.key_protection) == (7, 5, KeyProtection.TPM)


@pytest.mark.parametrize("count", [0, 1, batch.MAX_LEAVES + 1])
def test_a_batch_has_2_to_4096_leaves(count: int) -> None:
    with pytest.raises(ValueError, match="leaves"):
        assemble([b"\x00"] * count)


def test_a_batch_that_no_verifier_would_take_is_not_assembled() -> None:
    with pytest.raises(ValueError, match="field 4"):
        assemble(made.leaves(), number=0)
    with pytest.raises(ValueError, match="field 3"):
        assemble(made.leaves(), boot_id=b"short")
    with pytest.raises(ValueError, match="batch header"):
        assemble(made.leaves(), key_id=b"short")


def test_the_hash_is_of_the_content_and_not_of_the_signature() -> None:
    other = dataclasses.replace(SEALED, signature=made.other_s(SEALED.signature))
    assert other.encode() != SEALED.encode()
    assert other.hash == SEALED.hash
    assert vectors.verifier().verify_batch(other.encode()).sealed.hash == SEALED.hash


@given(st.integers(1, 60))
def test_every_leaf_of_every_size_has_a_receipt_that_verifies(readings: int) -> None:
    sealed = made.make_batch(made.leaves(readings=readings))
    verifier = vectors.verifier()
    for index in (0, readings // 2, readings):
        verified = verifier.verify_receipt(batch.receipt(sealed, index), sealed.leaves[index])
        assert (verified.index, verified.root, verified.batch) == (index, sealed.root, sealed.identity)


def test_receipts_of_many_are_those_of_each() -> None:
    assert batch.receipts(SEALED, [4, 0, 2]) == [batch.receipt(SEALED, index) for index in (4, 0, 2)]


def test_a_leaf_that_is_not_there_has_no_receipt() -> None:
    for index in (-1, 5):
        with pytest.raises(IndexError):
            batch.receipt(SEALED, index)


@settings(max_examples=300)
@given(st.data())
def test_no_flipped_bit_in_a_batch_verifies(data: st.DataObject) -> None:
    encoded = SEALED.encode()
    at, bit = data.draw(st.integers(0, len(encoded) - 1)), data.draw(st.integers(0, 7))
    flipped = encoded[:at] + bytes([encoded[at] ^ 1 << bit]) + encoded[at + 1 :]
    with pytest.raises(EvidenceError):
        vectors.verifier().verify_batch(flipped)


@settings(max_examples=300)
@given(st.data())
def test_no_flipped_bit_in_a_receipt_verifies(data: st.DataObject) -> None:
    encoded = batch.receipt(SEALED, 2)
    at, bit = data.draw(st.integers(0, len(encoded) - 1)), data.draw(st.integers(0, 7))
    flipped = encoded[:at] + bytes([encoded[at] ^ 1 << bit]) + encoded[at + 1 :]
    with pytest.raises(EvidenceError):
        vectors.verifier().verify_receipt(flipped, SEALED.leaves[2])


@given(st.binary(max_size=100))
def test_garbage_is_an_evidence_error(garbage: bytes) -> None:
    with pytest.raises(EvidenceError):
        vectors.verifier().verify_batch(garbage)
    with pytest.raises(EvidenceError):
        vectors.verifier().verify_receipt(garbage, SEALED.leaves[1])


def test_the_fullest_batch_that_the_policy_takes_is_within_the_limit() -> None:
    sealing = statements.encode(made.sealing())
    biggest = statements.encode(Alarm(timestamp_us=0, severity=Severity.INFO, code="", subject="", text="x" * 65_000))
    for leaf in (statements.encode(made.reading(1)), bytes(244), biggest):
        count = seal.fitting([len(leaf)] * batch.MAX_LEAVES)
        sealed = dataclasses.replace(SEALED, leaves=(sealing, *[leaf] * count), signature=bytes(3309))
        assert len(sealed.leaves) <= batch.MAX_LEAVES
        assert len(sealed.encode()) <= batch.MAX_BATCH_BYTES


def test_a_receipt_of_the_largest_batch_is_within_the_limit() -> None:
    leaf = statements.encode(made.reading(1))
    sealed = made.make_batch([statements.encode(made.sealing()), *[leaf] * (batch.MAX_LEAVES - 1)])
    receipt = batch.receipt(sealed, 4095)
    assert len(receipt) < 800
    assert vectors.verifier().verify_receipt(receipt, leaf).index == 4095


def test_the_root_is_the_tree_over_the_leaves() -> None:
    assert SEALED.root == merkle.root([merkle.leaf_hash(leaf) for leaf in SEALED.leaves])
