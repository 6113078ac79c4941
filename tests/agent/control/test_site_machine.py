"""A site over time, whatever happens to it: no limit is passed for longer than devices need, and nobody acts unasked.

Devices ramp, answer late, fall silent with what they hold and let go of it when its lease has ended; house and sun
change, the meter is lost, commands, wired inputs and STOP come and go. What holds for one plan holds for their course.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.control.command import CommandType, Mode, Point
from agent.control.dispatcher import Carriage, Deed, believed, confirmed, failed, next_step, sent
from agent.control.inputs import InputClamp
from agent.control.order import Order, precedence
from agent.control.plan import DeviceOrder, Plan, make_plan
from agent.control.site import Defaults, DeviceView, MeterView, SiteView
from drivers.device import DeviceKind, Setpoint
from tests.agent.control.support import BATTERY, CAR, LIMITS, PLAIN, PV, SOME_COMMAND, curtail, order_of, site

RAMP_W_PER_S = 4_000
LEASE_S = 60.0
SETTLED_S = 25
"""Ramps, late answers and the steps in which PV is given room have an end by then."""
CALM_W = 150
HOUSE_MOST_W = 5_000
EXPORT_LIMIT_W = 6_000
LEAST_W = 1_380
"""Of a charger: below it the car stops."""
NAMES = st.sampled_from(["battery", "pv", "car", "plain"])
CALM = st.booleans()


@dataclass
class Plant:
    """One device: where it is, what it holds, and what the dispatcher is about to give it."""

    view: DeviceView
    carriage: Carriage
    power_w: int = 0
    band: Setpoint | None = None
    """None: left to itself, or let go of; then a charger gives its fallback, nothing."""
    lease_ends_s: float = float("-inf")
    silent: bool = False
    appetite: float = 1.0
    """Of a car: the part that it takes of what it may."""

    def step(self, natural_w: int, now_s: int) -> None:
        """A second of physics."""
        if now_s >= self.lease_ends_s:
            self.band = None
        low, high = (None, None) if self.band is None else (self.band.lowest_w, self.band.highest_w)
        wanted_w = natural_w
        if self.view.kind is DeviceKind.CHARGER:
            most_w = 0 if high is None else high if high >= LEAST_W else min(0, high)
            wanted_w = most_w if most_w < 0 else int(most_w * self.appetite)
        wanted_w = wanted_w if low is None else max(wanted_w, low)
        wanted_w = wanted_w if high is None else min(wanted_w, high)
        self.power_w += min(max(wanted_w - self.power_w, -RAMP_W_PER_S), RAMP_W_PER_S)

    def dispatch(self, order: DeviceOrder, now_s: int) -> None:
        """As the dispatcher would; what goes out is there, and confirmed, by the next second, unless it is silent."""
        held = self.carriage
        self.carriage = replace(held, wanted=order, wanted_s=now_s, wanted_until_s=float("inf"))
        deed, wait_s = next_step(self.carriage, self.band is not None, LEASE_S, now_s)
        if deed is Deed.NOTHING or wait_s > 0:
            return
        self.carriage = sent(self.carriage, order, LEASE_S, now_s)
        if self.silent:
            self.carriage = failed(self.carriage, held, "silent", refused=False, now_s=now_s)
            return
        self.carriage = confirmed(self.carriage, order, now_s + LEASE_S, now_s)
        self.band, self.lease_ends_s = None, float("-inf")
        if deed is Deed.APPLY:
            self.band = Setpoint(lowest_w=order.lowest_w, highest_w=order.highest_w, lease_s=LEASE_S, reason="")
            self.lease_ends_s = now_s + LEASE_S

    def seen(self, shown_w: int, now_s: int) -> DeviceView:
        """As the plan sees it: a sample of the second before, and all that may be in force."""
        if self.silent:
            shown_w = self.view.power_w or 0
        held = believed(self.carriage, self.band, now_s)
        self.view = replace(self.view, online=not self.silent, power_w=shown_w, held=held, sample_age_s=1.0)
        return self.view


class SiteMachine(RuleBasedStateMachine):
    """See the module."""

    @initialize(battery_idle=st.booleans(), import_limit_w=st.sampled_from([9_000, 16_000]))
    def begin(self, battery_idle: bool, import_limit_w: int) -> None:
        self.defaults, self.import_limit_w = Defaults(battery_idle=battery_idle), import_limit_w
        self.now_s, self.house_w, self.sun_w = 0, 500, 0
        # The battery last: by its own control it answers to what the others do in the same second.
        views = (replace(PV, power_w=0), CAR, PLAIN, BATTERY)
        self.plants = {view.device_id: Plant(view, Carriage(kind=view.kind)) for view in views}
        self.orders: dict[str, Order] = {}
        self.count = 0
        self.stop: str | None = None
        self.metered = True
        self.wired = InputClamp(name="relay")
        self.plan: Plan | None = None
        self.view: SiteView | None = None
        self._pass(5)

    # -- what happens

    @rule(house_w=st.integers(0, HOUSE_MOST_W), calm=CALM)
    def house(self, house_w: int, calm: bool) -> None:
        self.house_w = house_w
        self._after(calm)

    @rule(sun_w=st.integers(0, 8_000), calm=CALM)
    def sun(self, sun_w: int, calm: bool) -> None:
        self.sun_w = sun_w
        self._after(calm)

    @rule(name=st.sampled_from(["car", "plain"]), appetite=st.floats(0, 1), calm=CALM)
    def appetite(self, name: str, appetite: float, calm: bool) -> None:
        self.plants[name].appetite = appetite
        self._after(calm)

    @rule(name=NAMES, silent=st.booleans(), calm=CALM)
    def link(self, name: str, silent: bool, calm: bool) -> None:
        self.plants[name].silent = silent
        self._after(calm)

    @rule(
        kind=st.sampled_from([CommandType.CHARGE, CommandType.DISCHARGE, CommandType.IDLE]),
        power_w=st.integers(0, 25_000),
        point=st.sampled_from(Point),
        named=st.sets(NAMES),
        calm=CALM,
    )
    def setpoint(self, kind: CommandType, power_w: int, point: Point, named: set[str], calm: bool) -> None:
        if kind is CommandType.IDLE:
            power_w, point = 0, Point.DEVICE
        self._order(replace(SOME_COMMAND, type=kind, power_w=power_w, point=point, targets=tuple(sorted(named))), calm)

    @rule(mode=st.sampled_from([Mode.IMPORT_LIMIT, Mode.EXPORT_LIMIT]), power_w=st.integers(0, 12_000), calm=CALM)
    def limit(self, mode: Mode, power_w: int, calm: bool) -> None:
        self._order(curtail(power_w, mode=mode, point=Point.CONNECTION), calm)

    @rule(data=st.data(), calm=CALM)
    def withdraw(self, data: st.DataObject, calm: bool) -> None:
        if self.orders:
            self.orders.pop(data.draw(st.sampled_from(sorted(self.orders))))
        self._after(calm)

    @rule(stop=st.booleans(), calm=CALM)
    def press(self, stop: bool, calm: bool) -> None:
        self.stop = "me" if stop else None
        self._after(calm)

    @rule(metered=st.booleans(), calm=CALM)
    def meter(self, metered: bool, calm: bool) -> None:
        self.metered = metered
        self._after(calm)

    @rule(import_w=st.none() | st.sampled_from([0, 4_200]), export_w=st.none() | st.sampled_from([0, 3_000]), calm=CALM)
    def relay(self, import_w: int | None, export_w: int | None, calm: bool) -> None:
        self.wired = InputClamp(name="relay", import_limit_w=import_w, export_limit_w=export_w)
        self._after(calm)

    @rule(seconds=st.integers(1, 70))
    def wait(self, seconds: int) -> None:
        self._pass(seconds)

    # -- what holds

    def _when_devices_have_had_their_time_no_limit_is_passed(self) -> None:
        """SAFETY 1, 3, 8, 13: what is above a limit is nobody's who could still give way."""
        self._pass(SETTLED_S)
        answering = [plant for plant in self.plants.values() if not plant.silent]
        importing_w = sum(max(0, plant.power_w) for plant in answering)
        exporting_w = sum(max(0, -plant.power_w) for plant in answering)
        if self.stop is not None:
            assert importing_w + exporting_w == 0
            return
        limits = [order.command for order in self.orders.values() if order.command.mode is not Mode.SETPOINT]
        most_in = [c.power_w for c in limits if c.mode is Mode.IMPORT_LIMIT]
        most_out = [c.power_w for c in limits if c.mode is Mode.EXPORT_LIMIT]
        if self.wired.import_limit_w is not None:
            most_in.append(self.wired.import_limit_w)
        if self.wired.export_limit_w is not None:
            most_out.append(self.wired.export_limit_w)
        if not self.metered:
            most_in, most_out = [], []  # Of the connection's own limits static sums keep what they can.
        if self._meter_w > min([self.import_limit_w, *most_in]) + CALM_W:
            assert importing_w <= CALM_W, (self._meter_w, self._powers)
        if self.metered and -self._meter_w > min([EXPORT_LIMIT_W, *most_out]) + CALM_W:
            assert exporting_w <= CALM_W, (self._meter_w, self._powers)

    @invariant()
    def the_same_view_gives_the_same_plan(self) -> None:
        if self._has_begun:
            assert self.view is not None
            assert make_plan(self.view) == self.plan

    @invariant()
    def no_car_gives_anything_that_nobody_ordered(self) -> None:
        """SAFETY 9 and 12; a car that was ordered to may still be on its way."""
        if not self._has_begun:
            return
        discharges = any(order.command.mode is Mode.SETPOINT for order in self.orders.values())
        assert self.plants["plain"].power_w >= 0
        if not discharges and self.plan is not None:
            lowest_w = self.plan.orders["car"].lowest_w
            assert lowest_w is not None
            assert lowest_w >= 0

    # -- inside

    @property
    def _has_begun(self) -> bool:
        return getattr(self, "plan", None) is not None

    @property
    def _powers(self) -> dict[str, int]:
        return {name: plant.power_w for name, plant in self.plants.items()}

    @property
    def _meter_w(self) -> int:
        return self.house_w + sum(self._powers.values())

    def _order(self, command: object, calm: bool) -> None:
        assert isinstance(command, type(SOME_COMMAND))
        self.count += 1
        name = f"c{self.count}"
        # A later one of the same mode and point replaces the earlier, as the book has it.
        kept = {
            key: order
            for key, order in self.orders.items()
            if (order.command.mode, order.command.point) != (command.mode, command.point)
        }
        self.orders = {**kept, name: order_of(command, name)}
        self._after(calm)

    def _natural_w(self, name: str) -> int:
        if name == "pv":
            return -self.sun_w
        if name == "battery":  # in its own control it brings the connection to zero
            return min(10_000, max(-10_000, self.plants[name].power_w - self._meter_w))
        return 11_000

    def _after(self, calm: bool) -> None:
        """A second later; and where nothing else happens for a while, what must hold then."""
        self._pass(1)
        if calm:
            self._when_devices_have_had_their_time_no_limit_is_passed()

    def _pass(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1
            seen = self._powers
            for name, plant in self.plants.items():
                plant.step(self._natural_w(name), self.now_s)
            self._plan(seen)

    def _plan(self, seen: dict[str, int]) -> None:
        """Samples are of the second before, the meter's is of this one."""
        views = [plant.seen(seen[name], self.now_s) for name, plant in self.plants.items()]
        limits = replace(LIMITS, import_limit_w=self.import_limit_w, export_limit_w=EXPORT_LIMIT_W)
        orders = tuple(sorted(self.orders.values(), key=precedence))
        view = site(*views, limits=limits, defaults=self.defaults, stop=self.stop, inputs=(self.wired,), orders=orders)
        self.view = replace(view, meter=MeterView(power_w=self._meter_w) if self.metered else None)
        self.plan = make_plan(self.view)
        for name, order in self.plan.orders.items():
            self.plants[name].dispatch(order, self.now_s)


SiteMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestSiteMachine = SiteMachine.TestCase
