"""Profiles: a band to one limit, a limit to the wire, and a composite schedule back to what is held."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.device import Setpoint
from drivers.ocpp import profiles
from drivers.ocpp.messages import CompositeSchedule, SchedulePeriod
from drivers.ocpp.profiles import CannotError, Held, RateUnit, Slot
from drivers.ocpp.schemas import Direction, JsonObject, Version, schemas
from drivers.ocpp.settings import ChargerSettings

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
    lease = profiles.lease_profile(V2G, -5_000, unit, wall_us=NOW_US, lease_s=60, transaction_id=transaction_id)
    for profile in (lease, profiles.static_share_profile(PLAIN, unit)):
        request: JsonObject = {"evseId": 1, "chargingProfile": profile}
        assert schemas(Version.V201).violation("SetChargingProfile", Direction.REQUEST, request) is None


def test_a_lease_ends_in_the_charger_when_it_ends_here() -> None:
    profile = profiles.lease_profile(PLAIN, 7_400, RateUnit.WATTS, wall_us=NOW_US, lease_s=60.9, transaction_id="T1")
    schedule = schedule_of(profile)
    assert schedule["startSchedule"] == "2026-01-02T03:04:00.000Z"  # five seconds ago
    assert schedule["duration"] == 65
    assert (profile["chargingProfilePurpose"], profile["transactionId"]) == ("TxProfile", "T1")


def test_the_static_share_never_ends_and_needs_no_clock() -> None:
    profile = profiles.static_share_profile(PLAIN, RateUnit.WATTS)
    schedule = schedule_of(profile)
    assert "duration" not in schedule
    assert "startSchedule" not in schedule
    assert "validTo" not in profile
    assert limit_in(profile) == 4_200


def test_without_a_configured_share_the_charger_waits_for_us() -> None:
    assert limit_in(profiles.static_share_profile(V2G, RateUnit.WATTS)) == 0


def test_the_profiles_of_all_evses_have_different_ids() -> None:
    ids = {profiles.profile_id(evse_id, slot) for evse_id in range(1, 101) for slot in Slot}
    assert len(ids) == 300


@given(st.integers(-10_000, 11_000), st.sampled_from([(1,), (1, 2, 3)]))
def test_amperes_never_mean_more_power_than_was_asked(limit_w: int, phases: tuple[int, ...]) -> None:
    settings = ChargerSettings(device_id="d", charger_id="CP", discharge="negative_limit", phases=phases)
    profile = profiles.lease_profile(
        settings, limit_w, RateUnit.AMPERES, wall_us=NOW_US, lease_s=60, transaction_id="T1"
    )
    amperes = limit_in(profile)
    assert abs(amperes) * 230 * len(phases) <= abs(limit_w) + 1e-6
    assert abs(amperes) * 230 * len(phases) > abs(limit_w) - 23 * len(phases) - 1e-6
    assert round(amperes, 1) == amperes
    held = profiles.read_composite(composite((0, amperes), unit="A"), settings, 60)
    assert profiles.objection(held, limit_w) is None


def test_a_composite_schedule_says_what_holds_now_and_after_the_lease() -> None:
    held = profiles.read_composite(composite((0, 7_400), (60, 4_200)), PLAIN, 60)
    assert held == Held(now_w=7_400, after_lease_w=4_200)


def test_a_composite_schedule_that_ends_with_the_lease_says_nothing_of_afterwards() -> None:
    assert profiles.read_composite(composite((0, 7_400), duration=60), PLAIN, 60).after_lease_w is None


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
    assert (profiles.objection(Held(now_w, None), limit_w) is None) is believed
