"""The newest readings per device on their way to the platform: bounded, and the oldest go first when it is full.

Nothing is lost by that: the outbox carries every reading. This is for the reader who wants to see the present.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from proto.energysettlement.v1.device_pb2 import DeviceTelemetry

MOST_PER_DEVICE: Final = 32


class LiveReadings:
    """One bounded queue for one device; `changed` wakes its stream, also when the outbox has something for it."""

    def __init__(self) -> None:
        self._readings: deque[DeviceTelemetry] = deque(maxlen=MOST_PER_DEVICE)
        self.changed = asyncio.Event()
        self.newest: DeviceTelemetry | None = None
        """Of all that were put here, taken or not."""

    def put(self, telemetry: DeviceTelemetry) -> None:
        self._readings.append(telemetry)
        self.newest = telemetry
        self.changed.set()

    def take(self) -> DeviceTelemetry | None:
        """The oldest one that is still held."""
        return self._readings.popleft() if self._readings else None

    def keep_newest(self) -> None:
        """Forget all but the newest: after an outage the present matters, and the outbox has the rest."""
        while len(self._readings) > 1:
            self._readings.popleft()
