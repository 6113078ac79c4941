"""Looks at the devices for the plan and the dispatcher: a driver that fails to say how its device is stops nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import structlog

from drivers.device import Device, DeviceStatus, LinkState

log = structlog.get_logger()


class Onlooker:
    """The devices' statuses, whatever their drivers do."""

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self._devices = devices
        self._last: dict[str, DeviceStatus] = {}
        self._faulty: set[str] = set()
        self.newest: dict[str, DeviceStatus] = {}
        """What `statuses` said last."""

    def status(self, device_id: str) -> DeviceStatus:
        """As the driver says; where it raises, the last one known, as of a device that cannot be used."""
        device = self._devices[device_id]
        try:
            status = device.status()
        except Exception as error:  # A fault in one driver must not take the plan, or STOP, from the others.
            if device_id not in self._faulty:
                self._faulty.add(device_id)
                log.exception("control.driver_fault", device=device_id)
            last = self._last.get(device_id)
            detail = f"fault in its driver: {error!r}"[:200]
            if last is None:
                return DeviceStatus(device_id=device_id, kind=device.kind, link=LinkState.FAULT, detail=detail)
            return replace(last, link=LinkState.FAULT, detail=detail)
        self._faulty.discard(device_id)
        self._last[device_id] = status
        return status

    def seen(self, device_id: str) -> DeviceStatus:
        """As at the newest look; a look now when there was none."""
        return self._last.get(device_id) or self.status(device_id)

    def statuses(self) -> dict[str, DeviceStatus]:
        """Of all devices."""
        self.newest = {name: self.status(name) for name in self._devices}
        return self.newest
