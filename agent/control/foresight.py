"""What will stand against a command before its end, seen when it comes: storage, departures, local bounds. Pure.

The plan knows one moment. A receipt must say from the start what will not be delivered later: a battery that is empty
before the end, a car that reaches its owner's minimum, must charge for its departure, or leaves (SAFETY 9), and what a
local bound allows no more, or not yet (SAFETY 10). House and PV stay as they are now, and no other command moves
storage before the start; with a ramp it counts as if all shared.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from agent.control.bounds import SIGN_LEAST_W
from agent.control.bounds_ahead import GRAIN_WH, NOTHING_AHEAD, WAITS, Ahead, begins_us, budget_of
from agent.control.command import Command, CommandType, Mode, Point
from agent.control.course import NEVER_S, Store, Task, go_through
from agent.control.departure import DEPARTURE_MARGIN
from agent.control.order import Order
from agent.control.plan import Plan, tolerance_w
from agent.control.rules.bounds import does_already_w
from agent.control.rules.draft import Draft
from agent.control.rules.needs import set_room
from agent.control.rules.sharing import carry_by
from agent.control.rules.targets import scope_of
from agent.control.site import CarDay, DeviceView, Sharing, SiteView
from agent.control.storage import FULL_PERMILLE, storage_wh
from agent.evidence.statements import CommandState
from drivers.device import DeviceKind

ENOUGH_PERCENT: Final = 95
DECLINES: Final = "its charger says that the car takes nothing (SuspendedEV)"


def foresee(order: Order, plan: Plan, site: SiteView, ahead: Ahead = NOTHING_AHEAD) -> tuple[CommandState, str]:
    """ACCEPTED or PARTIAL, and why.

    `plan`: what is made of it, were it alone, its time now, and nothing of the local bounds used up.
    """
    declining, declined_w = _declined(order.command, plan, site)
    alone = plan.commands[order.hash]
    if declining and alone.planned_w is not None:
        planned_w = alone.planned_w - declined_w
        if alone.requested_w - planned_w > tolerance_w(alone.requested_w):
            who = ", ".join(f"{name}: {DECLINES}" for name in declining)
            return CommandState.PARTIAL, f"{planned_w} W of {alone.requested_w} W are possible, for {who}"[:500]
    if alone.short and alone.planned_w is not None:
        planned_w = alone.planned_w + _will_take_w(order.command, plan, site)
        if abs(planned_w - alone.requested_w) <= tolerance_w(alone.requested_w):
            alone = replace(alone, planned_w=planned_w)
    reason = (alone.reason or "it can do less now") if alone.short else shortfall(order, site, ahead)
    return (CommandState.PARTIAL, reason) if reason else (CommandState.ACCEPTED, hardship(order.command, site))


def _declined(command: Command, plan: Plan, site: SiteView) -> tuple[list[str], int]:
    """Cars that take nothing of what they may, whatever the plan gives them, and what the plan counts on of them, W."""
    if command.mode is not Mode.SETPOINT or command.signed_power_w <= 0 or site.sharing is Sharing.QUARTER:
        return [], 0
    names, counted_w = [], 0
    for name in scope_of(command, {name: Draft(view) for name, view in sorted(site.devices.items())}):
        view, order = site.devices[name], plan.orders[name]
        declines = view.online and view.vehicle is not None and view.vehicle.declines and view.likely_w < SIGN_LEAST_W
        if declines and order.highest_w:
            names.append(name)
            counted_w += order.highest_w if order.lowest_w == order.highest_w else 0
    return names, counted_w


def _will_take_w(command: Command, plan: Plan, site: SiteView) -> int:
    """What cars take beyond the plan that rest only because they may not charge: they take what they are allowed.

    The plan itself goes by the meter, for only what flows is executed. A car that may charge and does not has enough.
    """
    if site.sharing is Sharing.QUARTER:  # The rule of earlier releases.
        return 0
    drafts, taken_w = {name: Draft(view) for name, view in sorted(site.devices.items())}, 0
    for name in scope_of(command, drafts):
        view, order = drafts[name].view, plan.orders[name]
        rests = view.present_w < SIGN_LEAST_W and view.held is not None and view.held.highest_w == 0
        car = view.vehicle
        full = car is None or car.state_of_charge_permille == FULL_PERMILLE or car.declines
        if view.kind is DeviceKind.CHARGER and drafts[name].dispatchable and rests and not full and order.lowest_w == 0:
            taken_w += max(0, (order.highest_w or 0) - max(0, view.present_w))
    return taken_w


def hardship(command: Command, site: SiteView) -> str:
    """Which cars an import limit will leave short at their departure: it is kept all the same. Empty: none is foreseen.

    The nearest departure is served first; what PV or a battery may add is not counted on.
    """
    if command.mode is not Mode.IMPORT_LIMIT or not site.now.time_known:
        return ""
    stores = _stores(command, site, NOTHING_AHEAD)
    if command.point is Point.CONNECTION and site.house_w is not None:
        limit_w = command.power_w - site.house_w
    else:
        limit_w = command.power_w
    whole_s = (command.end_us - max(command.start_us, site.now.wall_us)) / 1e6
    taken_wh, found = 0.0, []
    for store in sorted(stores, key=lambda store: (store.leaves_s, store.device_id)):
        if not store.has_need or store.slack_s(0.0) < 0:
            continue  # Without the command it would not be better off.
        counted_w = store.high_w * DEPARTURE_MARGIN
        later_wh = counted_w * max(0.0, store.leaves_s - whole_s) / 3600
        needed_wh = max(0.0, store.need_wh - later_wh)
        there_wh = min(max(0, limit_w), counted_w) * min(whole_s, store.leaves_s) / 3600
        given_wh = min(needed_wh, there_wh, max(0.0, max(0, limit_w) * min(whole_s, store.leaves_s) / 3600 - taken_wh))
        taken_wh += given_wh
        if needed_wh - given_wh >= GRAIN_WH:
            found.append(f"{store.device_id} will lack {round(needed_wh - given_wh)} Wh at its departure")
    return ", ".join(found)[:500]


def shortfall(order: Order, site: SiteView, ahead: Ahead = NOTHING_AHEAD) -> str:
    """Why the command cannot be done over its whole time although it can begin; empty when nothing is foreseen."""
    command = order.command
    if command.mode is not Mode.SETPOINT or not site.now.time_known:
        return ""
    if command.point is Point.CONNECTION and site.house_w is None:
        return ""  # The plan says that already.
    stores = _stores(command, site, ahead)
    if not stores:
        return ""
    from_us = max(command.start_us, site.now.wall_us)
    begins_s = (begins_us(order, site, ahead) - from_us) / 1e6
    task = _task(command, site, stores, begins_s, (command.end_us - from_us) / 1e6)
    gone = go_through(task)
    turned = [(since_s, store.device_id, why) for store in stores for why, since_s in store.turned.items()]
    because = ", ".join(f"{name} {why} from {_clock(from_us, s)} on" for s, name, why in sorted(turned))
    if begins_s > 0:
        until = f"until {_clock(from_us, begins_s)} " if begins_s < task.whole_s else ""
        because = f"{until}{WAITS}{', ' if because else ''}{because}"
    if not because:
        return ""
    if gone.short_wh * 100 > gone.moved_wh * (100 - ENOUGH_PERCENT):
        possible_wh = max(0, round(gone.asked_wh - gone.short_wh))
        told = f"{possible_wh} Wh of {round(gone.asked_wh)} Wh are possible"
        if gone.asked_wh == 0:
            told = f"{round(gone.short_wh)} Wh of what the house takes, or PV gives, cannot be made up for"
        return f"{told}, for {because}"[:500]
    return f"not until its end: {because}"[:500] if gone.over_s * 100 > gone.whole_s * (100 - ENOUGH_PERCENT) else ""


def _stores(command: Command, site: SiteView, ahead: Ahead) -> list[Store]:
    """What can be moved for it."""
    drafts = {name: Draft(view) for name, view in sorted(site.devices.items())}
    from_us, stores = max(command.start_us, site.now.wall_us), []
    for name in scope_of(command, drafts):
        draft, view = drafts[name], drafts[name].view
        if name in site.overrides or not draft.dispatchable or view.kind is DeviceKind.PV:
            continue
        car = view.vehicle
        if view.kind is DeviceKind.CHARGER and car is None:
            continue
        set_room(draft, site, command.price or site.spot, command.issuer)
        above_wh, below_wh = storage_wh(view, site)
        leaves_us = None if car is None else car.departure_timestamp_us
        stores.append(
            Store(
                device_id=name,
                is_car=car is not None,
                low_w=min(0, draft.room_low),
                high_w=max(0, draft.room_high),
                minimum_w=draft.minimum_w,
                above_wh=above_wh,
                below_wh=below_wh,
                need_wh=0.0 if car is None else float(car.energy_needed_wh or 0),
                has_need=car is not None and bool(car.energy_needed_wh) and leaves_us is not None,
                leaves_s=NEVER_S if leaves_us is None else (leaves_us - from_us) / 1e6,
                turned={},
                budget=budget_of(view, ahead, from_us, does_already_w(view, site)),
                bounded=command.power_w != 0,
                charges_by_itself=_charges_by_itself(view, site),
                must_charge=draft.must_charge,
            )
        )
    return stores


def _charges_by_itself(view: DeviceView, site: SiteView) -> bool:
    if view.kind is DeviceKind.BATTERY:
        return not site.defaults.battery_idle
    return view.day is CarDay.NOW or (view.day is None and not site.defaults.cars_wait)


def _can_be_held_back(view: DeviceView) -> bool:
    return (
        view.kind is DeviceKind.PV and view.online and view.capabilities is not None and view.capabilities.limits_export
    )


def _task(command: Command, site: SiteView, stores: list[Store], begins_s: float, whole_s: float) -> Task:
    drafts = {name: Draft(view) for name, view in sorted(site.devices.items())}
    scope = [name for name in scope_of(command, drafts) if name not in site.overrides]
    rest_w, moved = command.signed_power_w, {store.device_id for store in stores}
    beside_w = None
    if site.house_w is not None:
        beside_w = site.house_w + sum(view.likely_w for name, view in site.devices.items() if name not in moved)
    if command.point is Point.CONNECTION:
        assert site.house_w is not None, "shortfall() foresees nothing there without a meter"
        # Batteries beside it rest meanwhile; all else stays as it is now.
        resting = [v for v in site.devices.values() if v.kind is DeviceKind.BATTERY and v.device_id not in scope]
        beside = [v for n, v in site.devices.items() if n not in moved and v not in resting]
        beside_w = site.house_w + sum(view.likely_w for view in beside)
        rest_w -= beside_w
    elif command.type is not CommandType.IDLE:
        rest_w -= sum(drafts[name].view.likely_w for name in scope_of(command, drafts) if name not in moved)
    return Task(
        command=command,
        stores=stores,
        rest_w=rest_w,
        sun_w=sum(max(0, -drafts[name].view.likely_w) for name in scope if _can_be_held_back(drafts[name].view)),
        beside_w=beside_w,
        # On a ramp those that rest in the end help out: then all are taken to share.
        carry=carry_by(moved, drafts, site) if all(s.budget.ramp_w_per_s is None for s in stores) else None,
        begins_s=max(0.0, begins_s),
        whole_s=whole_s,
    )


def _clock(from_us: int, after_s: float) -> str:
    moment_us = from_us + round(max(0.0, after_s) * 1e6)
    return datetime.fromtimestamp(moment_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
