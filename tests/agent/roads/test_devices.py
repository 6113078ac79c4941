"""What the configuration says of a device, for measuring, settling and attestation."""

from __future__ import annotations

from pathlib import Path

from agent.config import Settings
from agent.roads.devices import channel_terms, metered, metrology_settings
from firmware_attest.measurement import measure_settings


def settings(**changes: object) -> Settings:
    device = {
        "id": "pv-1",
        "kind": "pv",
        "driver": "sunspec",
        "address": "tcp://inverter:502",
        "settled": True,
        "rated_export_w": 8_000,
        "period_s": 2.0,
    }
    return Settings.model_validate({"token": {"label": "t"}, "device": [device], **changes})


def test_measuring_knows_the_ratings_and_the_period() -> None:
    device = metered(settings().device[0])
    assert (device.device_id, device.rated_import_w, device.rated_export_w, device.period_s) == (
        "pv-1",
        None,
        8_000,
        2.0,
    )


def test_other_terms_are_another_channel() -> None:
    agreed = settings(settlement={"contract": "0x" + "11" * 20, "chain_id": 5})
    terms = channel_terms(agreed, "did:key:zExample", "pv-1")
    assert (terms.contract, terms.chain_id, len(terms.agreement_hash)) == (b"\x11" * 20, 5, 32)
    assert terms.channel_id != channel_terms(settings(), "did:key:zExample", "pv-1").channel_id
    assert terms.channel_id != channel_terms(agreed, "did:key:zAnother", "pv-1").channel_id


def test_attestation_notices_what_bears_on_metering_and_nothing_else() -> None:
    measured = measure_settings(metrology_settings(settings()))
    assert (
        measure_settings(metrology_settings(settings(gateway={"name": "another"}, web={"listen": "[::1]:1"})))
        == measured
    )
    assert measure_settings(metrology_settings(settings(settlement={"window_s": 300}))) != measured
    assert measure_settings(metrology_settings(settings(token={"label": "another"}))) != measured


def test_what_a_register_map_says_bears_on_what_is_measured_and_not_only_its_name(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    meter = {"id": "m", "kind": "meter", "driver": "modbus", "address": "tcp://192.0.2.1", "map": str(file)}
    seen = [measure_settings(metrology_settings(settings(device=[meter])))]
    for scale in (1, 2):
        point = f'[points.power]\naddress = 1\ntype = "int16"\nunit = "W"\nscale = {scale}\npositive = "import"\n'
        file.write_text(f'title = "T"\nsource = "S"\nkinds = ["meter"]\n{point}')
        seen.append(measure_settings(metrology_settings(settings(device=[meter]))))
    assert len(set(seen)) == 3
