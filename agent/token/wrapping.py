"""A key of the token that opens small secrets which are encrypted to it: for keys that no token can hold.

RSA-2048 with OAEP over SHA-1, the one way that SoftHSM and TPMs (through tpm2-pkcs11) share; SHA-1 is sound there, as
OAEP does not rest on collisions. The private half is born in the token and stays there, as with keys that sign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pkcs11
import pkcs11.exceptions as p11
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import MGF, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.constants import DEFAULT

from agent.token.errors import KeyMissingError, KeyRefusedError
from agent.token.keys import name_of
from agent.token.remains import is_hollow

BITS: Final = 2048
MOST_SECRET_BYTES: Final = 128
_MECHANISM_PARAM: Final = (Mechanism.SHA_1, MGF.SHA1, None)
_PUBLIC: Final = {Attribute.WRAP: DEFAULT, Attribute.VERIFY: DEFAULT}
_PRIVATE: Final = {
    Attribute.SIGN: DEFAULT,
    Attribute.UNWRAP: DEFAULT,
    Attribute.DERIVE: DEFAULT,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}


def encrypt_to(public_key_der: bytes, secret: bytes) -> bytes:
    """A secret that only the token with the private half can read. Raises ValueError for another kind of key."""
    public = load_der_public_key(public_key_der)
    if not isinstance(public, rsa.RSAPublicKey) or len(secret) > MOST_SECRET_BYTES:
        raise ValueError(f"secrets of at most {MOST_SECRET_BYTES} bytes are encrypted to RSA keys")
    # OAEP over SHA-1: see the first lines.
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA1()), algorithm=hashes.SHA1(), label=None)  # noqa: S303
    return public.encrypt(secret, oaep)


def generate(session: pkcs11.Session, key_id: bytes) -> None:
    """Make the pair, in a session that may write. Raises PKCS11Error."""
    session.generate_keypair(
        KeyType.RSA,
        BITS,
        id=key_id,
        label=key_id.decode("utf-8"),
        store=True,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        public_template=dict(_PUBLIC),
        private_template=dict(_PRIVATE),
    )


def public_half(session: pkcs11.Session, key_id: bytes) -> bytes:
    """SubjectPublicKeyInfo. Raises KeyMissingError, KeyRefusedError or PKCS11Error."""
    if is_hollow(_one(session, ObjectClass.PRIVATE_KEY, key_id)):  # nobody could open what is encrypted to it
        raise KeyMissingError(f"key {name_of(key_id)}: its making was cut short")
    held = _one(session, ObjectClass.PUBLIC_KEY, key_id)
    modulus, exponent = held[Attribute.MODULUS], held[Attribute.PUBLIC_EXPONENT]
    numbers = rsa.RSAPublicNumbers(int.from_bytes(bytes(exponent)), int.from_bytes(bytes(modulus)))
    return numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def decrypt(session: pkcs11.Session, key_id: bytes, encrypted: bytes) -> bytes:
    """The secret. Raises KeyMissingError, KeyRefusedError, or PKCS11Error, also for what is not encrypted to it."""
    private = _one(session, ObjectClass.PRIVATE_KEY, key_id)
    fault = _fault_of(lambda attribute: bool(private[attribute]))
    if fault is not None:
        raise KeyRefusedError(f"key {name_of(key_id)}: {fault}")
    assert isinstance(private, pkcs11.DecryptMixin)
    secret = private.decrypt(encrypted, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=_MECHANISM_PARAM)
    assert isinstance(secret, bytes)  # what is given whole comes back whole
    return secret


def _one(session: pkcs11.Session, kind: ObjectClass, key_id: bytes) -> pkcs11.Object:
    found = list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: key_id}))
    if not found:
        raise KeyMissingError(f"key {name_of(key_id)}: not on the token")
    if len(found) > 1:
        raise KeyRefusedError(f"key {name_of(key_id)}: {len(found)} keys have this id; remove all but one")
    return found[0]


def _fault_of(flag: Callable[[Attribute], bool]) -> str | None:
    try:
        if flag(Attribute.EXTRACTABLE) or not flag(Attribute.SENSITIVE) or not flag(Attribute.LOCAL):
            return "it can leave the token, or has come from outside; make a new one"
    except (p11.AttributeTypeInvalid, p11.AttributeSensitive):
        return "the token does not say whether it can leave it"
    return None
