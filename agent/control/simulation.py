"""Days in seconds: the same control, on devices that obey, from a file of what happens. Pure but for the settings.

Control is the real one from the look at the site to the orders: SiteWatch with safe mode, day and frequency, the book
of commands, schedules and deviation, the local bounds, the plan. Only the drivers and their waiting are left out: a
band that is ordered in one step holds in the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent.config import Settings
from agent.control.book import Book
from agent.control.bounds import MOST_STEP_S, NO_BOUNDS
from agent.control.bounds_ahead import ahead_of
from agent.control.bounds_watch import BoundsWatch
from agent.control.deviation import DeviationBook
from agent.control.foresight import foresee
from agent.control.onlooker import Onlooker
from agent.control.order import Now, Order, Rank
from agent.control.plan import METER_SUBJECT, Plan, make_plan, sentence
from agent.control.scenario import CarLine, CommandLine, Event, FaultLine, ScheduleLine, StopLine, WorldLine
from agent.control.schedule import Agreed, encode_schedule
from agent.control.schedule_keeper import ScheduleKeeper
from agent.control.simulated_devices import World, make_devices
from agent.control.site import Held, SiteView
from agent.control.site_watch import SiteWatch
from agent.control.tally import Register
from agent.control.viewing import register_of, settings_view
from agent.evidence.statements import Severity
from drivers.device import DeviceKind

MOST_POINTS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The site at one moment."""

    at_us: int
    connection_w: int
    house_w: int
    powers_w: Mapping[str, int]
    bands: Mapping[str, tuple[int | None, int | None]]
    soc_permille: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One command and what became of it."""

    command_id: str
    text: str
    start_us: int
    end_us: int
    states: tuple[str, ...]
    reason: str
    delivered_wh: int | None
    forced: tuple[tuple[int, int], ...]
    """When it was in force, Unix microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All of it."""

    from_us: int
    until_us: int
    step_s: float
    points: tuple[Point, ...]
    commands: tuple[Life, ...]
    import_wh: Mapping[str, int]
    export_wh: Mapping[str, int]
    lost_wh: Mapping[str, int]
    """By converting."""
    over_import_s: float
    """Seconds above the import limit at the connection, after devices had a step to obey."""
    over_export_s: float
    import_limit_w: int
    export_limit_w: int
    deviations: DeviationBook
    said: tuple[str, ...]
    """Alarms of the day."""


class Simulation:
    """One run. `run` it once."""

    def __init__(
        self, settings: Settings, events: Sequence[Event], *, from_us: int, until_us: int, step_s: float
    ) -> None:
        self._events = sorted(events, key=lambda event: event.at_us)
        self._from_us, self._until_us, self._step_s = from_us, until_us, step_s
        self._world = World()
        self._devices = make_devices(settings)
        self._view_settings = settings_view(settings.site, settings.control, settings.frequency, settings.device)
        self._orders: dict[str, Held] = {}
        self._watch = SiteWatch(
            self._view_settings,
            Onlooker(self._devices),
            held=lambda name: self._orders.get(name, Held(lowest_w=None, highest_w=None)),
            say=self._say,
            started_s=0.0,
            booted=False,
            draw=lambda: 0.5,
        )
        # Steps may be longer than a gateway ever pauses; what flows in one is known here.
        self._bounds = BoundsWatch(settings.bounds, most_step_s=max(MOST_STEP_S, step_s))
        self._book = Book()
        self._schedules = ScheduleKeeper(lambda: 0.5)
        self._schedules.restore({})
        self._stop: str | None = None
        self._said: list[str] = []
        self._points: list[Point] = []
        self._forced: dict[bytes, list[tuple[int, int]]] = {}
        self._over_import_s = self._over_export_s = 0.0
        self._every = max(1, round((until_us - from_us) / 1e6 / step_s / MOST_POINTS))

    def run(self) -> Outcome:
        """From beginning to end."""
        steps = round((self._until_us - self._from_us) / 1e6 / self._step_s)
        for step in range(steps):
            self._tick(step)
        return self._outcome()

    def _tick(self, step: int) -> None:
        monotonic_s = step * self._step_s
        now = Now(wall_us=self._from_us + round(monotonic_s * 1e6), uptime_us=round(monotonic_s * 1e6))
        if step == 0:  # At a site the local bounds know the devices before the first command comes.
            view = self._look(now, monotonic_s, ())
            self._bounds.after(view, make_plan(view))
        for device in self._devices.values():
            device.leave(now.wall_us)
            device.look(monotonic_s)
        while self._events and self._events[0].at_us <= now.wall_us:
            self._happen(self._events.pop(0), now)
        self._world.step(self._devices.values(), now.wall_us, self._step_s if step else 0.0)
        self._book = self._book.settle(now).book
        view = self._look(now, monotonic_s, (*self._book.candidates(now), *self._schedules.orders(now)))
        plan = make_plan(view)
        for name, order in plan.orders.items():
            self._orders[name] = Held(lowest_w=order.lowest_w, highest_w=order.highest_w)
            self._devices[name].band = (order.lowest_w, order.highest_w)
        registers = self._registers()
        outcomes = {order_hash: command.outcome for order_hash, command in plan.commands.items()}
        self._book = self._book.observe(outcomes, registers, now).book
        self._schedules.follow(view, plan, registers, None)
        self._bounds.after(view, plan)
        self._remember(step, now, view, plan)

    def _look(self, now: Now, monotonic_s: float, orders: tuple[Order, ...]) -> SiteView:
        view = self._watch.look(now, monotonic_s, orders=orders, stop=self._stop)
        return replace(view, bounds=self._bounds.allow(now))

    def _registers(self) -> dict[str, Register]:
        found = {}
        for name, device in self._devices.items():
            sample = device.status().last_sample
            register = register_of(sample) if sample is not None else None
            if register is not None:
                found[name] = register
        if self._view_settings.meter_id in found:
            found[METER_SUBJECT] = found[self._view_settings.meter_id]
        return found

    def _happen(self, event: Event, now: Now) -> None:
        match event.what:
            case WorldLine() as line:
                self._world.tell(line)
            case CarLine() as line:
                self._devices[line.device].plug(line, event.at_us)
            case FaultLine(device, silent):
                self._devices[device].silent = silent
            case StopLine(on):
                self._stop = "the scenario" if on else None
            case CommandLine() as line:
                order = Order(
                    hash=hashlib.sha256(line.command_id.encode()).digest(),
                    command_id=line.command_id,
                    command=line.command,
                    issuer_key=line.command.issuer.encode(),
                    rank=Rank.OPERATIONAL,
                    received_us=now.wall_us,
                )
                view = self._look(now, (now.wall_us - self._from_us) / 1e6, (order,))
                view = replace(view, bounds=NO_BOUNDS)
                state, reason = foresee(
                    order,
                    make_plan(view),
                    view,
                    ahead_of(self._bounds, self._book, self._schedules),
                )
                self._book = self._book.admitted(order, state, reason, now).book.committed(order.hash)
            case ScheduleLine(schedule):
                body = encode_schedule(schedule)
                agreed = Agreed(
                    schedule=schedule,
                    hash=hashlib.sha256(body).digest(),
                    issuer_key=b"",
                    received_us=now.wall_us,
                    delay_us=schedule.random_start_s * 500_000,
                )
                self._schedules.take(agreed)

    def _remember(self, step: int, now: Now, view: SiteView, plan: Plan) -> None:
        for order_hash, command in plan.commands.items():
            if command.in_force:
                spans = self._forced.setdefault(order_hash, [])
                until_us = now.wall_us + round(self._step_s * 1e6)
                if spans and now.wall_us - spans[-1][1] <= round(self._step_s * 1e6):
                    spans[-1] = (spans[-1][0], until_us)
                else:
                    spans.append((now.wall_us, until_us))
        connection_w = self._world.connection_w
        self._over_import_s += self._step_s * (connection_w > view.limits.import_limit_w)
        self._over_export_s += self._step_s * (-connection_w > view.limits.export_limit_w)
        if step % self._every == 0:
            self._points.append(
                Point(
                    at_us=now.wall_us,
                    connection_w=connection_w,
                    house_w=self._world.house_now_w,
                    powers_w={n: d.power_w for n, d in self._devices.items() if d.kind is not DeviceKind.METER},
                    bands={name: (order.lowest_w, order.highest_w) for name, order in plan.orders.items()},
                    soc_permille={n: soc for n, d in self._devices.items() if (soc := d.soc_permille) is not None},
                )
            )

    def _say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        self._said.append(f"{severity.name} {code} ({subject}): {text}"[:300])

    def _outcome(self) -> Outcome:
        limits = self._view_settings.limits
        return Outcome(
            from_us=self._from_us,
            until_us=self._until_us,
            step_s=self._step_s,
            points=tuple(self._points),
            commands=tuple(self._lives()),
            import_wh={name: d.import_milliwatt_hours // 1000 for name, d in self._devices.items()},
            export_wh={name: d.export_milliwatt_hours // 1000 for name, d in self._devices.items()},
            lost_wh={name: round(d.lost_wh) for name, d in self._devices.items()},
            over_import_s=self._over_import_s,
            over_export_s=self._over_export_s,
            import_limit_w=limits.import_limit_w,
            export_limit_w=limits.export_limit_w,
            deviations=self._schedules.deviations,
            said=tuple(self._said),
        )

    def _lives(self) -> list[Life]:
        entries = sorted(self._book.entries.values(), key=lambda entry: entry.order.command.start_us)
        return [
            Life(
                command_id=entry.order.command_id,
                text=sentence(entry.order),
                start_us=entry.order.command.start_us,
                end_us=entry.order.command.end_us,
                states=tuple(receipt.state.name for receipt in entry.receipts),
                reason=entry.receipts[-1].reason,
                delivered_wh=entry.receipts[-1].delivered_energy_wh,
                forced=tuple(self._forced.get(entry.order.hash, ())),
            )
            for entry in entries
        ]
