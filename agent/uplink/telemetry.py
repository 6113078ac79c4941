"""A reading in the platform's published form, with our additions that prove it."""

from __future__ import annotations

from agent.measure.reading import Reading
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry


def telemetry_of(reading: Reading, statement: bytes, receipt: bytes) -> DeviceTelemetry:
    """One DeviceTelemetry: `statement` is the leaf that encodes `reading`, `receipt` the COSE Receipt that proves it.

    State of charge is rounded down: a reader plans with energy that is certainly there.
    """
    return DeviceTelemetry(
        device_id=reading.device_id,
        timestamp_us=reading.timestamp_us,
        net_energy_wh=reading.net_energy_wh,
        state_of_charge_percent=(
            None if reading.state_of_charge_permille is None else reading.state_of_charge_permille // 10
        ),
        signature=receipt,
        statement=statement,
        sequence=reading.sequence,
    )


def opening_of(device_id: str) -> DeviceTelemetry:
    """The message that opens a device's stream: it names the device and, with sequence 0, is no reading."""
    return DeviceTelemetry(device_id=device_id)
