"""Schedule periods in the simulated charger: each operation mode does what OCPP 2.1 says of it (block Q), no more."""

from __future__ import annotations

from typing import Any

import pytest

from hil_tests.rig.site.profiles import ProfileStore, Purpose, rfc3339
from hil_tests.rig.site.schedule import Mode, Outlet, ProfileRefusedError, Step, read_step

NOW_S = 1_800_000_000.0
OUTLET = Outlet(1, 11_000.0, 10_000.0, 3, 230.0)
ONE_WAY = Outlet(1, 11_000.0, 0.0, 3, 230.0)
CURVE = [{"frequency": 50.2, "power": 6_000}, {"frequency": 49.8, "power": -6_000}]


def period(**values: Any) -> dict[str, Any]:
    return {"startPeriod": 0, **values}


def power_w(values: dict[str, Any], *, hz: float = 50.0, unit: str = "W") -> float | None:
    return read_step(OUTLET, period(**values), unit, extended=True).power_w(hz)


@pytest.mark.parametrize(
    ("values", "watts"),
    [
        ({"limit": 7_400}, 7_400),
        ({"operationMode": "ChargingOnly", "limit": 0}, 0),
        ({"operationMode": "CentralSetpoint", "setpoint": -5_000}, -5_000),
        ({"operationMode": "CentralSetpoint", "setpoint": -5_000, "limit": 0, "dischargeLimit": -6_000}, -5_000),
        ({"operationMode": "CentralSetpoint", "setpoint": 3_000, "limit": 7_000}, 3_000),
        ({"operationMode": "CentralSetpoint", "setpoint": -1_000, "setpoint_L2": -2_000, "setpoint_L3": -500}, -3_500),
        ({"operationMode": "Idle"}, 0),
    ],
)
def test_q02_q03_q10_a_period_gives_the_power_of_its_mode(values: dict[str, Any], watts: float) -> None:
    assert power_w(values) == watts


def test_amperes_of_each_phase_are_added_up() -> None:
    step = {"operationMode": "CentralSetpoint", "setpoint": -10, "setpoint_L2": -10, "setpoint_L3": -4}
    assert power_w(step, unit="A") == -24 * 230


@pytest.mark.parametrize(
    ("hz", "watts"), [(50.0, 1_000), (49.9, -2_000), (49.0, -4_000), (50.2, 7_000), (51.0, 7_000), (50.1, 4_000)]
)
def test_q08_local_frequency_follows_its_curve_within_its_limits(hz: float, watts: float) -> None:
    step = {
        "operationMode": "LocalFrequency",
        "v2xBaseline": 1_000,
        "v2xFreqWattCurve": CURVE,
        "dischargeLimit": -4_000,
    }
    assert power_w(step, hz=hz) == pytest.approx(watts)


@pytest.mark.parametrize(
    ("outlet", "values", "reason"),
    [
        (OUTLET, {"operationMode": "CentralSetpoint", "limit": 5}, "InvalidSchedule"),
        (OUTLET, {"operationMode": "ChargingOnly", "setpoint": 5}, "InvalidSchedule"),
        (OUTLET, {"limit": -5_000}, "InvalidSchedule"),
        (OUTLET, {"operationMode": "Idle", "limit": 0}, "InvalidSchedule"),
        (OUTLET, {"operationMode": "LocalFrequency"}, "InvalidSchedule"),
        (OUTLET, {"operationMode": "CentralSetpoint", "setpoint": -5, "dischargeLimit": -2}, "InvalidSchedule"),
        (OUTLET, {"operationMode": "ExternalSetpoint", "setpoint": -5}, "UnsupportedMode"),
        (ONE_WAY, {"operationMode": "CentralSetpoint", "setpoint": -5}, "InvalidSchedule"),
        (ONE_WAY, {"operationMode": "LocalFrequency", "v2xFreqWattCurve": CURVE}, "InvalidSchedule"),
    ],
)
def test_a_period_that_its_mode_does_not_allow_is_refused(outlet: Outlet, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProfileRefusedError) as refused:
        read_step(outlet, period(**values), "W", extended=True)
    assert refused.value.reason == reason


def test_a_composite_period_says_each_phase_where_the_charger_does() -> None:
    step = Step(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-6_000, limit_w=0)
    wire = step.as_wire(0, 1.0, 3, extended=True, per_phase=True)
    assert [wire[name] for name in ("setpoint", "setpoint_L2", "setpoint_L3", "limit_L3")] == [-2_000] * 3 + [0]
    assert "setpoint" not in step.as_wire(0, 1.0, 3, extended=False, per_phase=False)


def setpoint(profile_id: int, watts: float, **more: Any) -> dict[str, Any]:
    schedule = {
        "id": 1,
        "startSchedule": rfc3339(NOW_S),
        "chargingRateUnit": "W",
        "chargingSchedulePeriod": [period(operationMode="CentralSetpoint", setpoint=watts)],
    }
    return {
        "id": profile_id,
        "stackLevel": 1,
        "chargingProfilePurpose": Purpose.TX.value,
        "chargingProfileKind": "Absolute",
        "transactionId": "t",
        "chargingSchedule": [schedule],
        **more,
    }


def share(purpose: Purpose = Purpose.TX_DEFAULT, profile_id: int = 9, watts: float = 4_000) -> dict[str, Any]:
    schedule = {"id": 1, "chargingRateUnit": "W", "chargingSchedulePeriod": [period(limit=watts)]}
    return {
        "id": profile_id,
        "stackLevel": 0,
        "chargingProfilePurpose": purpose.value,
        "chargingProfileKind": "Relative",
        "chargingSchedule": [schedule],
    }


@pytest.mark.parametrize("for_good", [True, False])
def test_q11_q12_a_profile_lapses_offline_after_its_time_and_comes_back_unless_it_is_gone(for_good: bool) -> None:
    store = ProfileStore(OUTLET)
    store.extended = True
    store.install(1, share(), transaction_id="t", now_s=NOW_S)
    lapsing = setpoint(5, -5_000, maxOfflineDuration=20, invalidAfterOfflineDuration=for_good)
    store.install(1, lapsing, transaction_id="t", now_s=NOW_S)
    store.went_offline(NOW_S + 10)
    assert [store.limit_w(NOW_S + at, NOW_S) for at in (9, 29, 30, 100)] == [-5_000, -5_000, 4_000, 4_000]
    store.came_online(NOW_S + 100)
    assert store.limit_w(NOW_S + 100, NOW_S) == (4_000 if for_good else -5_000)


def test_q11_a_short_outage_takes_nothing_away() -> None:
    store = ProfileStore(OUTLET)
    store.extended = True
    lapsing = setpoint(5, -5_000, maxOfflineDuration=20, invalidAfterOfflineDuration=True)
    store.install(1, lapsing, transaction_id="t", now_s=NOW_S)
    store.went_offline(NOW_S)
    store.came_online(NOW_S + 19)
    assert store.limit_w(NOW_S + 30, NOW_S) == -5_000


def test_k21_priority_charging_goes_before_the_profile_of_the_transaction_while_it_is_on() -> None:
    store = ProfileStore(OUTLET)
    with pytest.raises(ProfileRefusedError):
        store.install(1, share(Purpose.PRIORITY), transaction_id="t", now_s=NOW_S)
    store.extended = True
    store.install(1, setpoint(5, -5_000), transaction_id="t", now_s=NOW_S)
    store.install(1, share(Purpose.PRIORITY, watts=8_000), transaction_id="t", now_s=NOW_S)
    assert store.limit_w(NOW_S, NOW_S) == -5_000
    store.priority = True
    assert store.limit_w(NOW_S, NOW_S) == 8_000


def test_k11_a_limit_from_outside_bounds_all_profiles() -> None:
    store = ProfileStore(OUTLET)
    store.external_w = 3_000
    assert store.limit_w(NOW_S, None) == 3_000
    store.install(1, share(), transaction_id=None, now_s=NOW_S)
    assert store.limit_w(NOW_S, None) == 3_000
    assert [(offset, step.limit_w) for offset, step in store.composite(NOW_S, 60, None)] == [(0, 3_000)]


def dynamic(**more: Any) -> dict[str, Any]:
    schedule = {
        "id": 1,
        "duration": 30,
        "chargingRateUnit": "W",
        "chargingSchedulePeriod": [period(limit=8_000)],
        **more.pop("schedule", {}),
    }
    return {
        "id": 13,
        "stackLevel": 1,
        "chargingProfilePurpose": "TxDefaultProfile",
        "chargingProfileKind": "Dynamic",
        "dynUpdateInterval": 25,
        "chargingSchedule": [schedule],
        **more,
    }


@pytest.fixture
def moved() -> ProfileStore:
    """Takes dynamic profiles, and has one."""
    store = ProfileStore(OUTLET)
    store.extended = store.takes_dynamic = True
    store.install(1, dynamic(), transaction_id=None, now_s=NOW_S)
    return store


def test_k28_a_dynamic_profile_ends_its_duration_after_the_last_update_and_comes_back_with_the_next(
    moved: ProfileStore,
) -> None:
    assert moved.limit_w(NOW_S + 29, None) == 8_000
    assert moved.limit_w(NOW_S + 31, None) is None
    moved.update(13, {"limit": 6_000}, NOW_S + 20)
    assert moved.limit_w(NOW_S + 49, None) == 6_000
    assert moved.limit_w(NOW_S + 51, None) is None
    moved.update(13, {}, NOW_S + 100)
    assert moved.limit_w(NOW_S + 101, None) == 6_000
    assert [start for start, _ in moved.composite(NOW_S + 110, 60, None)] == [0, 20]


def test_k28_it_is_pulled_when_no_update_came_for_its_interval(moved: ProfileStore) -> None:
    assert moved.to_pull(NOW_S + 24) == []
    assert moved.to_pull(NOW_S + 25) == [13]
    moved.update(13, {}, NOW_S + 25)
    assert moved.to_pull(NOW_S + 40) == []


@pytest.mark.parametrize(
    "wire",
    [
        dynamic(schedule={"chargingSchedulePeriod": [period(limit=1), {"startPeriod": 5, "limit": 2}]}),
        dynamic(schedule={"startSchedule": rfc3339(NOW_S)}),
        dynamic(chargingProfileKind="Relative"),
    ],
    ids=["two periods", "a start", "an interval of another kind"],
)
def test_k28_what_is_no_dynamic_profile_is_refused(moved: ProfileStore, wire: dict[str, Any]) -> None:
    with pytest.raises(ProfileRefusedError):
        moved.install(1, wire, transaction_id=None, now_s=NOW_S)


@pytest.mark.parametrize(("profile_id", "values"), [(14, {"limit": 1}), (13, {"setpoint": 1})])
def test_k28_an_update_that_cannot_be_changes_nothing(
    moved: ProfileStore, profile_id: int, values: dict[str, Any]
) -> None:
    with pytest.raises(ProfileRefusedError):
        moved.update(profile_id, values, NOW_S + 10)
    assert moved.limit_w(NOW_S + 31, None) is None


def test_k28_a_charger_that_takes_none_says_so() -> None:
    store = ProfileStore(OUTLET)
    store.extended = True
    with pytest.raises(ProfileRefusedError, match="not supported"):
        store.install(1, dynamic(), transaction_id=None, now_s=NOW_S)
