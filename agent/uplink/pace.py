"""How fast batches may go up a line that somebody pays for, or shares: a cap in bytes per second. Pure.

What has waited least (channel messages, bids, readings shown live) is not held back by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BURST_S: Final = 1.0
"""After a pause so much of the cap may go at once."""


@dataclass(slots=True)
class Pace:
    """Of one gateway, over all its connections."""

    bytes_per_s: float | None
    """None: as fast as it goes."""
    _free_at_s: float = float("-inf")
    """When all that was sent has had its time."""

    def wait_s(self, now_s: float) -> float:
        """So long the next batch waits; 0: it may go."""
        return 0.0 if self.bytes_per_s is None else max(0.0, self._free_at_s - now_s)

    def sent(self, size: int, now_s: float) -> None:
        """Something of so many bytes has gone: as it was sent, compressed where it was."""
        if self.bytes_per_s is not None:
            self._free_at_s = max(self._free_at_s, now_s - BURST_S) + size / self.bytes_per_s
