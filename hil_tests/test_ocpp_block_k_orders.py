"""OCPP 2.0.1 and 2.1 K01, K10 over TLS: of two orders under way the newer rules, and none outlasts its own lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drivers.device import DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp import ChargerSettings
from drivers.ocpp import charger as charger_module
from drivers.ocpp import rpc as rpc_module
from drivers.ocpp.evse import OcppEvse
from hil_tests.ocpp_raw import RawCharger, Silence, TlsSite
from hil_tests.ocpp_station import until
from hil_tests.v2g_parts import band

SETTINGS = [
    ChargerSettings(
        device_id="car-1", charger_id="CP-1", password="secret-1", fallback_import_w=4_200, rated_import_w=11_000
    )
]


@pytest.fixture
async def site(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TlsSite]:
    monkeypatch.setattr(rpc_module, "URGENT_PATIENCE_S", 0.2)
    monkeypatch.setattr(charger_module, "SILENT_START_S", 0.05)
    async with TlsSite(tmp_path, SETTINGS, version=version, options={"call_timeout_s": 2.0}).running() as site:
        yield site


def limits(charger: RawCharger) -> list[tuple[float, float]]:
    """What it was told, in order: watts, and for how many seconds."""
    schedules = [call["chargingProfile"]["chargingSchedule"][0] for call in charger.calls("SetChargingProfile")]
    return [(each["chargingSchedulePeriod"][0]["limit"], each["duration"]) for each in schedules if "duration" in each]


async def ready(charger: RawCharger, site: TlsSite) -> OcppEvse:
    await charger.ready()
    evse = site.server.devices["car-1"]
    assert isinstance(evse, OcppEvse)
    await until(lambda: evse.status().capabilities is not None, "the charger is provisioned")
    return evse


async def busy_line(charger: RawCharger, site: TlsSite) -> asyncio.Task[object]:
    """Something is under way that the charger does not answer."""
    before = len(charger.calls("GetLog"))
    charger.answers["GetLog"] = Silence()
    report = asyncio.create_task(site.order("log", url="https://192.0.2.1/up"))
    await charger.hear("GetLog", before + 1)
    return asyncio.ensure_future(asyncio.gather(report, return_exceptions=True))


async def test_k01_a_raise_that_waits_in_the_line_does_not_come_after_the_stop_that_overtook_it(site: TlsSite) -> None:
    async with site.charger() as charger:
        evse = await ready(charger, site)
        await evse.apply(band(0, 3_000))
        report = await busy_line(charger, site)
        raising = asyncio.create_task(evse.apply(band(0, 7_000)))
        await asyncio.sleep(0)  # it is asked for and waits
        await evse.apply(band(0, 0))
        with pytest.raises(DeviceRefusedError, match="a newer order overtook this one"):
            await raising
        await evse.apply(band(0, 0))  # what was still to come after the stop has come when this is done
        await report
        assert [limit for limit, _ in limits(charger)] == [3_000, 0, 0]


async def test_k10_a_release_that_waits_in_the_line_does_not_clear_the_stop_that_overtook_it(site: TlsSite) -> None:
    async with site.charger() as charger:
        evse = await ready(charger, site)
        await evse.apply(band(0, 3_000))
        report = await busy_line(charger, site)
        releasing = asyncio.create_task(evse.release())
        await asyncio.sleep(0)  # it is asked for and waits
        await evse.apply(band(0, 0))
        with pytest.raises(DeviceRefusedError, match="a newer order overtook this one"):
            await releasing
        await evse.apply(band(0, 0))
        await report
        assert charger.calls("ClearChargingProfile") == []
        held = evse.status().setpoint
        assert held is not None
        assert held.highest_w == 0


async def test_k01_after_a_reconnect_an_order_is_told_again_for_no_longer_than_its_own_lease(site: TlsSite) -> None:
    async with site.charger() as charger:
        evse = await ready(charger, site)
        await evse.apply(band(0, 7_000, 600))
        charger.answers["SetChargingProfile"] = Silence()
        with pytest.raises(DeviceUnreachableError):
            await evse.apply(band(0, 3_000, 20))
    async with site.charger() as charger:
        await charger.ask("Heartbeat", {})
        await until(lambda: limits(charger), "the order is told again")
    [(limit_w, duration_s)] = limits(charger)
    assert limit_w == 3_000
    # What is given to the charger's clock, and what the composite schedule is seen to end at, are within it too.
    assert duration_s <= 20 + 5
