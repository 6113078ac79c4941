"""The Device of an EVSE: a band is held only when the charger shows it, and ends when its lease ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from drivers.device import (
    DeadMan,
    Device,
    DeviceRefusedError,
    DeviceUnreachableError,
    LinkState,
    Sample,
    Setpoint,
    ValueSource,
)
from drivers.ocpp.errors import CallRefusedError, CallTimeoutError
from drivers.ocpp.evse import OcppEvse
from drivers.ocpp.profiles import RateUnit
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Json, JsonObject, Version
from drivers.ocpp.session import EvseSession, Transaction
from drivers.ocpp.settings import ChargerSettings

SHARE_W = 4_200
Answer = Callable[[JsonObject], JsonObject]


class FakeCharger:
    """Holds what it is told and shows it, unless a test makes it worse. Its composite schedule is what it says."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.rate_unit = RateUnit.WATTS
        self.version: Version | None = Version.V201
        self.calls: list[tuple[str, JsonObject, Priority]] = []
        self.notices: list[str] = []
        self.online = True
        self.set_answer: JsonObject = {"status": "Accepted"}
        self.shows: list[tuple[int, float]] | None = None
        self.ignores_durations = False
        self.fails: dict[str, Exception] = {}
        self.gate: asyncio.Event | None = None
        self._limit = 0.0
        self._duration: int | None = None

    def link(self) -> tuple[LinkState, str]:
        return (LinkState.ONLINE, "connected") if self.online else (LinkState.SILENT, "gone")

    def notice(self, device_id: str, code: str, text: str) -> None:
        self.notices.append(code)

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        self.calls.append((action, payload, priority))
        if self.gate is not None:
            await self.gate.wait()
        if action in self.fails:
            raise self.fails[action]
        if action == "SetChargingProfile":
            return self._set(cast(dict[str, JsonObject], payload)["chargingProfile"])
        if action == "GetCompositeSchedule":
            return self._composite(cast(int, payload["duration"]))
        if action == "GetChargingProfiles":
            return {"status": "NoProfiles"}
        return {"status": "Accepted"}

    def actions(self) -> list[str]:
        return [action for action, _, _ in self.calls]

    def _set(self, profile: JsonObject) -> JsonObject:
        if self.set_answer["status"] == "Accepted":
            schedule = cast(list[JsonObject], profile["chargingSchedule"])[0]
            self._limit = cast(float, cast(list[JsonObject], schedule["chargingSchedulePeriod"])[0]["limit"])
            duration = cast("int | None", schedule.get("duration"))
            self._duration = None if duration is None or self.ignores_durations else duration - 5
        return self.set_answer

    def _composite(self, duration: int) -> JsonObject:
        periods = self.shows
        if periods is None:
            periods = [(0, self._limit)]
            if self._duration is not None:
                periods.append((self._duration, SHARE_W))
        steps: list[Json] = [{"startPeriod": start, "limit": limit} for start, limit in periods]
        return {
            "status": "Accepted",
            "schedule": {
                "evseId": 1,
                "duration": duration,
                "scheduleStart": "2026-01-01T00:00:00Z",
                "chargingRateUnit": "W",
                "chargingSchedulePeriod": steps,
            },
        }


def band(lowest_w: int | None, highest_w: int | None, lease_s: float = 60.0) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason="test")


@pytest.fixture
def charger() -> FakeCharger:
    return FakeCharger()


@pytest.fixture
def evse(charger: FakeCharger) -> OcppEvse:
    settings = ChargerSettings(
        device_id="car-1",
        charger_id="CP",
        discharge="negative_limit",
        fallback_import_w=SHARE_W,
        rated_import_w=11_000,
        rated_export_w=10_000,
    )
    session = EvseSession(settings, meter_id="ocpp/CP/1", source=ValueSource.AUTHENTICATED_LINK)
    return OcppEvse(session, charger, monotonic_s=lambda: charger.now_s, wall_us=lambda: 1_767_225_600_000_000)


def plug_in(evse: OcppEvse, transaction_id: str = "T1") -> None:
    evse.session.transaction = Transaction(transaction_id=transaction_id)


def dead_man(evse: OcppEvse) -> DeadMan:
    capabilities = evse.status().capabilities
    assert capabilities is not None
    return capabilities.dead_man


def test_it_is_a_device_and_knows_nothing_before_first_contact(evse: OcppEvse) -> None:
    device: Device = evse
    assert device.status().capabilities is None


async def test_a_static_share_that_the_charger_shows_makes_a_dead_man(evse: OcppEvse, charger: FakeCharger) -> None:
    await evse.install_static_share()
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK
    assert (capabilities.fallback_lowest_w, capabilities.fallback_highest_w) == (0, SHARE_W)
    assert (capabilities.rated_import_w, capabilities.rated_export_w) == (11_000, 10_000)
    assert capabilities.minimum_import_w == 6 * 230 * 3


async def test_a_charger_that_refuses_the_static_share_is_counted_at_its_nameplate(
    evse: OcppEvse, charger: FakeCharger
) -> None:
    charger.set_answer = {"status": "Rejected", "statusInfo": {"reasonCode": "NoProfiles"}}
    await evse.install_static_share()
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert capabilities.dead_man is DeadMan.REVERTS_UNLIMITED
    assert capabilities.fallback_highest_w == 11_000
    assert "NoProfiles" in capabilities.notes[0]
    assert charger.notices == ["charger.dead_man"]


async def test_accepted_but_not_held_is_no_dead_man(evse: OcppEvse, charger: FakeCharger) -> None:
    charger.shows = [(0, 11_000)]
    await evse.install_static_share()
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert capabilities.dead_man is DeadMan.NONE
    assert (capabilities.fallback_lowest_w, capabilities.fallback_highest_w) == (-10_000, 11_000)


async def test_a_profile_of_an_earlier_csms_in_the_same_place_is_cleared(evse: OcppEvse, charger: FakeCharger) -> None:
    charger.set_answer = {"status": "Rejected", "statusInfo": {"reasonCode": "DuplicateProfile"}}
    await evse.install_static_share()
    assert charger.actions() == ["SetChargingProfile", "ClearChargingProfile", "SetChargingProfile"]
    criteria = charger.calls[1][1]["chargingProfileCriteria"]
    assert criteria == {"evseId": 1, "chargingProfilePurpose": "TxDefaultProfile", "stackLevel": 0}


async def test_a_band_is_held_after_the_charger_has_shown_it(evse: OcppEvse, charger: FakeCharger) -> None:
    plug_in(evse)
    setpoint = band(7_400, 7_400)
    await evse.apply(setpoint)
    assert evse.status().setpoint == setpoint
    assert charger.actions() == ["SetChargingProfile", "GetCompositeSchedule"]
    charger.now_s += 60
    assert evse.status().setpoint is None


async def test_accepted_is_not_believed_without_the_composite_schedule(evse: OcppEvse, charger: FakeCharger) -> None:
    plug_in(evse)
    charger.shows = [(0, 5_000)]
    with pytest.raises(DeviceRefusedError, match="was told -5000 W and holds 5000 W"):
        await evse.apply(band(-5_000, -5_000))
    assert evse.status().setpoint is None


async def test_a_refused_composite_schedule_is_a_refused_band(evse: OcppEvse, charger: FakeCharger) -> None:
    charger.fails["GetCompositeSchedule"] = CallRefusedError("no", code="NotSupported")
    with pytest.raises(DeviceRefusedError):
        await evse.apply(band(0, 5_000))


async def test_no_answer_is_unreachable(evse: OcppEvse, charger: FakeCharger) -> None:
    charger.fails["SetChargingProfile"] = CallTimeoutError("no answer", sent=True)
    with pytest.raises(DeviceUnreachableError):
        await evse.apply(band(0, 5_000))


async def test_discharge_without_permission_never_reaches_the_charger(evse: OcppEvse, charger: FakeCharger) -> None:
    with pytest.raises(DeviceRefusedError, match="no car"):
        await evse.apply(band(-5_000, -5_000))
    assert not charger.calls


async def test_a_transaction_profile_is_not_held_over_the_end_of_its_transaction(
    evse: OcppEvse, charger: FakeCharger
) -> None:
    plug_in(evse)
    await evse.apply(band(0, 7_400))
    evse.session.transaction = None
    assert evse.status().setpoint is None


async def test_what_was_set_before_a_transaction_holds_for_it(evse: OcppEvse, charger: FakeCharger) -> None:
    await evse.apply(band(0, 0))
    plug_in(evse)
    assert evse.status().setpoint is not None


async def test_a_stop_overtakes_a_band_whose_charger_does_not_answer(evse: OcppEvse, charger: FakeCharger) -> None:
    charger.gate = asyncio.Event()
    first = asyncio.create_task(evse.apply(band(0, 7_400)))
    await asyncio.sleep(0)
    stop = asyncio.create_task(evse.apply(band(0, 0)))
    await asyncio.sleep(0)
    assert charger.calls[1][2] is Priority.URGENT
    charger.gate.set()
    await stop
    with pytest.raises(DeviceRefusedError, match="overtook"):
        await first
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == 0


async def test_what_is_to_be_said_again_waits_for_an_order_that_is_on_its_way(
    evse: OcppEvse, charger: FakeCharger
) -> None:
    charger.gate = asyncio.Event()
    ordering = asyncio.create_task(evse.apply(band(0, 7_400)))
    await asyncio.sleep(0)
    evse.session.smart.say_again = True
    await evse.tend()
    assert charger.actions() == ["SetChargingProfile"]
    charger.gate.set()
    await ordering  # and was not overtaken by its own repetition
    await evse.tend()
    assert charger.actions().count("SetChargingProfile") == 2
    assert not evse.session.smart.say_again


async def test_an_order_that_is_cancelled_from_outside_is_cancelled(evse: OcppEvse, charger: FakeCharger) -> None:
    charger.gate = asyncio.Event()
    ordering = asyncio.create_task(evse.apply(band(0, 7_400)))
    await asyncio.sleep(0)
    ordering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ordering
    charger.gate.set()
    await evse.apply(band(0, 3_000))
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == 3_000


async def test_raising_power_does_not_jump_the_queue(evse: OcppEvse, charger: FakeCharger) -> None:
    for highest_w in (5_000, 7_000, 6_000):
        await evse.apply(band(0, highest_w))
    priorities = [priority for action, _, priority in charger.calls if action == "SetChargingProfile"]
    assert priorities == [Priority.URGENT, Priority.CONTROL, Priority.URGENT]


async def test_after_a_boot_nothing_is_held_until_it_was_set_again(evse: OcppEvse, charger: FakeCharger) -> None:
    await evse.apply(band(0, 7_000))
    charger.now_s += 20
    evse.profiles_lost()
    assert evse.status().setpoint is None
    charger.calls.clear()
    await evse.hold_again()
    held = evse.status().setpoint
    assert held is not None
    assert (held.highest_w, held.lease_s) == (7_000, 40.0)  # what was left of the lease, and no more
    charger.now_s += 40
    assert evse.status().setpoint is None


async def test_an_ended_lease_is_not_set_again(evse: OcppEvse, charger: FakeCharger) -> None:
    await evse.apply(band(0, 7_000))
    charger.now_s += 60
    charger.calls.clear()
    await evse.hold_again()
    assert not charger.calls


async def test_where_the_charger_lets_go_by_itself_the_driver_sends_nothing(
    evse: OcppEvse, charger: FakeCharger
) -> None:
    await evse.install_static_share()
    await evse.apply(band(0, 7_000))
    charger.now_s += 61
    charger.calls.clear()
    await evse.end_lease()
    assert not charger.calls


async def test_where_the_charger_does_not_let_go_the_driver_does_until_it_succeeds(
    evse: OcppEvse, charger: FakeCharger
) -> None:
    charger.ignores_durations = True
    await evse.install_static_share()
    await evse.apply(band(0, 7_000))
    assert dead_man(evse) is DeadMan.NONE
    await evse.end_lease()
    assert "ClearChargingProfile" not in charger.actions()  # the lease still runs
    charger.now_s += 61
    charger.fails["ClearChargingProfile"] = CallTimeoutError("no answer", sent=True)
    with pytest.raises(DeviceUnreachableError):
        await evse.end_lease()
    del charger.fails["ClearChargingProfile"]
    charger.calls.clear()
    await evse.end_lease()
    assert charger.actions() == ["ClearChargingProfile", "ClearChargingProfile"]
    charger.calls.clear()
    await evse.end_lease()
    assert not charger.calls


async def test_what_a_charger_would_hold_for_ever_from_before_a_restart_is_taken_back(
    evse: OcppEvse, charger: FakeCharger
) -> None:
    charger.shows = [(0, -5_000)]
    await evse.install_static_share()
    await evse.end_lease()
    assert charger.actions()[-2:] == ["ClearChargingProfile", "ClearChargingProfile"]


async def test_release_leaves_the_static_share_alone(evse: OcppEvse, charger: FakeCharger) -> None:
    await evse.install_static_share()
    await evse.apply(band(0, 7_000))
    charger.shows = [(0, SHARE_W)]
    charger.calls.clear()
    await evse.release()
    assert evse.status().setpoint is None
    cleared = [payload.get("chargingProfileId") for action, payload, _ in charger.calls if action.startswith("Clear")]
    assert cleared == [13, 12]  # not 11


async def test_a_release_that_left_a_limit_in_force_is_no_success(evse: OcppEvse, charger: FakeCharger) -> None:
    await evse.install_static_share()
    charger.shows = [(0, 9_000)]
    with pytest.raises(DeviceRefusedError, match="released"):
        await evse.release()


async def test_samples_reach_whoever_runs_the_device_and_nobody_else(evse: OcppEvse, charger: FakeCharger) -> None:
    seen: list[Sample] = []
    sample = Sample(device_id="car-1", monotonic_s=1.0)
    evse.take(sample)
    task = asyncio.create_task(evse.run(seen.append))
    await asyncio.sleep(0)
    evse.take(sample)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    evse.take(sample)
    assert seen == [sample]


def test_a_faulted_connector_shows_in_the_status(evse: OcppEvse) -> None:
    evse.session.connector_status(1, "Faulted")
    assert "Faulted" in evse.status().detail
