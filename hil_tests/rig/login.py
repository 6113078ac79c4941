"""How a platform reads the token that a gateway logs in with: from proto/IDENTITY.md section 9, without agent/."""

from __future__ import annotations

import hashlib

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pycose.headers import KID
from pycose.keys.curves import P256
from pycose.keys.ec2 import EC2Key
from pycose.messages.sign1message import Sign1Message

LONGEST_S = 300
TOLERANCE_S = 60


class NotLetInError(Exception):
    """Says why."""


def check_login(token: bytes, spki: bytes, *, gateway_id: str, audience: str, now_s: float) -> bytes:
    """The cti of a good token, which is good once. `spki`: the key of the gateway that the CA certified last.

    Raises NotLetInError.
    """
    try:
        message = Sign1Message.decode(token)
        claims = cbor2.loads(message.payload or b"")
        public = load_der_public_key(spki)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        numbers = public.public_numbers()
        message.key = EC2Key(crv=P256, x=numbers.x.to_bytes(32), y=numbers.y.to_bytes(32))
        signed = message.verify_signature()
    except Exception as error:
        raise NotLetInError(f"no token: {error}") from error
    if not signed or message.phdr.get(KID) != hashlib.sha256(spki).digest():
        raise NotLetInError("it is not by the gateway's key")
    if not isinstance(claims, dict) or {key: type(value) for key, value in claims.items()} != {
        1: str, 2: str, 3: str, 4: int, 6: int, 7: bytes,
    }:  # fmt: skip
        raise NotLetInError("its claims are not those of a login")
    if (claims[1], claims[2], claims[3]) != (gateway_id, gateway_id, audience):
        raise NotLetInError("it is for somebody or something else")
    if claims[4] - claims[6] > LONGEST_S or not claims[6] - TOLERANCE_S <= now_s <= claims[4] + TOLERANCE_S:
        raise NotLetInError("it is old, of the future, or good for too long")
    cti = claims[7]
    assert isinstance(cti, bytes)
    if len(cti) != 16:
        raise NotLetInError("its cti is not 16 bytes")
    return cti
