"""What the OCPP tests share: a charging station built on the `ocpp` package, and a site with our CSMS."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import Any, TypeVar, cast

import pytest
from ocpp.routing import on
from ocpp.v201 import ChargePoint, call, call_result
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from drivers.device import DeadMan, LinkState, Sample, Setpoint
from drivers.ocpp import ChargerSettings, OcppServer

Tls = tuple[SSLContext, Path]
"""What a CSMS on loopback shows, and the authority that chargers trust."""
SUBPROTOCOL = Subprotocol("ocpp2.0.1")
SHARE_W = 4_200
V2G = ChargerSettings(
    device_id="car-1",
    charger_id="CP-1",
    password="secret-1",
    discharge="negative_limit",
    local_tokens=("RFID-1",),
    fallback_import_w=SHARE_W,
    rated_import_w=11_000,
    rated_export_w=10_000,
)
PLAIN = ChargerSettings(device_id="car-2", charger_id="CP-2", password="secret-2", rated_import_w=11_000)


class MemoryJournal:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def remember(self, key: str, value: bytes) -> None:
        self.kept[key] = value

    async def recall(self, key: str) -> bytes | None:
        return self.kept.get(key)


_F = TypeVar("_F", bound=Callable[..., object])


def answers(action: str) -> Callable[[_F], _F]:
    """The package's decorator, with the type that it lacks."""
    return cast("Callable[[_F], _F]", on(action))


class Station(ChargePoint):  # type: ignore[misc]  # the package has no type information
    """A charging station with profiles like a real one's: by id, by stack level, ended by their duration."""

    def __init__(self, identity: str, socket: ClientConnection) -> None:
        super().__init__(identity, socket, response_timeout=5)
        self.variables: dict[str, str] = {}
        self.profiles: dict[int, dict[str, Any]] = {}
        self.cleared: list[int] = []
        self.triggered: list[str] = []
        self.started: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.transaction_runs = False
        self.lies: float | None = None
        self.measures_when_asked = True

    def held(self) -> list[tuple[int, float]]:
        """Limits as (seconds from now, W)."""
        now = datetime.now(UTC)

        def ends_s(profile: dict[str, Any]) -> float:
            schedule = profile["charging_schedule"][0]
            if "duration" not in schedule:
                return float("inf")
            start = datetime.fromisoformat(schedule["start_schedule"])
            return (start + timedelta(seconds=schedule["duration"]) - now).total_seconds()

        steps: list[tuple[int, float]] = []
        moments = {0.0, *(end for p in self.profiles.values() if 0 < (end := ends_s(p)) < float("inf"))}
        for moment in sorted(moments):
            running = [p for p in self.profiles.values() if ends_s(p) > moment]
            best = max(running, key=lambda p: (p["charging_profile_purpose"] == "TxProfile", p["stack_level"]))
            limit = best["charging_schedule"][0]["charging_schedule_period"][0]["limit"]
            steps.append((round(moment + 0.5), limit) if moment else (0, limit))
        return steps

    @answers("SetChargingProfile")
    def set_charging_profile(self, evse_id: int, charging_profile: dict[str, Any], **_: Any) -> Any:
        self.profiles[charging_profile["id"]] = charging_profile
        return call_result.SetChargingProfile(status="Accepted")

    @answers("ClearChargingProfile")
    def clear_charging_profile(self, charging_profile_id: int, **_: Any) -> Any:
        self.cleared.append(charging_profile_id)
        known = self.profiles.pop(charging_profile_id, None) is not None
        return call_result.ClearChargingProfile(status="Accepted" if known else "Unknown")

    @answers("GetCompositeSchedule")
    def get_composite_schedule(self, duration: int, evse_id: int, **_: Any) -> Any:
        held = self.held() if self.lies is None else [(0, self.lies)]
        return call_result.GetCompositeSchedule(
            status="Accepted",
            schedule={
                "evseId": evse_id,
                "duration": duration,
                "scheduleStart": datetime.now(UTC).isoformat(),
                "chargingRateUnit": "W",
                "chargingSchedulePeriod": [{"startPeriod": start, "limit": limit} for start, limit in held],
            },
        )

    @answers("SetVariables")
    def set_variables(self, set_variable_data: list[dict[str, Any]], **_: Any) -> Any:
        for one in set_variable_data:
            self.variables[one["variable"]["name"]] = one["attribute_value"]
        return call_result.SetVariables(
            set_variable_result=[
                {"attributeStatus": "Accepted", "component": one["component"], "variable": one["variable"]}
                for one in set_variable_data
            ]
        )

    @answers("GetVariables")
    def get_variables(self, get_variable_data: list[dict[str, Any]], **_: Any) -> Any:
        return call_result.GetVariables(
            get_variable_result=[
                {
                    "attributeStatus": "Accepted",
                    "attributeValue": "A,W",
                    "component": one["component"],
                    "variable": one["variable"],
                }
                for one in get_variable_data
            ]
        )

    @answers("TriggerMessage")
    def trigger_message(self, requested_message: str, **_: Any) -> Any:
        self.triggered.append(requested_message)
        if requested_message == "MeterValues" and self.measures_when_asked:
            self.background = asyncio.create_task(self.send_meter_values())
            return call_result.TriggerMessage(status="Accepted")
        return call_result.TriggerMessage(status="Rejected")

    @answers("GetTransactionStatus")
    def get_transaction_status(self, **_: Any) -> Any:
        return call_result.GetTransactionStatus(messages_in_queue=False, ongoing_indicator=self.transaction_runs)

    @answers("RequestStartTransaction")
    def request_start(self, **request: Any) -> Any:
        self.started.append(request)
        return call_result.RequestStartTransaction(status="Accepted")

    @answers("RequestStopTransaction")
    def request_stop(self, transaction_id: str, **_: Any) -> Any:
        self.stopped.append(transaction_id)
        return call_result.RequestStopTransaction(status="Accepted")

    async def boot(self) -> Any:
        return await self.call(
            call.BootNotification(
                charging_station={"vendor_name": "Test", "model": "Bidi", "serial_number": "S1"}, reason="PowerUp"
            )
        )

    async def send_meter_values(self) -> None:
        await self.call(call.MeterValues(evse_id=1, meter_value=[meter_value(0, 12_345.678)]), suppress=False)

    async def transaction_event(self, kind: str, number: int, **more: Any) -> Any:
        return await self.call(
            call.TransactionEvent(
                event_type=kind,
                timestamp=more.pop("timestamp", stamp()),
                trigger_reason="MeterValuePeriodic",
                seq_no=number,
                transaction_info={"transaction_id": more.pop("transaction_id", "T1"), "charging_state": "Charging"},
                evse={"id": 1, "connector_id": 1},
                **more,
            ),
            suppress=False,
        )


def stamp(seconds_ago: float = 0.0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()


def meter_value(watts: float, wh: float, *, soc: float | None = None, timestamp: str | None = None) -> dict[str, Any]:
    sampled: list[dict[str, Any]] = [
        {"value": max(0.0, watts), "measurand": "Power.Active.Import", "unitOfMeasure": {"unit": "W"}},
        {"value": max(0.0, -watts), "measurand": "Power.Active.Export", "unitOfMeasure": {"unit": "W"}},
        {"value": wh / 1000, "measurand": "Energy.Active.Import.Register", "unitOfMeasure": {"unit": "kWh"}},
        {"value": 50.0, "measurand": "Energy.Active.Export.Register", "unitOfMeasure": {"unit": "Wh"}},
    ]
    if soc is not None:
        sampled.append({"value": soc, "measurand": "SoC", "unitOfMeasure": {"unit": "Percent"}})
    return {"timestamp": timestamp or stamp(), "sampledValue": sampled}


async def until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Wait for a condition; says what did not come."""
    give_up_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_s:
            pytest.fail(f"waited {seconds} s for: {what}")
        await asyncio.sleep(0.01)


class Site:
    """A server, what it emitted, and chargers to connect to it. `tls`: as of the fixture `loopback_tls`."""

    def __init__(self, journal: MemoryJournal, tls: Tls, *, meter_interval_s: int = 60) -> None:
        self.client_tls = create_default_context(cafile=tls[1])
        self.events: list[tuple[str, str, str]] = []
        self.samples: list[Sample] = []
        self.server = OcppServer(
            "127.0.0.1",
            0,
            [V2G, PLAIN],
            heartbeat_s=300,
            meter_interval_s=meter_interval_s,
            call_timeout_s=5.0,
            monotonic_s=time.monotonic,
            wall_us=lambda: time.time_ns() // 1000,
            journal=journal,
            on_event=lambda *event: self.events.append(event),
            ssl=tls[0],
        )

    def codes(self) -> list[str]:
        return [code for code, _, _ in self.events]

    def link(self, device_id: str = "car-1") -> LinkState:
        return self.server.devices[device_id].status().link

    def dead_man(self) -> DeadMan | None:
        capabilities = self.server.devices["car-1"].status().capabilities
        return None if capabilities is None else capabilities.dead_man

    def open(
        self, identity: str = "CP-1", password: str = "secret-1", subprotocols: list[Subprotocol] | None = None
    ) -> connect:
        credentials = base64.b64encode(f"{identity}:{password}".encode()).decode()
        return connect(
            f"wss://127.0.0.1:{self.server.port}/ocpp/{identity}",
            ssl=self.client_tls,
            subprotocols=[SUBPROTOCOL] if subprotocols is None else subprotocols or None,
            additional_headers={"Authorization": f"Basic {credentials}"},
            open_timeout=10,
            close_timeout=1,
            proxy=None,
        )

    @asynccontextmanager
    async def station(self, identity: str = "CP-1", password: str = "secret-1") -> AsyncIterator[Station]:
        async with self.open(identity, password) as socket:
            station = Station(identity, socket)
            listening = asyncio.create_task(station.start())
            try:
                yield station
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)


@asynccontextmanager
async def running(site: Site) -> AsyncIterator[Site]:
    async with site.server:
        tasks = [asyncio.create_task(device.run(site.samples.append)) for device in site.server.devices.values()]
        try:
            yield site
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def band(lowest_w: int | None, highest_w: int | None, lease_s: float = 60.0) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason="test")


async def ready(site: Site, station: Station) -> None:
    """Booted and provisioned."""
    await station.boot()
    await until(lambda: "TransactionEvent" in station.triggered, "the end of provisioning")
