"""SAFETY 1 and 13: hard-wired inputs are above every command; a broken wire is on the safe side; nothing bounces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import InputSettings
from agent.control.command import CommandType, Point
from agent.control.frequency import GridFrequency
from agent.control.input_watch import InputWatch
from agent.control.inputs import Debounced, InputClamp, step
from agent.control.plan import make_plan
from agent.control.rules.draft import Rule
from agent.control.site import DeviceView, Held, SiteView
from agent.evidence.statements import Severity
from drivers.gpio import Bias, Line, LineError
from tests.agent.control.strategies import sites
from tests.agent.control.support import BATTERY, CAR, PLAIN, PV, SOME_COMMAND, order_of, site

RIPPLE = InputSettings(name="ripple", line=1, export_limit_w=0)


class Wire:
    """A line as a test wants it; None: it cannot be read."""

    def __init__(self) -> None:
        self.high: bool | None = False
        self.opened = self.closed = 0

    def open(self, chip: Path, line: int, bias: Bias) -> Line:
        if self.high is None:
            raise LineError("no chip")
        self.opened += 1
        return self

    def read(self) -> bool:
        if self.high is None:
            raise LineError("no chip")
        return self.high

    def close(self) -> None:
        self.closed += 1


class Box:
    """A watch with its clock and what it said."""

    def __init__(self, settings: InputSettings = RIPPLE) -> None:
        self.now_s, self.wire = 100.0, Wire()
        self.said: list[str] = []
        self.pressed: list[str] = []
        self.changes = 0
        self.watch = InputWatch(
            [settings], say=self.say, press=self.pressed.append, changed=self.change,
            monotonic_s=lambda: self.now_s, open_=self.wire.open,
        )  # fmt: skip

    def say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        self.said.append(code)

    def change(self) -> None:
        self.changes += 1

    def look(self, high: bool | None, after_s: float = 0.06) -> bool:
        self.wire.high = high
        self.now_s += after_s
        self.watch.look()
        return self.watch.states()[0].active


def test_before_the_first_look_an_input_counts_as_on_the_safe_side() -> None:
    assert Box().watch.clamps() == (InputClamp(name="ripple", export_limit_w=0),)
    careless = RIPPLE.model_copy(update={"unreadable": "inactive"})
    assert Box(careless).watch.clamps() == ()


def test_a_level_counts_once_it_has_stood_and_each_change_is_a_statement() -> None:
    box = Box()
    assert not box.look(False)
    assert not box.look(True)
    assert not box.look(False)
    assert not box.look(True)
    assert not box.look(True)
    assert box.look(True)
    assert box.said == ["input.active"]
    assert box.look(False)
    assert not box.look(False, 0.2)
    assert box.said == ["input.active", "input.inactive"]
    assert box.changes == 3  # with the first look


def test_a_line_that_cannot_be_read_is_on_the_safe_side_at_once_and_is_opened_again() -> None:
    box = Box()
    box.look(False)
    assert box.look(None)
    assert box.watch.states()[0].trouble == "no chip"
    assert box.said == ["input.active", "input.unreadable"]
    assert box.wire.closed == 1
    assert box.look(None)
    assert box.said == ["input.active", "input.unreadable"]  # said once
    assert box.look(False, 2.0)
    assert not box.look(False, 0.2)
    assert box.said[2:] == ["input.readable", "input.inactive"]
    assert box.wire.opened == 2


def test_where_the_contact_closes_to_act_the_installer_says_so() -> None:
    box = Box(RIPPLE.model_copy(update={"active": "low", "unreadable": "inactive"}))
    assert not box.look(True)
    assert not box.look(None)
    box.look(False, 2.0)
    assert box.look(False, 0.2)


def test_a_stop_button_presses_stop_for_as_long_as_it_is_active() -> None:
    box = Box(InputSettings(name="button", line=2, stop=True))
    box.look(False)
    assert box.pressed == []
    box.look(True)
    box.look(True, 0.2)
    box.look(True)
    assert box.pressed == ["input button"] * 2  # who clears STOP meanwhile gets it again
    assert box.watch.clamps() == ()


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 0.3)), max_size=40), st.floats(0, 0.5))
def test_no_level_counts_that_has_not_stood_for_the_time(looks: list[tuple[bool, float]], debounce_s: float) -> None:
    state: Debounced | None = None
    now_s, stands_since_s, stands = 0.0, 0.0, None
    for level, after_s in looks:
        now_s += after_s
        if level != stands:
            stands, stands_since_s = level, now_s
        before, state = state, step(state, level, debounce_s, now_s)
        if before is not None and state.active != before.active:
            assert state.active == level
            assert now_s - stands_since_s >= debounce_s


# -- in the plan ----------------------------------------------------------------------------------------------------


def test_ripple_control_is_above_every_command() -> None:
    order = order_of(replace(SOME_COMMAND, power_w=9_000))
    clamp = InputClamp(name="ripple", export_limit_w=2_000)
    plan = make_plan(replace(site(BATTERY, orders=(order,), house_w=0), inputs=(clamp,)))
    assert plan.orders["battery"].lowest_w == -2_000
    assert Rule.WIRED in plan.orders["battery"].bound_by
    assert Rule.WIRED.value in plan.commands[order.hash].reason


def test_sun_is_cut_at_once_where_an_input_allows_no_export() -> None:
    clamp = InputClamp(name="ripple", export_limit_w=0)
    plan = make_plan(replace(site(PV, house_w=1_000), inputs=(clamp,)))
    assert plan.orders["pv"].lowest_w == -1_000


def test_an_operator_s_relay_bounds_what_cars_and_batteries_draw() -> None:
    order = order_of(replace(SOME_COMMAND, type=CommandType.CHARGE, point=Point.CONNECTION, targets=(), power_w=25_000))
    clamp = InputClamp(name="relay", import_limit_w=8_400)
    plan = make_plan(replace(site(BATTERY, CAR, PLAIN, orders=(order,)), inputs=(clamp,)))
    assert sum(max(0, o.highest_w or 0) for o in plan.orders.values()) <= 8_400 - 1_000


@given(sites(), st.integers(0, 20_000), st.integers(0, 20_000))
def test_an_input_never_allows_more_than_there_would_be_without_it(
    view: SiteView, export_w: int, import_w: int
) -> None:
    clamp = InputClamp(name="x", export_limit_w=export_w, import_limit_w=import_w)
    free, bound = make_plan(view), make_plan(replace(view, inputs=(clamp,)))
    if view.meter is None or view.islanded:
        return
    drawn = [sum(max(0, o.highest_w or 0) for o in plan.orders.values()) for plan in (bound, free)]
    assert drawn[0] <= drawn[1]
    least = min((clamp.import_limit_w or 0), view.limits.import_limit_w)
    assert view.house_most_w is not None
    room_w = least - view.house_most_w + sum(max(0, -view.devices[n].present_w) for n in view.devices)
    charging = sum(max(0, o.highest_w or 0) for o in bound.orders.values() if view.devices[o.device_id].online)
    assert charging <= max(0, room_w) + sum(d.worst_export_w + abs(d.present_w) for d in view.devices.values())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "x", "line": 1}, "does nothing"),
        ({"name": "x", "line": -1, "stop": True}, "greater than or equal to 0"),
        ({"name": "x", "line": 1, "stop": True, "debounce_s": float("nan")}, "debounce_s"),
        ({"name": "x", "line": 1, "stop": True, "chip": "gpiochip0"}, "chip"),
    ],
)
def test_an_input_that_makes_no_sense_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InputSettings.model_validate(fields)


def test_a_fault_in_a_driver_is_on_the_safe_side_and_takes_no_plan_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box()
    assert not box.look(False)

    def broken() -> bool:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(box.wire, "read", broken)
    assert box.look(False)
    assert "a fault of ours" in box.watch.states()[0].trouble
    assert box.watch.clamps() == (InputClamp(name="ripple", export_limit_w=0),)


# -- beside the grid's frequency (SAFETY 5: nothing goes against it but a fuse and STOP)


def _off(view: SiteView, millihertz: int) -> SiteView:
    side = (millihertz > 50_000) - (millihertz < 50_000)
    base_w = {name: device.likely_w for name, device in view.devices.items()}
    return replace(view, frequency=GridFrequency(millihertz=millihertz, monotonic_s=0, side=side, base_w=base_w))


@pytest.mark.parametrize(
    ("device", "clamp", "against_hz"),
    [
        (replace(BATTERY, power_w=4_000), InputClamp(name="ripple", import_limit_w=0), 50_300),
        (replace(PLAIN, power_w=7_000), InputClamp(name="ripple", import_limit_w=0), 50_300),
        (replace(PV, power_w=-4_000), InputClamp(name="ripple", export_limit_w=0), 49_700),
    ],
)
def test_a_wire_that_would_work_against_the_frequency_waits_until_it_is_back_and_both_are_named(
    device: DeviceView, clamp: InputClamp, against_hz: int
) -> None:
    held = Held(lowest_w=min(0, device.present_w), highest_w=max(0, device.present_w))
    orders = (order_of(replace(SOME_COMMAND, type=CommandType.CHARGE, power_w=4_000)),)
    view = replace(site(replace(device, held=held), house_w=0, orders=orders), inputs=(clamp,))
    waits = make_plan(_off(view, against_hz)).orders[device.device_id]
    assert device.present_w in (waits.lowest_w, waits.highest_w)
    assert {Rule.WIRED, Rule.GRID_CODE} <= set(waits.bound_by)
    assert f"{Rule.WIRED.value}, {Rule.GRID_CODE.value}" in waits.reason
    acts = make_plan(view).orders[device.device_id]
    assert (acts.lowest_w if device.present_w < 0 else acts.highest_w) == 0
    assert Rule.GRID_CODE not in acts.bound_by
    # The other way the same wire helps the grid, and acts at once.
    helps = make_plan(_off(view, 100_000 - against_hz)).orders[device.device_id]
    assert (helps.lowest_w if device.present_w < 0 else helps.highest_w) == 0


@given(sites(), st.sampled_from([49_700, 50_300]), st.integers(0, 20_000), st.integers(0, 20_000))
def test_a_wire_lets_nothing_work_against_the_frequency_on_any_site(
    view: SiteView, millihertz: int, export_w: int, import_w: int
) -> None:
    view = replace(view, stop=None, islanded=False)
    clamp = InputClamp(name="x", export_limit_w=export_w, import_limit_w=import_w)
    free, wired = make_plan(_off(view, millihertz)), make_plan(_off(replace(view, inputs=(clamp,)), millihertz))
    if view.meter is None:
        return  # without it static sums stand for the fuse, which comes first
    for name, order in wired.orders.items():
        device, without = view.devices[name], free.orders[name]
        if not device.online or device.capabilities is None or Rule.WIRED not in order.bound_by:
            continue
        if millihertz > 50_000 and order.highest_w is not None:
            least_w = min(device.likely_w, device.most_import_w if without.highest_w is None else without.highest_w)
            assert order.highest_w >= least_w
        if millihertz < 50_000 and order.lowest_w is not None:
            most_w = max(device.likely_w, -device.most_export_w if without.lowest_w is None else without.lowest_w)
            assert order.lowest_w <= most_w


@pytest.mark.parametrize("millihertz", [49_700, 50_000, 50_300])
@pytest.mark.parametrize("power_w", [-4_000, 4_000])
def test_an_emergency_stop_by_wire_is_stop_whatever_the_frequency_is(millihertz: int, power_w: int) -> None:
    box = Box(InputSettings(name="emergency", line=2, stop=True))
    box.look(False)
    box.look(True)
    box.look(True, 0.2)
    (by,) = set(box.pressed)
    plan = make_plan(replace(_off(site(replace(BATTERY, power_w=power_w), PV), millihertz), stop=by))
    for order in plan.orders.values():
        assert (order.lowest_w, order.highest_w) == (0, 0)
        assert order.bound_by == (Rule.STOP,)
        assert "local STOP by input emergency" in order.reason
