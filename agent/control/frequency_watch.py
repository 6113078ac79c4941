"""Follows the grid's frequency from plan to plan, and has each event stated with its trace (SAFETY 11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.control.frequency import Curve, FrequencyReading, GridFrequency, step_frequency
from agent.evidence.statements import Severity

MOST_POINTS: Final = 64
"""Of one trace; a longer event keeps every second one, again and again."""

Say = Callable[[Severity, str, str, str], None]
"""(severity, code, subject, text): an alarm on the road of all evidence."""


@dataclass(frozen=True, slots=True)
class _Point:
    after_s: float
    millihertz: int
    share_permille: int
    connection_w: int | None

    def __str__(self) -> str:
        metered = "?" if self.connection_w is None else str(self.connection_w)
        return f"{self.after_s:.1f} {self.millihertz} {self.share_permille} {metered}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrequencyMemory:
    """What the next look goes by, for the record of decisions."""

    state: GridFrequency
    began_s: float
    trace: tuple[_Point, ...]
    every: int
    skipped: int
    worst_permille: int
    worst_millihertz: int


class FrequencyWatch:
    """One for the gateway. `look` with each plan."""

    def __init__(self, curve: Curve, *, answers: bool, say: Say) -> None:
        self._curve = curve
        self._answers = answers
        self._say = say
        self._began_s = 0.0
        self._trace: list[_Point] = []
        self._every, self._skipped = 1, 0
        self._worst_permille = 0
        self._worst_millihertz = 0
        self.state = GridFrequency()

    def memory(self) -> FrequencyMemory:
        """All that the next look goes by."""
        return FrequencyMemory(
            state=self.state,
            began_s=self._began_s,
            trace=tuple(self._trace),
            every=self._every,
            skipped=self._skipped,
            worst_permille=self._worst_permille,
            worst_millihertz=self._worst_millihertz,
        )

    def recall(self, memory: FrequencyMemory) -> None:
        """Go on from there."""
        self.state, self._began_s, self._trace = memory.state, memory.began_s, list(memory.trace)
        self._every, self._skipped = memory.every, memory.skipped
        self._worst_permille, self._worst_millihertz = memory.worst_permille, memory.worst_millihertz

    def look(
        self,
        readings: Sequence[FrequencyReading],
        powers_w: Mapping[str, int],
        connection_w: int | None,
        monotonic_s: float,
    ) -> GridFrequency:
        """The frequency for this plan. `connection_w`: at the grid meter, None while it is lost."""
        before, now = self.state, step_frequency(self.state, self._curve, readings, powers_w, monotonic_s)
        self.state = now
        if before.side != 0 and now.side != before.side:
            self._end(before.side, now, monotonic_s)
        if now.side != 0 and now.side != before.side:
            self._begin(now, monotonic_s)
        if now.side != 0:
            self._follow(now, connection_w, monotonic_s)
        if self._answers and now.doubt and not before.doubt and before.millihertz is not None:
            self._say(Severity.WARNING, "site.frequency_unknown", "site", f"no frequency response: {now.doubt}")
        return now

    def _begin(self, now: GridFrequency, monotonic_s: float) -> None:
        self._began_s, self._trace, self._every, self._skipped = monotonic_s, [], 1, 0
        self._worst_permille, self._worst_millihertz = 0, now.millihertz or 0
        what = "the site answers" if self._answers else "the site does not answer by configuration"
        hertz = (now.millihertz or 0) / 1000
        text = f"the grid's frequency is {_where(now.side)}: {hertz:.3f} Hz; {what}, and nothing works against it"
        self._say(Severity.WARNING, "site.frequency", "site", text)

    def _follow(self, now: GridFrequency, connection_w: int | None, monotonic_s: float) -> None:
        if now.millihertz is None:
            return
        share = now.share_permille if self._answers else 0
        if abs(share) > abs(self._worst_permille):
            self._worst_permille = share
        if (now.millihertz - self._worst_millihertz) * now.side > 0:
            self._worst_millihertz = now.millihertz
        self._skipped += 1
        if self._trace and self._skipped < self._every:
            return
        self._skipped = 0
        self._trace.append(_Point(monotonic_s - self._began_s, now.millihertz, share, connection_w))
        if len(self._trace) > MOST_POINTS:
            self._trace, self._every = self._trace[::2], self._every * 2

    def _end(self, side: int, now: GridFrequency, monotonic_s: float) -> None:
        why = f"; it ended because {now.doubt}" if now.doubt else ""
        text = (
            f"the grid's frequency was {_where(side)} for {monotonic_s - self._began_s:.1f} s, at the worst "
            f"{self._worst_millihertz / 1000:.3f} Hz; answered with up to {self._worst_permille / 10:+.1f} % of "
            f"ratings{why}. Trace (s, mHz, permille of ratings, W at the connection): "
            + "; ".join(str(point) for point in self._trace)
        )
        self._say(Severity.INFO, "site.frequency_event", "site", text)


def _where(side: int) -> str:
    return "above the band" if side > 0 else "below the band"
