"""DID documents (DID Core 1.0) of a gateway and of the devices behind it, made from the state of its history.

proto/IDENTITY.md section 7. A document is a reading aid: what proves it is the history.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Final, TypeAlias
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.evidence.cose import VerifyKey
from agent.identity.did import did_of, key_of_did
from agent.identity.errors import DidError, HistoryError
from agent.identity.history import IdentityState
from agent.identity.locations import SERVICE
from agent.identity.subject import MICRODEGREES, Location, Party, Rating

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

CONTEXT: Final[list[Json]] = ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/jwk/v1"]
_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp256k1": "secp256k1"}


def gateway_document(state: IdentityState, public_url: str | None = None) -> dict[str, Json]:
    """The document of a gateway with a history; `public_url`: where that is had (section 8)."""
    epoch = state.epochs[-1]
    subject = state.subject
    head = _head(state.gateway_id, [_name(subject.owner), _name(subject.operator)], state.key, epoch.number)
    if epoch.countersigner is not None:
        methods = head["verificationMethod"]
        assert isinstance(methods, list)
        method = f"{state.gateway_id}#countersign-{epoch.number}"
        methods.append(_method(method, state.gateway_id, epoch.countersigner))
    if public_url is not None:
        service: Json = {"id": f"{state.gateway_id}#evidence", "type": SERVICE, "serviceEndpoint": public_url}
        head["service"] = [service]
    return {
        **head,
        "v2gGateway": {
            "history": {"entries": state.number + 1, "head": state.head.hex()},
            "owner": _party(subject.owner),
            "operator": _party(subject.operator),
            "location": _location(subject.location),
            "ratings": _ratings(rating for rating in subject.ratings if rating.device_id is None),
        },
    }


def practice_document(gateway_id: str) -> dict[str, Json]:
    """The document of a gateway that is named by its key: nothing but the key is known. Raises DidError."""
    return _head(gateway_id, [], key_of_did(gateway_id), 1)


def device_document(state: IdentityState, device_id: str) -> dict[str, Json]:
    """The document of a device behind a gateway. Raises HistoryError when the history does not list it."""
    device = next((device for device in state.subject.devices if device.device_id == device_id), None)
    if device is None:
        listed = ", ".join(device.device_id for device in state.subject.devices) or "none"
        raise HistoryError(f"device {device_id[:80]!r} is not in the history ({listed} are); propose a change with it")
    certificate, meter_key = device.charger_certificate, device.meter_key
    own_id = f"{state.gateway_id}:{quote(device_id, safe='').replace('~', '%7E')}"
    return {
        **_head(own_id, [state.gateway_id], device.key, 1),
        "v2gDevice": {
            "gateway": state.gateway_id,
            "deviceId": device_id,
            "serialNumber": device.serial_number or None,
            "chargerCertificateSha256": None if certificate is None else certificate.hex(),
            "meterKey": None if meter_key is None else meter_key.hex(),
            "ratings": _ratings(rating for rating in state.subject.ratings if rating.device_id == device_id),
        },
    }


def _head(own_id: str, controllers: list[Json], key: VerifyKey | None, number: int) -> dict[str, Json]:
    document: dict[str, Json] = {"@context": CONTEXT, "id": own_id}
    if controllers:
        document["controller"] = controllers
    if key is not None:
        method = f"{own_id}#key-{number}"
        document["verificationMethod"] = [_method(method, own_id, key)]
        document["assertionMethod"] = [method]
    return document


def _method(name: str, own_id: str, key: VerifyKey) -> Json:
    return {"id": name, "type": "JsonWebKey", "controller": own_id, "publicKeyJwk": _jwk(key)}


def _jwk(key: VerifyKey) -> Json:
    public = load_der_public_key(key.public_key_der)
    if isinstance(public, mldsa.MLDSA65PublicKey):
        # RFC 9964: key type AKP, the raw public key.
        return {"kty": "AKP", "alg": "ML-DSA-65", "pub": _base64url(public.public_bytes_raw())}
    if isinstance(public, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(public.public_bytes_raw())}
    if isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_numbers()
        return {
            "kty": "EC",
            "crv": _CURVE_NAMES[public.curve.name],
            "x": _base64url(point.x.to_bytes(32)),
            "y": _base64url(point.y.to_bytes(32)),
        }
    raise DidError("there is no JWK here for this kind of key; use P-256, secp256k1 or Ed25519")


def _base64url(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


def _party(party: Party) -> Json:
    return {"name": party.name, "did": _name(party)}


def _name(party: Party) -> str:
    try:
        return did_of(party.key.public_key_der)
    except DidError:  # a kind of key without a name: its fingerprint is one
        return f"urn:sha256:{party.key.key_id.hex()}"


def _location(place: Location | None) -> Json:
    if place is None:
        return None
    return {
        "latitude": place.latitude / MICRODEGREES,
        "longitude": place.longitude / MICRODEGREES,
        "gridDegrees": place.grid / MICRODEGREES,
    }


def _ratings(ratings: Iterable[Rating]) -> Json:
    return [
        {"name": rating.name, "value": rating.value, "unit": rating.unit, "certificate": rating.certificate}
        for rating in ratings
    ]
