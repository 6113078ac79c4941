"""What goes on a device's stream, in the platform's published form with our additions that prove it.

A reading is a point with its energy. A statement that is no reading is a point of no energy: who reads the published
fields alone adds up nothing by it and learns nothing new from it, who reads ours finds the statement and its proof.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.measure.reading import Reading
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry

STEP_US: Final = 1000
"""Between points of no energy: whoever keeps points by the millisecond loses no reading under one."""
MOST_STEPS: Final = 100
"""Behind one reading; further points are a microsecond apart, so that all are there before the next reading, 0.2 s
later at the earliest."""


@dataclass(frozen=True, slots=True)
class Stand:
    """The reading behind which points of no energy stand on a stream: their time and state of charge are its."""

    timestamp_us: int
    state_of_charge_percent: int | None = None

    def after_us(self, place: int) -> int:
        """Time of the point at a place, from 1 on."""
        return self.timestamp_us + min(place, MOST_STEPS) * STEP_US + max(0, place - MOST_STEPS)


def telemetry_of(reading: Reading, statement: bytes, receipt: bytes) -> DeviceTelemetry:
    """One DeviceTelemetry: `statement` is the leaf that encodes `reading`, `receipt` the COSE Receipt that proves it.

    State of charge is rounded down: a reader plans with energy that is certainly there.
    """
    return DeviceTelemetry(
        device_id=reading.device_id,
        timestamp_us=reading.timestamp_us,
        net_energy_wh=reading.net_energy_wh,
        state_of_charge_percent=_percent(reading),
        signature=receipt,
        statement=statement,
        sequence=reading.sequence,
    )


def stand_of(reading: Reading) -> Stand:
    """Behind a reading that may have gone on another stream, or long ago."""
    return Stand(reading.timestamp_us, _percent(reading))


def stand_behind(telemetry: DeviceTelemetry) -> Stand:
    """Behind a reading that goes on the stream."""
    known = telemetry.HasField("state_of_charge_percent")
    return Stand(telemetry.timestamp_us, telemetry.state_of_charge_percent if known else None)


def point_of(device_id: str, stand: Stand, place: int, statement: bytes, receipt: bytes) -> DeviceTelemetry:
    """A statement that is no reading, with its receipt: no energy, sequence 0, and what was known there."""
    return DeviceTelemetry(
        device_id=device_id,
        timestamp_us=stand.after_us(place),
        state_of_charge_percent=stand.state_of_charge_percent,
        signature=receipt,
        statement=statement,
    )


def opening_of(device_id: str, stand: Stand | None, *, timed: bool) -> DeviceTelemetry:
    """The message that opens a device's stream: it names the device and, with sequence 0, is no reading.

    It repeats the last state of charge that is known, for a reader to whom absent is 0 %. `timed`: it is a point of no
    energy as others are; else it has no time, for a reader who has no room for one beside a reading.
    """
    if stand is None:
        return DeviceTelemetry(device_id=device_id)
    if timed:
        return point_of(device_id, stand, 1, b"", b"")
    return DeviceTelemetry(device_id=device_id, state_of_charge_percent=stand.state_of_charge_percent)


def _percent(reading: Reading) -> int | None:
    return None if reading.state_of_charge_permille is None else reading.state_of_charge_permille // 10
