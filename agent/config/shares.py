"""SAFETY 2: what chargers and batteries may draw while the gateway is silent, and the house, stay within the fuse."""

from __future__ import annotations

from collections.abc import Iterable

from agent.config.device_settings import DeviceSettings


def shares_beyond_fuse(fuse_w: int, phases: int, house_reserve_w: int, devices: Iterable[DeviceSettings]) -> str:
    """What is wrong and what to do, for the phase with the most; empty when all fits. `fuse_w`: of one phase.

    Power is spread evenly over a device's phases, and the house's reserve over the site's.
    """
    with_share = [device for device in devices if device.fallback_import_w]
    found = []
    for phase in range(1, phases + 1):
        shares_w = 0
        for device in with_share:
            on = [p for p in device.phases if p <= phases] or [1]
            shares_w += (device.fallback_import_w or 0) // len(on) if phase in on else 0
        found.append((shares_w, phase))
    most_w, phase = max(found)
    if not most_w or most_w + house_reserve_w // phases <= fuse_w:
        return ""
    names = ", ".join(device.id for device in with_share if phase in device.phases or phases == 1)
    house_w = house_reserve_w // phases
    shares = f"{most_w} W of static shares (fallback_import_w of {names})"
    return (
        f"while the gateway is silent phase {phase} could carry {shares} and {house_w} W of the house "
        f"(house_reserve_w), more than the {fuse_w} W of its fuse: lower the shares"
    )
