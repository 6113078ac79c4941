"""What a plan looks at beside the commands: the site itself, bounds, holds by hand and feeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent.control.bounds import Counted
from agent.control.bounds_watch import BoundsWatch
from agent.control.errors import RestoreError
from agent.control.feed_keeper import FeedKeeper, FeedMemory
from agent.control.frequency_watch import Say
from agent.control.holds import Holds, HoldsMemory
from agent.control.inputs import InputClamp
from agent.control.notes import BOUNDS_KEY
from agent.control.order import Now, Order
from agent.control.plan import Plan
from agent.control.site import SiteView
from agent.control.site_watch import SiteWatch, WatchMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class SurroundingsMemory:
    """What the next look goes by, for the record of decisions."""

    watch: WatchMemory
    bounds: Counted
    holds: HoldsMemory
    feeds: FeedMemory


class Surroundings:
    """One for the gateway; its parts are used by themselves too."""

    def __init__(self, *, watch: SiteWatch, bounds: BoundsWatch, holds: Holds, feeds: FeedKeeper, say: Say) -> None:
        self.watch = watch
        self.bounds = bounds
        self.holds = holds
        self.feeds = feeds
        self._say = say
        self._restored = False

    def memory(self) -> SurroundingsMemory:
        """All that the next look goes by."""
        return SurroundingsMemory(
            watch=self.watch.memory(),
            bounds=self.bounds.counted,
            holds=self.holds.memory(),
            feeds=self.feeds.memory(),
        )

    def recall(self, memory: SurroundingsMemory) -> None:
        """Go on from there."""
        self.watch.recall(memory.watch)
        self.bounds.recall(memory.bounds)
        self.holds.recall(memory.holds)
        self.feeds.recall(memory.feeds)

    def look(
        self,
        now: Now,
        monotonic_s: float,
        *,
        orders: tuple[Order, ...],
        stop: str | None,
        clamps: tuple[InputClamp, ...],
    ) -> SiteView:
        """The snapshot for one plan. `stop`: who pressed local STOP; `clamps`: of the inputs that are active."""
        view = self.watch.look(now, monotonic_s, orders=orders, stop=stop)
        return replace(
            view,
            bounds=self.bounds.allow(now),
            overrides=self.holds.standing(now),
            inputs=clamps,
            spot=self.feeds.look(view.frequency.millihertz, now.wall_us, self._say) if now.time_known else None,
        )

    def restore(self, stored: Mapping[str, bytes]) -> list[str]:
        """Go on with what an earlier run has noted; a sentence for each damaged note."""
        faults = [*self.holds.restore(stored), *self.watch.day.restore(stored), *self.feeds.restore(stored)]
        if BOUNDS_KEY in stored:
            try:
                self.bounds.restore(stored[BOUNDS_KEY])
            except RestoreError as error:
                faults.append(f"{BOUNDS_KEY}: {error}")
        self._restored = True
        return faults

    def notes_after(self, view: SiteView, plan: Plan) -> dict[str, bytes | None]:
        """Take a plan into account; what is to be noted now."""
        notes: dict[str, bytes | None] = {**self.watch.day.take_notes(), **self.feeds.take_notes()}
        counted = self.bounds.after(view, plan)
        if counted is not None and self._restored:  # else it would stand in place of what was counted before
            notes[BOUNDS_KEY] = counted
        return notes
