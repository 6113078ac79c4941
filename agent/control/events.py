"""What the core of control is given, and what it decides and says upon it: one event after the other, to be recorded.

An event holds everything that is not the core's own: the message as it came, the time, what the devices and people
said, random numbers. A memory holds what the core goes by before the first of them. The first byte of a frame tells
what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, TypeAlias

from agent.config import BoundsSettings, ControlSettings, DeviceSettings, FrequencySettings, SiteSettings
from agent.control import codec
from agent.control.admission import Policy
from agent.control.book import Book
from agent.control.decisions import Cause, plan_bytes
from agent.control.entry import Entry
from agent.control.errors import RestoreError
from agent.control.feeds import FeedRules
from agent.control.inputs import InputClamp
from agent.control.intake_memory import IntakeMemory
from agent.control.needing import Wish
from agent.control.order import Now
from agent.control.ordered import Ordered
from agent.control.override import Override
from agent.control.plan import Plan
from agent.control.recorder import UNRECORDABLE
from agent.control.replay import ReplayWindow
from agent.control.schedule_keeper import ScheduleMemory
from agent.control.site import Held
from agent.control.surroundings import SurroundingsMemory
from agent.control.tally import Register
from agent.control.viewing import session_of
from agent.evidence import statements
from agent.evidence.statements import Alarm, Statement
from agent.identity.trust import TrustList
from drivers.device import Capabilities, DeviceStatus


class Kind(IntEnum):
    """What came. Numbers are for ever."""

    TURN = 0
    MESSAGE = 1
    SCHEDULE = 2
    FEED = 3
    STORED = 4
    HOLD_STORED = 5
    HOLD = 6
    HOLD_ENDED = 7
    WISH = 8
    KEPT = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """It was time for a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The books were kept about the last plan, once its orders were on their way."""

    registers: Mapping[str, Register]
    """What the energy of commands and schedules is counted by; none while there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A GridCommand."""

    message: bytes
    """As the contract encodes it."""
    device_id: str | None
    """Whose stream it came on; None: the gateway's own link."""
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A schedule or a value of a feed, as it came."""

    signed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The store has a command or a schedule: what allows power may act."""

    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldStored:
    """The store has a hold by hand."""

    hold: Override


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldBegun:
    """Somebody holds a device by hand."""

    device_id: str
    power_w: int | None
    duration_s: float
    by: str
    capabilities: Capabilities | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldEnded:
    """Somebody gives a device back."""

    device_id: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wished:
    """A driver's word."""

    device_id: str
    wish: Wish


Given: TypeAlias = Turn | Kept | Message | Signed | Stored | HoldStored | HoldBegun | HoldEnded | Wished
GIVEN: Final[dict[Kind, type[Given]]] = {
    Kind.TURN: Turn,
    Kind.KEPT: Kept,
    Kind.MESSAGE: Message,
    Kind.SCHEDULE: Signed,
    Kind.FEED: Signed,
    Kind.STORED: Stored,
    Kind.HOLD_STORED: HoldStored,
    Kind.HOLD: HoldBegun,
    Kind.HOLD_ENDED: HoldEnded,
    Kind.WISH: Wished,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the site."""

    statuses: tuple[DeviceStatus, ...]
    """Recorded: those that are other than at the look before."""
    held: Mapping[str, Held | None]
    stop: str | None
    clamps: tuple[InputClamp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Who may order what here, from now on."""

    policy: Policy
    trust: TrustList | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The configuration of control, as JSON, without what is left to its default."""

    site: str
    control: str
    frequency: str
    bounds: str
    devices: tuple[str, ...]
    feeds: FeedRules

    def with_device(self, settings: DeviceSettings) -> Config:
        """With another device."""
        return replace(self, devices=(*self.devices, settings.model_dump_json(exclude_unset=True)))


def config_of(
    site: SiteSettings,
    control: ControlSettings,
    frequency: FrequencySettings,
    bounds: BoundsSettings,
    devices: Sequence[DeviceSettings],
    feeds: FeedRules,
) -> Config:
    """To be recorded."""
    return Config(
        site=site.model_dump_json(exclude_unset=True),
        control=control.model_dump_json(exclude_unset=True),
        frequency=frequency.model_dump_json(exclude_unset=True),
        bounds=bounds.model_dump_json(exclude_unset=True),
        devices=tuple(each.model_dump_json(exclude_unset=True) for each in devices),
        feeds=feeds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BookMemory:
    """The book of commands, in its order."""

    entries: tuple[Entry, ...]
    windows: tuple[ReplayWindow, ...]
    forgotten: Mapping[bytes, Mapping[int, tuple[int, int]]]

    def book(self) -> Book:
        """As it was."""
        return Book(
            {entry.order.hash: entry for entry in self.entries},
            {(window.issuer_key, window.audience): window for window in self.windows},
            {i: {hour: Ordered(*part) for hour, part in hours.items()} for i, hours in self.forgotten.items()},
        )


def book_memory(book: Book) -> BookMemory:
    """To be recorded."""
    return BookMemory(
        entries=tuple(book.entries.values()), windows=tuple(book.windows.values()), forgotten=dict(book.forgotten)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the core goes by before the events that follow."""

    at_us: int
    continues: bool
    """It is what the events before have come to; else the gateway was started, has read its store, or lost events."""
    restored: bool
    """The stored commands have been read."""
    config: Config
    book: BookMemory
    intake: IntakeMemory
    schedules: ScheduleMemory
    around: SurroundingsMemory


@dataclass(slots=True, kw_only=True)
class Noted:
    """An event as it happens."""

    kind: Kind
    given: Given
    now: Now
    monotonic_s: float
    backlog: int
    policy: Policy | None = None
    """None: nobody asked who might order what."""
    trust: TrustList | None = None
    looks: list[Look] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)
    decisions: list[tuple[Cause, Plan]] = field(default_factory=list)
    said: list[Statement] = field(default_factory=list)
    answer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One plan. What it was made from follows from the events."""

    cause: Cause
    plan: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event, as it is recorded."""

    kind: Kind
    now: Now
    monotonic_s: float
    backlog: int
    """Statements that waited for the store."""
    given: bytes
    looks: tuple[Look, ...]
    drawn: tuple[float, ...]
    """Random numbers."""
    decisions: tuple[Decided, ...]
    said: tuple[bytes, ...]
    """Receipts, byte for byte, and alarms without their time."""
    answer: str
    """To whoever asked: why not; empty: nothing."""


Record: TypeAlias = Memory | Rules | Event
_TAGS: Final[dict[bytes, type[Record]]] = {b"M": Memory, b"R": Rules, b"E": Event}


def said_bytes(said: Sequence[Statement]) -> tuple[bytes, ...]:
    """What is compared, byte for byte. An alarm has the clock's time, which is not the event's.

    That a statement could not be recorded is the recorder's word, which counts them since its start.
    """
    return tuple(
        statements.encode(replace(each, timestamp_us=0) if isinstance(each, Alarm) else each)
        for each in said
        if not (isinstance(each, Alarm) and each.code == UNRECORDABLE)
    )


class Encoder:
    """Makes the frames of one segment, in order: each tells what is other than before."""

    def __init__(self) -> None:
        self._rules: Rules | None = None
        self._statuses: dict[str, DeviceStatus] = {}

    def frames(self, item: Memory | Noted) -> list[bytes]:
        """One for a memory; for an event its own, after one for new rules."""
        if isinstance(item, Memory):
            return [b"M" + codec.encode(item)]
        frames = []
        rules = None if item.policy is None else Rules(policy=item.policy, trust=item.trust)
        if rules is not None and rules != self._rules:
            self._rules = rules
            frames.append(b"R" + codec.encode(rules))
        event = Event(
            kind=item.kind,
            now=item.now,
            monotonic_s=item.monotonic_s,
            backlog=item.backlog,
            given=codec.encode(item.given),
            looks=tuple(replace(look, statuses=self._changed(look.statuses)) for look in item.looks),
            drawn=tuple(item.drawn),
            decisions=tuple(Decided(cause=cause, plan=plan_bytes(plan)) for cause, plan in item.decisions),
            said=said_bytes(item.said),
            answer=item.answer,
        )
        return [*frames, b"E" + codec.encode(event)]

    def _changed(self, statuses: Sequence[DeviceStatus]) -> tuple[DeviceStatus, ...]:
        changed = []
        for status in statuses:
            before = self._statuses.get(status.device_id)
            if before is None or _looked_at(before) != _looked_at(status):
                self._statuses[status.device_id] = status
                changed.append(_seen(status))
        return tuple(changed)


def _looked_at(status: DeviceStatus) -> tuple[object, ...]:
    """What a plan may look at."""
    return (status.kind, status.link, status.last_sample, status.follows, status.vehicle, status.capabilities)


def _seen(status: DeviceStatus) -> DeviceStatus:
    """Without what no plan looks at."""
    sample = status.last_sample
    return replace(
        status,
        detail="",
        setpoint=None,
        last_sample=None if sample is None else replace(sample, signed=()),
        vehicle=session_of(status.vehicle),
    )


def decode(frame: bytes) -> Record:
    """A frame as `Encoder` made it. Raises RestoreError."""
    kind = _TAGS.get(frame[:1])
    if kind is None:
        raise RestoreError(f"no record begins with {frame[:1]!r}")
    return codec.decode(kind, frame[1:])


def given_of(event: Event) -> Given:
    """What came. Raises RestoreError."""
    return codec.decode(GIVEN[event.kind], event.given)
