"""Where what is no reading belongs when devices' streams carry everything. Pure.

What is about one device goes on its stream; a command's receipts go back on the stream that the command came on; the
rest is the gateway's own and goes on one stream, that of the device which the configuration names first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from agent.evidence.kinds import Alarm, CommandReceipt, SettlementWindow, SignedMeterValue, Statement, Thinning

MOST_COMMANDS: Final = 4096
LONGEST_ID: Final = 255
"""Of a command. What is longer is refused, under so much of it."""


class Origins:
    """Of one gateway, over all its connections. A restart forgets: receipts then go on the gateway's own stream."""

    def __init__(self, device_ids: tuple[str, ...]) -> None:
        self._device_ids = device_ids
        self._commands: OrderedDict[str, str] = OrderedDict()

    def add(self, device_id: str) -> None:
        """Another device is configured."""
        self._device_ids = (*self._device_ids, device_id)

    def came(self, command_id: str, device_id: str) -> None:
        """A command came on a device's stream. The newest ones are remembered."""
        key = command_id[:LONGEST_ID]
        self._commands[key] = device_id
        self._commands.move_to_end(key)
        while len(self._commands) > MOST_COMMANDS:
            self._commands.popitem(last=False)

    def stream_of(self, statement: Statement) -> str | None:
        """The device on whose stream a statement goes; None: no device is configured."""
        own = self._device_ids[0] if self._device_ids else None
        match statement:
            case SettlementWindow() | SignedMeterValue() | Thinning():
                return statement.device_id
            case CommandReceipt():
                return self._commands.get(statement.command_id[:LONGEST_ID], own)
            case Alarm() if statement.subject in self._device_ids:
                return statement.subject
            case _:
                return own
