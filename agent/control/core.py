"""The core of control, without the world around it: what is judged, remembered, planned and answered.

It reads no clock, throws no dice and asks no device but through what it is given. The gateway runs it with the world,
and `replay` with what was recorded of the world: the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.config import BoundsSettings
from agent.control.admission import Policy
from agent.control.bookkeeping import Bookkeeping
from agent.control.bounds_ahead import ahead_of
from agent.control.bounds_watch import BoundsWatch
from agent.control.decisions import Cause
from agent.control.events import Config, Memory, book_memory
from agent.control.feed_keeper import FeedKeeper
from agent.control.frequency_watch import Say
from agent.control.holds import Holds, Keep, Look
from agent.control.intake import Around, Intake
from agent.control.order import Now, Order
from agent.control.plan import Plan, make_plan
from agent.control.recorder import Recorder
from agent.control.schedule_keeper import ScheduleKeeper
from agent.control.site import Held, Sharing, SiteView
from agent.control.site_watch import Looks, SiteWatch
from agent.control.surroundings import Surroundings
from agent.control.tally import Register
from agent.control.viewing import SiteSettingsView
from agent.identity.trust import TrustList


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that the core asks for."""

    looks: Looks
    """How the devices are."""
    held: Callable[[str], Held | None]
    """What a device is believed to hold."""
    holdable: Mapping[str, Look]
    """How each device is that can be held by hand."""
    look: Callable[[Now, tuple[Order, ...]], SiteView]
    """The site as it is now, with these orders in force: by `Core.around.look`, with what people and wires say."""
    note: Callable[[Cause, Plan], None]
    """A plan was made."""
    recorder: Recorder
    keep_hold: Keep
    stored: Callable[[bytes], None]
    """A command or schedule is committed; `Core.stored` is to be told."""
    changed: Callable[[], None]
    """Another plan is due."""
    policy: Callable[[], Policy]
    trust: Callable[[], TrustList | None]
    restored: Callable[[], bool]
    """Whether the stored commands have been read."""
    monotonic_s: Callable[[], float]
    draw: Callable[[], float]
    """Random, in [0, 1)."""
    say: Say


class Core:
    """One for the gateway."""

    def __init__(
        self, world: World, settings: SiteSettingsView, *, bounds: BoundsSettings, feeds: FeedKeeper, booted: bool
    ) -> None:
        """`booted`: the machine was started just now (SAFETY 7)."""
        self._world = world
        self._unkept: tuple[SiteView, Plan] | None = None
        """The last plan, until the books are kept about it."""
        self._uncounted = False
        """The local bounds do not know of it yet."""
        self.books = Bookkeeping(world.recorder)
        self.schedules = ScheduleKeeper(world.draw)
        self.around = Surroundings(
            watch=SiteWatch(
                settings,
                world.looks,
                held=world.held,
                say=world.say,
                started_s=world.monotonic_s(),
                booted=booted,
                draw=world.draw,
            ),
            bounds=BoundsWatch(bounds),
            holds=Holds(world.holdable, say=world.say, keep=world.keep_hold),
            feeds=feeds,
            say=world.say,
        )
        self.intake = Intake(
            Around(
                policy=world.policy,
                trust=world.trust,
                look=world.look,
                ahead=lambda: ahead_of(self.around.bounds, self.books.book, self.schedules),
                restored=world.restored,
                stored=world.stored,
                changed=world.changed,
                metered=lambda: self.around.watch.has_meter,
                looks_first=settings.sharing is not Sharing.QUARTER,
                monotonic_s=world.monotonic_s,
                say=world.say,
            ),
            books=self.books,
            schedules=self.schedules,
            recorder=world.recorder,
            note=world.note,
        )

    def stored(self, order_hash: bytes) -> None:
        """The store has this command or schedule: what it allows may act."""
        self.books.committed(order_hash)
        self.schedules.committed(order_hash)

    def decide(self, now: Now) -> tuple[SiteView, Plan]:
        """The plan of now, and what it was made from. `count` and `account` are to follow."""
        self._unkept, self._uncounted = None, False
        self.intake.take_undecided(now)
        self.books.go_on(self.books.book.settle(now))
        view = self._world.look(now, (*self.books.book.candidates(now), *self.schedules.orders(now)))
        plan = make_plan(view)
        self._world.note(Cause.TURN, plan)
        self._unkept, self._uncounted = (view, plan), True
        return view, plan

    @property
    def midway(self) -> bool:
        """The books are not kept yet about the last plan."""
        return self._unkept is not None

    @property
    def counts_energy(self) -> bool:
        """Whether `account` needs registers: while something is ordered, or a quarter under a schedule is open."""
        return (self._unkept is not None and bool(self._unkept[1].commands)) or self.schedules.counts_energy

    def count(self) -> None:
        """Count the last plan for the local bounds, unless that is done: before anything else comes."""
        if self._uncounted and self._unkept is not None:
            self._uncounted = False
            self._world.recorder.submit((), self.around.notes_after(*self._unkept))

    def account(self, registers: Mapping[str, Register]) -> None:
        """What the last plan does to commands and schedules, by what the meters show."""
        if self._unkept is None:
            return
        self.count()
        (view, plan), self._unkept = self._unkept, None
        outcomes = {order_hash: command.outcome for order_hash, command in plan.commands.items()}
        self.books.adopt(self.books.book.observe(outcomes, registers, view.now))
        said = self.schedules.follow(view, plan, registers, view.spot)
        self._world.recorder.submit(said, self.schedules.take_notes())
        for order_hash in self.books.tidy(view.now):
            self.intake.forget(order_hash)

    def restore(self, stored: Mapping[str, bytes]) -> tuple[int, tuple[str, ...]]:
        """Go on with what an earlier run has written: how many commands, and a sentence for each damaged note."""
        commands, damaged = self.books.restore(stored)
        return commands, (*damaged, *self.around.restore(stored), *self.schedules.restore(stored))

    # -- for the record

    def memory(self, config: Config, at_us: int, *, continues: bool) -> Memory:
        """All that it goes by now. Cheap: values that do not change."""
        return Memory(
            at_us=at_us,
            continues=continues,
            restored=self._world.restored(),
            config=config,
            book=book_memory(self.books.book),
            intake=self.intake.memory(),
            schedules=self.schedules.memory(),
            around=self.around.memory(),
        )

    def recall(self, memory: Memory) -> None:
        """Go on from there."""
        self.books.recall(memory.book.book())
        self.schedules.recall(memory.schedules)
        self.around.recall(memory.around)
        self.intake.recall(memory.intake)
