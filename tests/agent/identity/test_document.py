"""DID documents: what a history says, in the words of DID Core, and not more exactly than it may be known."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.did import did_of
from agent.identity.document import device_document, gateway_document, practice_document
from agent.identity.errors import DidError, HistoryError
from agent.identity.subject import COARSE_GRID, Location, rounded
from hil_tests import identity_cases as made

_, STATE = made.rotated()


def shown(document: object) -> Any:
    return json.loads(json.dumps(document))


def test_a_gateways_document_has_its_key_its_people_its_place_and_its_ratings() -> None:
    document = shown(gateway_document(STATE))
    assert document["id"] == STATE.gateway_id
    assert document["controller"] == [did_of(made.OWNER.public_key_der), did_of(made.OPERATOR.public_key_der)]
    (method,) = document["verificationMethod"]
    assert method["id"] == f"{STATE.gateway_id}#key-2"
    assert (method["publicKeyJwk"]["kty"], method["publicKeyJwk"]["crv"]) == ("EC", "P-256")
    assert document["assertionMethod"] == [method["id"]]
    facts = document["v2gGateway"]
    assert facts["operator"]["name"] == "Grid Operator Ltd"
    assert facts["location"] == {"latitude": 52.52, "longitude": -13.41, "gridDegrees": 0.01}
    assert facts["ratings"] == [
        {"name": "export", "value": 30_000, "unit": "W", "certificate": "Body 1, no. 4711"},
    ]
    assert facts["history"] == {"entries": 2, "head": STATE.head.hex()}


def test_a_devices_document_has_its_gateway_serial_number_certificate_and_meter_key() -> None:
    document = shown(device_document(STATE, "charger-1"))
    assert document["id"] == f"{STATE.gateway_id}:charger-1"
    assert document["controller"] == [STATE.gateway_id]
    assert document["verificationMethod"][0]["publicKeyJwk"]["crv"] == "P-256"
    assert document["v2gDevice"] == {
        "gateway": STATE.gateway_id,
        "deviceId": "charger-1",
        "serialNumber": "SN-0001",
        "chargerCertificateSha256": bytes(range(32)).hex(),
        "meterKey": made.DEVICE.public_key_der.hex(),
        "ratings": [{"name": "discharge", "value": 11_000, "unit": "W", "certificate": "Body 2, no. 12"}],
    }


def test_a_device_without_a_key_has_no_verification_method() -> None:
    document = shown(device_document(STATE, "meter-1"))
    assert "verificationMethod" not in document
    assert document["v2gDevice"]["serialNumber"] is None


def test_a_device_that_the_history_does_not_list_has_no_document() -> None:
    with pytest.raises(HistoryError, match="charger-1, meter-1 are"):
        device_document(STATE, "battery-1")


def test_a_practice_gateway_has_a_document_of_its_key_alone() -> None:
    did = did_of(made.OPERATOR.public_key_der)
    document = shown(practice_document(did))
    assert document["verificationMethod"][0]["publicKeyJwk"]["crv"] == "Ed25519"
    assert "controller" not in document
    with pytest.raises(DidError):
        practice_document("did:key:zNone")


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_a_place_is_rounded_to_its_grid_and_by_no_more_than_half_of_it(latitude: float, longitude: float) -> None:
    place = rounded(f"{latitude:.9f},{longitude:.9f}")
    assert place.latitude % COARSE_GRID == place.longitude % COARSE_GRID == 0
    assert abs(place.latitude - latitude * 1e6) <= COARSE_GRID / 2 + 1
    assert abs(place.longitude - longitude * 1e6) <= COARSE_GRID / 2 + 1


def test_half_way_a_place_goes_to_the_even_point() -> None:
    assert rounded("0.005,0.015") == Location(0, 20_000, 10_000)


@pytest.mark.parametrize("text", ["", "52.5", "52.5,13.4,1", "north,13", "nan,0", "inf,0", "1e999,0", "91,0", "0,181"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="location"):
        rounded(text)
