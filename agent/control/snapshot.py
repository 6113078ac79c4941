"""What control shows of itself: setpoints with their reasons, commands with their receipts, STOP and safe mode."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.control.deviation import DeviationBook
from agent.control.dispatcher import Carriage
from agent.control.entry import Entry
from agent.control.feed_keeper import FeedLine
from agent.control.input_watch import InputState
from agent.control.plan import CommandPlan, DeviceOrder, sentence
from agent.control.schedule_keeper import ScheduleLine
from agent.evidence.statements import CommandReceipt, CommandState


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceControl:
    """What one device is ordered to do."""

    device_id: str
    lowest_w: int | None
    highest_w: int | None
    """None on both sides: it is left to itself."""
    reason: str
    bound_by: tuple[str, ...]
    confirmed: bool
    """The device has confirmed exactly this band, or its release."""
    trouble: str
    """Why it has not; empty when there is no fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandControl:
    """One command of the book."""

    command_id: str
    command_hash: bytes
    text: str
    """What, by whom, until when."""
    issuer: str
    state: CommandState
    start_us: int
    end_us: int
    targets: tuple[str, ...]
    in_force: bool
    reason: str
    """What binds it, or why it waits or ended."""
    requested_w: int
    planned_w: int | None
    metered_w: int | None
    delivered_wh: int | None
    receipts: tuple[CommandReceipt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSnapshot:
    """Control at one moment. Cheap to take."""

    stopped_by: str | None
    safe_mode: str | None
    islanded: bool
    time_known: bool
    """False after a reboot until the time was trusted once: then only what restricts is obeyed."""
    restored: bool
    """Whether the stored commands have been read since the start."""
    connection_w: int | None
    house_w: int | None
    devices: tuple[DeviceControl, ...]
    commands: tuple[CommandControl, ...]
    """In force and waiting first, then the ended ones, the newest first."""
    schedules: tuple[ScheduleLine, ...] = ()
    deviations: DeviationBook = field(default_factory=DeviationBook)
    feeds: tuple[FeedLine, ...] = ()
    inputs: tuple[InputState, ...] = ()
    """Hard-wired ones."""
    refused: int
    """Messages refused since the start."""
    unrecorded: int
    """Receipts and alarms that wait for the store."""
    store_trouble: str


def show_device(order: DeviceOrder, carriage: Carriage) -> DeviceControl:
    """One device's line."""
    held = carriage.confirmed
    if order.released:
        confirmed = not carriage.touched
    else:
        confirmed = held is not None and (held.lowest_w, held.highest_w) == (order.lowest_w, order.highest_w)
    return DeviceControl(
        device_id=order.device_id,
        lowest_w=order.lowest_w,
        highest_w=order.highest_w,
        reason=order.reason,
        bound_by=tuple(rule.value for rule in order.bound_by),
        confirmed=confirmed,
        trouble=carriage.trouble,
    )


def show_command(entry: Entry, plan: CommandPlan | None) -> CommandControl:
    """One command's line. `plan`: what the newest plan makes of it, while it stands."""
    command = entry.order.command
    if entry.state.final:
        plan = None
    reason = plan.reason if plan is not None else entry.receipts[-1].reason
    if plan is None and not entry.state.final:
        reason = "waits for its start" if entry.durable else "waits for the store"
    return CommandControl(
        command_id=entry.order.command_id,
        command_hash=entry.order.hash,
        text=sentence(entry.order),
        issuer=command.issuer,
        state=entry.state,
        start_us=command.start_us,
        end_us=command.end_us,
        targets=command.targets,
        in_force=plan is not None and plan.in_force,
        reason=reason,
        requested_w=command.signed_power_w,
        planned_w=plan.planned_w if plan is not None else None,
        metered_w=plan.metered_w if plan is not None else None,
        delivered_wh=entry.tally.delivered_wh() if entry.executed else None,
        receipts=entry.receipts,
    )
