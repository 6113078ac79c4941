"""A site in a closed loop, second by second: the watch, the plan, what the dispatcher decides, and devices with delays.

The real rules from the look at the site to the band that a device is given; devices ramp, tell of themselves every few
seconds, obey a little later, and the grid meter may average or show late. What is counted: how often each device is
given another band, and by how much the connection is beyond its limits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.config import ControlSettings, DeviceSettings, FrequencySettings, MandateSettings, SiteSettings
from agent.control.dispatcher import Carriage, Deed, believed, confirmed, next_step, sent
from agent.control.onlooker import Onlooker
from agent.control.order import Now, Order
from agent.control.plan import DeviceOrder, Plan, make_plan
from agent.control.site import SiteView
from agent.control.site_watch import SiteWatch
from agent.control.viewing import settings_view
from agent.evidence.statements import Severity
from drivers.device import (
    Capabilities,
    DeadMan,
    DeviceKind,
    DeviceStatus,
    LinkState,
    Sample,
    Setpoint,
    VehicleSession,
)
from tests.agent.control.support import START_US

LEASE_S = 60.0
RATED_W = 10_000
"""Of a battery; a charger has 11 kW."""
LEAST_W = 4_140
"""6 A on three phases."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One device, or the grid meter."""

    kind: DeviceKind
    period_s: int = 1
    """Between two samples."""
    ramp_w_per_s: int = 4_000
    order_s: int = 0
    """Until an order arrives."""
    natural_w: int = 0
    """PV: the sun. Charger: what the car takes at the most."""
    discharges: bool = False
    """A charger that can be ordered to any power."""
    soc_permille: int = 600
    phases: tuple[int, ...] = (1, 2, 3)
    own_gain: float = 1.0
    """A battery's own control goes so much of the way in a second."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A site."""

    parts: Mapping[str, Part]
    meter_period_s: int = 1
    meter_late_s: int = 0
    meter_mean_s: int = 1
    """It shows the mean of so many seconds."""
    by_phase: bool = False
    house_w: Callable[[int], int] = lambda _: 500
    import_limit_w: int = 40_000
    export_limit_w: int = 10_000
    fuse_a: int = 63
    discharge_permitted: bool = True
    battery_idle: bool = False
    cars_wait: bool = False
    booted: bool = False
    orders: tuple[Order, ...] = ()
    phase_difference_a: int = 0


@dataclass(kw_only=True)
class _Device:
    """As the plan and the physics see it."""

    device_id: str
    part: Part
    offset_s: int
    carriage: Carriage
    power_w: int = 0
    sample: Sample | None = None
    band: Setpoint | None = None
    coming: list[tuple[int, DeviceOrder]] = field(default_factory=list)
    """Orders under way, with when they arrive."""
    changes: list[int] = field(default_factory=list)
    """Seconds in which it was given another band."""

    @property
    def kind(self) -> DeviceKind:
        return self.part.kind

    def status(self) -> DeviceStatus:
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=LinkState.ONLINE,
            detail="",
            capabilities=_capabilities(self.part),
            last_sample=self.sample,
            setpoint=self.band,
            vehicle=None
            if self.kind is not DeviceKind.CHARGER
            else VehicleSession(
                transaction_id="t",
                token_id="owner",
                state_of_charge_permille=self.part.soc_permille,
                state_of_charge_monotonic_s=None if self.sample is None else self.sample.monotonic_s,
                battery_capacity_wh=60_000_000,
            ),
        )

    def move(self, connection_w: int) -> None:
        """A second of physics."""
        low, high = (None, None) if self.band is None else (self.band.lowest_w, self.band.highest_w)
        match self.kind:
            case DeviceKind.PV:
                wanted_w = -self.part.natural_w
            case DeviceKind.BATTERY:
                wanted_w = self.power_w - round(connection_w * self.part.own_gain)
                wanted_w = min(max(wanted_w, -RATED_W), RATED_W)
            case _:
                wanted_w = self.part.natural_w
        wanted_w = wanted_w if low is None else max(wanted_w, low)
        wanted_w = wanted_w if high is None else min(wanted_w, high)
        if self.kind is DeviceKind.CHARGER and 0 < wanted_w < _capabilities(self.part).minimum_import_w:
            wanted_w = 0
        self.power_w += min(max(wanted_w - self.power_w, -self.part.ramp_w_per_s), self.part.ramp_w_per_s)


def _capabilities(part: Part) -> Capabilities:
    pv, charger = part.kind is DeviceKind.PV, part.kind is DeviceKind.CHARGER
    exactly = part.kind is DeviceKind.BATTERY or part.discharges
    return Capabilities(
        rated_import_w=0 if pv else 11_000 if charger else RATED_W,
        rated_export_w=RATED_W if pv or part.kind is DeviceKind.BATTERY else 11_000 if part.discharges else 0,
        limits_import=not pv,
        limits_export=pv or exactly,
        follows_setpoint=exactly,
        dead_man=DeadMan.REVERTS_TO_FALLBACK,
        fallback_lowest_w=0,
        fallback_highest_w=0,
        minimum_import_w=0 if not charger or part.discharges else 230 * 6 * len(part.phases),
        response_s=part.order_s + RATED_W / part.ramp_w_per_s + part.period_s,
        phases=part.phases,
    )


class ClosedLoop:
    """One run."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.devices = {
            name: _Device(device_id=name, part=part, offset_s=number, carriage=Carriage(kind=part.kind))
            for number, (name, part) in enumerate(sorted(spec.parts.items()))
        }
        self.meter = _Device(
            device_id="grid", part=Part(kind=DeviceKind.METER), offset_s=0, carriage=Carriage(kind=DeviceKind.METER)
        )
        self.now_s = 0
        self.connection_w: list[int] = []
        self.houses_w: list[int] = []
        self.phases_w: list[tuple[int, ...]] = []
        self.said: list[str] = []
        self.plan: Plan | None = None
        self.view: SiteView | None = None
        looks = Onlooker({**self.devices, "grid": self.meter})  # type: ignore[dict-item]  # all that is asked of them
        self.watch = SiteWatch(
            settings_view(_site(spec), _control(spec), FrequencySettings(), _device_settings(spec)),
            looks,
            held=lambda name: believed(self.devices[name].carriage, self.devices[name].band, self.now_s),
            say=self._say,
            started_s=0.0,
            booted=spec.booted,
            draw=lambda: 0.1,
        )

    def run(self, seconds: int) -> ClosedLoop:
        for _ in range(seconds):
            self.step()
        return self

    def step(self) -> None:
        """A second: physics, samples, a plan, orders."""
        self.now_s += 1
        house_w = self.spec.house_w(self.now_s)
        order = sorted(self.devices.values(), key=lambda d: (d.kind is DeviceKind.BATTERY, d.device_id))
        for device in order:
            device.move(house_w + sum(each.power_w for each in self.devices.values()))
        self.houses_w.append(house_w)
        self.connection_w.append(house_w + sum(device.power_w for device in self.devices.values()))
        self.phases_w.append(tuple(self._phase_w(phase, house_w) for phase in (1, 2, 3)))
        self._sample()
        now = Now(wall_us=START_US + self.now_s * 1_000_000, uptime_us=self.now_s * 1_000_000)
        self.view = self.watch.look(now, float(self.now_s), orders=self.spec.orders, stop=None)
        self.plan = make_plan(self.view)
        for name, given in self.plan.orders.items():
            self._dispatch(self.devices[name], given)

    def changes(self, since_s: int = 0) -> dict[str, int]:
        """How often each device was given another band since then."""
        return {name: sum(at_s > since_s for at_s in d.changes) for name, d in self.devices.items()}

    def _phase_w(self, phase: int, house_w: int) -> int:
        on = [d for d in self.devices.values() if phase in d.part.phases]
        return house_w // 3 + sum(d.power_w // len(d.part.phases) for d in on)

    def _sample(self) -> None:
        if self.now_s % self.spec.meter_period_s == 0:
            end = max(1, len(self.connection_w) - self.spec.meter_late_s)
            span = slice(max(0, end - self.spec.meter_mean_s), end)
            self.meter.sample = Sample(
                device_id="grid",
                monotonic_s=float(self.now_s),
                power_w=_mean(self.connection_w[span]),
                phase_power_w=tuple(map(_mean, zip(*self.phases_w[span], strict=True))) if self.spec.by_phase else (),
                import_register_milliwatt_hours=self.now_s,
                voltage_millivolts=230_000 + self.now_s % 100,
            )
        for device in self.devices.values():
            if (self.now_s + device.offset_s) % device.part.period_s == 0:
                device.sample = Sample(
                    device_id=device.device_id,
                    monotonic_s=float(self.now_s),
                    power_w=device.power_w,
                    state_of_charge_permille=device.part.soc_permille if device.kind is DeviceKind.BATTERY else None,
                )

    def _dispatch(self, device: _Device, order: DeviceOrder) -> None:
        """As the dispatcher would, one order at a time."""
        for at_s, arrived in device.coming:
            if at_s <= self.now_s:
                device.carriage = confirmed(device.carriage, arrived, self.now_s + LEASE_S, self.now_s)
                device.band = None if arrived.released else Setpoint(
                    lowest_w=arrived.lowest_w, highest_w=arrived.highest_w, lease_s=LEASE_S, reason=""
                )  # fmt: skip
        device.coming = [(at_s, each) for at_s, each in device.coming if at_s > self.now_s]
        carriage = device.carriage = _wanting(device.carriage, order, self.now_s)
        if device.coming:
            return
        deed, wait_s = next_step(carriage, device.band is not None, LEASE_S, self.now_s)
        if deed is Deed.NOTHING or wait_s > 0:
            return
        before = carriage.confirmed
        same = (order.lowest_w, order.highest_w) == (
            (None, None) if before is None else (before.lowest_w, before.highest_w)
        )
        if not same:
            device.changes.append(self.now_s)
        device.carriage = sent(carriage, order, LEASE_S, self.now_s)
        device.coming.append((self.now_s + device.part.order_s, order))
        if device.part.order_s == 0:
            self._dispatch(device, order)

    def _say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        self.said.append(f"{self.now_s}: {code} ({subject}): {text}")


def _wanting(carriage: Carriage, order: DeviceOrder, now_s: float) -> Carriage:
    from dataclasses import replace

    return replace(carriage, wanted=order, wanted_s=now_s, wanted_until_s=float("inf"))


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values))


def _site(spec: Spec) -> SiteSettings:
    return SiteSettings(
        import_limit_w=spec.import_limit_w,
        export_limit_w=spec.export_limit_w,
        fuse_a=spec.fuse_a,
        discharge_permitted=spec.discharge_permitted,
        phase_difference_a=spec.phase_difference_a,
    )


def _control(spec: Spec) -> ControlSettings:
    return ControlSettings(
        battery_by_default="idle" if spec.battery_idle else "self_consumption",
        cars_by_default="wait" if spec.cars_wait else "charge",
        return_delay_most_s=60,
        mandate=[MandateSettings(token_id="owner", minimum_soc_percent=10)],
    )


def _device_settings(spec: Spec) -> list[DeviceSettings]:
    made = [
        DeviceSettings(
            id="grid", kind=DeviceKind.METER, driver="sunspec", address="tcp://m:502", period_s=spec.meter_period_s
        )
    ]
    for name, part in spec.parts.items():
        if part.kind is DeviceKind.CHARGER:
            made.append(
                DeviceSettings(
                    id=name, kind=part.kind, driver="ocpp", charger_id=name, parent="grid", period_s=part.period_s,
                    phases=list(part.phases),
                )
            )  # fmt: skip
        else:
            made.append(
                DeviceSettings(
                    id=name, kind=part.kind, driver="sunspec", address=f"tcp://{name}:502", parent="grid",
                    period_s=part.period_s, phases=list(part.phases),
                )
            )  # fmt: skip
    return made
