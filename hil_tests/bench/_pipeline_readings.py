"""The readings of the bench `pipeline`, the same for both gateways. Imports nothing: the peer's venv runs it too."""

from __future__ import annotations


def device_name(place: int) -> str:
    """Of the device at a place, from 0."""
    return f"device-{place}"


def measured(place: int, sequence: int) -> dict[str, int]:
    """What a device measures the n-th time (from 1), as integers of small units. Every value but one changes."""
    wobble = (sequence * 37 + place * 101) % 200
    return {
        "sequence": sequence,
        "power_w": 3_000 + wobble,
        "import_milliwatt_hours": 1_234_567_000 + 900 * sequence,
        "export_milliwatt_hours": 7_654_321_000,
        "voltage_millivolts": 230_000 + 10 * wobble,
        "frequency_millihertz": 49_990 + wobble // 10,
        "state_of_charge_permille": 400 + sequence % 500,
    }
