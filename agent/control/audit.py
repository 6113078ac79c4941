"""An auditor's proof: recorded inputs through the same core again, against what was decided and what was signed.

Of a record since version 2 every event happens again (`rerun`): messages are judged, people's orders taken, the site is
looked at, plans are made and receipts given, each from what the events before have come to. Of version 1 each plan is
made again from its own input. Records of versions 1 and 2 share out targets by the rule of their time (`fewest`).

What a record cannot show is believed: that a trust list in it was signed by its roots, what STOP and the wired inputs
said, which band a device was taken to hold, and after a start what the store had kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.control import codec
from agent.control.authorization import decode_authorization
from agent.control.decisions import Decision, again, plan_bytes
from agent.control.differences import differing, plan_differs, receipts, what_came, what_differs
from agent.control.errors import CommandFormatError, RestoreError
from agent.control.events import Event, Kind, Memory, Record, Rules
from agent.control.order import Order, Rank
from agent.control.rerun import Rerun
from agent.control.sealed_file import Sealing
from agent.control.segments import BY_QUARTER, Header, read_segment
from agent.control.site import Sharing, SiteView
from agent.evidence.errors import EvidenceError
from agent.evidence.statements import Alarm

GAP_US: Final = 60_000_000
"""Between two decisions; the gateway was off, or did not record."""
_STATED: Final = re.compile(r"segment (\S+): (\d+) (?:decisions|records), SHA-256 ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where what comes out now is not what was decided."""

    at_us: int
    segment: str
    number: int
    what: str


@dataclass(slots=True)
class Audited:
    """What a replay has found."""

    decisions: int = 0
    same: int = 0
    first_us: int | None = None
    last_us: int | None = None
    first_difference: Difference | None = None
    signed: int = 0
    """Of them, in the part of the record that signed statements vouch for."""
    events: int = 0
    """That happened again: messages, orders of people, turns."""
    messages: int = 0
    """Of them, commands, schedules and values of feeds, as they came."""
    answers: int = 0
    """Receipts that came out the same, byte for byte."""
    stated: int = 0
    """Of these, those that are among the evidence."""
    alone: int = 0
    """Decisions that were made again each from its own input only: of a record of an earlier version."""
    not_again: int = 0
    """Events that could not happen again, since one before them came out otherwise."""
    faults: list[str] = field(default_factory=list)
    """What does not hold about the record itself."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    software: set[str] = field(default_factory=set)

    @property
    def holds(self) -> bool:
        return self.first_difference is None and not self.faults


def statements_of(alarms: Iterable[Alarm]) -> dict[str, dict[int, str]]:
    """What was signed: by segment, the digest after so many decisions."""
    found: dict[str, dict[int, str]] = {}
    for alarm in alarms:
        match = _STATED.fullmatch(alarm.text)
        if match is not None:
            found.setdefault(match[1], {})[int(match[2])] = match[3]
    return found


def audit(
    paths: Iterable[Path],
    stated: Mapping[str, Mapping[int, str]],
    from_us: int,
    to_us: int,
    evidence: Set[bytes] = frozenset(),
    sealing: Sealing | None = None,
) -> Audited:
    """Let all events of the time happen again; and those before it, from the memory that its record begins with.

    `stated`: what was signed about the record; `evidence`: the receipts of that time; `sealing`: of the store, where it
    is encrypted.
    """
    auditor = _Auditor(stated, from_us, to_us, evidence, sealing)
    for path in paths:
        try:
            auditor.read(path)
        except (RestoreError, OSError) as error:
            auditor.fault(str(error))
    return auditor.found


class _Auditor:
    """Goes through the record once."""

    def __init__(
        self,
        stated: Mapping[str, Mapping[int, str]],
        from_us: int,
        to_us: int,
        evidence: Set[bytes],
        sealing: Sealing | None,
    ) -> None:
        self.found = Audited()
        self._sealing = sealing
        self._stated, self._from_us, self._to_us, self._evidence = stated, from_us, to_us, evidence
        self._previous: bytes | None = None
        """Digest of the segment before."""
        self._rerun: Rerun | None = None
        self._sharing = Sharing.LOSSES
        self._segment, self._number = "", 0
        self._within = 0
        """Decisions of this segment that are within the time."""
        self._said: set[bytes] = set()

    def fault(self, what: str) -> None:
        """Something does not hold about the record itself: nothing follows from it any more."""
        self.found.faults.append(what)
        self._previous = self._rerun = None

    def read(self, path: Path) -> None:
        """One segment. Raises RestoreError, OSError."""
        stated, vouched, digest = self._stated.get(path.name, {}), 0, b""
        self._segment, self._number, self._within = path.name, 0, 0
        for value, digest in read_segment(path, self._sealing):
            if isinstance(value, Header):
                self._begin(value)
                continue
            self._number += 1
            self._take(value)
            if self._number in stated:
                if stated[self._number] == digest.hex():
                    self.found.signed, vouched = self.found.signed + self._within - vouched, self._within
                else:
                    why = f"its first {self._number} records are not those that were signed"
                    self.found.faults.append(f"{path.name}: {why}")
        if stated and max(stated) > self._number:
            why = f"{max(stated)} records were signed, {self._number} are there"
            self.found.faults.append(f"{path.name}: {why}")
        self._previous = digest

    def _begin(self, header: Header) -> None:
        self.found.software.add(header.software)
        self._sharing = Sharing.QUARTER if header.version <= BY_QUARTER else Sharing.LOSSES
        if self._previous is not None and header.previous != self._previous:
            self.fault(f"{self._segment}: does not follow the segment before it: something is missing or altered")

    def _take(self, value: Decision | Record) -> None:
        match value:
            case Decision():
                self._alone(value)
            case Memory():
                self._remember(value)
            case Rules() if self._rerun is not None:
                self._rerun.rule(value)
            case Event():
                self._happen(value)

    # -- since version 2

    def _remember(self, memory: Memory) -> None:
        if self._rerun is not None and memory.continues:
            what = differing(memory, self._rerun.memory(memory.at_us))
            if what:
                self._differs(memory.at_us, f"what the gateway remembers: {what}")
        self._rerun = None
        try:
            for entry in memory.book.entries:
                self._authority(entry.order)
            self._rerun = Rerun(memory, self._sharing)
        except RestoreError as error:
            self.fault(f"{self._segment}, record {self._number}: {error}")

    def _happen(self, event: Event) -> None:
        within = self._from_us <= event.now.wall_us <= self._to_us
        if within:
            self._count(event.now.wall_us, len(event.decisions))
        if self._rerun is None:
            self.found.not_again += within
            return
        try:
            now = self._rerun.step(event)
        except RestoreError as error:
            self.fault(f"{self._segment}, record {self._number}: its input cannot be read: {error}")
            return
        except Exception as error:  # An altered input can make the core fail in any way: then it comes out otherwise.
            self._otherwise(event, f"it fails now: {error!r}"[:300])
            return
        what = what_differs(event, now)
        if what:
            self._otherwise(event, what)
        elif within:
            self.found.events += 1
            self.found.messages += event.kind in (Kind.MESSAGE, Kind.SCHEDULE, Kind.FEED)
            self.found.answers += receipts(event.said)
            self.found.stated += sum(said in self._evidence for said in event.said)
            self.found.same += len(event.decisions)

    def _otherwise(self, event: Event, what: str) -> None:
        self._differs(event.now.wall_us, f"{what_came(event)}: {what}")
        self.found.not_again += 1
        self._rerun = None  # What follows would only follow from the difference.

    def _differs(self, at_us: int, what: str) -> None:
        if self.found.first_difference is None:
            self.found.first_difference = Difference(at_us, self._segment, self._number, what)

    def _count(self, at_us: int, decisions: int) -> None:
        found = self.found
        if found.last_us is not None and at_us - found.last_us > GAP_US:
            found.gaps.append((found.last_us, at_us))
        found.first_us = at_us if found.first_us is None else found.first_us
        found.last_us = at_us
        found.decisions += decisions
        self._within += decisions

    # -- version 1

    def _alone(self, decision: Decision) -> None:
        if not self._from_us <= decision.at_us <= self._to_us:
            return
        self._count(decision.at_us, 1)
        self.found.alone += 1
        try:
            now = again(decision)
            view = codec.decode(SiteView, decision.view)
        except RestoreError as error:
            why = f"{self._segment}, decision {self._number}: its input cannot be read: {error}"
            self.found.faults.append(why)
            return
        for order in view.orders:
            self._authority(order)
        if plan_bytes(now) == decision.plan:
            self.found.same += 1
        else:
            self._differs(decision.at_us, plan_differs(decision.plan, now))

    def _authority(self, order: Order) -> None:
        """An order whose authorization does not say what it is taken to say is told once."""
        if order.hash in self._said or not order.authorization or order.rank is Rank.SCHEDULE:
            return
        self._said.add(order.hash)
        why = _unauthorised(order)
        if why:
            self.found.faults.append(f"{self._segment}, record {self._number}: command {order.command_id!r}: {why}")


def _unauthorised(order: Order) -> str:
    try:
        authorization = decode_authorization(order.authorization)
    except (CommandFormatError, EvidenceError) as error:
        return f"its authorization cannot be read: {error}"
    if authorization.hash != order.hash or authorization.command != order.command:
        return "its authorization says something else"
    return ""
