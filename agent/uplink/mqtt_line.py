"""GatewayLink over MQTT 5: the same frames, as payloads of topics (proto/MQTT.md). Fulfils `FrameLine`.

paho's network loop has a thread of its own and hands over to the event loop. A message is acknowledged to the broker
only when it has been dealt with, so one that comes while we are killed comes again. The broker's word (PUBACK) is not
the platform's: only a signed acknowledgement takes a batch from the outbox.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import paho.mqtt.client as paho
import structlog
from google.protobuf.message import DecodeError
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from agent.uplink.channel import MOST_RECEIVE_BYTES, advice, escaped
from agent.uplink.coding import CodingError, packed, plain_payload, takes_gzip
from agent.uplink.errors import LinkDownError
from agent.uplink.mqtt_login import MqttLogin
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry, GridCommand
from proto.energysettlement.v1.gateway_pb2 import GatewayFrame, PlatformFrame
from proto.mqtt_topics import ACCEPT_ENCODING, CONTENT_ENCODING, GZIP, OFFLINE, ONLINE, GatewayTopics

MOST_UNTAKEN: Final = 32
"""Messages that the broker sends us before we have dealt with one (Receive Maximum)."""
MOST_HELD: Final = 256
"""What a broker sends beyond that (QoS 0) is dropped."""
MOST_INFLIGHT: Final = 64
ADDRESSES_IN_TIME: Final = 3
"""paho tries a name's addresses one after the other, each for its connect timeout, and counts its keepalive from before
the first: where one that swallows everything took as long, the connection to the next would be ended at once."""
SESSION_KEPT_S: Final = 7 * 86_400
"""The broker keeps what was sent to us while we were away."""
MOST_LIVE_WAITING: Final = 64
"""Live readings are not added to a socket that does not drain: the outbox has them all."""
WORTH_PACKING: Final = 512
"""Bytes of a frame. Smaller ones are hashes and signatures for the most part, which nothing makes smaller."""
PACKED_BESIDE: Final = 64 << 10
"""A larger frame takes milliseconds to pack, which the loop spends on something else."""
MARK_BYTES: Final = 5 + len(CONTENT_ENCODING) + len(GZIP)
"""What it costs to say that a payload is packed."""
HEAD_BYTES: Final = 8
"""Of a PUBLISH: type, length, size of the topic, packet identifier."""

OnCommand = Callable[[GridCommand, "str | None"], Awaitable[None]]
"""(command, device or None). Returns once it is stored."""

OnSigned = Callable[[str, bytes], Awaitable[None]]
"""("schedule" or "feed", as it came)."""

_log = structlog.get_logger()


class MqttLine:
    """One connection to one broker. `open` first; everything is called on the event loop."""

    def __init__(
        self,
        host: str,
        port: int,
        login: MqttLogin,
        *,
        gateway_id: str,
        keepalive_s: float,
        on_command: OnCommand,
        on_signed: OnSigned,
        on_garbage: Callable[[str], None],
        compressed: bool = False,
    ) -> None:
        self._where = f"mqtts://{host}:{port}"
        self._host, self._port = host, port
        self._keepalive_s = max(2, round(keepalive_s))
        self._topics = GatewayTopics(gateway_id)
        self._on_command, self._on_signed, self._on_garbage = on_command, on_signed, on_garbage
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[paho.MQTTMessage | None] = asyncio.Queue()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._why = ""
        """Why the line has ended; empty while it has not."""
        self._hello = secrets.token_bytes(16)
        """Only the welcome that answers this connection's hello counts: the broker may hold an older one."""
        self._welcomed = False
        self._compressed = compressed
        self._packs = False
        """Frames go in gzip: that is wanted, and the platform that welcomed us takes it."""
        self._in_hand: paho.MQTTMessage | None = None
        self._live: deque[paho.MQTTMessageInfo] = deque()
        """Live readings that are not out yet."""
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=gateway_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.username_pw_set(login.user_name, login.password)
        client.tls_set_context(login.context)
        client.max_inflight_messages_set(MOST_INFLIGHT)
        client.will_set(self._topics.state, OFFLINE, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client

    async def open(self, timeout_s: float) -> None:
        """Connect, log in and subscribe. Raises LinkDownError that says why not."""
        self._client.connect_timeout = timeout_s / ADDRESSES_IN_TIME
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # as paho ships it
        properties.SessionExpiryInterval = SESSION_KEPT_S
        properties.ReceiveMaximum = MOST_UNTAKEN
        properties.MaximumPacketSize = MOST_RECEIVE_BYTES
        try:
            await asyncio.to_thread(
                self._client.connect,
                self._host,
                self._port,
                keepalive=self._keepalive_s,
                clean_start=False,
                properties=properties,
            )
            self._client.loop_start()
            async with asyncio.timeout(timeout_s):
                await self._ready
        except TimeoutError:
            raise LinkDownError(f"{self._where}: no answer from the broker within {timeout_s:g} s") from None
        except OSError as error:  # ssl.SSLError is one
            cause = escaped(str(error.strerror or error))
            raise LinkDownError(f"{self._where}: {advice(cause)}{cause[:200]}") from error
        self._publish(self._topics.state, ONLINE, retain=True)

    # -- FrameLine --------------------------------------------------------------------------------------------------

    async def read(self) -> PlatformFrame:
        while True:
            self._done_with_the_last()
            message = await self._inbox.get()
            if message is None:
                raise LinkDownError(f"{self._where}: {self._why}")
            self._in_hand = message
            frame = await self._frame(message)
            if frame is not None:
                return frame

    async def write(self, frame: GatewayFrame) -> int:
        kind = frame.WhichOneof("frame")
        assert kind is not None
        payload, properties = frame.SerializeToString(), None
        if kind == "hello":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # as paho ships it
            properties.ResponseTopic = self._topics.link
            properties.CorrelationData = self._hello
            properties.UserProperty = (ACCEPT_ENCODING, GZIP)
        elif self._packs and len(payload) >= WORTH_PACKING:
            small = packed(payload) if len(payload) < PACKED_BESIDE else await asyncio.to_thread(packed, payload)
            if len(small) + MARK_BYTES < len(payload):
                payload, properties = small, Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
                properties.UserProperty = (CONTENT_ENCODING, GZIP)
        if self._why:
            raise LinkDownError(f"{self._where}: {self._why}")
        return self._publish(self._topics.up(kind), payload, properties=properties)

    def close(self) -> None:
        """At once. A broker that is still there hears that we are offline."""
        if not self._why:
            self._publish(self._topics.state, OFFLINE, retain=True)
            self._client.disconnect()
        self._why = self._why or "the line was closed"
        self._loop.run_in_executor(None, self._client.loop_stop)

    def live(self, telemetry: DeviceTelemetry) -> None:
        """Show a reading now; one that does not fit is not shown."""
        while self._live and self._live[0].is_published():
            self._live.popleft()
        if not self._why and len(self._live) < MOST_LIVE_WAITING:
            topic = self._topics.live(telemetry.device_id)
            self._live.append(self._client.publish(topic, telemetry.SerializeToString(), qos=0))

    # -- Inside -----------------------------------------------------------------------------------------------------

    def _publish(
        self, topic: str, payload: bytes, *, retain: bool = False, properties: Properties | None = None
    ) -> int:
        """How many bytes the packet has (OASIS MQTT 5.0 section 3.3), to within those of its length."""
        self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        tail = 1 if properties is None else len(properties.pack())  # type: ignore[no-untyped-call]  # as paho ships it
        return HEAD_BYTES + len(topic.encode()) + tail + len(payload)

    def _done_with_the_last(self) -> None:
        message, self._in_hand = self._in_hand, None
        if message is not None and message.qos > 0:
            self._client.ack(message.mid, message.qos)

    async def _frame(self, message: paho.MQTTMessage) -> PlatformFrame | None:
        """What the session has to see; commands that come before the welcome are handed in from here."""
        device_id = message.topic.removeprefix(self._topics.device(""))
        try:
            said = getattr(message.properties, "UserProperty", ())
            payload = plain_payload(bytes(message.payload), said, MOST_RECEIVE_BYTES)
            if device_id != message.topic:
                await self._on_command(GridCommand.FromString(payload), device_id)
                return None
            if message.topic != self._topics.link:
                return None
            frame = PlatformFrame.FromString(payload)
        except (DecodeError, CodingError) as error:
            topic, why = escaped(message.topic[:100]), escaped(str(error)[:200])
            # One line for each of a flood would fill the disk: the alarm says how it began.
            _log.debug("uplink.mqtt_garbage", topic=topic, octets=len(message.payload), why=why)
            self._on_garbage(f"{len(message.payload)} bytes on {topic} are no message and were passed over: {why}")
            return None
        kind = frame.WhichOneof("frame")
        if kind == "welcome":
            answers = getattr(message.properties, "CorrelationData", None)
            if answers != self._hello:
                return None
            self._welcomed = True
            self._packs = self._compressed and takes_gzip(said)
            if self._packs != self._compressed:
                _log.info("uplink.mqtt_uncompressed", why="the platform's welcome does not say that it takes gzip")
        elif not self._welcomed:
            # Kept by the broker from before: what is no order is asked for again.
            if kind == "command":
                await self._on_command(frame.command, None)
            elif kind == "schedule":
                await self._on_signed(kind, frame.schedule)
            return None
        return frame

    def _end(self, why: str) -> None:
        if not self._why:
            self._why = why
            self._inbox.put_nowait(None)
        if not self._ready.done():
            self._ready.set_exception(LinkDownError(f"{self._where}: {why}"))

    def _take(self, message: paho.MQTTMessage) -> None:
        if self._inbox.qsize() < MOST_HELD:
            self._inbox.put_nowait(message)

    def _subscribed(self, reasons: list[ReasonCode]) -> None:
        refused = [reason for reason in reasons if reason.is_failure]
        if refused:
            self._end(f"the broker lets us not subscribe to {self._topics.all_down}: {refused[0]}")
        elif not self._ready.done():
            self._ready.set_result(None)

    # On paho's thread.

    def _soon(self, call: Callable[..., None], *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    def _on_connect(self, client: paho.Client, _: Any, __: Any, reason: ReasonCode, ___: Any) -> None:
        if reason.is_failure:
            self._soon(self._end, f"the broker refuses us: {reason}")
        else:
            client.subscribe(self._topics.all_down, options=SubscribeOptions(qos=1))

    def _on_subscribe(self, _: paho.Client, __: Any, ___: int, reasons: list[ReasonCode], ____: Any) -> None:
        self._soon(self._subscribed, reasons)

    def _on_disconnect(self, _: paho.Client, __: Any, ___: Any, reason: ReasonCode, ____: Any) -> None:
        why = "the broker or the network ended the connection" if not reason.is_failure else str(reason)
        self._soon(self._end, why)

    def _on_message(self, _: paho.Client, __: Any, message: paho.MQTTMessage) -> None:
        self._soon(self._take, message)
