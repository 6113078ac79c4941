"""Who beside us moves or bounds an EVSE: what others leave of its ratings, and for how long."""

from __future__ import annotations

from typing import Any, cast

import pytest

from drivers.ocpp.messages import NotifyChargingLimit
from drivers.ocpp.outside import MOST_SOURCES, Outside, holds_as_cap
from drivers.ocpp.profiles import Held
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.timestamps import format_timestamp
from drivers.ocpp.v2x import Mode, Period

NOW_US = 1_767_225_600_000_000
MINUTE_US = 60_000_000
SETTINGS = ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1")


def told(*periods: dict[str, Any], source: str = "EMS", unit: str = "W", **schedule: Any) -> NotifyChargingLimit:
    whole = {"id": 1, "chargingRateUnit": unit, "chargingSchedulePeriod": list(periods), **schedule}
    message = {"chargingLimit": {"chargingLimitSource": source}, "chargingSchedule": [whole]}
    return cast(NotifyChargingLimit, message)


def left(outside: Outside, after_us: int = 0) -> tuple[int, int]:
    return outside.within(-10_000, 11_000, NOW_US + after_us)


@pytest.fixture
def outside() -> Outside:
    return Outside(SETTINGS)


@pytest.mark.parametrize(
    ("period", "unit", "bounds"),
    [
        ({"limit": 3_000}, "W", (-10_000, 3_000)),
        ({"limit": 10.0}, "A", (-10_000, 6_900)),
        ({"limit": 10.0, "numberPhases": 1}, "A", (-10_000, 2_300)),
        ({"limit": 1_000, "limit_L2": 1_000, "limit_L3": 500}, "W", (-10_000, 2_500)),
        ({"limit": 50_000}, "W", (-10_000, 11_000)),
        ({"limit": -2_000}, "W", (-10_000, 0)),
        ({"operationMode": "ExternalLimits", "dischargeLimit": -1_500}, "W", (-1_500, 11_000)),
        (
            {"operationMode": "ExternalSetpoint", "setpoint": 2_000, "limit": 6_000, "dischargeLimit": 0},
            "W",
            (0, 6_000),
        ),
        ({"operationMode": "Idle"}, "W", (-10_000, 0)),
        ({"limit": 1e300}, "W", (-10_000, 11_000)),
        ({"limit": -1e300}, "W", (-10_000, 0)),
    ],
)
def test_what_others_leave_of_the_ratings(
    outside: Outside, period: dict[str, Any], unit: str, bounds: tuple[int, int]
) -> None:
    outside.limited(told({"startPeriod": 0, **period}, unit=unit), NOW_US)
    assert left(outside) == bounds


def test_each_period_counts_in_its_time_and_none_beyond_the_end_of_the_schedule(outside: Outside) -> None:
    start = format_timestamp(NOW_US + MINUTE_US)
    periods = ({"startPeriod": 0, "limit": 4_000}, {"startPeriod": 60, "limit": 2_000})
    outside.limited(told(*periods, startSchedule=start, duration=180), NOW_US)
    assert [left(outside, minute * MINUTE_US)[1] for minute in range(5)] == [11_000, 4_000, 2_000, 2_000, 11_000]


def test_the_narrowest_of_several_counts_until_each_lets_go(outside: Outside) -> None:
    outside.limited(told({"startPeriod": 0, "limit": 4_000}), NOW_US)
    outside.limited(told({"startPeriod": 0, "limit": 6_000}, source="SO"), NOW_US)
    assert left(outside)[1] == 4_000
    outside.cleared("EMS")
    assert left(outside)[1] == 6_000
    outside.booted()
    assert left(outside)[1] == 11_000


def test_power_of_the_site_s_own_on_top_is_no_limit(outside: Outside) -> None:
    message = told({"startPeriod": 0, "limit": 2_000})
    message["chargingLimit"]["isLocalGeneration"] = True
    limit, news = outside.limited(message, NOW_US)
    assert (limit.sentence(), news) == ("'EMS' tells of 2000 W generated beside it", True)
    assert left(outside)[1] == 11_000
    outside.limited(told({"startPeriod": 0, "limit": 3_000}), NOW_US)  # of the same source, and a limit
    assert left(outside)[1] == 3_000
    assert len(outside.limits) == 2
    assert outside.cleared("EMS")
    assert not outside.limits


def test_what_moves_a_little_is_known_at_once_and_no_news_until_it_has_moved_far(outside: Outside) -> None:
    told_w = [4_000, 5_000, 6_000, 6_300, 6_000, 11_000]
    news = [outside.limited(told({"startPeriod": 0, "limit": watts}), NOW_US)[1] for watts in told_w]
    assert news == [True, False, False, True, False, True]
    assert left(outside)[1] == 11_000


def test_sources_without_end_fill_no_memory_and_those_known_still_count(outside: Outside) -> None:
    for number in range(100):
        outside.limited(told({"startPeriod": 0, "limit": 5_000 + number}, source=f"S{number}"), NOW_US)
    outside.limited(told({"startPeriod": 0, "limit": 1_000}, source="S0"), NOW_US)
    assert left(outside)[1] == 1_000
    for number in range(MOST_SOURCES):
        outside.cleared(f"S{number}")
    assert left(outside)[1] == 11_000


def test_a_mode_is_others_unless_we_ordered_it(outside: Outside) -> None:
    outside.shown("LocalFrequency")
    outside.shown(None)
    assert outside.moves(None) is Mode.LOCAL_FREQUENCY
    assert outside.moves(Mode.LOCAL_FREQUENCY) is None
    outside.shown("CentralSetpoint")
    assert outside.moves(None) is None


@pytest.mark.parametrize(
    ("held", "period", "holds"),
    [
        (Held(3_000, None, Mode.EXTERNAL_SETPOINT), Period(limit_w=3_000), True),
        (Held(0, None, Mode.EXTERNAL_LIMITS), Period(limit_w=0), True),
        (Held(40, None, Mode.EXTERNAL_LIMITS), Period(limit_w=0), False),
        (Held(4_000, None, Mode.EXTERNAL_SETPOINT), Period(limit_w=3_000), False),
        (Held(-500, None, Mode.EXTERNAL_SETPOINT), Period(limit_w=3_000), False),
        (Held(0, None, Mode.EXTERNAL_SETPOINT), Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5, limit_w=0), False),
        (Held(3_000, None, Mode.CHARGING_ONLY), Period(limit_w=3_000), False),  # judged as ever
    ],
)
def test_a_cap_holds_under_others_and_an_order_does_not(held: Held, period: Period, holds: bool) -> None:
    assert holds_as_cap(held, period) is holds


@pytest.mark.parametrize(
    ("period", "highest_w", "mode"),
    [
        (Period(limit_w=2_000), 2_000, Mode.CENTRAL_FREQUENCY),
        (Period(limit_w=11_000), 20_000, Mode.CHARGING_ONLY),
        (Period(limit_w=11_000), None, Mode.CHARGING_ONLY),
        (Period(mode=Mode.CENTRAL_SETPOINT, setpoint_w=-5, limit_w=0, discharge_w=-9), -5, Mode.CENTRAL_FREQUENCY),
        (Period(mode=Mode.IDLE), 0, Mode.IDLE),
    ],
)
def test_q07_only_an_order_to_a_power_becomes_an_answer_to_the_frequency(
    period: Period, highest_w: int | None, mode: Mode
) -> None:
    assert period.for_frequency(highest_w).mode is mode
