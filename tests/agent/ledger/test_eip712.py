"""Tests of EIP-712: the standard's own example, and signatures as a contract would take them."""

import pytest
from Crypto.Hash import keccak

from agent.evidence.cose import ED25519, VerifyKey
from agent.ledger import eip712
from agent.ledger.errors import ChannelError
from tests.agent.ledger.examples import DEVICE_KEY, OTHER_KEY, P256_ORDER


def test_keccak_is_the_original_one_and_not_sha3() -> None:
    assert eip712.keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def test_the_digest_of_the_standards_example_mail_comes_out() -> None:
    """https://eips.ethereum.org/assets/eip-712/Example.js: from Cow to Bob, "Hello, Bob!"."""
    domain = eip712.hash_struct(
        "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
        [
            ("string", "Ether Mail"),
            ("string", "1"),
            ("uint256", 1),
            ("address", bytes.fromhex("CcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC")),
        ],
    )
    assert domain.hex() == "f2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f"
    person = "Person(string name,address wallet)"

    def hashed(name: str, wallet: str) -> bytes:
        return eip712.hash_struct(person, [("string", name), ("address", bytes.fromhex(wallet))])

    mail = eip712.hash_struct(
        "Mail(Person from,Person to,string contents)" + person,
        [
            ("bytes32", hashed("Cow", "CD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826")),
            ("bytes32", hashed("Bob", "bBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB")),
            ("string", "Hello, Bob!"),
        ],
    )
    assert mail.hex() == "c52c0ee5d84264471806290a3f2c4cecfc5490626bf912d01f240d7a274b371e"
    digest = eip712.digest_of(domain, mail)
    assert digest.hex() == "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"


def test_negative_numbers_extend_their_sign_over_the_word() -> None:
    assert eip712.encode_atom("int256", -1) == b"\xff" * 32
    assert eip712.encode_atom("int32", -7) == b"\xff" * 31 + b"\xf9"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint64", 1 << 64),
        ("uint64", -1),
        ("uint256", True),
        ("int32", 1 << 31),
        ("bool", 1),
        ("bytes32", bytes(31)),
        ("address", bytes(32)),
        ("string", b"bytes"),
        ("float64", 1),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_refused(kind: str, value: int | bytes | str) -> None:
    with pytest.raises(ValueError, match="is no"):
        eip712.encode_atom(kind, value)


DIGEST = keccak.new(digest_bits=256, data=b"something").digest()


def test_a_signature_over_the_digest_verifies_under_its_key_only() -> None:
    signature = DEVICE_KEY.sign(DIGEST)
    eip712.verify_digest(DEVICE_KEY.public, DIGEST, signature)
    with pytest.raises(ChannelError, match="does not verify"):
        eip712.verify_digest(OTHER_KEY.public, DIGEST, signature)


@pytest.mark.parametrize("bit", [0, 100, 300, 511])
def test_a_signature_with_a_flipped_bit_is_refused(bit: int) -> None:
    flipped = (int.from_bytes(DEVICE_KEY.sign(DIGEST)) ^ 1 << bit).to_bytes(64)
    with pytest.raises(ChannelError):
        eip712.verify_digest(DEVICE_KEY.public, DIGEST, flipped)


def test_a_high_s_is_refused_as_contracts_do() -> None:
    signature = DEVICE_KEY.sign(DIGEST)
    high = signature[:32] + (P256_ORDER - int.from_bytes(signature[32:])).to_bytes(32)
    with pytest.raises(ChannelError, match="high s"):
        eip712.verify_digest(DEVICE_KEY.public, DIGEST, high)


@pytest.mark.parametrize("length", [0, 63, 65, 72])
def test_a_signature_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ChannelError, match="64"):
        eip712.verify_digest(DEVICE_KEY.public, DIGEST, bytes(length))


def test_an_algorithm_that_signs_no_digests_is_refused() -> None:
    with pytest.raises(ChannelError, match="cannot sign channel states"):
        eip712.verify_digest(VerifyKey(ED25519, DEVICE_KEY.public.public_key_der), DIGEST, bytes(64))
