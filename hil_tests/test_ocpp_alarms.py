"""What goes wrong at one EVSE of a charger is told of that EVSE: faults, their ends, and alerts of monitors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from drivers.ocpp import ChargerSettings
from drivers.ocpp.reports import MOST_ALERTS
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, TlsSite
from hil_tests.ocpp_station import stamp
from hil_tests.ocpp_suite import charger as charger

SETTINGS = [
    ChargerSettings(device_id="left", charger_id="CP-1", password="secret-1", evse_id=1),
    ChargerSettings(device_id="right", charger_id="CP-1", password="secret-1", evse_id=2),
]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, SETTINGS).running() as site:
        yield site


def alert(number: int, value: str, *, evse: int = 0, component: str = "EVSE", **more: Any) -> Payload:
    named: Payload = {"name": component} | ({"evse": {"id": evse, "connectorId": 1}} if evse else {})
    return {
        "eventId": number,
        "timestamp": stamp(),
        "trigger": "Alerting",
        "actualValue": value,
        "eventNotificationType": "HardWiredMonitor",
        "component": named,
        "variable": {"name": more.pop("variable", "Temperature")},
        **more,
    }


async def tell(charger: RawCharger, *events: Payload) -> None:
    message = {"generatedAt": stamp(), "seqNo": 0, "eventData": list(events)}
    assert await charger.ask("NotifyEvent", message) == {}


async def status(charger: RawCharger, evse: int, word: str) -> None:
    told = {"timestamp": stamp(), "connectorStatus": word, "evseId": evse, "connectorId": 1}
    assert await charger.ask("StatusNotification", told) == {}


async def test_g01_a_fault_and_its_end_are_told_of_the_evse_that_has_it(charger: RawCharger, site: TlsSite) -> None:
    await status(charger, 2, "Faulted")
    await status(charger, 2, "Faulted")
    await status(charger, 1, "Available")
    await status(charger, 2, "Available")
    assert [event[:2] for event in site.events] == [("charger.faulted", "right"), ("charger.fault_ended", "right")]
    assert "Faulted" not in site.server.devices["right"].status().detail


async def test_g01_a_charger_that_tells_it_by_a_variable_is_understood(charger: RawCharger, site: TlsSite) -> None:
    event: Payload = {"component": "Connector", "variable": "AvailabilityState", "trigger": "Delta", "evse": 2}
    await tell(charger, alert(1, "Faulted", **event))
    assert [event[:2] for event in site.events] == [("charger.faulted", "right")]
    assert "Faulted" in site.server.devices["right"].status().detail
    await tell(charger, alert(2, "Broken by a maker's own word", **event))
    await tell(charger, alert(3, "Available", **event))
    assert [event[:2] for event in site.events][1:] == [("charger.fault_ended", "right")]


async def test_n07_an_alert_is_told_of_its_evse_and_so_is_its_end(charger: RawCharger, site: TlsSite) -> None:
    await tell(charger, alert(1, "81", evse=1, techInfo="hot"), alert(2, "tilted", component="TiltSensor"))
    await tell(charger, alert(3, "40", evse=1, cleared=True), alert(4, "7", evse=9))
    assert [event[:2] for event in site.events] == [
        ("charger.event", "left"),
        ("charger.event", "CP-1"),
        ("charger.event_cleared", "left"),
        ("charger.event", "CP-1"),  # of an EVSE that nobody configured
    ]
    assert "'EVSE#1.1/Temperature' is '81' 'hot'" in site.events[0][2]


async def test_n07_what_is_no_alert_is_kept_and_told_to_nobody(charger: RawCharger, site: TlsSite) -> None:
    await tell(charger, alert(1, "20", evse=1, trigger="Periodic"))
    assert site.events == []
    assert "EVSE#1.1/Temperature" in str(site.server.chargers["CP-1"].desk.look()["events"])


async def test_n07_a_flood_of_alerts_is_bounded_and_says_how_many_were_left_out(
    charger: RawCharger, site: TlsSite
) -> None:
    await tell(charger, *(alert(n, str(n), evse=1) for n in range(MOST_ALERTS + 5)))
    assert len(site.events) == MOST_ALERTS + 1
    assert "5 more alerts" in site.events[-1][2]
    for _ in range(5):
        await tell(charger, *(alert(n, str(n), evse=1) for n in range(MOST_ALERTS)))
    assert "charger.flood" in site.codes()
    assert len(site.events) < 60


async def test_n07_an_event_without_a_variable_is_a_call_error(charger: RawCharger, site: TlsSite) -> None:
    broken = alert(1, "81", evse=1)
    del broken["variable"]
    with pytest.raises(AnsweredError):
        await tell(charger, broken)
    assert site.codes() == ["charger.bad_frame"]
