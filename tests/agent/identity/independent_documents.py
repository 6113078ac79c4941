"""DID documents and copies of a history, written from proto/IDENTITY.md sections 7 and 8 alone: no code of agent/."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from tests.agent.identity.independent import BASE58, State, replay, step, strict

CONTEXT = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/jwk/v1"]
CODECS = {"secp256r1": b"\x80\x24", "secp256k1": b"\xe7\x01", "ed25519": b"\xed\x01"}
CURVES = {"secp256r1": "P-256", "secp256k1": "secp256k1"}


def did_key(spki: bytes) -> str:
    public = load_der_public_key(spki)
    if isinstance(public, ed25519.Ed25519PublicKey):
        octets = CODECS["ed25519"] + public.public_bytes_raw()
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        octets = CODECS[public.curve.name] + public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    number, digits = int.from_bytes(octets), ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "did:key:z" + digits


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def method(name: str, controller: str, spki: bytes) -> dict[str, Any]:
    public = load_der_public_key(spki)
    if isinstance(public, mldsa.MLDSA65PublicKey):
        jwk = {"kty": "AKP", "alg": "ML-DSA-65", "pub": base64url(public.public_bytes_raw())}
    elif isinstance(public, ed25519.Ed25519PublicKey):
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url(public.public_bytes_raw())}
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        x, y = (each.to_bytes(32) for each in (public.public_numbers().x, public.public_numbers().y))
        jwk = {"kty": "EC", "crv": CURVES[public.curve.name], "x": base64url(x), "y": base64url(y)}
    return {"id": name, "type": "JsonWebKey", "controller": controller, "publicKeyJwk": jwk}


def head(did: str, controllers: list[str], key: Any, number: int) -> dict[str, Any]:
    document: dict[str, Any] = {"@context": CONTEXT, "id": did}
    if controllers:
        document["controller"] = controllers
    if key is not None:
        document["verificationMethod"] = [method(f"{did}#key-{number}", did, key[1])]
        document["assertionMethod"] = [f"{did}#key-{number}"]
    return document


def ratings(state: State, device_id: str | None) -> list[dict[str, Any]]:
    return [dict(zip(("name", "value", "unit", "certificate"), r[1:], strict=True))
            for r in state.subject[3] if r[0] == device_id]  # fmt: skip


def gateway(state: State, public_url: str | None) -> dict[str, Any]:
    owner, operator, location = state.subject[:3]
    parties = [{"name": party[0], "did": did_key(party[1][1])} for party in (owner, operator)]
    epoch = state.epochs[-1]
    document = head(state.gateway_id, [party["did"] for party in parties], state.key, epoch.number)
    if epoch.countersigner is not None:
        name = f"{state.gateway_id}#countersign-{epoch.number}"
        document["verificationMethod"].append(method(name, state.gateway_id, epoch.countersigner[1]))
    if public_url is not None:
        service = {"id": f"{state.gateway_id}#evidence", "type": "V2gGatewayEvidence", "serviceEndpoint": public_url}
        document["service"] = [service]
    place = None
    if location is not None:
        degrees = (each / 1_000_000 for each in location)
        place = dict(zip(("latitude", "longitude", "gridDegrees"), degrees, strict=True))
    document["v2gGateway"] = {
        "history": {"entries": state.entries, "head": state.head.hex()},
        "owner": parties[0],
        "operator": parties[1],
        "location": place,
        "ratings": ratings(state, None),
    }
    return document


def device(state: State, device_id: str) -> dict[str, Any]:
    ((_, serial, key, meter_key, certificate),) = (each for each in state.subject[4] if each[0] == device_id)
    did = f"{state.gateway_id}:{quote(device_id, safe='').replace('~', '%7E')}"
    return {
        **head(did, [state.gateway_id], key, 1),
        "v2gDevice": {
            "gateway": state.gateway_id,
            "deviceId": device_id,
            "serialNumber": serial or None,
            "chargerCertificateSha256": None if certificate is None else certificate.hex(),
            "meterKey": None if meter_key is None else meter_key.hex(),
            "ratings": ratings(state, device_id),
        },
    }


def counting(histories: list[bytes], gateway_id: str) -> int | None:
    """Section 8, rule 1: which history counts; the first of those that are as long."""
    heads: list[tuple[int, list[bytes]]] = []
    for number, encoded in enumerate(histories):
        try:
            found = heads_of(encoded, gateway_id)
        except Exception:  # it counts for nothing
            continue
        heads.append((number, found))
    if not heads:
        return None
    number, longest = max(heads, key=lambda item: (len(item[1]), -item[0]))
    return number if all(longest[: len(each)] == each for _, each in heads) else None


def heads_of(encoded: bytes, gateway_id: str) -> list[bytes]:
    """The hash of each entry."""
    whole = replay(encoded)
    assert whole.gateway_id == gateway_id
    state, found = None, []
    for entry in strict(encoded)[2]:
        state = step(state, entry)
        found.append(state.head)
    return found
