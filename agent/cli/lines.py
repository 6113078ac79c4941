"""Where a device is that a person names, and whether the running agent holds its line.

Many devices take one connection only, and a serial line has one master: a second program that connects takes the
device from the agent. So a command asks the agent first, by its local socket, and keeps away from the lines it holds.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.cli.client import AgentUnreachableError, ask
from agent.cli.output import field
from agent.cli.places import addresses
from agent.config import ConfigError, DeviceSettings, Settings, read_settings
from drivers.modbus import MapError, RegisterMap, load_map
from drivers.sunspec.connection import ConnectionPool, Unit
from drivers.sunspec.endpoint import Endpoint, parse_address
from drivers.sunspec.tls import TlsFiles


class TargetError(Exception):
    """What a person named cannot be asked. Says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One device to ask."""

    name: str
    """For people: its id, or address and unit."""
    address: str
    unit: int
    timeout_s: float
    gap_s: float = 0.0
    tls: TlsFiles | None = None
    register_map: RegisterMap | None = None
    """None: it speaks SunSpec."""

    @property
    def endpoint(self) -> Endpoint:
        return parse_address(self.address)

    @contextmanager
    def open(self) -> Iterator[Unit]:
        """The unit on a connection of its own, closed at the end."""
        tls = {} if self.tls is None else {self.endpoint: self.tls}
        pool = ConnectionPool(time.monotonic, gap_s=self.gap_s, tls=tls)
        try:
            yield Unit(pool.connection(self.address), self.unit, self.timeout_s)
        finally:
            pool.close()


def settings_if_there(path: Path) -> Settings | None:
    """The configuration; None where there is no file. Raises TargetError where it cannot be read."""
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}; try with sudo, or name another file by --config") from None
    try:
        return read_settings(path)
    except ConfigError as error:
        raise TargetError(str(error)) from None


def target(
    device: str,
    settings: Settings | None,
    *,
    unit: int | None = None,
    timeout_s: float | None = None,
    map_name: str | None = None,
    tls: TlsFiles | None = None,
) -> Target:
    """The device of an id in the configuration, or of an address. Raises TargetError."""
    configured = next((one for one in settings.device if one.id == device), None) if settings else None
    try:
        if configured is not None:
            return _configured(configured, unit, timeout_s, map_name)
        found = addresses([device])
        if len(found) != 1:
            raise TargetError(f"{device!r} is {len(found)} addresses; name one device")
        return Target(
            name=f"{found[0]} unit {unit if unit is not None else 1}",
            address=found[0],
            unit=unit if unit is not None else 1,
            timeout_s=timeout_s or 1.0,
            tls=tls,
            register_map=None if map_name is None else load_map(map_name),
        )
    except MapError as error:
        raise TargetError(str(error)) from None
    except ValueError as error:
        ids = ", ".join(one.id for one in settings.device) if settings else ""
        known = f"; devices of the configuration: {ids}" if ids else ""
        raise TargetError(f"{error}{known}") from None


def _configured(device: DeviceSettings, unit: int | None, timeout_s: float | None, map_name: str | None) -> Target:
    if device.address is None:
        raise TargetError(f"{device.id} is a charger: it speaks OCPP and has no registers; see v2g-gateway status")
    name = map_name or device.map
    return Target(
        name=device.id,
        address=device.address,
        unit=device.unit if unit is None else unit,
        timeout_s=timeout_s or device.timeout_s,
        gap_s=device.gap_s,
        tls=None
        if device.ca_file is None
        else TlsFiles(device.ca_file, device.certificate_file, device.certificate_key_file, device.tls_name),
        register_map=None if name is None else load_map(name),
    )


@dataclass(frozen=True, slots=True)
class Held:
    """The lines of a running agent, by host and port, with the ids of the devices on them."""

    devices: dict[tuple[str, int], list[str]]
    status: object
    """What the agent says of itself: /api/status."""

    def holders(self, endpoint: Endpoint) -> list[str]:
        """Devices of the agent on this line; none: the line is free."""
        if not self.devices:
            return []
        found = [self.devices.get((host, endpoint.port), []) for host in sorted(_spellings(endpoint))]
        return list(dict.fromkeys(name for names in found for name in names))

    def line_of(self, device_id: str) -> object:
        """What the agent says of one device; None where it says nothing."""
        lines = field(self.status, "devices")
        found = [line for line in lines if field(line, "device_id") == device_id] if isinstance(lines, list) else []
        return found[0] if found else None


NOTHING_HELD = Held({}, None)


def held_by_agent(settings: Settings | None) -> Held:
    """What the agent of this configuration holds now. Raises TargetError when that cannot be known."""
    if settings is None:
        return NOTHING_HELD
    try:
        status = ask(settings.gateway.state_dir, "/api/status")
    except AgentUnreachableError as error:
        if isinstance(error.__context__, FileNotFoundError | ConnectionRefusedError):
            return NOTHING_HELD  # no socket, or one that a dead agent left behind
        raise TargetError(
            f"whether the agent holds the device's line cannot be known: {error}; --take-line connects all the same"
        ) from None
    devices: dict[tuple[str, int], list[str]] = {}
    for device in settings.device:
        if device.address is not None:
            endpoint = parse_address(device.address)
            for host in _spellings(endpoint):
                devices.setdefault((host, endpoint.port), []).append(device.id)
    return Held(devices, status)


def _spellings(endpoint: Endpoint) -> set[str]:
    """A host under its name and its addresses: a device is the same by either. A serial port: its real path."""
    if endpoint.serial is not None:
        return {str(Path(endpoint.host).resolve())}
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except OSError:
        return {endpoint.host}
    return {endpoint.host, *(str(entry[4][0]) for entry in found)}
