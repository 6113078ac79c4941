"""A charger that takes what fits its version's schema, for tests of what an EVSE gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from drivers.device import (
    LinkState,
    Sample,
    Setpoint,
    ValueSource,
)
from drivers.ocpp.evse import OcppEvse
from drivers.ocpp.messages import ReportChargingProfiles
from drivers.ocpp.profiles import RateUnit
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Direction, Json, JsonObject, Version, schemas
from drivers.ocpp.session import EvseSession, Transaction
from drivers.ocpp.settings import ChargerSettings

SHARE_W = 4_200
WALL_US = 1_767_225_600_000_000
CURVE = ((49_800, -6_000), (50_200, 6_000))


class Charger:
    """Takes what fits its version's schema, stacks by purpose and level, shows the period that leads."""

    def __init__(self, version: Version) -> None:
        self.now_s = 100.0
        self.rate_unit = RateUnit.WATTS
        self.version: Version | None = version
        self.calls: list[tuple[str, JsonObject, Priority]] = []
        self.notices: list[tuple[str, str]] = []
        self.profiles: dict[int, JsonObject] = {}
        self.priority = False
        self.variables: dict[str, str] = {}
        self.settable = True
        self.answers: dict[str, Callable[[JsonObject], JsonObject]] = {}
        self.fails: dict[str, Exception] = {}
        self.reports: Callable[[ReportChargingProfiles], None] = lambda report: None

    def link(self) -> tuple[LinkState, str]:
        return LinkState.ONLINE, "connected"

    def notice(self, device_id: str, code: str, text: str) -> None:
        self.notices.append((code, text))

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        assert self.version is not None
        assert schemas(self.version).violation(action, Direction.REQUEST, payload) is None
        self.calls.append((action, payload, priority))
        if action in self.fails:
            raise self.fails[action]
        if action in self.answers:
            return self.answers[action](payload)
        profile = cast(JsonObject, payload.get("chargingProfile", {}))
        match action:
            case "SetChargingProfile":
                self.profiles[cast(int, profile["id"])] = profile
            case "ClearChargingProfile":
                self.profiles.pop(cast(int, payload["chargingProfileId"]), None)
            case "GetVariables":
                return self._variables(cast(list[JsonObject], payload["getVariableData"]))
            case "SetVariables":
                (one,) = cast(list[JsonObject], payload["setVariableData"])
                result: JsonObject = {"attributeStatus": "Accepted" if self.settable else "Rejected", **one}
                return {"setVariableResult": [result]}
            case "GetCompositeSchedule":
                return self._composite(cast(int, payload["duration"]))
            case "GetChargingProfiles":
                held: list[Json] = list(self.profiles.values())
                report: Json = {
                    "requestId": payload["requestId"],
                    "chargingLimitSource": "CSO",
                    "chargingProfile": held,
                }
                self.reports(cast(ReportChargingProfiles, report))
        return {"status": "Accepted"}

    def _variables(self, asked: list[JsonObject]) -> JsonObject:
        results: list[Json] = []
        for one in asked:
            value = self.variables.get(cast(str, cast(JsonObject, one["variable"])["name"]))
            known: JsonObject = {"attributeStatus": "UnknownVariable" if value is None else "Accepted"}
            results.append({**one, **known} if value is None else {**one, **known, "attributeValue": value})
        return {"getVariableResult": results}

    def all(self, action: str) -> list[JsonObject]:
        return [payload for known, payload, _ in self.calls if known == action]

    def last_profile(self) -> JsonObject:
        return cast(JsonObject, self.all("SetChargingProfile")[-1]["chargingProfile"])

    def last_period(self) -> JsonObject:
        return period_of(self.last_profile())

    def _composite(self, duration: int) -> JsonObject:
        def rank(profile: JsonObject) -> tuple[int, int]:
            order = ("TxDefaultProfile", "TxProfile", "PriorityCharging")
            return order.index(cast(str, profile["chargingProfilePurpose"])), cast(int, profile["stackLevel"])

        ranked = sorted(self.profiles.values(), key=rank, reverse=True)
        leading = [p for p in ranked if p["chargingProfilePurpose"] != "PriorityCharging" or self.priority]
        now, share = leading[0], next(p for p in leading if p["stackLevel"] == 0)
        ends = cast(int, cast(list[JsonObject], now["chargingSchedule"])[0].get("duration", 0)) - 5
        periods: list[Json] = [period_of(now)]
        if now is not share:
            periods.append({**period_of(share), "startPeriod": ends})
        schedule: JsonObject = {
            "evseId": 1,
            "duration": duration,
            "scheduleStart": "2026-01-01T00:00:00Z",
            "chargingRateUnit": "W",
            "chargingSchedulePeriod": periods,
        }
        return {"status": "Accepted", "schedule": schedule}


def period_of(profile: JsonObject) -> JsonObject:
    schedule = cast(list[JsonObject], profile["chargingSchedule"])[0]
    return cast(list[JsonObject], schedule["chargingSchedulePeriod"])[0]


def band(lowest_w: int | None, highest_w: int | None, lease_s: float = 60.0) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason="test")


def evse_at(charger: Charger, discharge: str = "v2x") -> OcppEvse:
    settings = ChargerSettings(
        device_id="car-1",
        charger_id="CP",
        discharge=discharge,  # type: ignore[arg-type]  # a str of a parametrised test
        fallback_import_w=SHARE_W,
        rated_import_w=11_000,
        rated_export_w=10_000,
    )
    session = EvseSession(settings, meter_id="ocpp/CP/1", source=ValueSource.AUTHENTICATED_LINK)
    session.transaction = Transaction(transaction_id="T1")
    evse = OcppEvse(session, charger, monotonic_s=lambda: charger.now_s, wall_us=lambda: WALL_US)

    def reported(report: ReportChargingProfiles) -> None:
        session.smart.reported(report)
        evse.profiles_reported()

    charger.reports = reported
    return evse


@pytest.fixture
def charger() -> Charger:
    return Charger(Version.V21)


@pytest.fixture
async def evse(charger: Charger) -> OcppEvse:
    evse = evse_at(charger)
    await evse.install_static_share()
    charger.calls.clear()
    return evse


def export_w(evse: OcppEvse) -> int:
    capabilities = evse.status().capabilities
    assert capabilities is not None
    return capabilities.rated_export_w


async def lives(evse: OcppEvse, charger: Charger, power_w: int | None, seconds: int) -> None:
    """Time passes; each second a sample and the driver's own look."""
    for _ in range(seconds):
        charger.now_s += 1.0
        if power_w is not None:
            evse.take(Sample(device_id="car-1", monotonic_s=charger.now_s, power_w=power_w))
        await evse.tend()
