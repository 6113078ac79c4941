"""Addresses of lines: what an installer writes, read into an endpoint, with the reason where it cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from drivers.sunspec.errors import AddressError, quoted

DEFAULT_PORT: Final = 502
TLS_PORT: Final = 802
"""MODBUS/TCP Security Protocol Specification, section 5."""
NET_PORTS: Final = {"tcp": DEFAULT_PORT, "rtutcp": DEFAULT_PORT, "tls": TLS_PORT}
BAUDRATES: Final = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600)
# RTU needs all eight bits (MODBUS over Serial Line V1.02, section 2.5.1): `databits` may be written and is 8.
_SERIAL_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "baudrate": tuple(str(rate) for rate in BAUDRATES),
    "parity": ("N", "E", "O"),
    "stopbits": ("1", "2"),
    "databits": ("8",),
}
_HOW_TO_WRITE: Final = {
    "tcp": '"tcp://host:port", such as "tcp://192.0.2.10:502"',
    "rtutcp": '"rtutcp://host:port", such as "rtutcp://192.0.2.10:4001"',
    "tls": '"tls://host:port", such as "tls://192.0.2.10:802"',
    "rtu": '"rtu:///device", such as "rtu:///dev/ttyUSB0?baudrate=9600&parity=N&stopbits=1"',
}


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """How characters go over a serial line. The defaults are those of most SunSpec devices."""

    baudrate: int = 9600
    parity: str = "N"
    stopbits: int = 1

    @property
    def character_s(self) -> float:
        """One character on the wire, with its start, parity and stop bits."""
        return (1 + 8 + (self.parity != "N") + self.stopbits) / self.baudrate


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a line leads: one host and port, or one serial port (`host` is its path then, `port` is 0)."""

    scheme: str
    host: str
    port: int
    serial: SerialSettings | None = None
    """Of a serial port only."""

    def __str__(self) -> str:
        if self.serial is not None:
            s = self.serial
            return f"rtu://{self.host}?baudrate={s.baudrate}&parity={s.parity}&stopbits={s.stopbits}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def transfer_s(self, characters: int) -> float:
        """What so many characters take on the wire at least: 0 where that does not matter.

        A serial line behind a converter (rtutcp) is taken for one of the default speed.
        """
        if self.scheme not in ("rtu", "rtutcp"):
            return 0.0
        return characters * (self.serial or SerialSettings()).character_s


def parse_address(address: str) -> Endpoint:
    """The endpoint of a "tcp://", "tls://", "rtutcp://" or "rtu://" address. Raises AddressError."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise AddressError(f"{quoted(address)}: the port must be a number from 1 to 65535") from None
    how = _HOW_TO_WRITE.get(parts.scheme)
    if how is None:
        raise AddressError(f"{quoted(address)}: write {'; or '.join(_HOW_TO_WRITE.values())}")
    if parts.username is not None or parts.fragment:
        raise AddressError(f"{quoted(address)}: write {how}")
    if parts.scheme == "rtu":
        if parts.netloc or not parts.path.strip("/"):
            raise AddressError(f"{quoted(address)}: write {how}; three slashes, then the rest of the port's path")
        return Endpoint("rtu", parts.path, 0, _serial_settings(address, parts.query))
    if not parts.hostname or parts.path.strip("/") or parts.query or port == 0:
        raise AddressError(f"{quoted(address)}: write {how}")
    return Endpoint(parts.scheme, parts.hostname, port or NET_PORTS[parts.scheme])


def _serial_settings(address: str, query: str) -> SerialSettings:
    chosen: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        choices = _SERIAL_CHOICES.get(name)
        if choices is None:
            raise AddressError(
                f"{quoted(address)}: {quoted(name)} is no setting of a serial port; "
                f"there are {', '.join(_SERIAL_CHOICES)}"
            )
        if name in chosen:
            raise AddressError(f"{quoted(address)}: {name} stands there twice")
        if value.upper() not in choices:
            raise AddressError(f"{quoted(address)}: {name} must be one of {', '.join(choices)}")
        chosen[name] = value.upper()
    return SerialSettings(
        baudrate=int(chosen.get("baudrate", "9600")),
        parity=chosen.get("parity", "N"),
        stopbits=int(chosen.get("stopbits", "1")),
    )
