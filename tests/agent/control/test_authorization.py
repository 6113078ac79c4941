"""Authorizations: COSE_Sign1 by one issuer, COSE_Sign by two, checked against an independent COSE library."""

from __future__ import annotations

import cbor2
import pytest
from pycose.keys.cosekey import CoseKey
from pycose.messages.sign1message import Sign1Message
from pycose.messages.signmessage import SignMessage

from agent.control.authorization import authorize, authorize_dual, decode_authorization
from agent.control.command import command_hash, encode_body
from agent.control.errors import CommandFormatError
from agent.evidence.errors import SignatureError
from tests.agent.control.support import GOVERNOR, OPERATOR, SOME_COMMAND, STRANGER, SoftKey


def _pycose_key(key: SoftKey) -> CoseKey:
    point = key.public_key_der[-64:]
    return CoseKey.from_dict({1: 2, -1: 1, -2: point[:32], -3: point[32:]})


async def test_an_authorization_holds_under_its_issuers_key_and_no_other() -> None:
    authorization = decode_authorization(await authorize(SOME_COMMAND, OPERATOR))
    assert authorization.command == SOME_COMMAND
    assert authorization.hash == command_hash(encode_body(SOME_COMMAND))
    authorization.verify(0, OPERATOR.verify_key)
    with pytest.raises(CommandFormatError, match="names key"):
        authorization.verify(0, STRANGER.verify_key)


async def test_an_independent_library_verifies_what_one_issuer_signed() -> None:
    message = Sign1Message.decode(await authorize(SOME_COMMAND, OPERATOR))
    message.key = _pycose_key(OPERATOR)
    assert message.verify_signature()
    assert message.payload == encode_body(SOME_COMMAND)


async def test_an_independent_library_verifies_what_two_issuers_signed() -> None:
    message = SignMessage.decode(await authorize_dual(SOME_COMMAND, OPERATOR, GOVERNOR))
    assert len(message.signers) == 2
    for index, key in enumerate((OPERATOR, GOVERNOR)):
        signer = message.signers[index]
        signer.key = _pycose_key(key)
        assert signer.verify_signature()


async def test_each_of_two_signatures_is_held_against_its_own_key() -> None:
    authorization = decode_authorization(await authorize_dual(SOME_COMMAND, OPERATOR, GOVERNOR))
    authorization.verify(0, OPERATOR.verify_key)
    authorization.verify(1, GOVERNOR.verify_key)


async def test_two_signatures_by_one_key_are_refused() -> None:
    with pytest.raises(CommandFormatError, match="by one key"):
        decode_authorization(await authorize_dual(SOME_COMMAND, OPERATOR, OPERATOR))


async def test_no_flipped_bit_survives() -> None:
    encoded = await authorize(SOME_COMMAND, OPERATOR)
    for position in range(len(encoded)):
        flipped = bytearray(encoded)
        flipped[position] ^= 1
        with pytest.raises((CommandFormatError, SignatureError)):
            decode_authorization(bytes(flipped)).verify(0, OPERATOR.verify_key)


async def test_what_is_signed_for_another_purpose_is_no_command() -> None:
    value = cbor2.loads(await authorize(SOME_COMMAND, OPERATOR))
    header = cbor2.loads(value.value[0]) | {16: "v2g-gateway/ack+cose"}
    value.value[0] = cbor2.dumps(header)
    with pytest.raises(CommandFormatError, match="typ"):
        decode_authorization(cbor2.dumps(value))


@pytest.mark.parametrize("encoded", [b"", b"\x00", b"\xd2\x80", b"\xd8\x62\x84\x40\xa0\x40\x80", b"\x9f" * 50])
def test_garbage_is_refused_with_a_format_error(encoded: bytes) -> None:
    with pytest.raises(CommandFormatError):
        decode_authorization(encoded)
