"""A batch with gaps is the same batch: same root, hash and signature, and what is left in it is as proven as before."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evidence import cbor
from agent.evidence.batch import SealedBatch, decode_batch
from agent.evidence.errors import EvidenceError, MalformedError, ProofError, SignatureError
from agent.evidence.partial import Gap, PartialBatch, cut, decode_any, decode_partial, numbered_leaves, receipts
from agent.evidence.statements import Sealing
from hil_tests import evidence_cases as made
from tests.agent.evidence import vectors

VERIFIER = vectors.verifier()
BATCHES = {size: made.make_batch(made.leaves(readings=size - 1)) for size in (2, 3, 5, 8, 13)}


def partial(batch: SealedBatch, keep: set[int]) -> PartialBatch:
    left = cut(batch, keep)
    assert isinstance(left, PartialBatch)
    return left


@settings(deadline=None)
@given(st.sampled_from(sorted(BATCHES)), st.data())
def test_whatever_is_cut_the_batch_stays_the_same_and_the_rest_is_proven(size: int, data: st.DataObject) -> None:
    batch = BATCHES[size]
    keep = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    left = decode_any(partial(batch, keep).encode())
    assert isinstance(left, PartialBatch)
    assert (left.root, left.hash, left.identity) == (batch.root, batch.hash, batch.identity)
    assert left.numbered == [(index, batch.leaves[index]) for index in sorted(keep)]
    assert left.absent == size - len(keep)
    verified = VERIFIER.verify_batch(left.encode())
    assert [(s.index, s.encoded) for s in verified.statements] == left.numbered
    assert isinstance(verified.sealing, Sealing) is (0 in keep)
    again = data.draw(st.sets(st.sampled_from(sorted(keep)))) if keep else set()
    assert cut(left, again) == partial(batch, again), "cut twice is cut once"
    for index, receipt in zip(sorted(keep), receipts(left, sorted(keep)), strict=True):
        assert VERIFIER.verify_receipt(receipt, batch.leaves[index]).index == index


def test_nothing_cut_is_the_whole_batch() -> None:
    batch = BATCHES[5]
    assert cut(batch, range(5)) is batch
    assert decode_any(batch.encode()) == decode_batch(batch.encode())
    assert numbered_leaves(batch) == list(enumerate(batch.leaves))


def test_a_batch_with_nothing_left_has_one_gap_and_needs_little_space() -> None:
    left = partial(BATCHES[13], set())
    assert left.nodes == (Gap(13, BATCHES[13].root),)
    assert VERIFIER.verify_batch(left.encode()).absent == 13


def test_a_leaf_that_is_gone_has_no_receipt() -> None:
    left = partial(BATCHES[5], {0, 2})
    for index in (1, 3, 5, -1):
        with pytest.raises(IndexError):
            receipts(left, [index])


@given(st.data())
def test_no_bit_of_it_can_be_flipped_unseen(data: st.DataObject) -> None:
    encoded = partial(BATCHES[8], {0, 3, 7}).encode()
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    changed = bytearray(encoded)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EvidenceError):
        VERIFIER.verify_batch(bytes(changed))


def forged(nodes: list[bytes | Gap]) -> bytes:
    return dataclasses.replace(partial(BATCHES[5], {0}), nodes=tuple(nodes)).encode()


def test_gaps_that_are_no_subtrees_are_refused() -> None:
    leaf, *_ = BATCHES[5].leaves
    hash_ = bytes(32)
    cases: list[list[bytes | Gap]] = [
        [leaf, Gap(3, hash_), Gap(1, hash_)],  # leaves 1 to 3 are no subtree
        [leaf, Gap(1, hash_)],  # too few
        [Gap(6, hash_)],  # too many
        [leaf, Gap(1, hash_), Gap(2, hash_), Gap(1, hash_), leaf],  # one more
    ]
    for nodes in cases:
        with pytest.raises(ProofError):
            decode_partial(forged(nodes))


def test_two_gaps_that_are_one_and_a_partial_batch_that_is_whole_are_refused() -> None:
    """One encoding for one content."""
    left = partial(BATCHES[8], {0})
    with pytest.raises(MalformedError, match="one"):
        decode_partial(
            dataclasses.replace(
                left, nodes=(*left.nodes[:2], Gap(1, bytes(32)), Gap(1, bytes(32)), *left.nodes[3:])
            ).encode()
        )
    with pytest.raises(MalformedError, match="nothing is left out"):
        decode_partial(dataclasses.replace(left, nodes=BATCHES[8].leaves).encode())


@pytest.mark.parametrize(
    "node", [5, None, [1], [0, bytes(32)], [-1, bytes(32)], [1, bytes(31)], [True, bytes(32)], ["1", bytes(32)]]
)
def test_what_is_neither_leaf_nor_gap_is_refused(node: cbor.Value) -> None:
    value = cbor.decode(partial(BATCHES[5], {0}).encode(), what="test")
    assert isinstance(value, list)
    with pytest.raises(MalformedError):
        decode_partial(cbor.encode([value[0], value[1], [node]]))


def test_a_gap_with_another_hash_is_no_signed_root() -> None:
    left = partial(BATCHES[5], {0, 1})
    nodes: list[bytes | Gap] = [Gap(node.leaves, bytes(32)) if isinstance(node, Gap) else node for node in left.nodes]
    with pytest.raises(SignatureError):
        VERIFIER.verify_batch(forged(nodes))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(EvidenceError):
        decode_any(b"\x83\x03" + content)
