"""The CSMS over real WebSockets with TLS, case by case, with the `ocpp` package's charging station as the peer."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from ocpp.v201 import call
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from drivers.device import (
    DeadMan,
    DeviceRefusedError,
    DeviceUnreachableError,
    LinkState,
    SampleFlag,
    ValueSource,
)
from drivers.ocpp import charger as charger_module
from drivers.ocpp import server as server_module
from hil_tests.ocpp_station import SHARE_W, MemoryJournal, Site, Tls, band, meter_value, ready, running, stamp, until


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
async def site(journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch, loopback_tls: Tls) -> AsyncIterator[Site]:
    monkeypatch.setattr(server_module, "REFUSAL_DELAY_S", 0.05)
    monkeypatch.setattr(charger_module, "PING_TIMEOUT_S", 0.3)
    async with running(Site(journal, loopback_tls)) as site:
        yield site


# B: provisioning


async def test_b01_a_booted_charger_is_accepted_set_up_and_has_a_dead_man(site: Site) -> None:
    assert site.link() is LinkState.STARTING
    async with site.station() as station:
        answer = await station.boot()
        assert answer.status == "Accepted"
        assert answer.interval == 300
        assert abs(datetime.fromisoformat(answer.current_time) - datetime.now(UTC)) < timedelta(seconds=5)
        await until(lambda: "TransactionEvent" in station.triggered, "the end of provisioning")
        assert site.link() is LinkState.ONLINE
        assert site.dead_man() is DeadMan.REVERTS_TO_FALLBACK
        assert station.held() == [(0, SHARE_W)]
        assert station.variables["TxUpdatedInterval"] == "60"
        assert "Bidi" in site.server.devices["car-1"].status().detail
    await until(lambda: site.link() is LinkState.SILENT, "the charger to be missed")
    with pytest.raises(DeviceUnreachableError):
        await site.server.devices["car-1"].apply(band(0, 7_000))


async def test_b_a_charger_that_reconnects_without_boot_is_set_up_again(site: Site) -> None:
    async with site.station() as station:
        await ready(site, station)
        await site.server.devices["car-1"].apply(band(0, 7_000))
    async with site.station() as station:
        await station.call(call.Heartbeat())
        await until(lambda: len(station.profiles) == 2, "static share and what was ordered, again")
        assert station.held()[0] == (0, 7_000)
        assert station.held()[-1][1] == SHARE_W


# A: security


@pytest.mark.parametrize(("identity", "password"), [("CP-1", "wrong"), ("CP-9", "secret-1"), ("CP-2", "secret-1")])
async def test_a_wrong_credentials_are_turned_away_and_said(site: Site, identity: str, password: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await site.open(identity, password)
    assert refused.value.response.status_code == 401
    assert site.codes() == ["charger.refused"]
    if identity == "CP-1":
        assert site.link() is LinkState.FAULT
        async with site.station():
            await until(lambda: site.link() is LinkState.ONLINE, "the right password to do")


@pytest.mark.parametrize("offered", [[], [Subprotocol("ocpp1.6")]])
async def test_without_a_common_subprotocol_the_socket_is_closed(site: Site, offered: list[Subprotocol]) -> None:
    async with site.open(subprotocols=offered) as socket:
        assert socket.subprotocol is None
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [
        (["ocpp2.0.1", "ocpp2.1"], "ocpp2.1"),
        (["ocpp1.6", "ocpp2.1"], "ocpp2.1"),
        (["ocpp1.6", "ocpp2.0.1"], "ocpp2.0.1"),
    ],
)
async def test_the_newest_common_subprotocol_is_agreed_upon(site: Site, offered: list[str], agreed: str) -> None:
    async with site.open(subprotocols=[Subprotocol(name) for name in offered]) as socket:
        assert socket.subprotocol == agreed
        await socket.send('[2,"1","PullDynamicScheduleUpdate",{"chargingProfileId":1}]')
        answer = json.loads(await socket.recv())
        # An action of 2.1 only: known there, whether it is taken or not, and unknown to 2.0.1.
        assert (answer[:3] == [4, "1", "NotImplemented"]) is (agreed == "ocpp2.0.1")


async def test_a_second_socket_is_turned_away_while_the_first_answers(site: Site) -> None:
    async with site.station() as station:
        await station.boot()
        with pytest.raises(InvalidStatus) as refused:
            await site.open()
        assert refused.value.response.status_code == 409
        assert "charger.second_socket" in site.codes()
        assert (await station.call(call.Heartbeat())).current_time


async def test_a_second_socket_replaces_a_first_that_is_dead(site: Site) -> None:
    dead = await site.open()
    dead.transport.pause_reading()  # half open: nobody reads, so nobody answers the ping
    try:
        async with site.station() as station:
            assert (await station.boot()).status == "Accepted"
            assert site.link() is LinkState.ONLINE
    finally:
        dead.transport.abort()


# C, E, J: authorisation, transactions, meter values


async def test_c01_and_e_a_transaction_becomes_samples_and_a_vehicle(site: Site) -> None:
    device = site.server.devices["car-1"]
    token = {"id_token": "RFID-1", "type": "ISO14443"}
    async with site.station() as station:
        await ready(site, station)
        stranger = await station.call(call.Authorize(id_token={"id_token": "X", "type": "ISO14443"}))
        assert stranger.id_token_info["status"] == "Unknown"
        assert (await station.call(call.Authorize(id_token=token))).id_token_info["status"] == "Accepted"
        await station.transaction_event("Started", 0, id_token=token, meter_value=[meter_value(0, 1000, soc=70)])
        await station.transaction_event("Updated", 1, meter_value=[meter_value(-5_000, 1000.5, soc=69)])
        vehicle = device.status().vehicle
        assert vehicle is not None
        assert (vehicle.transaction_id, vehicle.token_id, vehicle.state_of_charge_permille) == ("T1", "RFID-1", 690)
        sample = site.samples[-1]
        assert (sample.power_w, sample.import_register_milliwatt_hours) == (-5_000, 1_000_500)
        assert sample.export_register_milliwatt_hours == 50_000
        assert sample.source is ValueSource.AUTHENTICATED_LINK
        assert abs(sample.monotonic_s - time.monotonic()) < 5
        await station.transaction_event("Ended", 2, meter_value=[meter_value(0, 1000.5)])
        assert device.status().vehicle is None


async def test_e04_queued_events_come_as_such_and_count_once(site: Site) -> None:
    async with site.station() as station:
        await ready(site, station)
        then = stamp(600)
        for _ in range(2):  # the answer to the first was lost
            await station.transaction_event(
                "Updated", 5, timestamp=then, offline=True, meter_value=[meter_value(7_000, 500, timestamp=then)]
            )
        assert len(site.samples) == 1
        assert site.samples[0].flags == SampleFlag.QUEUED | SampleFlag.DEVICE_TIME
        assert 595 < time.monotonic() - site.samples[0].monotonic_s < 630


async def test_e_a_running_transaction_is_known_after_a_restart_of_the_gateway(
    site: Site, journal: MemoryJournal, loopback_tls: Tls
) -> None:
    async with site.station() as station:
        await ready(site, station)
        await station.transaction_event("Started", 0, id_token={"id_token": "rfid-1", "type": "ISO14443"})
    async with running(Site(journal, loopback_tls)) as restarted:
        vehicle = restarted.server.devices["car-1"].status().vehicle
        assert vehicle is not None
        assert vehicle.token_id == "RFID-1"
        async with restarted.station() as station:
            station.transaction_runs = False  # it ended while nobody listened
            await station.call(call.Heartbeat())
            await until(
                lambda: restarted.server.devices["car-1"].status().vehicle is None, "the transaction to be asked for"
            )


async def test_j_an_idle_charger_is_asked_for_its_values(journal: MemoryJournal, loopback_tls: Tls) -> None:
    async with running(Site(journal, loopback_tls, meter_interval_s=1)) as site, site.station() as station:
        await ready(site, station)
        await until(lambda: len(site.samples) >= 2, "samples of an idle charger")
        assert site.samples[-1].power_w == 0
        assert site.samples[-1].import_register_milliwatt_hours == 12_345_678
        assert site.samples[-1].flags == SampleFlag.NONE


async def test_j_an_idle_charger_without_values_has_its_registers_carried_forward(
    journal: MemoryJournal, loopback_tls: Tls
) -> None:
    async with running(Site(journal, loopback_tls, meter_interval_s=1)) as site, site.station() as station:
        station.measures_when_asked = False
        await ready(site, station)
        await station.transaction_event("Started", 0)
        await station.transaction_event("Ended", 1, meter_value=[meter_value(0, 1_000)])
        await until(lambda: len(site.samples) >= 2, "an estimated sample")
        assert site.samples[-1].import_register_milliwatt_hours == 1_000_000
        assert site.samples[-1].flags == SampleFlag.ESTIMATED


# F: remote control


async def test_f01_and_f03_remote_start_and_stop(site: Site) -> None:
    async with site.station() as station:
        await ready(site, station)
        await site.server.remote_start("car-1", "APP-USER")
        assert station.started[0]["id_token"]["id_token"] == "APP-USER"
        token = {"id_token": "APP-USER", "type": "Central"}
        answer = await station.transaction_event("Started", 0, id_token=token)
        assert answer.id_token_info["status"] == "Accepted"
        await site.server.remote_stop("car-1")
        assert station.stopped == ["T1"]
        await station.transaction_event("Ended", 1)
        with pytest.raises(DeviceRefusedError):
            await site.server.remote_stop("car-1")
        with pytest.raises(DeviceRefusedError):
            await site.server.remote_start("car-1", "x" * 37)


# K: smart charging


async def test_k01_a_band_becomes_a_profile_that_ends_with_its_lease(site: Site) -> None:
    device = site.server.devices["car-1"]
    async with site.station() as station:
        await ready(site, station)
        station.transaction_runs = True
        await station.transaction_event("Started", 0)
        setpoint = band(-5_000, -5_000, lease_s=60)
        await device.apply(setpoint)
        assert device.status().setpoint == setpoint
        profile = station.profiles[13]
        assert profile["charging_profile_purpose"] == "TxProfile"
        assert profile["transaction_id"] == "T1"
        (now, now_w), (after, after_w) = station.held()
        assert (now, now_w, after_w) == (0, -5_000, SHARE_W)
        assert 55 <= after <= 62
        await device.apply(band(0, 0))
        assert station.held()[0] == (0, 0)
        await device.release()
        assert station.held() == [(0, SHARE_W)]


async def test_k08_a_charger_that_accepts_and_does_not_hold_is_not_believed(site: Site) -> None:
    device = site.server.devices["car-1"]
    async with site.station() as station:
        await ready(site, station)
        await station.transaction_event("Started", 0)
        station.lies = 5_000
        with pytest.raises(DeviceRefusedError, match="composite"):
            await device.apply(band(-5_000, -5_000))
        assert device.status().setpoint is None


async def test_k_where_a_charger_ignores_durations_the_driver_ends_the_lease(site: Site) -> None:
    device = site.server.devices["car-1"]
    async with site.station() as station:
        await ready(site, station)
        station.lies = 7_000
        await device.apply(band(0, 7_000, lease_s=1.0))
        assert site.dead_man() is DeadMan.NONE
        await until(lambda: station.cleared == [13, 12], "the driver to take its profile back")


async def test_k15_the_cars_needs_reach_the_plan(site: Site) -> None:
    async with site.station() as station:
        await ready(site, station)
        await station.transaction_event("Started", 0)
        needs = {
            "requested_energy_transfer": "DC",
            "departure_time": "2030-01-01T07:00:00Z",
            "dc_charging_parameters": {
                "ev_max_current": 30,
                "ev_max_voltage": 400,
                "ev_energy_capacity": 60_000,
                "energy_amount": 20_000,
            },
        }
        answer = await station.call(call.NotifyEVChargingNeeds(evse_id=1, charging_needs=needs))
        assert answer.status == "Processing"
        vehicle = site.server.devices["car-1"].status().vehicle
        assert vehicle is not None
        assert (vehicle.battery_capacity_wh, vehicle.energy_needed_wh, vehicle.max_charge_w) == (60_000, 20_000, 12_000)
        assert vehicle.departure_timestamp_us == 1_893_481_200_000_000
