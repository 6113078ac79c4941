"""The last minutes of each device's power, so that whoever opens the page sees how it came to be. In memory only."""

from __future__ import annotations

from collections import deque
from typing import Final

from agent.status import Snapshot

PERIOD_S: Final = 1
MOST_POINTS: Final = 300
MOST_DEVICES: Final = 1000


class PowerHistory:
    """One for all faces. `note` once a second."""

    def __init__(self) -> None:
        self._powers: dict[str, deque[int | None]] = {}

    def note(self, snapshot: Snapshot) -> None:
        """Keep the power of each device now; None where it is not known."""
        for line in snapshot.devices[:MOST_DEVICES]:
            self._powers.setdefault(line.device_id, deque(maxlen=MOST_POINTS)).append(line.power_w)

    def as_json(self) -> dict[str, object]:
        """{"period_s": 1, "power_w": {device: [oldest, ..., now]}}."""
        return {"period_s": PERIOD_S, "power_w": {name: list(powers) for name, powers in self._powers.items()}}
