"""Where the uplink hands in what the platform says, with a fence: a fault behind it never ends the link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from agent.clock import Clock, Instant
from agent.uplink.channel import escaped
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame

SAY_AGAIN_S: Final = 10.0
"""A fault of one kind is logged at most this often, with a count: a trace for each of a flood would fill the disk."""

_log = structlog.get_logger()

OnCommand = Callable[[GridCommand, "str | None", Instant], Awaitable[None]]
"""(command, device of the stream or None for the gateway's own link, moment of receipt). Returns once it is stored."""
OnSigned = Callable[[str, bytes, Instant], Awaitable[None]]
"""("schedule" or "feed", as it came, moment of receipt)."""
OnChannel = Callable[[ChannelFrame], Awaitable[None]]
OnConnected = Callable[[], Awaitable[None]]
"""The platform welcomed us: the ledger re-establishes its channels now."""
OnPlatformTime = Callable[[int, float], None]
"""(the platform's signed Unix time in microseconds, round trip in seconds), received now."""
OnAlarm = Callable[[str, str, str], None]
"""(code, subject, text). Never blocks."""


@dataclass(slots=True)
class _Said:
    """When a kind of fault was last logged, and how often it has happened since."""

    last_s: float = float("-inf")
    times: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """The callbacks of `Uplink`, called one after the other per stream: their pace holds the platform back."""

    on_command: OnCommand
    on_channel: OnChannel
    on_connected: OnConnected
    on_platform_time: OnPlatformTime
    on_alarm: OnAlarm
    clock: Clock
    on_signed: OnSigned | None = None
    _said: dict[str, _Said] = field(default_factory=dict, init=False)

    async def command(self, command: GridCommand, device_id: str | None) -> None:
        """Hand in a command. One that cannot be stored gets no receipt, so the platform sends it again."""
        try:
            await self.on_command(command, device_id, self.clock.now())
        except Exception as error:
            self._say("uplink.command_not_taken", error, command_id=escaped(command.command_id[:64]))

    async def signed(self, kind: str, signed: bytes) -> None:
        """Hand in a schedule or a value of a feed. One that is lost here has no receipt, or is followed by the next."""
        if self.on_signed is None:
            return
        try:
            await self.on_signed(kind, signed, self.clock.now())
        except Exception as error:
            self._say(f"uplink.{kind}_not_taken", error)

    async def channel(self, frame: ChannelFrame) -> None:
        """Hand in a channel frame. One that is lost here is asked for again at the next re-establishment."""
        try:
            await self.on_channel(frame)
        except Exception as error:
            self._say("uplink.channel_frame_not_taken", error, device_id=escaped(frame.device_id[:64]))

    async def connected(self) -> None:
        """Say that the link is up."""
        try:
            await self.on_connected()
        except Exception as error:
            self._say("uplink.connected_callback_failed", error)

    def _say(self, event: str, error: Exception, **about: str) -> None:
        said = self._said.setdefault(event, _Said())
        said.times += 1
        now_s = self.clock.monotonic_s()
        if now_s - said.last_s >= SAY_AGAIN_S:
            _log.error(event, error=str(error)[:200], since_last_said=said.times, exc_info=error, **about)
            said.last_s, said.times = now_s, 0


def is_acknowledgement_only(command: GridCommand) -> bool:
    """Whether a message on a device's stream is no command: an empty id beside what is safe (device.proto)."""
    return not command.command_id and (command.acknowledged_sequence > 0 or command.acknowledged_statements > 0)
