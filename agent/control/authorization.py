"""The signatures around a command body: COSE_Sign1 by one issuer, COSE_Sign (tag 98) by two for dual control.

RFC 9052 sections 4.1 and 4.2, payload attached. Specified in proto/COMMANDS.md section 3. Reading and verifying are
apart: `decode_authorization` says what is claimed, `Authorization.verify` holds one signature against one trusted key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cbor2

from agent.control.command import Command, command_hash, decode_body, encode_body
from agent.control.errors import CommandFormatError, quoted
from agent.evidence import cbor
from agent.evidence.cose import (
    HEADER_ALG,
    HEADER_KID,
    HEADER_TYP,
    TAG_SIGN1,
    Sign1,
    VerifyKey,
    key_id_of,
    to_be_signed,
)
from agent.evidence.cose_sign import TAG_SIGN, body_header, claimed_key, exact_header, signer_header
from agent.evidence.cose_sign import to_be_signed as dual_to_be_signed
from agent.evidence.errors import MalformedError
from drivers.device import Signer

TYP: Final = "v2g-gateway/command+cose"
MAX_AUTHORIZATION_BYTES: Final = 32 * 1024


@dataclass(frozen=True, slots=True)
class IssuerSignature:
    """One signature as claimed: by which key, with which algorithm, over which bytes."""

    key_id: bytes
    """kid: SHA-256 of the issuer's SubjectPublicKeyInfo."""
    algorithm: int
    to_be_signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed body as read. Nothing is verified until `verify` has been called for each signature."""

    body: bytes
    signatures: tuple[IssuerSignature, ...]
    """One, or two under dual control, by different keys."""

    @property
    def hash(self) -> bytes:
        """Identity: of the signed content, never of this envelope."""
        return command_hash(self.body)

    def verify(self, index: int, key: VerifyKey) -> None:
        """Hold one signature against a trusted key.

        Raises EvidenceError (SignatureError, UnsupportedError) or CommandFormatError when it is another key's.
        """
        claimed = self.signatures[index]
        if claimed.key_id != key.key_id or claimed.algorithm != key.algorithm:
            raise CommandFormatError(
                f"authorization: signature {index + 1} names key {claimed.key_id.hex()[:16]} and algorithm "
                f"{claimed.algorithm}, the trusted key is {key.key_id.hex()[:16]} for {key.algorithm}"
            )
        key.verify(claimed.to_be_signed, claimed.signature)


@dataclass(frozen=True, slots=True)
class Authorization(Signed):
    """The signed body of a command."""

    command: Command


async def authorize(command: Command, signer: Signer) -> bytes:
    """The COSE_Sign1 of one issuer over a command. Raises SignerUnavailableError as the signer does."""
    return await sign_body(encode_body(command), TYP, signer)


async def sign_body(body: bytes, typ: str, signer: Signer) -> bytes:
    """A COSE_Sign1 over any body. Raises SignerUnavailableError as the signer does."""
    protected = cbor.encode({HEADER_ALG: signer.algorithm, HEADER_KID: _key_id(signer), HEADER_TYP: typ})
    return Sign1(protected, {}, body, await signer.sign(to_be_signed(protected, body))).encode()


async def authorize_dual(command: Command, operational: Signer, governance: Signer) -> bytes:
    """The COSE_Sign of two issuers over a command: the operational signature first, then the governance one."""
    return await sign_body_dual(encode_body(command), TYP, operational, governance)


async def sign_body_dual(body: bytes, typ: str, operational: Signer, governance: Signer) -> bytes:
    """A COSE_Sign by two over any body."""
    body_protected = body_header(typ)
    signatures: list[cbor.Value] = []
    for signer in (operational, governance):
        protected = signer_header(signer.algorithm, _key_id(signer))
        signature = await signer.sign(dual_to_be_signed(body_protected, protected, body))
        signatures.append([protected, {}, signature])
    return cbor.encode(cbor2.CBORTag(TAG_SIGN, [body_protected, {}, body, signatures]))


def decode_authorization(encoded: bytes) -> Authorization:
    """Reads a COSE_Sign1 or a COSE_Sign of two. Raises CommandFormatError; nothing is verified."""
    signed = decode_signed(encoded, TYP)
    return Authorization(signed.body, signed.signatures, decode_body(signed.body))


def decode_signed(encoded: bytes, typ: str) -> Signed:
    """As `decode_authorization`, of any body that is signed as this `typ`."""
    try:
        value = cbor.decode(encoded, what="authorization", most_bytes=MAX_AUTHORIZATION_BYTES)
        if not isinstance(value, cbor2.CBORTag) or value.tag not in (TAG_SIGN1, TAG_SIGN):
            raise CommandFormatError(
                f"authorization: neither a COSE_Sign1 (tag {TAG_SIGN1}) nor a COSE_Sign (tag {TAG_SIGN})"
            )
        match value.value:
            case [bytes(protected), {**unprotected}, bytes(body), last] if not unprotected:
                pass
            case _:
                raise CommandFormatError("authorization: not laid out with an empty unprotected header and its payload")
        if value.tag == TAG_SIGN1:
            signatures: tuple[IssuerSignature, ...] = (_single(protected, body, last, typ),)
        else:
            signatures = _pair(protected, body, last, typ)
    except MalformedError as error:
        raise CommandFormatError(f"authorization: {error}") from error
    return Signed(body, signatures)


def _single(protected: bytes, body: bytes, signature: cbor.Value, typ: str) -> IssuerSignature:
    if not isinstance(signature, bytes):
        raise CommandFormatError("authorization: its signature is no byte string")
    header = exact_header(protected, {HEADER_ALG, HEADER_KID, HEADER_TYP})
    _check_typ(header, typ)
    return _claimed(header, to_be_signed(protected, body), signature)


def _pair(protected: bytes, body: bytes, signatures: cbor.Value, typ: str) -> tuple[IssuerSignature, ...]:
    _check_typ(exact_header(protected, {HEADER_TYP}), typ)
    if not isinstance(signatures, list) or len(signatures) != 2:
        raise CommandFormatError("authorization: dual control is by exactly two signatures")
    found = []
    for item in signatures:
        match item:
            case [bytes(own), {**unprotected}, bytes(signature)] if not unprotected:
                header = exact_header(own, {HEADER_ALG, HEADER_KID})
                found.append(_claimed(header, dual_to_be_signed(protected, own, body), signature))
            case _:
                raise CommandFormatError("authorization: a signature is not laid out as a COSE_Signature")
    if found[0].key_id == found[1].key_id:
        raise CommandFormatError("authorization: both signatures are by one key, dual control needs two")
    return tuple(found)


def _check_typ(header: dict[int, cbor.Value], typ: str) -> None:
    if header[HEADER_TYP] != typ:
        raise CommandFormatError(f"authorization: typ is {quoted(header[HEADER_TYP])}, {typ} is right")


def _claimed(header: dict[int, cbor.Value], message: bytes, signature: bytes) -> IssuerSignature:
    algorithm, key_id = claimed_key(header)
    return IssuerSignature(key_id, algorithm, message, signature)


def _key_id(signer: Signer) -> bytes:
    return key_id_of(signer.public_key_der)
