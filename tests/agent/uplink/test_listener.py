"""The fence around what the platform sends: nothing behind it ends the link, and nothing before it fills the log."""

from __future__ import annotations

from structlog.testing import capture_logs

from agent.clock import Clock, Instant
from agent.uplink.listener import SAY_AGAIN_S, Listener
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame


class Refusing:
    """A gateway that can take nothing, and a clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.listener = Listener(
            on_command=self.command,
            on_channel=self.channel,
            on_connected=self.connected,
            on_platform_time=lambda *_: None,
            on_alarm=lambda *_: None,
            clock=Clock(monotonic_s=lambda: self.now_s, realtime_us=lambda: 1, kernel_error_us=lambda: None),
        )

    async def command(self, command: GridCommand, device_id: str | None, received: Instant) -> None:
        raise ValueError("no command")

    async def channel(self, frame: ChannelFrame) -> None:
        raise ValueError("no frame")

    async def connected(self) -> None:
        raise ValueError("no connection")


async def test_a_flood_of_what_cannot_be_taken_is_said_seldom_and_counted() -> None:
    gateway = Refusing()
    with capture_logs() as said:
        for _ in range(1000):
            await gateway.listener.channel(ChannelFrame(device_id="pv"))
            await gateway.listener.command(GridCommand(command_id="c"), None)
        gateway.now_s += SAY_AGAIN_S
        await gateway.listener.channel(ChannelFrame(device_id="pv"))
    frames = [event for event in said if event["event"] == "uplink.channel_frame_not_taken"]
    assert [event["since_last_said"] for event in frames] == [1, 1000]
    assert len(said) == 3


async def test_what_a_peer_wrote_is_said_without_what_moves_a_terminal() -> None:
    gateway = Refusing()
    with capture_logs() as said:
        await gateway.listener.command(GridCommand(command_id="c\x1b[2J\u202e" + "x" * 1000), None)
    assert said[0]["command_id"].isprintable()
    assert len(said[0]["command_id"]) < 200
