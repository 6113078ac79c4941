"""Nothing flaps: behind constant commands, sun and house every order comes to rest, whatever the samples are like.

The first five minutes are for ramps, late answers and steps of PV's bound; after them each device holds its band, and
the connection its limits.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.command import CommandType, Mode, Point
from drivers.device import DeviceKind
from tests.agent.control.closed_loop import ClosedLoop, Part, Spec
from tests.agent.control.support import HOUR_US, SOME_COMMAND, START_US, curtail, order_of

SETTLED_S = 300
WATCHED_S = 100
CALM_W = 50
SLOW_CAR = Part(kind=DeviceKind.CHARGER, natural_w=11_000, period_s=5)
SLOW_V2G = replace(SLOW_CAR, discharges=True, order_s=2)
SUNNY = Part(kind=DeviceKind.PV, natural_w=8_993, ramp_w_per_s=1_000, order_s=1)


def no_export(settings: Spec) -> Spec:
    """By a command."""
    command = curtail(0, mode=Mode.EXPORT_LIMIT, point=Point.CONNECTION)
    return replace(settings, orders=(order_of(replace(command, end_us=START_US + HOUR_US)),))


def target(power_w: int, kind: CommandType = CommandType.CHARGE) -> Spec:
    command = replace(
        SOME_COMMAND, point=Point.CONNECTION, targets=(), type=kind, power_w=power_w,
        end_us=START_US + HOUR_US,
    )  # fmt: skip
    return Spec(parts={}, orders=(order_of(command),))


FLAPPED = {
    "a car's samples come ten seconds apart, the meter's five": Spec(
        parts={"car": replace(SLOW_CAR, natural_w=7_400, period_s=10, ramp_w_per_s=2_000)},
        house_w=lambda _: 5_875, import_limit_w=11_731, fuse_a=16, meter_period_s=5,
    ),
    "a car on one phase behind a meter that is late": Spec(
        parts={"car": replace(SLOW_CAR, natural_w=7_400, phases=(1,), ramp_w_per_s=20_000)},
        house_w=lambda _: 4_034, import_limit_w=11_633, fuse_a=16, meter_period_s=5, meter_late_s=2, meter_mean_s=2,
    ),
    "no import, and a car that takes what the sun gives": Spec(
        parts={"car": SLOW_V2G, "pv": SUNNY}, house_w=lambda _: 1_415, import_limit_w=0, export_limit_w=20_000,
    ),
    "two cars and the sun near the import limit": Spec(
        parts={
            "car-0": replace(SLOW_V2G, ramp_w_per_s=2_000), "car-1": replace(SLOW_V2G, period_s=10, order_s=0),
            "pv": replace(SUNNY, natural_w=4_029, period_s=2, ramp_w_per_s=20_000),
        },
        import_limit_w=17_560, export_limit_w=3_000, meter_late_s=1, by_phase=True,
    ),
    "the sun's step is at the meter before the inverter tells of it": no_export(
        Spec(
            parts={"pv": replace(SUNNY, natural_w=5_983, period_s=5, ramp_w_per_s=20_000, order_s=2)},
            house_w=lambda _: 4_000, import_limit_w=12_209, meter_late_s=1, by_phase=True,
        )
    ),
    "a battery is told less by the export limit, behind a meter that shows means": replace(
        target(7_537, CommandType.DISCHARGE),
        parts={
            "battery": Part(kind=DeviceKind.BATTERY, ramp_w_per_s=2_000, order_s=2),
            "car-0": replace(SLOW_CAR, period_s=2, ramp_w_per_s=20_000, order_s=1),
            "car-1": replace(SLOW_CAR, natural_w=5_412, period_s=2, ramp_w_per_s=1_000, order_s=1, phases=(1,)),
            "pv": replace(SUNNY, natural_w=6_514, period_s=2, ramp_w_per_s=20_000, order_s=0),
        },
        meter_mean_s=3, export_limit_w=3_000, phase_difference_a=20, discharge_permitted=True,
    ),
    "a battery follows a target behind a meter that shows means": replace(
        target(14_726),
        parts={
            "battery": Part(kind=DeviceKind.BATTERY, period_s=2, ramp_w_per_s=20_000, order_s=2),
            "car": replace(SLOW_CAR, period_s=3, ramp_w_per_s=2_000, phases=(2,)),
        },
        import_limit_w=17_226, fuse_a=32, meter_late_s=1, meter_mean_s=3, by_phase=True, battery_idle=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("site", FLAPPED)
def test_orders_come_to_rest_where(site: str) -> None:
    spec = FLAPPED[site]
    loop = ClosedLoop(spec).run(SETTLED_S + WATCHED_S)
    assert not any(loop.changes(SETTLED_S).values())
    assert max(loop.connection_w[SETTLED_S:]) <= spec.import_limit_w + CALM_W
    assert min(loop.connection_w[SETTLED_S:]) >= -spec.export_limit_w - CALM_W


@settings(max_examples=10, deadline=None)
@given(
    cars=st.lists(
        st.builds(
            Part,
            kind=st.just(DeviceKind.CHARGER),
            period_s=st.sampled_from([1, 2, 5, 10]),
            ramp_w_per_s=st.sampled_from([2_000, 20_000]),
            order_s=st.integers(0, 2),
            natural_w=st.integers(4_200, 11_000),
        ),
        min_size=1,
        max_size=3,
    ),
    house_w=st.integers(0, 6_000),
    room_w=st.integers(0, 20_000),
    meter_period_s=st.sampled_from([1, 2, 5]),
)
def test_cars_near_the_import_limit_come_to_rest_whenever_they_and_the_meter_tell_of_themselves(
    cars: list[Part], house_w: int, room_w: int, meter_period_s: int
) -> None:
    spec = Spec(
        parts={f"car-{number}": car for number, car in enumerate(cars)},
        house_w=lambda _: house_w,
        import_limit_w=house_w + room_w,
        meter_period_s=meter_period_s,
    )
    loop = ClosedLoop(spec).run(SETTLED_S // 2 + WATCHED_S // 2)
    assert not any(loop.changes(SETTLED_S // 2).values())
    assert max(loop.connection_w[SETTLED_S // 2 :]) <= spec.import_limit_w


@pytest.mark.parametrize("every_s", [30, 60])
def test_a_house_that_switches_moves_each_device_a_few_times_for_each_of_its_own(every_s: int) -> None:
    spec = replace(
        FLAPPED["two cars and the sun near the import limit"],
        house_w=lambda second: 500 + 2_000 * (second // every_s % 2),
    )
    loop = ClosedLoop(spec).run(SETTLED_S + 240)
    assert max(loop.changes(SETTLED_S).values()) <= 5 * (240 // every_s)


def test_a_phase_that_no_meter_shows_is_relieved_at_once_of_what_the_house_brings_on() -> None:
    """Two cars on one phase, whose samples are ten seconds old, behind a meter of the whole connection alone."""
    car = Part(kind=DeviceKind.CHARGER, natural_w=7_400, period_s=10, ramp_w_per_s=20_000, order_s=1, phases=(2,))
    spec = Spec(
        parts={"car-0": car, "car-1": replace(car, natural_w=11_000), "pv": replace(SUNNY, ramp_w_per_s=20_000)},
        house_w=lambda _: 2_465, import_limit_w=20_000, fuse_a=32,
    )  # fmt: skip
    loop = ClosedLoop(spec).run(60)
    # The sun goes; then, while no sample shows yet what the cars made of that, a kettle is switched on.
    pv = loop.devices["pv"]
    pv.part = replace(pv.part, natural_w=0)
    loop.run(4)
    loop.spec = replace(spec, house_w=lambda _: 5_465)
    began = loop.run(20).now_s - 20
    beyond = [max(phases) > spec.fuse_a * 230 + CALM_W for phases in loop.phases_w[began:]]
    assert not any(beyond[3:])
