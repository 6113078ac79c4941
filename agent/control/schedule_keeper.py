"""The schedules of this site: taken in, kept over restarts, followed when nobody commands, and reckoned with.

A shell without tasks: the controller asks it with each plan and writes down what it has to keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from agent.control.admission import Policy
from agent.control.command import Command, Mode, Point, Price
from agent.control.deviation import (
    NO_SUMS,
    Agreement,
    Deviation,
    DeviationBook,
    Sums,
    keep_only,
    observe,
)
from agent.control.deviation_note import decode_deviations, encode_deviations
from agent.control.errors import RestoreError
from agent.control.notes import PREFIX
from agent.control.order import Now, Order, Rank
from agent.control.ordered import DAY_US, Ordered, scheduled_by, total
from agent.control.plan import Plan
from agent.control.rules.draft import Rule
from agent.control.schedule import Agreed, clock, decode_agreed, encode_agreed
from agent.control.schedule_admission import (
    Before,
    ScheduleKnown,
    ScheduleRefused,
    acted_and_to_come,
    judge_schedule,
    replaces,
)
from agent.control.schedule_numbers import HOUR_US, decode_numbers, encode_numbers
from agent.control.site import SiteView
from agent.control.tally import Register
from agent.evidence.statements import Alarm, CommandReceipt, CommandState, Severity, Statement
from agent.identity.trust import TrustList

ENTRY: Final = PREFIX + "schedule/"
NUMBERS: Final = PREFIX + "schedules"
DEVIATIONS: Final = PREFIX + "deviations"
_LIMITS: Final = frozenset({Rule.EXPORT_COMMAND, Rule.IMPORT_COMMAND})
KEPT_EVERY_US: Final = 60 * 1_000_000
"""The open quarter is noted so often: after a restart its registers from the beginning still count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleLine:
    """One schedule, for people."""

    schedule_hash: bytes
    issuer: str
    targets: tuple[str, ...]
    at_connection: bool
    start_us: int
    end_us: int
    power_w: int | None
    """Agreed now; None: nothing."""
    in_force: bool
    reason: str
    """What binds it, or why it is not followed."""
    deviation: Sums = NO_SUMS
    """Its quarters that are over."""
    open_scheduled_wh: int | None = None
    """Of this quarter, until now; None: it is not reckoned with, since nothing is agreed or a newer one goes before."""
    open_delivered_wh: int | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A new schedule, and the receipts to write with it."""

    hash: bytes
    receipts: tuple[CommandReceipt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleMemory:
    """What the next answers and plans go by, for the record of decisions."""

    agreed: tuple[Agreed, ...]
    not_stored: frozenset[bytes]
    newest: Mapping[bytes, tuple[int, int]]
    deviations: DeviationBook
    restored: bool
    gone: Mapping[bytes, Mapping[int, tuple[int, int]]] = field(default_factory=dict)
    """Energy and money, by issuer's name and hour: of schedules that are kept no more."""


class ScheduleKeeper:
    """One for the gateway."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._agreed: dict[bytes, Agreed] = {}
        self._not_stored: set[bytes] = set()
        """What allows power is not acted on before the store has it (DESIGN: law 5)."""
        self._newest: dict[bytes, tuple[int, int]] = {}
        self._gone: dict[bytes, dict[int, Ordered]] = {}
        """By issuer's name and hour: asked for by schedules that are kept no more; they still count (SAFETY 10)."""
        self._noted: dict[str, bytes | None] = {}
        self._noted_us = 0
        self.restored = False
        self.deviations = DeviationBook()

    # -- in

    def memory(self) -> ScheduleMemory:
        """All that the next answers and plans go by."""
        return ScheduleMemory(
            agreed=tuple(self._agreed.values()),
            not_stored=frozenset(self._not_stored),
            newest=dict(self._newest),
            deviations=self.deviations,
            restored=self.restored,
            gone={issuer: dict(hours) for issuer, hours in self._gone.items()},
        )

    def recall(self, memory: ScheduleMemory) -> None:
        """Go on from there."""
        self._agreed = {agreed.hash: agreed for agreed in memory.agreed}
        self._not_stored, self._newest = set(memory.not_stored), dict(memory.newest)
        self.deviations, self.restored = memory.deviations, memory.restored
        self._gone = {i: {hour: Ordered(*part) for hour, part in hours.items()} for i, hours in memory.gone.items()}

    def receive(
        self,
        signed: bytes,
        policy: Policy,
        trust: TrustList | None,
        now: Now,
        commanded: Callable[[str], Ordered] = lambda _: Ordered(),
    ) -> ScheduleRefused | ScheduleKnown | Taken:
        """Take what the link brought. One that is new is followed once `committed` was called for it.

        `commanded`: what an issuer ordered by commands in the last 24 h.
        """
        came = hashlib.sha256(signed).digest()
        if not self.restored:
            return ScheduleRefused(came, "the stored schedules have not been read yet; send it again")
        stored = tuple(self._agreed.values())

        def before(issuer: str) -> Before:
            return Before(commanded(issuer), self._gone_in_a_day(issuer, now))

        verdict = judge_schedule(signed, came, policy, trust, stored, self._newest, now, self._draw(), before)
        if isinstance(verdict, ScheduleRefused | ScheduleKnown):
            return verdict
        said: list[CommandReceipt] = []
        for old in stored:
            if old.issuer_key == verdict.issuer_key and replaces(verdict.schedule, old.schedule):
                reason = f"replaced by schedule {verdict.hash.hex()[:12]} of the same issuer"
                said.append(_receipt(old, CommandState.SUPERSEDED, reason, now))
                self._forget(old, now)
        made = (
            _receipt(verdict, CommandState.RECEIVED, "", now),
            _receipt(verdict, CommandState.ACCEPTED, "", now),
        )
        self._agreed[verdict.hash] = agreed = replace(verdict, receipts=made)
        self._newest[agreed.issuer_key] = agreed.schedule.number
        self._noted[ENTRY + agreed.hash.hex()] = encode_agreed(agreed)
        self._noted[NUMBERS] = encode_numbers(self._newest, self._gone)
        self._not_stored.add(agreed.hash)
        return Taken(agreed.hash, (*said, *made))

    def take(self, agreed: Agreed) -> None:
        """Follow a schedule whose right to be was judged elsewhere."""
        self._agreed[agreed.hash] = agreed

    def committed(self, schedule_hash: bytes) -> None:
        """The store has it now."""
        self._not_stored.discard(schedule_hash)

    def restore(self, notes: Mapping[str, bytes]) -> list[str]:
        """Take what an earlier run has noted; sentences about what is damaged. One bad note costs one schedule."""
        faults = []
        for key, note in sorted(notes.items()):
            try:
                if key.startswith(ENTRY):
                    agreed = decode_agreed(note)
                    self._agreed[agreed.hash] = agreed
                elif key == NUMBERS:
                    self._newest, self._gone = decode_numbers(note)
                elif key == DEVIATIONS:
                    self.deviations = decode_deviations(note)
            except RestoreError as error:
                faults.append(f"{key}: {error}")
        self.restored = True
        return faults

    # -- out

    def orders(self, now: Now) -> tuple[Order, ...]:
        """What the schedules ask for now, the newest first."""
        newest_first = sorted(self._agreed.values(), key=lambda a: (-a.received_us, a.hash))
        stored = [agreed for agreed in newest_first if agreed.hash not in self._not_stored]
        return tuple(order for agreed in stored if (order := agreed.order(now)) is not None)

    @property
    def count(self) -> int:
        """Schedules that stand, or will."""
        return len(self._agreed)

    @property
    def counts_energy(self) -> bool:
        """Whether `follow` needs registers."""
        return bool(self._agreed) or bool(self.deviations.open)

    def next_change_us(self, after_us: int) -> int | None:
        """The next moment at which a schedule may ask for something else."""
        moments = [agreed.next_change_us(after_us) for agreed in self._agreed.values()]
        return min((moment for moment in moments if moment is not None), default=None)

    def follow(
        self, site: SiteView, plan: Plan, registers: Mapping[str, Register], spot: Price | None
    ) -> tuple[Statement, ...]:
        """Reckon with what the plan does; what has to be stated about it."""
        now = site.now
        if not now.time_known or not self.restored:
            return ()
        agreements = agreements_of(site, plan, spot)
        self.deviations, closed = observe(self.deviations, agreements, registers, now.wall_us, now.uptime_us)
        if closed or (self.deviations.open and abs(now.wall_us - self._noted_us) >= KEPT_EVERY_US):
            self._noted[DEVIATIONS] = encode_deviations(self.deviations)
            self._noted_us = now.wall_us
        said: list[Statement] = [alarm for deviation in closed for alarm in _statement(deviation, now)]
        for agreed in list(self._agreed.values()):
            if now.wall_us >= agreed.schedule.end_us:
                said.append(_receipt(agreed, CommandState.COMPLETED, "its end has come", now))
                self._forget(agreed, now)
                self._noted[NUMBERS] = encode_numbers(self._newest, self._gone)
        self.deviations = keep_only(self.deviations, self._agreed.keys())
        return tuple(said)

    def take_notes(self) -> dict[str, bytes | None]:
        """What has to be written since this was last asked."""
        noted, self._noted = self._noted, {}
        return noted

    def lines(self, site: SiteView | None, plan: Plan) -> tuple[ScheduleLine, ...]:
        """For people."""
        return tuple(_line(agreed, site, plan, self.deviations) for agreed in self._agreed.values())

    def ordered(self, issuer: str, now: Now) -> Ordered:
        """What an issuer agreed on: asked for in the last 24 h, and to come in as long."""
        stand = [acted_and_to_come(a, now) for a in self._agreed.values() if a.schedule.issuer == issuer]
        return total([*stand, self._gone_in_a_day(issuer, now)])

    # -- inside

    def _gone_in_a_day(self, issuer: str, now: Now) -> Ordered:
        oldest = (now.wall_us - DAY_US) // HOUR_US
        return total(part for hour, part in self._gone.get(issuer.encode(), {}).items() if hour >= oldest)

    def _forget(self, agreed: Agreed, now: Now) -> None:
        self._agreed.pop(agreed.hash, None)
        self._noted[ENTRY + agreed.hash.hex()] = None
        oldest = (now.wall_us - DAY_US) // HOUR_US
        kept = {
            issuer: {hour: part for hour, part in hours.items() if hour >= oldest}
            for issuer, hours in self._gone.items()
        }
        hours = kept.setdefault(agreed.schedule.issuer.encode(), {})
        for hour in range(oldest, now.wall_us // HOUR_US + 1):
            from_us, until_us = max(hour * HOUR_US, agreed.received_us), min((hour + 1) * HOUR_US, now.wall_us)
            part = scheduled_by(agreed.schedule, from_us, until_us)
            if part.energy_wh:
                hours[hour] = total([hours.get(hour, Ordered()), part])
        self._gone = {issuer: hours for issuer, hours in kept.items() if hours}


def agreements_of(site: SiteView, plan: Plan, spot: Price | None) -> tuple[Agreement, ...]:
    """What each schedule asks for now, that no newer one stands before.

    Two agreements about one device cannot both be kept, nor two about the one connection: the newer counts. One about
    the connection and one about a device can.
    """
    found: list[Agreement] = []
    taken: set[str] = set()
    connection = False
    for order in site.orders:
        if order.rank is not Rank.SCHEDULE:
            continue
        command, made = order.command, plan.commands.get(order.hash)
        scope = _scope(command, site)
        if command.point is Point.CONNECTION:
            outranked = connection or (bool(scope) and scope <= taken)
        else:
            outranked = not scope.isdisjoint(taken)
        if outranked:
            continue
        taken |= scope
        connection |= command.point is Point.CONNECTION
        found.append(
            Agreement(
                schedule_hash=order.hash,
                power_w=command.signed_power_w,
                devices=() if made is None else made.counted_devices,
                commanded=_commanded(order, scope, site, plan),
                reason="" if made is None else made.reason,
                price=spot or command.price,
            )
        )
    return tuple(found)


def _commanded(order: Order, scope: frozenset[str], site: SiteView, plan: Plan) -> bool:
    """Whether a command went before the schedule: a setpoint that has its devices, or a limit that binds them.

    A setpoint that may not act (its issuer has used up this hour's) leaves the devices to the schedule.
    """
    made = plan.commands.get(order.hash)
    for other in site.orders:
        if other.rank is Rank.SCHEDULE or other.command.mode is not Mode.SETPOINT:
            continue
        theirs = plan.commands.get(other.hash)
        acts = (theirs is not None and theirs.in_force) or made is None or not made.in_force
        if acts and not scope.isdisjoint(_scope(other.command, site)):
            return True
    return any(_LIMITS & set(plan.orders[name].bound_by) for name in scope if name in plan.orders)


def _scope(command: Command, site: SiteView) -> frozenset[str]:
    """The devices that a command speaks of."""
    return frozenset(command.targets or site.devices)


def _line(agreed: Agreed, site: SiteView | None, plan: Plan, deviations: DeviationBook) -> ScheduleLine:
    schedule, made, quarter = agreed.schedule, plan.commands.get(agreed.hash), deviations.open.get(agreed.hash)
    run = None if site is None else schedule.run_at(site.now.wall_us)
    reason = made.reason if made is not None else ""
    if made is None:
        reason = "nothing is agreed for this quarter" if run is None else "its random start has not come yet"
    return ScheduleLine(
        schedule_hash=agreed.hash,
        issuer=schedule.issuer,
        targets=schedule.targets,
        at_connection=not bool(schedule.point),
        start_us=schedule.start_us,
        end_us=schedule.end_us,
        power_w=None if run is None else run[0],
        in_force=made is not None and made.in_force,
        reason=reason,
        deviation=deviations.by_schedule.get(agreed.hash, NO_SUMS),
        open_scheduled_wh=None if quarter is None else quarter.scheduled_wh,
        open_delivered_wh=None if quarter is None else quarter.delivered_wh(),
    )


def _receipt(agreed: Agreed, state: CommandState, reason: str, now: Now) -> CommandReceipt:
    return CommandReceipt(
        command_hash=agreed.hash,
        command_id=f"schedule {agreed.schedule.sequence}",
        state=state,
        timestamp_us=now.wall_us,
        reason=reason,
        delivered_energy_wh=None,
    )


def _statement(closed: Deviation, now: Now) -> list[Statement]:
    """What is worth proving: a quarter that went otherwise than agreed."""
    if not closed.under_wh and not closed.over_wh and closed.delivered_wh is not None:
        return []
    delivered = "an unknown energy" if closed.delivered_wh is None else f"{closed.delivered_wh:+} Wh"
    text = (
        f"schedule {closed.schedule_hash.hex()[:12]}, {clock(closed.from_us)} to {clock(closed.until_us)}: "
        f"{closed.scheduled_wh:+} Wh agreed, {delivered} metered; {closed.under_wh} Wh short, {closed.over_wh} Wh over"
    )
    if closed.penalty_micro is not None:
        text += f"; would cost {closed.penalty_micro / 1e6:.4f} {closed.currency}"
    text += "; a command went before it" if closed.excused else ""
    text += "; estimated" if closed.estimated else ""
    text += f"; {closed.reason}" if closed.reason else ""
    return [
        Alarm(
            timestamp_us=now.wall_us,
            severity=Severity.INFO,
            code="schedule.deviation",
            subject="site",
            text=text[:800],
        )
    ]
