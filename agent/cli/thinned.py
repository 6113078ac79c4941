"""What `verify` shows of leaves that are not there and of merged readings: for a person, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from agent.evidence.thinning_check import ThinningCheck


def thinned_lines(found: ThinningCheck) -> Iterator[str]:
    """Nothing where everything is there and nothing was merged."""
    if found.absent:
        yield (
            f"{found.absent} statements of {found.absent_batches} batches are not in the file: that they were sealed "
            "is proven, what they said is not."
        )
    for device in found.devices():
        time = f"{_time(device.first_us)} to {_time(device.last_us)}"
        yield (
            f"  {device.device_id}: {device.readings} readings from {time} were merged into slots of at most "
            f"{device.slot_s} s, {device.net_energy_wh:+d} Wh in all: the energy and the registers are signed, the "
            "course between them is gone."
        )
    unseen = found.unseen_batches()
    if unseen:
        yield f"  {unseen} of these statements name batches that are not all in the file: their roots are not compared."


def thinned_json(found: ThinningCheck) -> dict[str, object]:
    """The same for machines."""
    return {
        "absent": found.absent,
        "absent_batches": found.absent_batches,
        "merged_readings": found.merged_readings,
        "batches_not_compared": found.unseen_batches(),
        "devices": [
            {
                "device_id": device.device_id,
                "readings": device.readings,
                "net_energy_wh": device.net_energy_wh,
                "first_us": device.first_us,
                "last_us": device.last_us,
                "slot_s": device.slot_s,
            }
            for device in found.devices()
        ],
    }


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
