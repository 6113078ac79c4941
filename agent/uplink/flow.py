"""Batches of the outbox on their way to all devices' streams, or to one that the platform does not take. Pure.

One device whose stream is refused again and again is set apart: it gets a flow of its own, which stands where its first
statement waits, and the others' flow goes on past it. A batch leaves the outbox when every flow has passed it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import orjson

from agent.uplink.lane import Loaded

Position: TypeAlias = tuple[int, int]
"""(incarnation, number) of a batch."""
BEGINNING: Final[Position] = (0, 0)


@dataclass(frozen=True, slots=True)
class Arrived:
    """Everything in every batch up to this one has arrived."""

    incarnation: int
    up_to_number: int
    confirmed: bool
    """False: at least one statement only by the half-close rule."""


@dataclass(slots=True)
class Flow:
    """How far one of them is."""

    loaded: Position = BEGINNING
    """The last batch that was taken up."""
    arrived: Position = BEGINNING
    """Everything of this flow up to this batch has arrived."""
    batches: deque[Loaded] = field(default_factory=deque)
    confirmed: bool = True
    """Since the last step."""
    joined: bool = False
    """Of one device: what follows `loaded` goes with the others' again."""

    @property
    def nothing_missing(self) -> bool:
        """Whether everything that is loaded has arrived."""
        return all(batch.missing == 0 for batch in self.batches)

    @property
    def in_hand(self) -> int:
        """Batches looked at and not collected, with those that have nothing for this flow."""
        return sum(batch.count for batch in self.batches)

    def load(self, loaded: Loaded) -> None:
        """The next batch, with what of it is missing."""
        self.loaded = (loaded.incarnation, loaded.number)
        before = self.batches[-1] if self.batches else None
        if before is not None and before.incarnation == loaded.incarnation and before.missing == loaded.missing == 0:
            # Nothing of them has to go: however many there are, they are one step.
            loaded.confirmed = loaded.confirmed and before.confirmed
            loaded.count += before.count
            self.batches.pop()
        self.batches.append(loaded)

    def collect(self) -> None:
        """Pass what has arrived."""
        while self.batches and self.batches[0].missing == 0:
            done = self.batches.popleft()
            self.arrived = (done.incarnation, done.number)
            self.confirmed = self.confirmed and done.confirmed


class Steps:
    """What every flow has passed, one cumulative step after the other."""

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}
        """Newest batch of each incarnation that was loaded."""
        self._taken: dict[int, int] = {}

    def saw(self, position: Position) -> None:
        """A batch was loaded."""
        self._ends[position[0]] = max(position[1], self._ends.get(position[0], 0))

    def next(self, flows: Iterable[Flow]) -> Arrived | None:
        """The step since the last one, within one incarnation; None: there is none."""
        flows = tuple(flows)
        least = min(flow.arrived for flow in flows)
        for incarnation in sorted({*self._ends, least[0]}):
            if incarnation > least[0]:
                break
            number = least[1] if incarnation == least[0] else self._ends[incarnation]
            if number > self._taken.get(incarnation, 0):
                self._taken[incarnation] = number
                confirmed = all(flow.confirmed for flow in flows)
                for flow in flows:
                    # Of one that is further on, what was not confirmed may be told of too early, and never too late.
                    flow.confirmed = flow.confirmed or flow.arrived == (incarnation, number)
                return Arrived(incarnation, number, confirmed)
        return None


def encode_places(passed: Position, behind: Mapping[str, Position]) -> bytes:
    """A note of how far flows are: all devices have what is up to `passed`, but for those that are behind."""
    return orjson.dumps({"passed": passed, "behind": behind}, option=orjson.OPT_SORT_KEYS)


def decode_places(note: bytes) -> tuple[Position, dict[str, Position]]:
    """As `encode_places` was given them. Raises ValueError for a note that is none."""
    found = orjson.loads(note)
    try:
        (incarnation, number), behind = found["passed"], found["behind"]
        places = {str(device_id): (int(place[0]), int(place[1])) for device_id, place in behind.items()}
        return (int(incarnation), int(number)), places
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"the note of devices that are behind is damaged: {error}") from error
