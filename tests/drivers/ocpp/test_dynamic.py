"""Dynamic profiles: what an update can change, and that whoever has it sent, nothing outlasts its lease. Pure."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.device import Setpoint
from drivers.ocpp import profiles
from drivers.ocpp.dynamic import ON_ITS_WAY_S, DynamicLease, dynamic_profile, flaw, update_of
from drivers.ocpp.profiles import Dialect, Held
from drivers.ocpp.schemas import Direction, JsonObject, Version, schemas
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.v2x import Mode, Period

SETTINGS = ChargerSettings(
    device_id="car-1", charger_id="CP", discharge="v2x", fallback_import_w=4_200, rated_import_w=11_000,
    rated_export_w=10_000,
)  # fmt: skip
V21 = Dialect(extended=True)
LEASE_S = 60.0


def lease(
    limit_w: int = 8_000, transaction_id: str | None = "T1", lease_s: float = LEASE_S, dialect: Dialect = V21
) -> JsonObject:
    """As a dynamic profile."""
    found = dynamic_profile(absolute(limit_w, transaction_id, lease_s, dialect), period(limit_w, dialect), lease_s)
    assert found is not None
    return found


def period(limit_w: int, dialect: Dialect = V21) -> Period:
    setpoint = Setpoint(lowest_w=min(limit_w, 0), highest_w=limit_w, lease_s=LEASE_S, reason="test")
    return profiles.period_of(setpoint, limit_w, SETTINGS, dialect)


def absolute(
    limit_w: int, transaction_id: str | None = "T1", lease_s: float = LEASE_S, dialect: Dialect = V21
) -> JsonObject:
    return profiles.lease_profile(
        SETTINGS, period(limit_w, dialect), dialect, wall_us=0, lease_s=lease_s, transaction_id=transaction_id
    )


def schedule_of(profile: JsonObject) -> JsonObject:
    return cast("list[JsonObject]", profile["chargingSchedule"])[0]


@pytest.fixture
def moving() -> DynamicLease:
    """Has a profile of 8000 W since 100.0, until 160.0; it lasts 30 s after each word."""
    lease_of_car = DynamicLease()
    lease_of_car.offered = True
    lease_of_car.took(lease(), 160.0, 100.0, by_update=False)
    return lease_of_car


def test_it_is_as_the_specification_wants_it_and_lasts_half_a_lease() -> None:
    profile = lease()
    known = schemas(Version.V21)
    payload: JsonObject = {"evseId": 1, "chargingProfile": profile}
    assert known.violation("SetChargingProfile", Direction.REQUEST, payload) is None
    assert (profile["chargingProfileKind"], profile["dynUpdateInterval"]) == ("Dynamic", 25)
    assert schedule_of(profile)["duration"] == 30
    assert "startSchedule" not in schedule_of(profile)  # K28.FR.02
    assert len(cast("list[JsonObject]", schedule_of(profile)["chargingSchedulePeriod"])) == 1  # K28.FR.01


def test_only_what_an_update_could_move_is_dynamic() -> None:
    curve = Period(mode=Mode.LOCAL_FREQUENCY, limit_w=0, discharge_w=-100, curve=((49_800, -100), (50_200, 0)))
    assert dynamic_profile(absolute(8_000), curve, LEASE_S) is None
    assert dynamic_profile(absolute(8_000, None), period(8_000), LEASE_S) is None  # waits for a transaction
    assert dynamic_profile(absolute(8_000), period(8_000), 9.0) is None  # is over at once


@pytest.mark.parametrize(
    ("limit_w", "dialect", "values"),
    [
        (8_000, V21, {"limit": 6_000}),
        (-5_000, V21, {"setpoint": -4_000, "limit": 0, "dischargeLimit": -4_000}),
        (9_000, Dialect(extended=True, per_phase=True), {"limit": 2_000, "limit_L2": 2_000, "limit_L3": 2_000}),
    ],
)
def test_an_update_carries_all_that_moves_and_nothing_else(
    moving: DynamicLease, limit_w: int, dialect: Dialect, values: JsonObject
) -> None:
    moving.took(lease(limit_w, dialect=dialect), 160.0, 100.0, by_update=False)
    moved = moving.moved_to(lease(-4_000 if limit_w < 0 else 6_000, dialect=dialect), LEASE_S)
    assert moved is not None
    update = update_of(moved)
    assert update == {"chargingProfileId": 13, "scheduleUpdate": values}
    assert schemas(Version.V21).violation("UpdateDynamicSchedule", Direction.REQUEST, update) is None


@pytest.mark.parametrize(
    "other",
    [
        lease(transaction_id="T2"),
        lease(-5_000),
        lease(dialect=Dialect(extended=True, per_phase=True)),
        lease(dialect=Dialect(extended=True, offline_bound=False)),
    ],
    ids=["transaction", "mode", "phases", "offline"],
)
def test_what_no_update_can_change_needs_another_profile(moving: DynamicLease, other: JsonObject) -> None:
    assert moving.moved_to(other, LEASE_S) is None
    moving.forget()
    assert moving.moved_to(lease(), LEASE_S) is None


@pytest.mark.parametrize(
    ("lease_s", "does"), [(60.0, True), (45.0, True), (31.0, True), (30.5, False), (149.0, True), (151.0, False)]
)
def test_a_duration_of_before_does_as_long_as_it_ends_within_the_lease(
    moving: DynamicLease, lease_s: float, does: bool
) -> None:
    moved = moving.moved_to(lease(6_000, lease_s=lease_s), lease_s)
    assert (moved is not None) is does
    if moved is not None:
        assert schedule_of(moved)["duration"] == 30
        assert cast("list[JsonObject]", schedule_of(moved)["chargingSchedulePeriod"])[0]["limit"] == 6_000


def test_a_pull_gets_the_present_values_while_they_still_end_within_the_lease(moving: DynamicLease) -> None:
    answer = moving.pulled(13, "T1", 125.0)
    assert answer == {"status": "Accepted", "scheduleUpdate": {"limit": 8_000}}
    assert moving.pulled(13, "T1", 129.5)["status"] == "Rejected"  # 129.5 + 1 + 30 is past 160


@pytest.mark.parametrize(("profile_id", "transaction_id"), [(12, "T1"), (23, "T1"), (13, "T2"), (13, None)])
def test_a_pull_of_anything_else_is_rejected(moving: DynamicLease, profile_id: int, transaction_id: str | None) -> None:
    answer = moving.pulled(profile_id, transaction_id, 101.0)
    assert answer["status"] == "Rejected"
    assert schemas(Version.V21).violation("PullDynamicScheduleUpdate", Direction.RESPONSE, answer) is None


def test_a_pull_while_an_order_is_on_its_way_gets_neither_old_nor_new_values(moving: DynamicLease) -> None:
    with moving.under_way():
        assert moving.pulled(13, "T1", 101.0)["status"] == "Rejected"
        assert moving.refresh("T1", 125.0) is None
    assert moving.pulled(13, "T1", 101.0)["status"] == "Accepted"


def test_it_is_refreshed_late_and_once_more_at_the_end(moving: DynamicLease) -> None:
    assert moving.refresh("T1", 115.0) is None
    assert moving.refresh("T1", 123.0) == {"chargingProfileId": 13, "scheduleUpdate": {"limit": 8_000}}
    moving.refreshed(123.0)
    assert moving.refresh("T1", 124.0) is None
    assert moving.refresh("T1", 128.0) is not None  # the last moment at which it ends with the lease
    moving.refreshed(128.0)
    assert moving.refresh("T1", 159.0) is None
    assert moving.refresh("T2", 128.0) is None


@given(
    lease_s=st.floats(10.0, 900.0),
    steps=st.lists(
        st.tuples(st.floats(0.0, 120.0), st.sampled_from(["pull", "tend", "plan"]), st.floats(10.0, 900.0)), max_size=40
    ),
)
def test_whoever_asks_and_whenever_nothing_outlasts_the_lease(
    lease_s: float, steps: list[tuple[float, str, float]]
) -> None:
    moving, now_s, until_s, ends_s = DynamicLease(), 0.0, 0.0, 0.0
    for pause_s, what, length_s in [(0.0, "plan", lease_s), *steps]:
        now_s += pause_s
        told = False
        if what == "plan":
            wanted = lease(lease_s=length_s)
            moved = moving.moved_to(wanted, length_s)
            given_ = wanted if moved is None else moved
            until_s, duration_s, told = now_s + length_s, cast(int, schedule_of(given_)["duration"]), True
            moving.took(given_, until_s, now_s, by_update=moved is not None)
        elif what == "pull":
            told = moving.pulled(13, "T1", now_s)["status"] == "Accepted"
        elif moving.refresh("T1", now_s) is not None:
            moving.refreshed(now_s)
            told = True
        if told:
            ends_s = now_s + duration_s + ON_ITS_WAY_S
        assert ends_s <= until_s + 1e-6


def test_two_refusals_in_a_row_are_enough(moving: DynamicLease) -> None:
    assert not moving.refused_update()
    moving.took(lease(), 160.0, 100.0, by_update=False)
    assert moving.refused_update()
    moving.booted()
    moving.took(lease(), 160.0, 100.0, by_update=False)
    assert not moving.refused_update()
    moving.took(lease(), 160.0, 100.0, by_update=True)
    assert not moving.refused_update()


@pytest.mark.parametrize(
    ("held", "what"),
    [
        (Held(8_000, 4_200, changes_s=30), ""),
        (Held(6_000, 4_200, changes_s=27), ""),  # somebody else's lower limit
        (Held(4_200, 4_200), ""),  # it is told its share: no end is seen, and none is needed
        (Held(8_000, 8_000), "no end"),
        (Held(8_000, None), "no end"),
        (Held(8_000, 4_200, changes_s=60), "after 60 s"),
        (Held(8_000, 4_200, changes_s=5), "after 5 s"),
    ],
)
def test_only_a_schedule_that_shows_the_end_is_a_proof(held: Held, what: str) -> None:
    found = flaw(held, lease(), SETTINGS)
    assert what in found
    assert bool(found) is bool(what)
