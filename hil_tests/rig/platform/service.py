"""The platform's two gRPC services behind mutual TLS, and the server that runs them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from grpc import aio

from agent.evidence.errors import EvidenceError
from agent.identity.errors import HistoryError
from agent.ledger.errors import ChannelError
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.enrol import Practice
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry, GridCommand
from proto.energysettlement.v1.device_pb2_grpc import (
    EnergyDeviceStreamServicer,
    add_EnergyDeviceStreamServicer_to_server,
)
from proto.energysettlement.v1.gateway_pb2 import GatewayFrame, PlatformFrame
from proto.energysettlement.v1.gateway_pb2_grpc import GatewayLinkServicer, add_GatewayLinkServicer_to_server

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class LinkService(GatewayLinkServicer):
    """GatewayLink."""

    def __init__(self, platform: Platform, peers: Peers) -> None:
        self._platform = platform
        self._peers = peers

    async def Connect(  # noqa: N802
        self,
        request_iterator: AsyncIterator[GatewayFrame],
        context: aio.ServicerContext[GatewayFrame, PlatformFrame],
    ) -> AsyncIterator[PlatformFrame]:
        gateway_id = await self._peers.require(context)
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("frame") != "hello":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the first frame is a hello")
        if first.hello.gateway_id != gateway_id:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "hello of another gateway than the certificate's")
        try:
            welcome = self._platform.welcome(first.hello)
        except HistoryError as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"hello refused: {error}")
        yield PlatformFrame(welcome=welcome)
        queue = self._platform.link_up(gateway_id, certificate=serial_shown(context))
        reader = asyncio.create_task(self._read(gateway_id, request_iterator, queue))
        try:
            while (frame := await queue.get()) is not None:
                yield frame
            refusal = await reader
            if refusal is not None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal)
        finally:
            self._platform.link_down(gateway_id, queue)
            await _stop(reader)

    async def _read(
        self, gateway_id: str, frames: AsyncIterator[GatewayFrame], queue: asyncio.Queue[PlatformFrame | None]
    ) -> str | None:
        """Take frames until the gateway ends the link (None) or sends what is refused (the reason)."""
        try:
            async for frame in frames:
                refusal = self._take(gateway_id, frame, queue)
                if refusal is not None:
                    return refusal
            return None
        finally:
            queue.put_nowait(None)

    def _take(self, gateway_id: str, frame: GatewayFrame, queue: asyncio.Queue[PlatformFrame | None]) -> str | None:
        match frame.WhichOneof("frame"):
            case "batch":
                try:
                    acknowledgement = self._platform.take_batch(gateway_id, frame.batch.sealed)
                except EvidenceError as error:
                    return f"batch refused: {error}"
                if acknowledgement is not None:
                    queue.put_nowait(PlatformFrame(acknowledgement=acknowledgement))
            case "channel":
                try:
                    self._platform.take_channel(gateway_id, frame.channel)
                except ChannelError as error:
                    return f"channel frame refused: {error}"
            case "urgent":
                try:
                    self._platform.take_urgent(gateway_id, frame.urgent)
                except EvidenceError as error:
                    return f"urgent statement refused: {error}"
            case "bid":
                self._platform.take_bid(gateway_id, frame.bid)
            case "hello":
                return "a second hello"
        return None


class DeviceService(EnergyDeviceStreamServicer):
    """EnergyDeviceStream. `carrying`: there is no GatewayLink, so all that comes is written down here; `additions`: and
    acknowledged, which the published contract alone cannot do. `refused`: see `Server`."""

    def __init__(
        self,
        platform: Platform,
        peers: Peers,
        *,
        carrying: bool,
        additions: bool,
        refused: Mapping[str, grpc.StatusCode | None],
    ) -> None:
        self._refused = refused
        self._platform = platform
        self._peers = peers
        self._carrying = carrying
        self._additions = additions

    async def ConnectDevice(  # noqa: N802
        self,
        request_iterator: AsyncIterator[DeviceTelemetry],
        context: aio.ServicerContext[DeviceTelemetry, GridCommand],
    ) -> AsyncIterator[GridCommand]:
        gateway_id = await self._peers.require(context)
        opening = await anext(request_iterator, None)
        if opening is None or not opening.device_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message names the device")
        device_id = opening.device_id
        if device_id in self._refused:
            code = self._refused[device_id]
            if code is None:
                await asyncio.Event().wait()
            else:
                await context.abort(code, "no such device")
        queue = self._platform.stream_up(gateway_id, device_id)
        reader = asyncio.create_task(self._read(gateway_id, opening, request_iterator, queue))
        try:
            while (command := await queue.get()) is not None:
                yield command
            refusal = await reader
            if refusal is not None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal)
        finally:
            self._platform.stream_down(gateway_id, device_id, queue)
            await _stop(reader)

    async def _read(
        self,
        gateway_id: str,
        opening: DeviceTelemetry,
        readings: AsyncIterator[DeviceTelemetry],
        queue: asyncio.Queue[GridCommand | None],
    ) -> str | None:
        """Take readings until the stream is half-closed (None) or brings what is refused (the reason)."""
        statements = 0
        try:
            # A gateway of the published contract may open with a reading at once.
            if opening.sequence:
                self._take(gateway_id, opening, queue)
            async for telemetry in readings:
                if telemetry.device_id != opening.device_id:
                    return f"a reading of another device on the stream of {opening.device_id}"
                if telemetry.sequence or not self._carrying:
                    self._take(gateway_id, telemetry, queue)
                    continue
                statements += 1
                if self._platform.take_statement(gateway_id, telemetry) and self._additions:
                    queue.put_nowait(GridCommand(acknowledged_statements=statements))
            return None
        except EvidenceError as error:
            return f"reading refused: {error}"
        finally:
            queue.put_nowait(None)

    def _take(self, gateway_id: str, telemetry: DeviceTelemetry, queue: asyncio.Queue[GridCommand | None]) -> None:
        sequence = self._platform.take_telemetry(gateway_id, telemetry, carried=self._carrying)
        if sequence and self._additions:
            queue.put_nowait(GridCommand(acknowledged_sequence=sequence))


class Peers:
    """Which gateway is at the other end, by the key in its client certificate."""

    def __init__(self, practice: Practice) -> None:
        self._by_key = {each.tls_public_key_der: each.gateway_id for each in practice.gateways().values()}

    async def require(self, context: aio.ServicerContext[_Request, _Response]) -> str:
        """The gateway's id; ends the call when the certificate is nobody's."""
        for pem in context.auth_context().get("x509_pem_cert", ()):
            key = x509.load_pem_x509_certificate(pem).public_key()
            der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            if der in self._by_key:
                return self._by_key[der]
        return await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the certificate is of no enrolled gateway")


def serial_shown(context: aio.ServicerContext[_Request, _Response]) -> str:
    """Serial number of the client's certificate, hexadecimal."""
    for pem in context.auth_context().get("x509_pem_cert", ()):
        return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"
    return ""


async def _stop(task: asyncio.Task[str | None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


class Server:
    """Serves a platform on 127.0.0.1 as an async context; `port` once entered (0 chooses one).

    `link`: offer GatewayLink; without it the devices' streams carry everything. `additions`: acknowledge on devices'
    streams; without them and without the link this is the published contract alone. `refused`: devices whose streams
    end with a status, or with None are neither read nor ended; may be changed at any time.
    """

    def __init__(
        self, platform: Platform, practice: Practice, *, port: int = 0, link: bool = True, additions: bool = True
    ) -> None:
        self.refused: dict[str, grpc.StatusCode | None] = {}
        self._server = aio.server(
            options=[
                # Answer every keepalive of a gateway; the default counts more than one in 5 min as abuse.
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        peers = Peers(practice)
        if link:
            add_GatewayLinkServicer_to_server(LinkService(platform, peers), self._server)
        add_EnergyDeviceStreamServicer_to_server(
            DeviceService(platform, peers, carrying=not link, additions=additions, refused=self.refused), self._server
        )
        credentials = grpc.ssl_server_credentials(
            [(practice.key("server").private_pem, practice.public_file("server").read_bytes())],
            practice.public_file("ca").read_bytes(),
            require_client_auth=True,
        )
        self.port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)

    async def __aenter__(self) -> Server:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(grace=None)
