"""Where the uplink hands in what the platform says, with a fence: a fault behind it never ends the link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from agent.clock import Clock, Instant
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame

_log = structlog.get_logger()

OnCommand = Callable[[GridCommand, "str | None", Instant], Awaitable[None]]
"""(command, device of the stream or None for the gateway's own link, moment of receipt). Returns once it is stored."""
OnChannel = Callable[[ChannelFrame], Awaitable[None]]
OnConnected = Callable[[], Awaitable[None]]
"""The platform welcomed us: the ledger re-establishes its channels now."""
OnPlatformTime = Callable[[int, float], None]
"""(the platform's signed Unix time in microseconds, round trip in seconds), received now."""
OnAlarm = Callable[[str, str, str], None]
"""(code, subject, text). Never blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """The callbacks of `Uplink`, called one after the other per stream: their pace holds the platform back."""

    on_command: OnCommand
    on_channel: OnChannel
    on_connected: OnConnected
    on_platform_time: OnPlatformTime
    on_alarm: OnAlarm
    clock: Clock

    async def command(self, command: GridCommand, device_id: str | None) -> None:
        """Hand in a command. One that cannot be stored gets no receipt, so the platform sends it again."""
        try:
            await self.on_command(command, device_id, self.clock.now())
        except Exception as error:
            _log.exception("uplink.command_not_taken", command_id=command.command_id[:64], error=str(error)[:200])

    async def channel(self, frame: ChannelFrame) -> None:
        """Hand in a channel frame. One that is lost here is asked for again at the next re-establishment."""
        try:
            await self.on_channel(frame)
        except Exception as error:
            _log.exception("uplink.channel_frame_not_taken", device_id=frame.device_id[:64], error=str(error)[:200])

    async def connected(self) -> None:
        """Say that the link is up."""
        try:
            await self.on_connected()
        except Exception as error:
            _log.exception("uplink.connected_callback_failed", error=str(error)[:200])


def is_acknowledgement_only(command: GridCommand) -> bool:
    """Whether a message on a device's stream is no command: an empty id beside a sequence (device.proto)."""
    return not command.command_id and command.acknowledged_sequence > 0
