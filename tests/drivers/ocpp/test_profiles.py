"""Profiles: a band to one limit, a limit to the wire, and a composite schedule back to what is held."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.device import Setpoint
from drivers.ocpp import profiles
from drivers.ocpp.messages import CompositeSchedule, SchedulePeriod
from drivers.ocpp.profiles import CannotError, Dialect, Held, RateUnit, Slot
from drivers.ocpp.schemas import Direction, JsonObject, Version, schemas
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.v2x import Mode, Period

PLAIN = ChargerSettings(device_id="car-1", charger_id="CP", rated_import_w=11_000, fallback_import_w=4_200)
V2G = ChargerSettings(
    device_id="car-2", charger_id="CP", discharge="negative_limit", rated_import_w=11_000, rated_export_w=10_000
)
NOW_US = 1_767_323_045_000_000


def band(lowest_w: int | None, highest_w: int | None) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=60.0, reason="test")


def composite(*periods: tuple[int, float], duration: int = 120, unit: str = "W") -> CompositeSchedule:
    steps: list[SchedulePeriod] = [{"startPeriod": start, "limit": limit} for start, limit in periods]
    return {
        "duration": duration,
        "scheduleStart": "1999-01-01T00:00:00Z",
        "chargingRateUnit": unit,
        "chargingSchedulePeriod": steps,
    }


def schedule_of(profile: JsonObject) -> JsonObject:
    schedules = profile["chargingSchedule"]
    assert isinstance(schedules, list)
    assert isinstance(schedules[0], dict)
    return schedules[0]


def limit_in(profile: JsonObject) -> float:
    periods = schedule_of(profile)["chargingSchedulePeriod"]
    assert isinstance(periods, list)
    assert isinstance(periods[0], dict)
    limit = periods[0]["limit"]
    assert isinstance(limit, int | float)
    return limit


@pytest.mark.parametrize(
    ("lowest_w", "highest_w", "limit_w"),
    [
        (None, None, 11_000),
        (0, 7_400, 7_400),
        (7_400, 7_400, 7_400),
        (0, 0, 0),
        (-2_000, 0, 0),
        (0, 50_000, 11_000),
        (-5_000, -5_000, -5_000),
        (-9_000, -2_000, -2_000),
    ],
)
def test_a_band_becomes_the_one_limit_that_keeps_it(lowest_w: int | None, highest_w: int | None, limit_w: int) -> None:
    assert profiles.limit_of(band(lowest_w, highest_w), V2G, in_transaction=True) == limit_w


def test_discharge_is_ordered_only_where_the_installer_allows_it() -> None:
    for settings in (PLAIN, ChargerSettings(device_id="d", charger_id="CP", discharge="v2x")):
        with pytest.raises(CannotError):
            profiles.limit_of(band(-5_000, -5_000), settings, in_transaction=True)


def test_discharge_is_never_left_waiting_for_a_car_that_is_not_there() -> None:
    with pytest.raises(CannotError, match="no car"):
        profiles.limit_of(band(-5_000, -5_000), V2G, in_transaction=False)


def test_discharge_beyond_the_rating_is_refused() -> None:
    with pytest.raises(CannotError, match="rating"):
        profiles.limit_of(band(None, -10_001), V2G, in_transaction=True)


@pytest.mark.parametrize("unit", RateUnit)
@pytest.mark.parametrize("transaction_id", [None, "T1"])
def test_every_profile_fits_the_schema(unit: RateUnit, transaction_id: str | None) -> None:
    period, dialect = Period(limit_w=-5_000), Dialect(unit=unit)
    lease = profiles.lease_profile(V2G, period, dialect, wall_us=NOW_US, lease_s=60, transaction_id=transaction_id)
    for profile in (lease, profiles.static_share_profile(PLAIN, dialect)):
        request: JsonObject = {"evseId": 1, "chargingProfile": profile}
        assert schemas(Version.V201).violation("SetChargingProfile", Direction.REQUEST, request) is None


def test_a_lease_ends_in_the_charger_when_it_ends_here() -> None:
    period = Period(limit_w=7_400)
    profile = profiles.lease_profile(PLAIN, period, Dialect(), wall_us=NOW_US, lease_s=60.9, transaction_id="T1")
    schedule = schedule_of(profile)
    assert schedule["startSchedule"] == "2026-01-02T03:04:00.000Z"  # five seconds ago
    assert schedule["duration"] == 65
    assert (profile["chargingProfilePurpose"], profile["transactionId"]) == ("TxProfile", "T1")


def test_the_static_share_never_ends_and_needs_no_clock() -> None:
    profile = profiles.static_share_profile(PLAIN, Dialect())
    schedule = schedule_of(profile)
    assert "duration" not in schedule
    assert "startSchedule" not in schedule
    assert "validTo" not in profile
    assert limit_in(profile) == 4_200


def test_without_a_configured_share_the_charger_waits_for_us() -> None:
    assert limit_in(profiles.static_share_profile(V2G, Dialect())) == 0


def test_the_profiles_of_all_evses_have_different_ids() -> None:
    ids = {profiles.profile_id(evse_id, slot) for evse_id in range(1, 101) for slot in Slot}
    assert len(ids) == 100 * len(Slot)


@given(st.integers(-10_000, 11_000), st.sampled_from([(1,), (1, 2, 3)]))
def test_amperes_never_mean_more_power_than_was_asked(limit_w: int, phases: tuple[int, ...]) -> None:
    settings = ChargerSettings(device_id="d", charger_id="CP", discharge="negative_limit", phases=phases)
    period, dialect = Period(limit_w=limit_w), Dialect(unit=RateUnit.AMPERES)
    profile = profiles.lease_profile(settings, period, dialect, wall_us=NOW_US, lease_s=60, transaction_id="T1")
    amperes = limit_in(profile)
    assert abs(amperes) * 230 * len(phases) <= abs(limit_w) + 1e-6
    assert abs(amperes) * 230 * len(phases) > abs(limit_w) - 23 * len(phases) - 1e-6
    assert round(amperes, 1) == amperes
    held = profiles.read_composite(composite((0, amperes), unit="A"), settings, 60)
    assert profiles.objection(held, period) is None


def test_a_composite_schedule_says_what_holds_now_and_after_the_lease() -> None:
    held = profiles.read_composite(composite((0, 7_400), (60, 4_200)), PLAIN, 60)
    assert held == Held(now_w=7_400, after_lease_w=4_200, changes_s=60)


def test_a_composite_schedule_that_ends_with_the_lease_says_nothing_of_afterwards() -> None:
    assert profiles.read_composite(composite((0, 7_400), duration=60), PLAIN, 60).after_lease_w is None


@pytest.mark.parametrize("unit", RateUnit)
def test_a_composite_schedule_with_a_power_that_nothing_has_is_no_proof(unit: RateUnit) -> None:
    with pytest.raises(CannotError, match="1e"):
        profiles.read_composite(composite((0, -1e308), unit=unit), PLAIN, 60)


def test_a_composite_schedule_without_the_present_is_no_proof() -> None:
    with pytest.raises(CannotError):
        profiles.read_composite(composite((30, 7_400)), PLAIN, 60)


@pytest.mark.parametrize(
    ("now_w", "limit_w", "believed"),
    [
        (7_400, 7_400, True),
        (6_000, 7_400, True),  # somebody else's lower limit
        (7_440, 7_400, True),  # rounded to a tenth of an ampere
        (11_000, 7_400, False),
        (1, 0, False),
        (-100, 7_400, False),
        (-5_000, -5_000, True),
        (5_000, -5_000, False),  # what simulators do with a negative limit
        (0, -5_000, False),
    ],
)
def test_what_is_held_is_believed_only_if_it_is_what_was_told(now_w: int, limit_w: int, believed: bool) -> None:
    assert (profiles.objection(Held(now_w, None), Period(limit_w=limit_w)) is None) is believed


# --- OCPP 2.1

V2X = ChargerSettings(
    device_id="car-3",
    charger_id="CP",
    discharge="v2x",
    rated_import_w=11_000,
    rated_export_w=10_000,
    fallback_import_w=4_200,
)
EXTENDED = Dialect(extended=True)


def period_in(profile: JsonObject) -> JsonObject:
    periods = schedule_of(profile)["chargingSchedulePeriod"]
    assert isinstance(periods, list)
    assert isinstance(periods[0], dict)
    return periods[0]


def lease(period: Period, dialect: Dialect, settings: ChargerSettings = V2X, **more: bool) -> JsonObject:
    return profiles.lease_profile(
        settings, period, dialect, wall_us=NOW_US, lease_s=60, transaction_id="T1", priority=more.get("priority", False)
    )


@pytest.mark.parametrize("settings", [V2X, V2G])
def test_q03_a_discharge_is_a_central_setpoint_within_its_band(settings: ChargerSettings) -> None:
    order = band(-6_000, -5_000)
    limit_w = profiles.limit_of(order, settings, in_transaction=True, extended=True)
    period = profiles.period_of(order, limit_w, settings, EXTENDED)
    assert period == Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5_000, limit_w=0, discharge_w=-6_000)
    assert period_in(lease(period, EXTENDED)) == {
        "startPeriod": 0,
        "operationMode": "CentralSetpoint",
        "limit": 0,
        "setpoint": -5_000,
        "dischargeLimit": -6_000,
    }


def test_q03_a_band_without_a_lowest_power_reaches_down_to_the_rating_and_never_below_it() -> None:
    for lowest_w in (None, -50_000):
        period = profiles.period_of(band(lowest_w, -5_000), -5_000, V2X, EXTENDED)
        assert period.discharge_w == -10_000


def test_q02_a_cap_is_charging_only() -> None:
    period = profiles.period_of(band(0, 7_400), 7_400, V2X, EXTENDED)
    assert period_in(lease(period, EXTENDED)) == {"startPeriod": 0, "limit": 7_400}


def test_2_0_1_still_says_a_limit_below_zero() -> None:
    assert profiles.period_of(band(-6_000, -5_000), -5_000, V2G, Dialect()) == Period(limit_w=-5_000)


def test_q11_a_lease_ends_in_a_charger_that_is_cut_off_and_never_comes_back_by_itself() -> None:
    profile = lease(Period(limit_w=7_400), EXTENDED)
    assert profile["maxOfflineDuration"] == profiles.MOST_OFFLINE_S
    assert profile["invalidAfterOfflineDuration"] is True
    short = profiles.lease_profile(V2X, Period(limit_w=0), EXTENDED, wall_us=NOW_US, lease_s=10, transaction_id=None)
    assert short["maxOfflineDuration"] == 10


def test_the_static_share_outlives_every_outage() -> None:
    assert "maxOfflineDuration" not in profiles.static_share_profile(V2X, EXTENDED)


def test_k21_while_priority_is_on_the_lease_is_a_priority_profile() -> None:
    profile = lease(Period(limit_w=9_000), EXTENDED, priority=True)
    assert (profile["chargingProfilePurpose"], "transactionId" in profile) == ("PriorityCharging", False)
    share = profiles.static_share_profile(V2X, EXTENDED, Slot.PRIORITY_SHARE)
    assert (share["chargingProfilePurpose"], share["stackLevel"], limit_in(share)) == ("PriorityCharging", 0, 4_200)


def test_a_car_that_speaks_of_phases_is_told_by_phase_and_never_more_than_the_sum() -> None:
    dialect = Dialect(extended=True, per_phase=True)
    period = Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5_000, limit_w=0, discharge_w=-5_000)
    wire = period_in(lease(period, dialect))
    assert [wire[name] for name in ("setpoint", "setpoint_L2", "setpoint_L3")] == [-1_666.6] * 3
    assert [wire[name] for name in ("dischargeLimit_L2", "limit_L3")] == [-1_666.6, 0]
    single = ChargerSettings(device_id="d", charger_id="CP", discharge="v2x", phases=(1,))
    assert "setpoint_L2" not in period_in(lease(period, dialect, single))


@pytest.mark.parametrize("unit", RateUnit)
@pytest.mark.parametrize("per_phase", [True, False])
@pytest.mark.parametrize(
    "period",
    [
        Period(limit_w=7_400),
        Period(mode=Mode.IDLE),
        Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5_000, limit_w=0, discharge_w=-6_000),
        Period(mode=Mode.EXTERNAL_SETPOINT, limit_w=5_000),
        Period(mode=Mode.LOCAL_FREQUENCY, baseline_w=100, curve=((49_800, -6_000), (50_200, 6_000)), limit_w=6_000),
    ],
)
def test_every_profile_of_2_1_fits_the_schema(period: Period, unit: RateUnit, per_phase: bool) -> None:
    dialect = Dialect(unit=unit, extended=True, per_phase=per_phase)
    for profile in (
        lease(period, dialect),
        lease(period, dialect, priority=True),
        profiles.static_share_profile(V2X, dialect),
    ):
        request: JsonObject = {"evseId": 1, "chargingProfile": profile}
        assert schemas(Version.V21).violation("SetChargingProfile", Direction.REQUEST, request) is None


def shown(*periods: SchedulePeriod, unit: str = "W") -> Held:
    schedule: CompositeSchedule = {
        "duration": 120,
        "scheduleStart": "1999-01-01T00:00:00Z",
        "chargingRateUnit": unit,
        "chargingSchedulePeriod": list(periods),
    }
    return profiles.read_composite(schedule, V2X, 60)


def test_k08_a_setpoint_that_is_shown_is_what_is_held() -> None:
    held = shown({"startPeriod": 0, "operationMode": "CentralSetpoint", "setpoint": -5_000.0, "limit": 0.0})
    assert (held.now_w, held.mode) == (-5_000, Mode.CENTRAL_SETPOINT)
    told = Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5_000)
    assert profiles.objection(held, told) is None
    assert profiles.objection(held, Period(limit_w=7_400)) is not None


def test_k08_values_of_each_phase_are_added_up() -> None:
    by_phase: dict[str, Any] = {"startPeriod": 0, "operationMode": "CentralSetpoint"}
    watts = by_phase | {"setpoint": -1_000, "setpoint_L2": -2_000, "setpoint_L3": -500}
    assert shown(cast(SchedulePeriod, watts)).now_w == -3_500
    amperes = by_phase | {"setpoint": -10, "setpoint_L2": -10, "setpoint_L3": -4}
    assert shown(cast(SchedulePeriod, amperes), unit="A").now_w == -24 * 230


def test_a_discharge_that_outlives_the_lease_is_seen() -> None:
    held = shown({"startPeriod": 0, "limit": 0.0}, {"startPeriod": 60, "limit": 0.0, "dischargeLimit": -5_000.0})
    assert held.after_lease_w == -5_000


def test_a_charger_that_moves_the_power_by_itself_unasked_is_not_believed() -> None:
    held = shown({"startPeriod": 0, "operationMode": "LocalFrequency", "limit": 5_000.0})
    assert profiles.objection(held, Period(limit_w=7_400)) is not None
    asked = Period(mode=Mode.LOCAL_FREQUENCY, curve=((49_800, -6_000), (50_200, 6_000)))
    assert profiles.objection(held, asked) is None


def test_a_period_without_any_bound_is_the_nameplate() -> None:
    assert shown({"startPeriod": 0, "operationMode": "ExternalLimits"}).now_w == 11_000


@given(
    st.integers(-12_000, 12_000),
    st.integers(0, 5_000),
    st.sampled_from([(1,), (1, 2, 3)]),
    st.sampled_from(RateUnit),
    st.booleans(),
    st.booleans(),
)
def test_what_is_told_is_believed_when_it_is_shown_and_is_never_more_than_was_asked(
    highest_w: int, room_w: int, phases: tuple[int, ...], unit: RateUnit, extended: bool, per_phase: bool
) -> None:
    settings = ChargerSettings(
        device_id="d",
        charger_id="CP",
        discharge="negative_limit",
        phases=phases,
        rated_import_w=11_000,
        rated_export_w=10_000,
    )
    order = band(highest_w - room_w, highest_w)
    dialect = Dialect(unit=unit, extended=extended, per_phase=per_phase)
    try:
        limit_w = profiles.limit_of(order, settings, in_transaction=True, extended=extended)
    except CannotError:
        assert highest_w < -10_000
        return
    period = profiles.period_of(order, limit_w, settings, dialect)
    wire = lease(period, dialect, settings)
    schedule: CompositeSchedule = {
        "duration": 120,
        "scheduleStart": "1999-01-01T00:00:00Z",
        "chargingRateUnit": unit.value,
        "chargingSchedulePeriod": [cast(SchedulePeriod, period_in(wire))],
    }
    held = profiles.read_composite(schedule, settings, 60)
    assert profiles.objection(held, period) is None
    assert abs(held.now_w) <= abs(limit_w) + 1
    assert (held.now_w < 0) <= (limit_w < 0)
    version = Version.V21 if extended else Version.V201
    request: JsonObject = {"evseId": 1, "chargingProfile": wire}
    assert schemas(version).violation("SetChargingProfile", Direction.REQUEST, request) is None
