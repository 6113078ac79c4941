"""The trust list: what the root signed is read, anything else is refused."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pycose.keys.ec2 import EC2Key
from pycose.messages.sign1message import Sign1Message

from agent.evidence import cbor, cose
from agent.evidence.cose import VerifyKey
from agent.identity.errors import TrustListError
from agent.identity.trust import (
    ISSUED_AHEAD_US,
    TYPE,
    IssuerRights,
    Role,
    TrustList,
    TrustListPin,
    decode_pin,
    decode_trust_list,
    prepare_trust_list,
)
from tests.agent.identity.software import SoftwareSigner

ROOT = SoftwareSigner(ec.derive_private_key(1001, ec.SECP256R1()))
OPERATOR = SoftwareSigner(ec.derive_private_key(1002, ec.SECP256R1())).verify_key
GOVERNOR = SoftwareSigner(ec.derive_private_key(1003, ec.SECP256K1())).verify_key
NOW_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000

OPERATOR_RIGHTS = IssuerRights(
    issuer="grid-operator",
    key=OPERATOR,
    role=Role.OPERATIONAL,
    types=frozenset({0, 1, 2, 3}),
    targets=("battery-1", "zone:north"),
    highest_power_w=20_000,
    highest_priority=1,
    expires_us=NOW_US + DAY_US,
)
LIST = TrustList(
    version=4,
    issued_us=NOW_US - DAY_US,
    expires_us=NOW_US + 30 * DAY_US,
    issuers=(
        OPERATOR_RIGHTS,
        replace(OPERATOR_RIGHTS, issuer="board", key=GOVERNOR, role=Role.GOVERNANCE, targets=("*",)),
    ),
)


def signed(trust_list: TrustList, by: SoftwareSigner = ROOT) -> bytes:
    unsigned = prepare_trust_list(trust_list, by.verify_key)
    return unsigned.with_signature(by.sign_now(unsigned.to_be_signed))


def signed_payload(payload: bytes, header: dict[int, cbor.Value] | None = None) -> bytes:
    """A list of our own making, under the root's real signature."""
    protected = cbor.encode(header or {1: cose.ES256, 4: ROOT.verify_key.key_id, 16: TYPE})
    signature = ROOT.sign_now(cose.to_be_signed(protected, payload))
    return cose.Sign1(protected, {}, payload, signature).encode()


def parts(trust_list: TrustList = LIST) -> list[cbor.Value]:
    value = cbor.decode(trust_list.payload(), what="payload")
    assert isinstance(value, list)
    return value


def entry_changed(place: int, value: cbor.Value) -> bytes:
    fields = parts()
    issuers = fields[4]
    assert isinstance(issuers, list)
    first = issuers[0]
    assert isinstance(first, list)
    first[place] = value
    return signed_payload(cbor.encode(fields))


def test_a_signed_list_is_read_as_it_was_written() -> None:
    assert decode_trust_list(signed(LIST), ROOT.verify_key, NOW_US) == LIST


def test_another_cose_implementation_verifies_a_list() -> None:
    point = ec.derive_private_key(1001, ec.SECP256R1()).public_key().public_numbers()
    message = Sign1Message.decode(signed(LIST))
    message.key = EC2Key(crv="P_256", x=point.x.to_bytes(32), y=point.y.to_bytes(32))
    assert message.verify_signature()
    assert message.payload is not None
    assert cbor2.loads(message.payload)[:2] == [1, 4]


def test_rights_are_found_by_the_key_that_signed() -> None:
    rights = LIST.rights_of(GOVERNOR.key_id)
    assert rights is not None
    assert rights.issuer == "board"
    assert LIST.rights_of(ROOT.verify_key.key_id) is None


def test_rights_cover_named_targets_and_a_star_covers_all() -> None:
    assert OPERATOR_RIGHTS.covers("zone:north")
    assert not OPERATOR_RIGHTS.covers("zone:south")
    assert LIST.issuers[1].covers("zone:south")


def test_an_expired_list_is_still_read_and_says_that_it_has_expired() -> None:
    read = decode_trust_list(signed(LIST), ROOT.verify_key, LIST.expires_us)
    assert read.expired(LIST.expires_us)
    assert not read.expired(LIST.expires_us - 1)
    assert OPERATOR_RIGHTS.expired(OPERATOR_RIGHTS.expires_us)
    assert not OPERATOR_RIGHTS.expired(OPERATOR_RIGHTS.expires_us - 1)


def test_a_list_from_the_future_waits_unless_our_clock_is_not_to_be_trusted() -> None:
    ahead = signed(replace(LIST, issued_us=NOW_US + ISSUED_AHEAD_US + 1))
    with pytest.raises(TrustListError, match="future"):
        decode_trust_list(ahead, ROOT.verify_key, NOW_US)
    assert decode_trust_list(ahead, ROOT.verify_key, None).version == LIST.version


def test_a_list_by_another_root_is_refused() -> None:
    other = SoftwareSigner()
    with pytest.raises(TrustListError, match="another root"):
        decode_trust_list(signed(LIST, other), ROOT.verify_key, NOW_US)


def test_a_stranger_who_claims_the_roots_kid_is_refused() -> None:
    protected = cbor.encode({1: cose.ES256, 4: ROOT.verify_key.key_id, 16: TYPE})
    signature = SoftwareSigner().sign_now(cose.to_be_signed(protected, LIST.payload()))
    forged = cose.Sign1(protected, {}, LIST.payload(), signature).encode()
    with pytest.raises(TrustListError, match="verify"):
        decode_trust_list(forged, ROOT.verify_key, NOW_US)


SIGNED = signed(LIST)


@given(st.integers(min_value=0, max_value=8 * len(SIGNED) - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    encoded = bytearray(SIGNED)
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TrustListError):
        decode_trust_list(bytes(encoded), ROOT.verify_key, NOW_US)


@given(st.binary(max_size=300))
def test_no_bytes_do_worse_than_a_trust_list_error(encoded: bytes) -> None:
    with pytest.raises(TrustListError):
        decode_trust_list(encoded, ROOT.verify_key, NOW_US)


@pytest.mark.parametrize(
    "header",
    [
        {1: cose.ES256, 4: ROOT.verify_key.key_id, 16: "v2g-gateway/command+cose"},
        {1: cose.ES256, 4: ROOT.verify_key.key_id},
        {1: cose.ES256, 4: ROOT.verify_key.key_id, 16: TYPE, 99: 1},
        {1: cose.ES256K, 4: ROOT.verify_key.key_id, 16: TYPE},
    ],
    ids=["another type", "no type", "unknown parameter", "another algorithm"],
)
def test_the_roots_signature_under_another_header_is_refused(header: dict[int, cbor.Value]) -> None:
    with pytest.raises(TrustListError):
        decode_trust_list(signed_payload(LIST.payload(), header), ROOT.verify_key, NOW_US)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, 2),  # format version
        (0, True),
        (1, 0),
        (1, True),
        (2, -1),
        (3, NOW_US - 2 * DAY_US),  # expires before it was issued
        (4, {}),
    ],
)
def test_a_payload_that_no_list_can_have_is_refused(place: int, value: cbor.Value) -> None:
    fields = parts()
    fields[place] = value
    with pytest.raises(TrustListError, match=r"^trust list"):
        decode_trust_list(signed_payload(cbor.encode(fields)), ROOT.verify_key, NOW_US)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, ""),
        (0, "new\nline"),
        (1, cose.ES256K),  # not this key's algorithm
        (1, 0),
        (2, b"no key"),
        (3, 2),  # unknown role
        (3, False),
        (4, [1, 0]),  # not ascending
        (4, [True]),
        (4, [256]),
        (5, []),
        (5, ["b", "a"]),
        (5, ["a", "a"]),
        (5, [1]),
        (6, -1),
        (6, True),
        (7, -1),
        (8, 1 << 63),
        (8, None),
    ],
)
def test_an_entry_that_no_issuer_can_have_is_refused(place: int, value: cbor.Value) -> None:
    with pytest.raises(TrustListError, match=r"^trust list"):
        decode_trust_list(entry_changed(place, value), ROOT.verify_key, NOW_US)


def test_a_p256_key_may_be_listed_for_either_of_its_algorithms() -> None:
    esp = replace(OPERATOR_RIGHTS, key=VerifyKey(cose.ESP256, OPERATOR.public_key_der))
    read = decode_trust_list(signed(replace(LIST, issuers=(esp,))), ROOT.verify_key, NOW_US)
    assert read.issuers[0].key.algorithm == cose.ESP256


def test_one_key_in_two_entries_is_refused_as_ambiguous() -> None:
    with pytest.raises(ValueError, match="two entries"):
        replace(LIST, issuers=(OPERATOR_RIGHTS, replace(OPERATOR_RIGHTS, issuer="other")))


def test_an_older_list_is_refused_after_a_newer_one_was_in_use() -> None:
    newer = replace(LIST, version=5)
    with pytest.raises(TrustListError, match="older"):
        decode_trust_list(signed(LIST), ROOT.verify_key, NOW_US, pinned=newer.pin)
    assert decode_trust_list(signed(newer), ROOT.verify_key, NOW_US, pinned=LIST.pin) == newer


def test_the_same_list_is_taken_again() -> None:
    assert decode_trust_list(signed(LIST), ROOT.verify_key, NOW_US, pinned=LIST.pin) == LIST


def test_a_second_content_under_one_version_is_refused() -> None:
    other = replace(LIST, expires_us=LIST.expires_us + 1)
    with pytest.raises(TrustListError, match="two different lists"):
        decode_trust_list(signed(other), ROOT.verify_key, NOW_US, pinned=LIST.pin)


def test_a_pin_survives_a_restart() -> None:
    assert decode_pin(LIST.pin.encode()) == LIST.pin


@pytest.mark.parametrize(
    "damaged", [b"", LIST.pin.encode()[:-1], cbor.encode([True, b"x" * 32]), cbor.encode([1, b""])]
)
def test_a_damaged_pin_is_refused_and_not_taken_for_none(damaged: bytes) -> None:
    with pytest.raises(TrustListError):
        decode_pin(damaged)


def test_a_signature_that_is_not_the_roots_makes_no_list() -> None:
    unsigned = prepare_trust_list(LIST, ROOT.verify_key)
    with pytest.raises(TrustListError, match="not signed by its root"):
        unsigned.with_signature(SoftwareSigner().sign_now(unsigned.to_be_signed))


def test_a_pin_is_the_digest_of_what_was_signed_and_not_of_the_envelope() -> None:
    # ECDSA signatures differ each time; the list is the same list.
    assert decode_trust_list(signed(LIST), ROOT.verify_key, NOW_US).pin == LIST.pin
    assert isinstance(LIST.pin, TrustListPin)


def test_a_list_has_at_most_1024_issuers() -> None:
    keys = [VerifyKey(cose.ES256, number.to_bytes(2)) for number in range(1025)]  # what a key is, is not looked at here
    issuers = tuple(replace(OPERATOR_RIGHTS, key=key) for key in keys)
    assert len(replace(LIST, issuers=issuers[:1024]).issuers) == 1024
    with pytest.raises(ValueError, match="at most 1024"):
        replace(LIST, issuers=issuers)
