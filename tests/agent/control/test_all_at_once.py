"""Everything at once: holds, hard-wired inputs, schedules, local bounds, frequency, a return, phases, silence and STOP.

What the rules promise one by one must hold for any mixture of them.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control import codec
from agent.control.bounds import Allowance, BoundsView
from agent.control.coming_back import ComingBack
from agent.control.command import Mode, Price
from agent.control.decisions import plan_bytes
from agent.control.frequency import GridFrequency
from agent.control.inputs import InputClamp
from agent.control.order import Rank, precedence
from agent.control.override import Override
from agent.control.plan import Plan, make_plan
from agent.control.rules.draft import Rule
from agent.control.site import CarDay, DeviceView, Held, SiteView
from drivers.device import DeviceKind
from tests.agent.control.strategies import sites
from tests.agent.control.support import (
    BATTERY,
    CAR,
    HOUR_US,
    LIMITS,
    PLAIN,
    SOME_COMMAND,
    START_US,
    V2G_SESSION,
    curtail,
    order_of,
    site,
)

SIDES = st.sampled_from([0, 0, 0, 1, -1])


def _hold(name: str, power_w: int | None) -> Override:
    return Override(device_id=name, power_w=power_w, since_us=START_US, until_us=START_US + HOUR_US, by="owner")


@st.composite
def mixtures(draw: st.DrawFn) -> SiteView:
    """A site of `sites` with some of everything else."""
    view = draw(sites())
    names = sorted(view.devices)
    devices = {name: _changed(draw, device) for name, device in view.devices.items()}
    side = draw(SIDES)
    held = draw(st.sets(st.sampled_from(names))) if names else set()
    powers = st.none() | st.integers(-12_000, 12_000)
    returning = ComingBack(
        why="the public grid is back", since_s=0, wait_s=0, allowance_permille=draw(st.integers(0, 999)),
        base_w={name: device.present_w for name, device in devices.items() if draw(st.booleans())},
    )  # fmt: skip
    bounds = {
        name: Allowance(energy=draw(st.booleans()), sign=draw(SIDES), from_w=draw(st.integers(-5_000, 5_000)),
                        ramp_permille=draw(st.none() | st.integers(0, 200)))
        for name in names
    }  # fmt: skip
    orders = [replace(order, rank=draw(st.sampled_from(Rank))) for order in view.orders]
    limits = replace(view.limits, phase_limit_w=draw(st.integers(3_000, 15_000)),
                     difference_limit_w=draw(st.sampled_from([None, 4_600])))  # fmt: skip
    return replace(
        view,
        devices=devices,
        limits=limits,
        orders=tuple(sorted(orders, key=precedence)),
        overrides={name: _hold(name, draw(powers)) for name in sorted(held)},
        inputs=(InputClamp(name="relay", export_limit_w=draw(st.sampled_from([None, 0, 3_000])),
                           import_limit_w=draw(st.sampled_from([None, 0, 4_200]))),),
        coming_back=draw(st.sampled_from([None, returning])),
        bounds=BoundsView(devices=bounds, events_left=draw(st.none() | st.integers(0, 2))),
        frequency=GridFrequency(side=side, share_permille=side * draw(st.sampled_from([0, 80, 1_000]))),
        defaults=replace(view.defaults, answers_frequency=draw(st.booleans())),
        safe_mode=draw(st.sampled_from([None, "a reason"])),
        spot=draw(st.sampled_from([None, Price(100_000, "EUR")])),
    )  # fmt: skip


def _changed(draw: st.DrawFn, device: DeviceView) -> DeviceView:
    if device.kind is not DeviceKind.CHARGER:
        return replace(device, phases=draw(st.sampled_from([(1, 2, 3), (1,), (2, 3)])))
    car = device.vehicle
    assert car is not None
    car = replace(car, charge_now=draw(st.booleans()), token_id=draw(st.sampled_from([car.token_id, "guest"])))
    return replace(
        device,
        vehicle=draw(st.sampled_from([car, car, None])),
        day=draw(st.sampled_from(CarDay)),
        begun=draw(st.booleans()),
        at_minimum=draw(st.booleans()),
        follows=draw(st.sampled_from([None, True, False])),
        phases=draw(st.sampled_from([(1, 2, 3), (1,), (2,)])),
    )


def _import_w(view: SiteView, plan: Plan) -> int:
    """What the devices can draw once those that shall come down have done so, less the export that goes on."""
    total_w = 0
    for name, device in view.devices.items():
        order = plan.orders[name]
        if not device.online:
            total_w += device.worst_import_w
        elif device.kind is not DeviceKind.PV:
            total_w += max(0, device.present_w if order.highest_w is None else order.highest_w)
        if device.online:
            lowest_w = device.present_w if order.lowest_w is None else order.lowest_w
            total_w -= min(max(0, -device.present_w), max(0, -lowest_w))
    return total_w


def _storage_export_w(view: SiteView, plan: Plan) -> int:
    """As `_import_w`, of what storage and cars are ordered to give."""
    total_w = 0
    for name, device in view.devices.items():
        order = plan.orders[name]
        if not device.online:
            total_w += device.worst_export_w
            continue
        if device.kind is not DeviceKind.PV and order.lowest_w is not None:
            total_w += max(0, -order.lowest_w)
        highest_w = device.present_w if order.highest_w is None else order.highest_w
        total_w -= min(max(0, device.present_w), max(0, highest_w))
    return total_w


@given(mixtures())
@settings(max_examples=150, deadline=None)
def test_whatever_comes_together_no_order_goes_beyond_the_devices_the_owners_and_stop(view: SiteView) -> None:
    plan = make_plan(view)
    assert plan_bytes(make_plan(codec.decode(SiteView, codec.encode(view)))) == plan_bytes(plan)
    for name, order in plan.orders.items():
        device, low, high = view.devices[name], order.lowest_w, order.highest_w
        assert low is None or high is None or low <= high
        assert high is None or high <= max(0, device.most_import_w)
        if view.stop is not None:
            assert (low, high) == (0, 0)
        if device.kind is DeviceKind.PV:
            continue
        assert low is None or low >= -device.most_export_w
        if device.kind is DeviceKind.CHARGER:
            assert low is not None
            assert low >= 0 or _may_give(view, device)
            assert not view.islanded or (low, high) == (0, 0)


def _may_give(view: SiteView, device: DeviceView) -> bool:
    car = device.vehicle
    mandate = view.mandates.get(car.token_id or "") if car is not None else None
    if car is None or mandate is None or car.charge_now or device.at_minimum or not view.limits.discharge_permitted:
        return False
    return (car.state_of_charge_permille or 0) > mandate.minimum_soc_permille


@given(mixtures())
@settings(max_examples=150, deadline=None)
def test_whatever_comes_together_the_connection_keeps_the_narrowest_of_its_limits(view: SiteView) -> None:
    """Hard-wired inputs among them; nothing that ends in this plan counts as room for another device."""
    view = replace(view, stop=None, frequency=GridFrequency())
    plan = make_plan(view)
    if view.house_most_w is None or view.house_least_w is None:
        return
    wired = view.inputs[0]
    import_w = min(view.limits.import_limit_w, *(w for w in (wired.import_limit_w,) if w is not None), 10**9)
    export_w = min(view.limits.export_limit_w, *(w for w in (wired.export_limit_w,) if w is not None), 10**9)
    if any((order.highest_w or 0) > 0 for n, order in plan.orders.items() if view.devices[n].online):
        assert _import_w(view, plan) <= import_w - view.house_most_w
    if any((o.lowest_w or 0) < 0 for n, o in plan.orders.items() if view.devices[n].kind is not DeviceKind.PV):
        storage = [d for d in view.devices.values() if d.kind is not DeviceKind.PV and d.online]
        if any((plan.orders[d.device_id].lowest_w or 0) < 0 for d in storage):
            assert _storage_export_w(view, plan) <= export_w + view.house_least_w


@given(mixtures(), st.integers(-12_000, 12_000))
@settings(max_examples=100, deadline=None)
def test_a_hold_never_slows_a_car_whose_driver_wants_to_charge_now(view: SiteView, power_w: int) -> None:
    car = replace(CAR, vehicle=replace(V2G_SESSION, charge_now=True))
    view = replace(view, devices={**view.devices, "car": car}, stop=None, islanded=False)
    others = {name: hold for name, hold in view.overrides.items() if name != "car"}
    free = make_plan(replace(view, overrides=others)).orders["car"]
    held = make_plan(replace(view, overrides={**others, "car": _hold("car", power_w)})).orders["car"]
    assert (held.lowest_w, held.highest_w) == (free.lowest_w, free.highest_w)


def test_a_discharge_does_not_count_on_an_import_that_the_same_plan_ends() -> None:
    """SAFETY 3: lower first. The car draws 8 kW still; the limit by command takes it away."""
    stop_charging = order_of(replace(curtail(0), mode=Mode.IMPORT_LIMIT, targets=("plain",)), "limit")
    tight = replace(LIMITS, import_limit_w=0, export_limit_w=0)
    drawing = replace(PLAIN, power_w=8_000, held=Held(lowest_w=0, highest_w=8_000))
    for view in (
        site(BATTERY, drawing, house_w=1_000, orders=(stop_charging,), limits=tight),
        site(BATTERY, drawing, house_w=1_000, limits=tight),
    ):
        plan = make_plan(replace(view, overrides={"battery": _hold("battery", -9_000)}))
        assert plan.orders["plain"].highest_w == 0
        assert plan.orders["battery"].lowest_w == -1_000
        assert Rule.CONNECTION_EXPORT in plan.orders["battery"].bound_by


def test_an_import_does_not_count_on_a_discharge_that_the_same_plan_ends() -> None:
    """The battery gives 9 kW still; the difference between phases lets it give less."""
    giving = replace(BATTERY, power_w=-9_000, phases=(1,), held=Held(lowest_w=-9_000, highest_w=-9_000))
    drawing = replace(PLAIN, power_w=9_000, held=Held(lowest_w=0, highest_w=11_000))
    limits = replace(LIMITS, import_limit_w=3_000, export_limit_w=50_000, difference_limit_w=4_000)
    order = order_of(replace(SOME_COMMAND, power_w=9_000))
    plan = make_plan(site(giving, drawing, house_w=0, orders=(order,), limits=limits))
    assert plan.orders["battery"].lowest_w == -4_000
    assert plan.orders["plain"].highest_w == 7_000
