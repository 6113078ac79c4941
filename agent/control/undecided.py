"""Messages that cannot be judged yet: they wait for the store or the trust list, within the platform's patience."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from agent.control.plain import plain_hash
from proto.energysettlement.v1 import device_pb2

UNDECIDED_MOST_S: Final = 25.0
"""The platform expects an answer within 30 s."""
MOST_UNDECIDED: Final = 100


@dataclass(frozen=True, slots=True)
class Waiting:
    """One message, on whose stream it came (None: the gateway's own link), and since when, monotonic."""

    message: device_pb2.GridCommand
    device_id: str | None
    since_s: float


class UndecidedMessages:
    """Bounded in number and time; the same message waits once."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, Waiting] = {}

    def keep(self, waiting: Waiting, now_s: float) -> bool:
        """Whether it may wait (on); if not, it must be answered now."""
        if now_s - waiting.since_s >= UNDECIDED_MOST_S or len(self._waiting) >= MOST_UNDECIDED:
            return False
        self._waiting.setdefault(plain_hash(waiting.message, waiting.device_id), waiting)
        return True

    def waiting(self) -> tuple[Waiting, ...]:
        """All of them; they go on waiting."""
        return tuple(self._waiting.values())

    def recall(self, waiting: Iterable[Waiting]) -> None:
        """Go on with these."""
        self._waiting = {plain_hash(each.message, each.device_id): each for each in waiting}

    def take(self) -> list[Waiting]:
        """All of them, to be judged again; none waits any more."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        return waiting
