"""What will happen at a moment to come, and why: the plan of then, as far as it can be known now. Pure.

Known are the commands that were sent ahead, the schedules, the departures and the defaults, and which hours have fallen
out of what the local bounds count; devices, meter and sun are taken as they are now, and a car whose departure is over
by then has left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from agent.control.book import Book
from agent.control.bounds import NO_BOUNDS, BoundsView
from agent.control.command import Mode
from agent.control.day import DayState, SunPace, step_day, with_day
from agent.control.frequency import GridFrequency
from agent.control.order import Now, Order, Rank
from agent.control.plan import DeviceOrder, make_plan, sentence
from agent.control.site import DeviceView, SiteView


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeseenOrder:
    """One command or schedule that stands then."""

    text: str
    in_force: bool
    reason: str
    """What binds it, or why it waits."""
    planned_w: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """The site at that moment."""

    at_us: int
    sentences: tuple[str, ...]
    orders: tuple[ForeseenOrder, ...]
    devices: tuple[DeviceOrder, ...]
    next_change_us: int | None
    """When something else is wanted; None: not before its end is out of sight."""


def foresee(
    site: SiteView,
    book: Book,
    schedules: Callable[[Now], tuple[Order, ...]],
    at_us: int,
    *,
    bounds: Callable[[Now], BoundsView] = lambda _: NO_BOUNDS,
    next_change_us: int | None = None,
) -> Foreseen:
    """The plan of that moment. `schedules`: what they ask for then; `bounds`: what they leave then of today's use."""
    at = replace(site.now, wall_us=at_us)
    orders = (*book.settle(at).book.candidates(at), *schedules(at))
    gone = [d.device_id for d in site.devices.values() if _leaves_before(d, at_us)]
    devices = {name: replace(d, vehicle=None) if name in gone else d for name, d in site.devices.items()}
    then = replace(
        site,
        now=at,
        orders=orders,
        devices=devices,
        overrides={name: hold for name, hold in site.overrides.items() if at_us < hold.until_us},
        bounds=bounds(at).without_ramp,
        coming_back=None,
        safe_mode=None,
        frequency=GridFrequency(),
    )
    if site.meter is None:
        then = replace(then, safe_mode=site.safe_mode)
    then = _with_departures(site, then)
    plan = make_plan(then)
    made = tuple(
        ForeseenOrder(
            text=sentence(order),
            in_force=plan.commands[order.hash].in_force,
            reason=plan.commands[order.hash].reason,
            planned_w=plan.commands[order.hash].planned_w,
        )
        for order in orders
    )
    return Foreseen(
        at_us=at_us,
        sentences=tuple(_sentences(then, orders, made, gone)),
        orders=made,
        devices=tuple(order for _, order in sorted(plan.orders.items())),
        next_change_us=next_change_us,
    )


def _with_departures(now: SiteView, then: SiteView) -> SiteView:
    """Which departures will have begun to press; what the sun gives is taken as it is now."""
    pressing = with_day(then, step_day(DayState(), then, SunPace(), 0.0))
    devices = {
        name: replace(view, sun_w=now.devices[name].sun_w, sun_left_w=now.devices[name].sun_left_w)
        for name, view in pressing.devices.items()
    }
    return replace(pressing, devices=devices)


def _leaves_before(device: DeviceView, at_us: int) -> bool:
    car = device.vehicle
    return car is not None and car.departure_timestamp_us is not None and car.departure_timestamp_us <= at_us


def _sentences(
    then: SiteView, orders: tuple[Order, ...], made: tuple[ForeseenOrder, ...], gone: list[str]
) -> list[str]:
    clock = datetime.fromtimestamp(then.now.wall_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    found = [f"At {clock}, if devices, meter and sun stay as they are now:"]
    if then.stop is not None:
        found.append(f"Local STOP by {then.stop} holds until it is cleared here: all controllable power is off.")
    found += [f"{name}: its car has left by then." for name in gone]
    for order, line in zip(orders, made, strict=True):
        what = "Limit" if order.command.mode is not Mode.SETPOINT else "Target"
        standing = "in force" if line.in_force else "not in force"
        found.append(f"{what} {standing}: {line.text}{_because(line)}.")
    if not any(order.command.mode is Mode.SETPOINT for order in orders):
        found.append("No setpoint stands then: the owner's defaults hold.")
    elif not any(order.rank is not Rank.SCHEDULE for order in orders):
        found.append("No command stands then: the schedule is followed.")
    return found


def _because(line: ForeseenOrder) -> str:
    return f"; {line.reason}" if line.reason else ""
