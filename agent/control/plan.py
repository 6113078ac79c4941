"""The plan: a pure function from the site as it is to an order for each device, with the reason for each.

    target (command, else owner's default) -> frequency response -> battery's and car's needs
    -> CURTAIL and import limits -> coming back slowly -> connection -> never against the grid's frequency
    -> phases -> ratings -> local STOP

Each step can undo the one before and leaves its name where it bound (DESIGN: The plan; SAFETY.md). The same view gives
the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.control.book import Outcome
from agent.control.command import Command, Mode, Point, Price
from agent.control.order import Now
from agent.control.rules.balance import limit_difference
from agent.control.rules.budgets import limit_by_commands
from agent.control.rules.defaults import set_default
from agent.control.rules.draft import Draft, Rule
from agent.control.rules.grid_code import answer_frequency, never_against
from agent.control.rules.limits import going_on_w, limit_connection, limit_phases
from agent.control.rules.needs import keep_room, set_room
from agent.control.rules.override import held_of, hold_locally
from agent.control.rules.slowly import come_back_slowly
from agent.control.rules.stop import stop_all
from agent.control.rules.targets import Target, find_targets, sentence, set_targets
from agent.control.site import SiteView
from drivers.device import DeviceKind

TOLERANCE_W: Final = 100
TOLERANCE_PERCENT: Final = 5
"""Obeyed is within the larger of the two of the target."""
MOST_PASSES: Final = 4
"""Over the limits: what is cut at the one side leaves less for the other."""
_LIMITS: Final = (Rule.EXPORT_COMMAND, Rule.IMPORT_COMMAND, Rule.WIRED)
METER_SUBJECT: Final = "connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOrder:
    """What one device shall do. None on both sides: it is given back to itself."""

    device_id: str
    lowest_w: int | None
    highest_w: int | None
    reason: str
    """One sentence: the target's cause, and the rules that bound it."""
    bound_by: tuple[Rule, ...] = ()
    authority_s: float | None = None
    """Seconds until the command ends that allows the power; None: nobody's end takes it away, or it only restricts."""

    @property
    def released(self) -> bool:
        return self.lowest_w is None and self.highest_w is None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPlan:
    """What the plan makes of one standing command."""

    order_hash: bytes
    in_force: bool
    requested_w: int
    """+ import; of a limit, the bound."""
    planned_w: int | None
    """What the orders add up to, for a setpoint in force."""
    metered_w: int | None
    """At the same point; None when it is not known."""
    reason: str
    responded: bool
    counted_devices: tuple[str, ...]
    held: str = ""
    """Which of its devices are held by hand, by whom and until when; empty: none is."""

    @property
    def short(self) -> bool:
        """The plan cannot do what the command asks for."""
        if not self.in_force or self.planned_w is None:
            return not self.in_force
        return abs(self.planned_w - self.requested_w) > tolerance_w(self.requested_w)

    @property
    def outcome(self) -> Outcome:
        """As the book needs it."""
        return Outcome(
            in_force=self.in_force,
            reason=self.reason,
            responded=self.responded,
            counted_devices=self.counted_devices,
            held=self.held,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Orders by device, and commands by hash."""

    orders: Mapping[str, DeviceOrder]
    commands: Mapping[bytes, CommandPlan]


def stop_order(device_id: str, stopped_by: str) -> DeviceOrder:
    """Local STOP for one device, without a plan."""
    return DeviceOrder(
        device_id=device_id,
        lowest_w=0,
        highest_w=0,
        reason=f"local STOP by {stopped_by}; it is cleared only here",
        bound_by=(Rule.STOP,),
    )


def tolerance_w(power_w: int) -> int:
    """How far from a target still counts as obeyed."""
    return max(TOLERANCE_W, abs(power_w) * TOLERANCE_PERCENT // 100)


def make_plan(site: SiteView) -> Plan:
    """The plan for this moment. Never raises: what cannot be done is said in reasons."""
    drafts = {name: Draft(view) for name, view in sorted(site.devices.items())}
    targets = find_targets(drafts, site)
    prices = _prices(targets, site)
    issuers = {name: target.order.command.issuer for target in targets for name in target.taken}
    for name, draft in drafts.items():
        set_room(draft, site, prices.get(name), issuers.get(name))
        set_default(draft, site)
        hold_locally(draft, site)
    set_targets(drafts, targets, site)
    answer_frequency(drafts, site)
    for draft in drafts.values():
        keep_room(draft)
    limit_by_commands(drafts, targets)
    come_back_slowly(drafts, site)
    _limit_all(drafts, targets, site)
    for draft in drafts.values():
        if not draft.view.online:
            draft.bind(Rule.SILENT)
        elif draft.view.follows is False:
            draft.bind(Rule.DISOBEYS)
    stop_all(drafts, site)
    return Plan(
        orders={name: _order(draft, site.now) for name, draft in drafts.items()},
        commands={target.order.hash: _command_plan(target, drafts, site) for target in targets},
    )


def _limit_all(drafts: dict[str, Draft], targets: list[Target], site: SiteView) -> None:
    """Connection, grid code and phases. What one of them ended was room for another device before: then once more.

    The order is SAFETY's, with the meter and without it: what contract, commands and wires allow at the connection (8,
    13, and the silent of 3) gives way to the grid's frequency (5), which gives way to a fuse alone (8, 2): a contract
    that is passed for some minutes costs money, a fuse that blows takes the site from the grid in its need.

    Each pass only narrows. While the grid is in need nothing is narrowed again: its rule comes after the connection's.
    Static sums hang on nothing that another pass would change.
    """
    after_w = going_on_w(drafts)
    for _ in range(MOST_PASSES):
        before_w = after_w
        limit_connection(drafts, targets, site)
        never_against(drafts, site)
        limit_phases(drafts, site)
        limit_difference(drafts, site)
        for draft in drafts.values():
            keep_room(draft)
        after_w = going_on_w(drafts)
        if site.meter is None or site.frequency.side != 0 or after_w == before_w:
            break


def orders_to_give(site: SiteView, plan: Plan) -> dict[str, DeviceOrder]:
    """The orders of a plan that knew what it ordered about.

    A device that has not shown yet what it can do may hold an order of ours from before a restart, with its own end;
    what a plan makes of nothing known about it would only take that away. STOP and an island are no guesses.
    """
    certain = {Rule.STOP, Rule.ISLANDED}
    return {
        name: order
        for name, order in plan.orders.items()
        if site.devices[name].capabilities is not None or certain & set(order.bound_by)
    }


def _prices(targets: list[Target], site: SiteView) -> dict[str, Price | None]:
    """By device: the price of the discharge that has it. A command that waits, or is not followed, pays for nothing."""
    return {
        name: target.order.command.price or site.spot
        for target in targets
        if target.order.command.signed_power_w < 0
        for name in target.taken
    }


def _order(draft: Draft, now: Now) -> DeviceOrder:
    reason = draft.cause
    if any(rule in _LIMITS for rule in draft.bound):
        # Somebody does command; but what flows is not ordered, only bounded.
        reason = reason.replace("nobody commands: ", "nobody orders a power: ", 1)
    if draft.bound:
        reason += "; bound by " + ", ".join(draft.bound)
    return DeviceOrder(
        device_id=draft.view.device_id,
        lowest_w=draft.low,
        highest_w=draft.high,
        reason=reason,
        bound_by=tuple(draft.bound),
        authority_s=None if draft.until_us is None else max(0.0, (draft.until_us - now.wall_us) / 1e6),
    )


def _command_plan(target: Target, drafts: dict[str, Draft], site: SiteView) -> CommandPlan:
    command = target.order.command
    metered_w = _metered_w(command, target.scope, drafts, site)
    planned_w = _planned_w(command, target, drafts, site)
    return CommandPlan(
        order_hash=target.order.hash,
        in_force=target.in_force,
        requested_w=command.signed_power_w,
        planned_w=planned_w,
        metered_w=metered_w,
        reason=(target.in_force and _what_binds(command, target, drafts, planned_w)) or target.reason,
        responded=target.in_force and _responded(command, planned_w, metered_w),
        counted_devices=(METER_SUBJECT,) if command.point is Point.CONNECTION else target.scope,
        held=held_of(target.scope, site) if command.mode is Mode.SETPOINT else "",
    )


def _metered_w(command: Command, scope: tuple[str, ...], drafts: dict[str, Draft], site: SiteView) -> int | None:
    if command.point is Point.CONNECTION:
        return site.meter.power_w if site.meter is not None else None
    if any(drafts[name].view.power_w is None or not drafts[name].view.online for name in scope):
        return None
    return sum(drafts[name].view.present_w for name in scope)


def _planned_w(command: Command, target: Target, drafts: dict[str, Draft], site: SiteView) -> int | None:
    if command.mode is not Mode.SETPOINT or not target.in_force:
        return None
    if command.point is Point.CONNECTION:
        return None if site.house_w is None else site.house_w + sum(map(_expected_w, drafts.values()))
    return sum(_expected_w(drafts[name]) for name in target.scope)


def _expected_w(draft: Draft) -> int:
    """Where a device will be under its band: at its point, else where it is, as far as the band lets it."""
    if not draft.view.online:
        return draft.view.present_w
    if draft.point_w is not None:
        return draft.point_w
    power_w = draft.view.present_w
    if draft.dispatchable and draft.view.kind is DeviceKind.CHARGER and draft.high is not None and draft.low == 0:
        power_w = draft.high if draft.must_charge else power_w
    if draft.low is not None:
        power_w = max(power_w, draft.low)
    return power_w if draft.high is None else min(power_w, draft.high)


def _responded(command: Command, planned_w: int | None, metered_w: int | None) -> bool:
    if metered_w is None:
        return False
    match command.mode:
        case Mode.EXPORT_LIMIT:
            return metered_w >= command.signed_power_w - tolerance_w(command.power_w)
        case Mode.IMPORT_LIMIT:
            return metered_w <= command.signed_power_w + tolerance_w(command.power_w)
        case Mode.SETPOINT:
            if planned_w is None or (planned_w == 0 and command.power_w != 0):
                return False
            # On the way counts from nine tenths, since a ramp ends slowly; but half of the way at least has been gone.
            near = abs(metered_w - planned_w) <= 2 * tolerance_w(planned_w)
            return near and (command.power_w == 0 or abs(metered_w - planned_w) * 2 <= abs(planned_w))


def _what_binds(command: Command, target: Target, drafts: dict[str, Draft], planned_w: int | None) -> str:
    """For the receipt: empty when the command gets all that it asks for."""
    if planned_w is None or abs(planned_w - command.signed_power_w) <= tolerance_w(command.power_w):
        return ""
    rules: dict[str, None] = {}
    for name in target.scope:
        draft = drafts[name]
        rules |= dict.fromkeys(f"{name}: {rule.value}" for rule in draft.bound)
        if command.signed_power_w < 0 and draft.why_low is not None and draft.room_low == 0:
            rules[f"{name}: {draft.why_low.value}"] = None
        if command.signed_power_w > 0 and draft.why_high is Rule.BATTERY_FULL:
            rules[f"{name}: {draft.why_high.value}"] = None
    because = f", for {', '.join(rules)}" if rules else ""
    return f"{planned_w} W of {command.signed_power_w} W are possible{because}"[:500]


__all__ = ["CommandPlan", "DeviceOrder", "Plan", "make_plan", "orders_to_give", "sentence", "stop_order", "tolerance_w"]
