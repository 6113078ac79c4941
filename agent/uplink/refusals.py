"""Batches over which the gateway's link has ended time and again, and how long each waits on the next one. Pure.

A batch cannot be passed over: the next one names its root, and no older incarnation may follow a newer one (EVIDENCE.md
section 7). So it and all behind it wait, in growing steps and on a link that is up, while commands, receipts and
channels go on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from agent.uplink.flow import Position

SUSPECTED: Final = 3
"""Links in a row that ended with the same batch sent and not acknowledged. Bad lines end fewer so: once it is two, one
batch alone is in flight."""
LEAST_HOLD_S: Final = 5.0
"""So that a line which was cut three times in a row costs little."""
MOST_HOLD_S: Final = 900.0


class Refusals:
    """Of one uplink, over all its connections."""

    def __init__(self) -> None:
        self._times: dict[int, tuple[int, int]] = {}
        """(number of the batch, links in a row), by incarnation."""

    def ended(self, owed: Iterable[Position], progressed: Collection[int], why: str) -> list[str]:
        """A link has ended, and why; what to tell of the batches that are suspected by it.

        `owed`: of each incarnation the first that was sent and not acknowledged; `progressed`: those of which
        something was.
        """
        found = []
        for incarnation in progressed:
            self._times.pop(incarnation, None)
        for incarnation, number in owed:
            before, times = self._times.get(incarnation, (0, 0))
            times = times + 1 if before == number else 1
            self._times[incarnation] = (number, times)
            if times >= SUSPECTED:
                found.append(
                    f"batch {number} of incarnation {incarnation} was sent on {times} links, each of which ended "
                    f"before it was acknowledged, the last one so: {why}; it and all behind it are kept and tried "
                    "again, commands and receipts go meanwhile; ask the platform what is wrong with it (of a copied "
                    "card: `v2g-gateway new-life`)"
                )
        return found

    def times(self, incarnation: int) -> int:
        """Links in a row that ended over a batch of it."""
        return self._times.get(incarnation, (0, 0))[1]

    def hold_s(self, incarnation: int, draw: float) -> float:
        """How long batches of it wait on the next link; `draw`: a random number in [0, 1)."""
        over = self.times(incarnation) - SUSPECTED
        if over < 0:
            return 0.0
        return min(MOST_HOLD_S, LEAST_HOLD_S * 2.0 ** min(over, 64)) * (0.5 + draw / 2)

    @property
    def probed(self) -> frozenset[int]:
        """Incarnations whose batches go one by one until one is acknowledged."""
        return frozenset(each for each in self._times if self.times(each) >= SUSPECTED - 1)
