"""The platform's side of GatewayLink over MQTT 5: a client of the broker, in front of the same desk."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import ssl
import zlib
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.evidence.errors import EvidenceError
from agent.identity.errors import HistoryError
from agent.ledger.errors import ChannelError
from hil_tests.rig.broker import PLATFORM, ClientFiles
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.enrol import Practice
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry, GridCommand
from proto.energysettlement.v1.gateway_pb2 import GatewayFrame, GatewayHello, PlatformFrame
from proto.mqtt_topics import ALL_UP, OFFLINE, GatewayTopics, parse_up

MOST_FRAME_BYTES: Final = 2 << 20
"""A batch is 1 MiB at most."""


class BrokerService:
    """An async context: connected and subscribed while it is open. `takes_gzip`: and sends it to who does, too."""

    def __init__(
        self, platform: Platform, practice: Practice, files: ClientFiles, port: int, *, takes_gzip: bool = True
    ) -> None:
        self._platform = platform
        self._takes_gzip = takes_gzip
        self._packs: set[str] = set()
        """Gateways whose hello says that they take gzip."""
        self.packed = 0
        """Messages of gateways that came in gzip."""
        self._port = port
        self._links: dict[str, tuple[asyncio.Queue[PlatformFrame | None], asyncio.Task[None]]] = {}
        self._streams: dict[tuple[str, str], tuple[asyncio.Queue[GridCommand | None], asyncio.Task[None]]] = {}
        self.refusals: list[str] = []
        context = ssl.create_default_context(cafile=practice.public_file("ca"))
        context.load_cert_chain(files.certificate, files.key)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=PLATFORM, protocol=paho.MQTTv5)
        self._client.tls_set_context(context)
        self._client.max_inflight_messages_set(1000)
        # A broker that comes back finds its platform soon.
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)

    async def __aenter__(self) -> BrokerService:
        loop = asyncio.get_running_loop()
        subscribed = asyncio.Event()

        def on_connect(client: paho.Client, *_: Any) -> None:
            client.subscribe(ALL_UP, options=SubscribeOptions(qos=1))

        def on_subscribe(_: paho.Client, __: Any, ___: int, ____: list[ReasonCode], _____: Properties) -> None:
            loop.call_soon_threadsafe(subscribed.set)

        def on_message(_: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
            loop.call_soon_threadsafe(self._take, message)

        self._client.on_connect = on_connect
        self._client.on_subscribe = on_subscribe
        self._client.on_message = on_message
        await asyncio.to_thread(self._client.connect, "127.0.0.1", self._port, clean_start=True)
        self._client.loop_start()
        async with asyncio.timeout(10):
            await subscribed.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        for gateway_id in list(self._links):
            self._down(gateway_id)
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def _take(self, message: paho.MQTTMessage) -> None:
        found = parse_up(message.topic)
        if found is None or found[0] not in self._platform.audits:
            self.refusals.append(f"not ours: {message.topic}")
            return
        gateway_id, kind, device_id = found
        payload = bytes(message.payload)
        try:
            if ("content-encoding", "gzip") in _said(message):
                payload = _unpacked(payload)
                self.packed += 1
            if kind == "state":
                if payload == OFFLINE:
                    self._down(gateway_id)
            elif kind == "live":
                self._live(gateway_id, device_id, payload)
            else:
                self._frame(gateway_id, GatewayFrame.FromString(payload), message)
        except (EvidenceError, ChannelError, HistoryError, ValueError) as error:
            self.refusals.append(str(error))

    def _live(self, gateway_id: str, device_id: str, payload: bytes) -> None:
        telemetry = DeviceTelemetry.FromString(payload)
        if telemetry.device_id != device_id:
            raise ValueError(f"a reading of another device on the topic of {device_id}")
        self._platform.take_telemetry(gateway_id, telemetry, carried=False)

    def _frame(self, gateway_id: str, frame: GatewayFrame, message: paho.MQTTMessage) -> None:
        match frame.WhichOneof("frame"):
            case "hello":
                if frame.hello.gateway_id != gateway_id:
                    raise ValueError("hello of another gateway than the topic's")
                self._packs.discard(gateway_id)
                if self._takes_gzip and ("accept-encoding", "gzip") in _said(message):
                    self._packs.add(gateway_id)
                self._up(frame.hello, getattr(message.properties, "CorrelationData", b""))
            case "batch":
                acknowledgement = self._platform.take_batch(gateway_id, frame.batch.sealed)
                if acknowledgement is not None:
                    self._publish(gateway_id, PlatformFrame(acknowledgement=acknowledgement))
            case "channel":
                self._platform.take_channel(gateway_id, frame.channel)
            case "urgent":
                self._platform.take_urgent(gateway_id, frame.urgent)
            case "bid":
                self._platform.take_bid(gateway_id, frame.bid)

    def _up(self, hello: GatewayHello, correlation: bytes) -> None:
        gateway_id = hello.gateway_id
        self._down(gateway_id)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # as paho ships it
        properties.CorrelationData = correlation
        if self._takes_gzip:
            properties.UserProperty = ("accept-encoding", "gzip")
        self._publish(gateway_id, PlatformFrame(welcome=self._platform.welcome(hello)), properties)
        queue = self._platform.link_up(gateway_id)
        self._links[gateway_id] = (queue, asyncio.create_task(self._carry(gateway_id, queue)))
        for device_id in hello.device_ids:
            stream = self._platform.stream_up(gateway_id, device_id)
            carrying = asyncio.create_task(self._carry_commands(gateway_id, device_id, stream))
            self._streams[gateway_id, device_id] = (stream, carrying)

    def _down(self, gateway_id: str) -> None:
        if gateway_id in self._links:
            queue, task = self._links.pop(gateway_id)
            task.cancel()
            self._platform.link_down(gateway_id, queue)
        for key in [key for key in self._streams if key[0] == gateway_id]:
            stream, carrying = self._streams.pop(key)
            carrying.cancel()
            self._platform.stream_down(*key, stream)

    async def _carry(self, gateway_id: str, queue: asyncio.Queue[PlatformFrame | None]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (frame := await queue.get()) is not None:
                self._publish(gateway_id, frame)

    async def _carry_commands(self, gateway_id: str, device_id: str, queue: asyncio.Queue[GridCommand | None]) -> None:
        topic = GatewayTopics(gateway_id).device(device_id)
        with contextlib.suppress(asyncio.CancelledError):
            while (command := await queue.get()) is not None:
                self._client.publish(topic, command.SerializeToString(), qos=1)

    def _publish(self, gateway_id: str, frame: PlatformFrame, properties: Properties | None = None) -> None:
        payload = frame.SerializeToString()
        if properties is None and gateway_id in self._packs:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # as paho ships it
            properties.UserProperty = ("content-encoding", "gzip")
            payload = gzip.compress(payload)
        self._client.publish(GatewayTopics(gateway_id).link, payload, qos=1, properties=properties)


def _said(message: paho.MQTTMessage) -> list[tuple[str, str]]:
    """The user properties of a message."""
    return list(getattr(message.properties, "UserProperty", ()))


def _unpacked(payload: bytes) -> bytes:
    """Raises ValueError. Bounded, as a gateway may have been taken over."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(payload)) as file:
            plain = file.read(MOST_FRAME_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"no gzip: {error}") from error
    if len(plain) > MOST_FRAME_BYTES:
        raise ValueError(f"a frame of more than {MOST_FRAME_BYTES} bytes in gzip")
    return plain
