"""Setpoints of commands, shared out over the devices that can follow them, the highest command first."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent.control.allocation import Range, fill
from agent.control.command import Command, CommandType, Mode, Point
from agent.control.order import Order, Rank
from agent.control.rules.bounds import begins_w, bound_after_sharing, is_event, keep_sign, may_be_moved, may_begin
from agent.control.rules.draft import Draft, Rule
from agent.control.rules.override import held_of
from agent.control.rules.sharing import bind_on_the_way, share_out
from agent.control.site import SiteView
from agent.control.storage import FULL_PERMILLE
from drivers.device import DeviceKind


@dataclass(slots=True)
class Target:
    """One command in the plan: whether it is in force, for which devices, and what stands against it."""

    order: Order
    scope: tuple[str, ...]
    in_force: bool
    reason: str = ""
    taken: tuple[str, ...] = field(default=())
    """Devices that it has, and no other setpoint."""
    moved: tuple[str, ...] = field(default=())
    """Devices that were given a part of it."""


def scope_of(command: Command, drafts: dict[str, Draft]) -> tuple[str, ...]:
    """The devices that a command speaks of. Without targets: all; IDLE leaves PV alone unless it is named."""
    if command.targets:
        return tuple(target for target in sorted(command.targets) if target in drafts)
    return tuple(
        name
        for name, draft in sorted(drafts.items())
        if command.type is not CommandType.IDLE or draft.view.kind is not DeviceKind.PV
    )


def suspension(command: Command, site: SiteView) -> str | None:
    """Why commands are not followed just now; None when they are."""
    if site.stop is not None:
        return f"local STOP by {site.stop}"
    if site.islanded:
        return "the site is islanded"
    if command.mode is Mode.SETPOINT and command.point is Point.CONNECTION:
        if site.meter is None:
            return "the grid meter is lost, so the connection's power is not known"
        if site.safe_mode is not None:
            return f"safe mode: {site.safe_mode}"
    return None


def find_targets(drafts: dict[str, Draft], site: SiteView) -> list[Target]:
    """Which setpoint has which device: between commands for one device the higher one has it, the other waits."""
    targets = []
    taken: dict[str, Order] = {}
    begins = 0
    for order in site.orders:
        command = order.command
        scope = scope_of(command, drafts)
        reason = suspension(command, site)
        target = Target(order, scope, reason is None, reason or "")
        targets.append(target)
        if command.mode is not Mode.SETPOINT or reason is not None:
            continue
        if not may_begin(order, begins, site):
            target.in_force, target.reason = False, Rule.EVENTS.value
            continue
        open_scope = tuple(name for name in scope if name not in site.overrides)
        if scope and not open_scope:
            target.in_force, target.reason = False, held_of(scope, site)
            continue
        free = tuple(name for name in open_scope if name not in taken)
        if not free or (len(free) < len(open_scope) and command.point is Point.DEVICE):
            other = next((taken[name] for name in open_scope if name in taken), None)
            target.in_force = False
            target.reason = f"outranked by {_name(other)}" if other else "names no device that is here"
            continue
        taken |= dict.fromkeys(free, order)
        begins += is_event(order, site)
        target.taken = free
    return targets


def set_targets(drafts: dict[str, Draft], targets: list[Target], site: SiteView) -> None:
    """Write the setpoints into the drafts."""
    for target in targets:
        if not target.taken:
            continue
        target.moved = _share_out(target, target.taken, drafts, site)
        if not target.moved:
            target.reason = "none of its devices can follow it now"


def _share_out(target: Target, free: tuple[str, ...], drafts: dict[str, Draft], site: SiteView) -> tuple[str, ...]:
    command = target.order.command
    movable = [name for name in free if drafts[name].dispatchable and not drafts[name].must_charge]
    movable = [name for name in movable if drafts[name].view.kind is not DeviceKind.PV]
    used_up = [name for name in movable if not may_be_moved(drafts[name], site)] if command.power_w else []
    if len(used_up) == len(movable):
        movable = []  # None of them is the command's to move: the owner's defaults hold.
    if command.type is CommandType.IDLE:
        return _idle(target.order, [name for name in free if drafts[name].view.online], drafts)
    # What cannot be moved counts as it is metered: PV, cars that must charge, devices that are silent.
    fixed = [name for name in free if name not in movable]
    rest_w = command.signed_power_w
    if command.point is Point.DEVICE:
        rest_w -= sum(_counted_w(drafts[name]) for name in target.scope if name in site.overrides)
    if command.point is Point.CONNECTION:
        assert site.house_w is not None, "suspension() holds such a target back without a meter"
        others = [name for name in drafts if name not in free]
        _rest_of_the_batteries(target.order, [drafts[name] for name in others if name not in site.overrides])
        rest_w -= site.house_w + sum(_counted_w(drafts[name]) for name in others)
    pv = [name for name in fixed if drafts[name].view.kind is DeviceKind.PV and drafts[name].view.online]
    pv_w = sum(drafts[name].view.likely_w for name in pv)
    rest_w -= sum(drafts[name].view.likely_w for name in fixed) - pv_w
    ranges = {name: keep_sign(drafts[name], _range(drafts[name]), site) for name in movable}
    # One that has used up its bound rests beside those that carry the command: left to itself it would undo it.
    ranges |= {name: Range(0, 0) for name in used_up if name in ranges}
    by = sentence(target.order)
    asked_w = rest_w - pv_w
    shares, resting = share_out(asked_w, ranges, drafts, site)
    for name, share_w in shares.powers.items():
        draft, goal_w = drafts[name], shares.goals[name]
        draft.bound.clear()
        if name in used_up:
            may_be_moved(draft, site)  # says once more which bound it is
        power_w = bound_after_sharing(draft, share_w, asked_w, site)
        draft.set_power(power_w)
        if not power_w and (begun_w := begins_w(draft, goal_w, site)):
            draft.low, draft.high = 0, begun_w
        draft.until_us = command.end_us if draft.low or draft.high else None
        draft.cause = f"{power_w} W of {by}"
        if name in resting:
            draft.cause = f"rests, since others carry {by}{'' if name in used_up else resting[name]}"
        elif goal_w != share_w:
            bind_on_the_way(draft, goal_w, site)
            draft.cause += "" if goal_w else ", until others can carry it"
    _cap_pv(target.order, pv, sum(r.high for r in ranges.values()) - rest_w, drafts)
    return tuple(sorted([*movable, *pv]))


def _name(order: Order) -> str:
    return order.command_id if order.rank is Rank.SCHEDULE else f"command {order.command_id!r}"


def _counted_w(draft: Draft) -> int:
    """Where a device will be that the command does not move: at its point, else where it is."""
    return draft.view.likely_w if draft.point_w is None or not draft.view.online else draft.point_w


def _rest_of_the_batteries(order: Order, others: list[Draft]) -> None:
    """A battery that looks after the house would bring the connection back to zero, against the command."""
    for draft in others:
        if draft.view.kind is DeviceKind.BATTERY and draft.dispatchable and draft.released:
            draft.set_power(0)
            draft.cause = f"rests, since the connection's power is set by {sentence(order)}"


def _range(draft: Draft) -> Range:
    capabilities = draft.view.capabilities
    minimum_w = capabilities.minimum_import_w if capabilities is not None else 0
    low = draft.room_low
    high = max(draft.room_high, low)
    if 0 < high < minimum_w:
        high = 0  # It cannot charge at all: nobody shall count on it, and PV makes room in its place.
    car = draft.view.vehicle
    if draft.view.kind is DeviceKind.CHARGER and (car is None or (car.state_of_charge_permille or 0) >= FULL_PERMILLE):
        high = 0  # An empty socket and a full car take nothing: the others get its part.
    return Range(low, high, minimum_w)


def _idle(order: Order, online: list[str], drafts: dict[str, Draft]) -> tuple[str, ...]:
    """Everything that stands in its scope rests, but for the car whose driver said "charge now"."""
    resting = [name for name in online if not drafts[name].must_charge]
    by = sentence(order)
    for name in resting:
        drafts[name].set_power(0)
        drafts[name].bound.clear()
        drafts[name].cause = f"0 W, by {by}"
    return tuple(resting)


def _cap_pv(order: Order, pv: list[str], most_w: int, drafts: dict[str, Draft]) -> None:
    """PV may produce no more than what the others could take in beside the target: only then it is held back."""
    rated_w = sum(drafts[name].view.most_export_w for name in pv)
    if most_w >= rated_w:
        return
    shares = fill(max(0, most_w), {name: Range(0, drafts[name].view.most_export_w) for name in pv})
    by = sentence(order)
    for name, share_w in shares.items():
        drafts[name].low, drafts[name].high = -share_w, None
        drafts[name].cause = f"at most {share_w} W out, by {by}"


def sentence(order: Order) -> str:
    """The command in words: what, by whom, until when."""
    command = order.command
    until = datetime.fromtimestamp(command.end_us // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    what = {
        Mode.SETPOINT: command.type.name,
        Mode.EXPORT_LIMIT: "export limit",
        Mode.IMPORT_LIMIT: "import limit",
    }[command.mode]
    power = "" if command.type is CommandType.IDLE else f" {command.power_w} W"
    where = " at the connection" if command.point is Point.CONNECTION else ""
    source = "pre-agreed schedule" if order.rank is Rank.SCHEDULE else f"command {order.command_id!r}"
    return f"{what}{power}{where} by {command.issuer} until {until} ({source})"
