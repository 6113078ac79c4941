"""What carries the frames of one GatewayLink connection: gRPC or MQTT, one contract."""

from __future__ import annotations

from typing import Protocol

from agent.uplink.errors import UplinkError
from proto.energysettlement.v1.gateway_pb2 import GatewayFrame, PlatformFrame


class NotOfferedError(UplinkError):
    """The platform does not have this service (UNIMPLEMENTED)."""


class FrameLine(Protocol):
    """Frames in order, both ways. Both methods raise LinkDownError when it has ended, and NotOfferedError."""

    async def read(self) -> PlatformFrame:
        """The next frame. Asking for it says that the one before has been dealt with."""
        ...

    async def write(self, frame: GatewayFrame) -> int:
        """Returns how many bytes of the line it takes, compressed where it is: the message, without TLS and below."""
        ...

    def close(self) -> None: ...
