"""What can go wrong between us and a Modbus device, one class per cause. Inside drivers/sunspec only:

the Device turns these into DeviceRefusedError (it said no), DeviceUnreachableError (it said nothing), or its own state.
"""

from __future__ import annotations

from typing import Final

MODBUS_EXCEPTIONS: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "acknowledge: still working on it",
    6: "device busy",
    7: "negative acknowledge",
    8: "memory parity error",
    10: "gateway path unavailable; is the unit id right?",
    11: "gateway: the unit behind it does not answer; is it on, is the unit id right?",
}
"""Modbus application protocol V1.1b3, section 7."""


class SunSpecError(Exception):
    """Root of this package's errors. The message says what was wrong, where, and what to do."""


class AddressError(SunSpecError):
    """A device address that cannot be used: what an installer wrote, not what a device did."""


class NoAnswerError(SunSpecError):
    """Nothing came back in time, or there is no connection. Whether a write arrived is unknown."""


class ReconnectedError(NoAnswerError):
    """Nothing was asked: the connection is not the one any more on which the device said who it is."""


class BadAnswerError(SunSpecError):
    """Something came back that is no answer to what was asked. Whether a write arrived is unknown."""


class ModbusExceptionError(SunSpecError):
    """The device answered no, with a Modbus exception."""

    def __init__(self, where: str, code: int) -> None:
        self.code = code
        super().__init__(f"{where}: the device answered exception {code} ({self.means})")

    @property
    def means(self) -> str:
        """The code in words."""
        return MODBUS_EXCEPTIONS.get(self.code, "unknown")

    @property
    def is_transient(self) -> bool:
        """Busy, or the gateway in between has no path: the same request may succeed later."""
        return self.code in (5, 6, 10, 11)


class NotSunSpecError(SunSpecError):
    """Something speaks Modbus there, but no SunSpec map was found."""


class WrongDeviceError(SunSpecError):
    """A SunSpec device, but not one that can be what the configuration says, or no longer the one that it was."""


class ControlRefusedError(SunSpecError):
    """The device cannot hold the band that was asked for, or did not keep what was written to it."""


def quoted(peer_text: str | bytes, most: int = 40) -> str:
    """What a peer sent, as it may stand in a message: cut, printable, in quotes."""
    text = peer_text.decode("latin-1") if isinstance(peer_text, bytes) else peer_text
    shown = text[:most].encode("unicode_escape").decode("ascii")
    return f'"{shown}"' + ("..." if len(text) > most else "")
