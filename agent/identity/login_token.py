"""What the gateway logs in with where TLS cannot use the token's key: a CBOR Web Token (RFC 8392) that the token signs.

For one service, named as the gateway dials it, and for a few minutes: an MQTT broker (proto/MQTT.md), the platform's
EST server (proto/IDENTITY.md section 9).
"""

from __future__ import annotations

import base64
import secrets
from typing import Final

from agent.evidence import cbor
from agent.evidence.cose import HEADER_ALG, HEADER_KID, Sign1, key_id_of, to_be_signed
from drivers.device import Signer

TOKEN_VALID_S: Final = 300
CTI_BYTES: Final = 16
# Claims of RFC 8392 section 3.1.
ISS, SUB, AUD, EXP, IAT, CTI = 1, 2, 3, 4, 6, 7


async def login_password(signer: Signer, *, gateway_id: str, audience: str, now_s: int) -> str:
    """A new token as a password: base64url without padding. Raises SignerUnavailableError while the token is away."""
    cti = secrets.token_bytes(CTI_BYTES)
    token = await signed_token(signer, gateway_id=gateway_id, audience=audience, now_s=now_s, cti=cti)
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


async def signed_token(signer: Signer, *, gateway_id: str, audience: str, now_s: int, cti: bytes) -> bytes:
    """A CWT: this gateway, for this service, from now on for a few minutes. `cti`: drawn for it alone."""
    claims: dict[int, cbor.Value] = {
        ISS: gateway_id,
        SUB: gateway_id,
        AUD: audience,
        EXP: now_s + TOKEN_VALID_S,
        IAT: now_s,
        CTI: cti,
    }
    protected = cbor.encode({HEADER_ALG: signer.algorithm, HEADER_KID: key_id_of(signer.public_key_der)})
    payload = cbor.encode(claims)
    return Sign1(protected, {}, payload, await signer.sign(to_be_signed(protected, payload))).encode()
