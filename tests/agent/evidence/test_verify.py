"""Whom a verifier trusts for what, runs of batches, and two contents under one identity."""

from __future__ import annotations

import dataclasses

import pytest

from agent.evidence import batch, statements, verify
from agent.evidence.errors import ProofError, SignatureError
from agent.evidence.verify import ChainPosition, TrustedKey, VerifiedBatch, Verifier, Witness
from agent.measure.reading import Reading
from hil_tests import evidence_cases as made
from tests.agent.evidence import vectors

VERIFIER = vectors.verifier()


def verified(sealed: batch.SealedBatch) -> VerifiedBatch:
    return VERIFIER.verify_batch(sealed.encode())


def batch_of(*readings: Reading, number: int = 1, previous_root: bytes = bytes(32)) -> VerifiedBatch:
    encoded = [statements.encode(made.sealing(number)), *(statements.encode(r) for r in readings)]
    return verified(made.make_batch(encoded, number=number, previous_root=previous_root))


def test_a_verifier_without_keys_trusts_nothing() -> None:
    sealed = made.make_batch(made.leaves())
    with pytest.raises(SignatureError, match="not trusted"):
        Verifier([]).verify_batch(sealed.encode())


def test_a_key_of_one_gateway_proves_nothing_about_another() -> None:
    sealed = made.make_batch(made.leaves(), gateway_id=made.OTHER_GATEWAY)
    with pytest.raises(SignatureError, match="not trusted"):
        VERIFIER.verify_batch(sealed.encode())
    lenient = Verifier([TrustedKey(made.OTHER_GATEWAY, made.GATEWAY_KEY.verify_key)])
    assert lenient.verify_batch(sealed.encode()).identity.gateway_id == made.OTHER_GATEWAY


def test_a_verified_batch_gives_every_statement_with_its_place() -> None:
    everything = made.one_of_each()
    result = verified(made.make_batch([statements.encode(s) for s in everything]))
    assert [entry.statement for entry in result.statements] == everything
    assert [entry.index for entry in result.statements] == list(range(len(everything)))
    assert result.sealing == everything[0]
    assert {entry.key_id for entry in result.statements} == {made.GATEWAY_KEY.key_id}


def test_a_receipt_and_its_batch_say_the_same() -> None:
    sealed = made.make_batch(made.leaves())
    from_receipt = VERIFIER.verify_receipt(batch.receipt(sealed, 3), sealed.leaves[3])
    assert from_receipt == verified(sealed).statements[3]


def test_a_peer_cannot_fill_the_log_through_an_error() -> None:
    sealed = made.make_batch(made.leaves(), gateway_id="\x1b[2J" + "x" * 1000)
    with pytest.raises(SignatureError) as caught:
        VERIFIER.verify_batch(sealed.encode())
    assert len(str(caught.value)) < 300
    assert "\x1b" not in str(caught.value)


def test_a_chain_goes_on_from_a_known_position() -> None:
    one = batch_of(made.reading(1))
    two = batch_of(made.reading(2), number=2, previous_root=one.root)
    assert verify.follow(None, one) == ChainPosition(1, 1, one.root)
    assert verify.follow(one.position, two) == two.position
    assert verify.first_break([two], after=one.position) is None
    found = verify.first_break([two], after=ChainPosition(1, 1, bytes(32)))
    assert found is not None
    assert "follows root" in found.why


def test_the_first_batch_of_a_gateway_is_number_1() -> None:
    two = batch_of(made.reading(2), number=2, previous_root=bytes([1]) * 32)
    with pytest.raises(ProofError, match="batch 1 is next"):
        verify.follow(None, two)


def test_a_chain_belongs_to_one_gateway() -> None:
    theirs = verified(made.make_batch(made.leaves(), gateway_id=made.OTHER_GATEWAY, key=made.OTHER_KEY))
    with pytest.raises(ValueError, match="one gateway"):
        verify.first_break([batch_of(made.reading(1)), theirs])


def test_seeing_the_same_again_is_no_equivocation() -> None:
    witness = Witness()
    one = batch_of(made.reading(1), made.reading(2))
    assert witness.see_batch(one) == ()
    assert witness.see_batch(one) == ()
    assert isinstance(one.sealed, batch.SealedBatch)
    again = dataclasses.replace(one.sealed, signature=made.other_s(one.sealed.signature))
    assert witness.see_batch(verified(again)) == ()


def test_a_reading_sealed_twice_with_the_same_content_is_no_equivocation() -> None:
    witness = Witness()
    one = batch_of(made.reading(1))
    two = batch_of(made.reading(1), number=2, previous_root=one.root)
    assert witness.see_batch(one) == witness.see_batch(two) == ()


def test_two_batches_under_one_number_are_equivocation() -> None:
    witness = Witness()
    one, other = batch_of(made.reading(1)), batch_of(made.reading(2))
    witness.see_batch(one)
    (found,) = witness.see_batch(other)
    assert (found.first_hash, found.second_hash) == (one.sealed.hash, other.sealed.hash)
    assert "batch 1" in found.subject


def test_two_contents_of_one_reading_are_equivocation() -> None:
    witness = Witness()
    one = batch_of(made.reading(1))
    witness.see_batch(one)
    two = batch_of(made.reading(1, power_w=5), number=2, previous_root=one.root)
    (found,) = witness.see_batch(two)
    assert found.first_hash == one.statements[1].hash
    assert "two contents" in found.subject


def test_one_sequence_in_two_boots_is_a_copied_gateway() -> None:
    witness = Witness()
    one = batch_of(made.reading(1))
    witness.see_batch(one)
    two = batch_of(made.reading(1, boot_id=bytes(16)), number=2, previous_root=one.root)
    (found,) = witness.see_batch(two)
    assert "two boots" in found.subject


def test_sequences_of_another_gateway_device_or_incarnation_do_not_collide() -> None:
    witness = Witness()
    assert witness.see_batch(batch_of(made.reading(1), made.reading(1, device_id="pv-1", power_w=7))) == ()
    other = made.make_batch(made.leaves(), gateway_id=made.OTHER_GATEWAY, key=made.OTHER_KEY)
    assert witness.see_batch(verified(other)) == ()
    later = [statements.encode(made.sealing()), statements.encode(made.reading(1, incarnation=2, power_w=7))]
    assert witness.see_batch(verified(made.make_batch(later, incarnation=2))) == ()
