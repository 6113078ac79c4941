"""The newest readings on their way."""

from __future__ import annotations

from agent.uplink.live import MOST_PER_DEVICE, LiveReadings
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry


def test_oldest_are_dropped_when_nobody_takes_them() -> None:
    live = LiveReadings()
    for sequence in range(MOST_PER_DEVICE + 5):
        live.put(DeviceTelemetry(sequence=sequence))
    taken = []
    while (telemetry := live.take()) is not None:
        taken.append(telemetry.sequence)
    assert taken == list(range(5, MOST_PER_DEVICE + 5))


def test_after_an_outage_only_the_newest_is_shown() -> None:
    live = LiveReadings()
    for sequence in range(3):
        live.put(DeviceTelemetry(sequence=sequence))
    live.keep_newest()
    newest = live.take()
    assert newest is not None
    assert newest.sequence == 2
    assert live.take() is None
