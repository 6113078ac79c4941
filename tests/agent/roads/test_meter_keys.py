"""The registry of meters' keys: the file that the installer wrote, held to the fingerprint that he wrote."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from agent.cli.preflight import missing_parts
from agent.config import DeviceSettings, Settings
from agent.roads.devices import metrology_settings
from agent.roads.meter_keys import registered_key
from drivers.ocmf.errors import MeterKeyError
from drivers.ocmf.keys import key_from_der
from tests.drivers.ocmf.meters import Meter

METER = Meter("brainpool256r1")
KEY = key_from_der(METER.der)


def device(path: Path, **more: object) -> DeviceSettings:
    plain = {"id": "car-1", "kind": "charger", "driver": "ocpp", "charger_id": "CS-1", "meter_key_file": path}
    return DeviceSettings.model_validate({**plain, **more})


@pytest.mark.parametrize(
    "content",
    [
        METER.pem.encode(),
        METER.der,
        METER.der.hex().upper().encode() + b"\n",
        base64.b64encode(METER.der),
        b"\xef\xbb\xbf" + METER.raw.hex().encode(),
    ],
    ids=["PEM", "DER", "hex", "base64", "bare coordinates behind a byte order mark"],
)
def test_a_key_file_may_be_what_the_maker_gave(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meter.key"
    path.write_bytes(content)
    assert registered_key(device(path)) == KEY
    assert registered_key(device(path, meter_key_sha256=KEY.fingerprint.hex().upper())) == KEY


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no key", Meter("secp256r1").pem.encode()])
def test_what_is_not_the_key_of_the_fingerprint_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meter.key"
    path.write_bytes(content)
    with pytest.raises(MeterKeyError) as refused:
        registered_key(device(path, meter_key_sha256=KEY.fingerprint.hex()))
    assert str(path) in str(refused.value)


def test_config_check_and_attestation_know_the_key(tmp_path: Path) -> None:
    path = tmp_path / "meter.key"
    settings = Settings.model_validate({"token": {"label": "t"}, "device": [device(path).model_dump()]})
    assert any("meter_key_file" in said and "nothing that its meter signs" in said for said in missing_parts(settings))
    path.write_text(METER.pem)
    assert not any("meter_key_file" in said for said in missing_parts(settings))
    assert KEY.fingerprint.hex() in str(metrology_settings(settings))
    path.write_text(Meter("secp256r1").pem)
    assert KEY.fingerprint.hex() not in str(metrology_settings(settings))


def test_without_a_key_file_there_is_no_key() -> None:
    plain = {"id": "car-1", "kind": "charger", "driver": "ocpp", "charger_id": "CS-1"}
    assert registered_key(DeviceSettings.model_validate(plain)) is None
