"""Histories of an identifier: the name stays, the key changes, and nothing changes without both signatures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycose.headers import KID
from pycose.keys.ec2 import EC2Key
from pycose.messages.signmessage import SignMessage

from agent.evidence import cose
from agent.evidence.errors import SignatureError
from agent.identity import cosign, history, orders
from agent.identity.errors import HistoryError
from agent.identity.orders import Kind, commitment_of
from hil_tests import identity_cases as made

TWO, ROTATED = made.rotated()
FILE = history.encode_history(TWO)


def test_the_name_stays_over_a_rotation_and_the_key_does_not() -> None:
    first = history.replay(TWO[:1])
    assert first.gateway_id == ROTATED.gateway_id
    assert (first.key, ROTATED.key) == (made.FIRST.verify_key, made.SECOND.verify_key)


def test_the_name_says_nothing_of_who_signed_the_first_order() -> None:
    """ECDSA signatures can be made anew over the same body: the name must not follow from them."""
    order = made.create()
    drafted = orders.draft(order)
    assert history.identifier_of(order) == history.identifier_of(orders.decode_order(drafted.payload))


def test_a_history_of_another_name_is_refused() -> None:
    with pytest.raises(HistoryError, match="not of did:v2g:zSomebodyElse"):
        history.replay(TWO, gateway_id="did:v2g:zSomebodyElse")


@given(st.integers(0, len(FILE) * 8 - 1))
def test_no_bit_of_a_history_can_be_changed_unseen(bit: int) -> None:
    changed = bytearray(FILE)
    changed[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(HistoryError):
        history.replay(history.decode_history(bytes(changed)))


@given(st.binary(max_size=200))
def test_noise_is_refused_as_a_history_and_never_crashes(noise: bytes) -> None:
    for attempt in (
        lambda: history.decode_history(noise),
        lambda: history.step(None, noise),
        lambda: orders.decode_order(noise),
        lambda: orders.decode_envelope(noise),
    ):
        with pytest.raises(HistoryError):
            attempt()


def test_another_cose_implementation_verifies_every_signature_of_an_order() -> None:
    parties = {key.key_id: key for key in (made.OWNER, made.THIEF)}  # pycose knows ES256, and not Ed25519 as -19
    order = made.sign(orders.draft(made.create()), *parties.values())
    message = SignMessage.decode(order.encode())
    assert len(message.signers) == 2
    for signer in message.signers:
        point = parties[signer.phdr[KID]]._private().public_key().public_numbers()  # type: ignore[union-attr]
        signer.key = EC2Key(crv="P_256", x=point.x.to_bytes(32), y=point.y.to_bytes(32))
        assert signer.verify_signature()


def test_a_longer_history_continues_a_shorter_one_and_not_the_other_way_round() -> None:
    assert history.continues(TWO, TWO[:1])
    assert history.continues(TWO, TWO)
    assert not history.continues(TWO[:1], TWO)


def test_two_rotations_of_one_state_do_not_continue_each_other() -> None:
    _, state = made.created()
    later = replace(made.rotation(state, made.SECOND, made.FOURTH), issued_us=1)
    fork = made.entry(later, made.BOTH, [made.FIRST, made.SECOND])
    assert not history.continues((TWO[0], fork), TWO)


def test_a_draft_says_who_is_missing_until_everybody_signed() -> None:
    _, state = made.created()
    draft = orders.draft(made.sold(state))
    assert [party.name for party in history.signers_of(state, made.sold(state))] == [
        "B. Buyer", "Grid Operator Ltd", "A. Owner",
    ]  # fmt: skip
    for key, missing in ((made.OWNER, "B. Buyer, Grid Operator Ltd"), (made.OPERATOR, "B. Buyer")):
        draft = made.sign(draft, key)
        with pytest.raises(HistoryError, match=f"not signed by {missing};"):
            history.check_order(state, draft)
    assert history.check_order(state, made.sign(draft, made.NEW_OWNER)) == made.sold(state)


def test_signing_twice_leaves_one_signature() -> None:
    draft = made.sign(orders.draft(made.create()), made.OWNER, made.OWNER)
    assert len(draft.signatures) == 1


def test_a_signature_that_does_not_verify_is_not_taken() -> None:
    with pytest.raises(SignatureError):
        orders.draft(made.create()).with_signature(made.OWNER.verify_key, bytes(64))


def test_an_envelope_reads_back_as_it_was_written() -> None:
    order = made.sign(orders.draft(made.create()), *made.BOTH)
    assert cosign.decode(order.encode(), typ=orders.TYPE, what="order", most_bytes=orders.MOST_BYTES) == order


def test_an_expected_key_with_another_algorithm_is_another_commitment() -> None:
    es256 = cose.VerifyKey(cose.ES256, made.SECOND.public_key_der)
    assert commitment_of(es256) != commitment_of(made.SECOND.verify_key)


def test_a_change_keeps_the_epoch() -> None:
    moved = made.follow(ROTATED, Kind.CHANGE, subject=replace(made.SUBJECT, location=None))
    after = history.step(ROTATED, made.entry(moved, made.BOTH, [made.SECOND]))
    assert after.epochs == ROTATED.epochs
    assert after.subject.location is None
    assert after.number == 2
