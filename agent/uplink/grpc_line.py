"""GatewayLink over gRPC: one bidirectional call."""

from __future__ import annotations

import asyncio

import grpc
from grpc import aio

from agent.uplink.channel import describe, escaped, is_status, require_message
from agent.uplink.coding import size_of
from agent.uplink.errors import LinkDownError, PlatformFaultError, UplinkError
from agent.uplink.line import NotOfferedError
from proto.energysettlement.v1.gateway_pb2 import GatewayFrame, PlatformFrame
from proto.energysettlement.v1.gateway_pb2_grpc import GatewayLinkStub


class GrpcLine:
    """One call on a channel; fulfils `FrameLine`.

    `count_packed`: the channel compresses, and somebody counts.
    """

    def __init__(self, channel: aio.Channel, *, count_packed: bool = False) -> None:
        self._count_packed = count_packed
        self._call: aio.StreamStreamCall[GatewayFrame, PlatformFrame] = GatewayLinkStub(channel).Connect()

    async def read(self) -> PlatformFrame:
        try:
            frame = await self._call.read()
        except aio.AioRpcError as error:
            raise _ended(error) from error
        require_message(frame)
        if not isinstance(frame, PlatformFrame):
            raise LinkDownError("the platform ended the link")
        return frame

    async def write(self, frame: GatewayFrame) -> int:
        try:
            await self._call.write(frame)
        except aio.AioRpcError as error:
            raise _ended(error) from error
        except asyncio.InvalidStateError:
            # The call is over already; its status says why.
            code, details = await self._call.code(), await self._call.details()
            if code is grpc.StatusCode.UNIMPLEMENTED:
                raise NotOfferedError("the platform does not offer GatewayLink") from None
            raise LinkDownError(f"{code.name}: {escaped(details or 'the platform ended the link')[:240]}") from None
        return size_of(frame, compressed=self._count_packed)

    def close(self) -> None:
        self._call.cancel()


def _ended(error: aio.AioRpcError) -> UplinkError:
    if is_status(error, grpc.StatusCode.UNIMPLEMENTED):
        return NotOfferedError("the platform does not offer GatewayLink")
    if is_status(error, grpc.StatusCode.RESOURCE_EXHAUSTED) and "larger than max" in (error.details() or ""):
        return PlatformFaultError(
            f"the platform sent a message that is larger than any of the contract: {describe(error)}"
        )
    return LinkDownError(describe(error))
