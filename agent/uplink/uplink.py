"""The uplink: keeps one connection to the platform, over endpoints, faults and outages, and never gives up.

Each connection tries GatewayLink first. A platform that does not offer it gets everything over the devices' streams.
What waits, waits in the outbox; nothing leaves it but by an acknowledgement that was verified.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

import grpc
import structlog
from grpc import aio

from agent.clock import Clock
from agent.config import MQTT_SCHEME, PlatformSettings, StatementsAsTelemetry, split_address
from agent.evidence.cose import VerifyKey
from agent.uplink.ahead import Ahead
from agent.uplink.backoff import Backoff, hinted_s
from agent.uplink.bids import Bids
from agent.uplink.carrying import Carrying, heard_at
from agent.uplink.channel import describe, escaped, open_channel, takes
from agent.uplink.devices import DeviceStreams
from agent.uplink.errors import LeftError, LinkDownError, PlatformFaultError, UplinkError
from agent.uplink.grpc_line import GrpcLine
from agent.uplink.heard import Heard
from agent.uplink.left import left_incarnations
from agent.uplink.line import FrameLine, NotOfferedError
from agent.uplink.link import GatewayLinkCall
from agent.uplink.listener import Listener, OnAlarm, OnChannel, OnCommand, OnConnected, OnPlatformTime, OnSigned
from agent.uplink.live import LiveReadings
from agent.uplink.mqtt_line import MqttLine
from agent.uplink.mqtt_login import MqttLoginFor
from agent.uplink.origins import Origins
from agent.uplink.outbox import Outbox
from agent.uplink.pace import Pace
from agent.uplink.refusals import Refusals
from agent.uplink.session import Refused, Session, UplinkIdentity
from agent.uplink.standing import Standing
from agent.uplink.status import Carrier, UplinkStatus
from agent.uplink.tls import Credentials
from agent.uplink.together import together
from drivers.device import SignerUnavailableError
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame, FlexibilityBid

_log = structlog.get_logger()

MOST_CHANNEL_FRAMES: Final = 256
ALARM_AGAIN_S: Final = 3600.0
"""The same alarm about the same thing is said again after this long, not on every reconnect."""


class Uplink:
    """`run` it in a task of its own. Everything else may be called at any time from the same event loop.

    Callbacks: `listener.py` gives their arguments. `identity.device_ids` get a stream each. `draw` is for tests.
    """

    def __init__(
        self,
        settings: PlatformSettings,
        *,
        identity: UplinkIdentity,
        outbox: Outbox,
        credentials: Credentials,
        mqtt_login: MqttLoginFor,
        platform_key: VerifyKey,
        clock: Clock,
        on_command: OnCommand,
        on_channel: OnChannel,
        on_connected: OnConnected,
        on_platform_time: OnPlatformTime,
        on_alarm: OnAlarm,
        on_signed: OnSigned | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._outbox = outbox
        self._credentials = credentials
        self._mqtt_login = mqtt_login
        self._platform_key = platform_key
        self._monotonic_s = clock.monotonic_s
        self._listener = Listener(
            on_command=on_command,
            on_channel=on_channel,
            on_connected=on_connected,
            on_platform_time=on_platform_time,
            on_alarm=on_alarm,
            on_signed=on_signed,
            clock=clock,
        )
        self._draw = draw
        self._live = {device_id: LiveReadings() for device_id in identity.device_ids}
        self._channel_frames: deque[ChannelFrame] = deque()
        self._bids = Bids()
        self._ahead = Ahead(outbox)
        self._changed = asyncio.Event()
        self._carrying: Carrying | None = None
        self._session: Session | None = None
        self._latest_platform_time_us = 0
        self._refusals = Refusals()
        self._heard: dict[str, Heard] = {}
        """By endpoint, once it was asked for."""
        self._origins = Origins(identity.device_ids)
        self._count_packed = settings.compression and settings.most_kbit_s is not None
        """Over gRPC."""
        self._keepalive_s = settings.stall_s
        self._pace = Pace(None if settings.most_kbit_s is None else settings.most_kbit_s * 125.0)
        self._alarmed_s: dict[tuple[str, str], float] = {}
        self._standing = Standing(
            settings.endpoints[0], incarnation=identity.incarnation, monotonic_s=clock.monotonic_s
        )
        self._reconnect_after_s = 0.0
        self._introduce = asyncio.Event()
        self._renewed = asyncio.Event()

    def batch_ready(self) -> None:
        """A batch was sealed and stored."""
        self._ahead.sealed(self._identity.incarnation)
        self._changed.set()
        if self._carrying is not None:
            self._carrying.changed.set()

    def live(self, device_id: str, telemetry: DeviceTelemetry) -> None:
        """Show this reading as soon as there is a link. Never blocks; the oldest are dropped when it cannot keep up."""
        self._live.setdefault(device_id, LiveReadings()).put(telemetry)

    def offer(self, bid: FlexibilityBid) -> None:
        """Send this bid as soon as the gateway's link is up, unless a newer one comes before."""
        self._bids.put(bid)
        self._changed.set()

    def introduce_again(self) -> None:
        """The history of the gateway's name has grown: connect anew, so that the platform has it before what comes."""
        self._introduce.set()

    def device_added(self, device_id: str) -> None:
        """The site has another device: it gets its stream at once, and the platform hears of it by another hello.

        One that is named already, for the link was made while it was adopted, stays as it is.
        """
        if device_id in self._identity.device_ids:
            return
        self._identity = replace(self._identity, device_ids=(*self._identity.device_ids, device_id))
        self._origins.add(device_id)
        self._live.setdefault(device_id, LiveReadings())
        self._introduce.set()
        if self._carrying is not None:
            self._carrying.changed.set()

    def certificate_renewed(self) -> None:
        """There is another client certificate: connect anew with it, while the one before would still do."""
        self._renewed.set()

    async def rehearse(self, credentials: grpc.ChannelCredentials) -> None:
        """Try other credentials beside the present link. Raises LinkDownError when the platform takes the present ones
        and not these. Without a link over gRPC nothing is known, and nothing is raised."""
        if not self._standing.over_grpc:
            return
        endpoint = self._standing.endpoint
        # By then a link that is dead without saying so has been noticed.
        within_s = 2 * self._settings.stall_s
        taken = await takes(endpoint, credentials, server_name=self._settings.server_name, within_s=within_s)
        if not taken and self._standing.over_grpc and self._standing.endpoint == endpoint:
            raise LinkDownError(f"{endpoint} takes the present certificate and not the new one")

    async def send_channel(self, frame: ChannelFrame) -> None:
        """Hand a frame to the link that is up. That it arrives is only known by the answer.

        Raises LinkDownError when there is none: re-establishment after the next connection brings both sides together.
        """
        if self._standing.carrier is not Carrier.GATEWAY_LINK:
            raise LinkDownError("channel frames need the gateway link, which is not up")
        if len(self._channel_frames) >= MOST_CHANNEL_FRAMES:
            raise LinkDownError(f"{MOST_CHANNEL_FRAMES} channel frames wait already; the link is stuck")
        self._channel_frames.append(frame)
        self._changed.set()

    def status(self) -> UplinkStatus:
        """A snapshot."""
        return self._standing.status(0 if self._session is None else self._session.batches_in_flight)

    @property
    def acknowledgement(self) -> bytes:
        """The newest one of the present incarnation, as the platform signed it, in this run; empty: none came yet."""
        return self._standing.acknowledgement

    async def run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        backoff = Backoff(self._settings.reconnect_least_s, self._settings.reconnect_most_s)
        standing = self._standing
        place = 0
        while True:
            standing.connecting(self._settings.endpoints[place])
            self._reconnect_after_s = 0.0
            connections = standing.connections
            started_s = self._monotonic_s()
            why = "the connection ended"
            try:
                await self._connection()
            except Exception as error:
                why = self._explain(error)
            finally:
                self._down()
            backoff = backoff.ended(self._monotonic_s() - started_s, useful=standing.useful)
            # The first endpoint is preferred: after a link that was up, begin there again.
            came_up = standing.connections > connections
            place = 0 if came_up else (place + 1) % len(self._settings.endpoints)
            wait_s = hinted_s(backoff.wait_s(self._draw()), self._reconnect_after_s, self._draw())
            standing.waits(why, wait_s)
            await asyncio.sleep(wait_s)

    def _explain(self, cause: Exception) -> str:
        if isinstance(cause, PlatformFaultError):
            self._alarm("uplink.platform_fault", self._standing.endpoint, str(cause))
        elif not isinstance(cause, UplinkError | SignerUnavailableError | aio.AioRpcError):
            # The outbox failed, or this code did: shown, logged with its trace, and tried again.
            _log.error("uplink.fault", error=describe(cause), exc_info=cause)
        why = describe(cause)
        if "too_many_pings" in why:
            # A strict server counts pings on a quiet link as abuse: ping less from now on.
            self._keepalive_s *= 2
        return why

    def _alarm(self, code: str, subject: str, text: str, *, odd: bool = True) -> None:
        """`odd`: nothing else shows it, so it is shown for a day."""
        now_s = self._monotonic_s()
        if odd:
            self._standing.odd(text)
        last_s = self._alarmed_s.get((code, subject))
        if last_s is None or now_s - last_s >= ALARM_AGAIN_S:
            self._alarmed_s[code, subject] = now_s
            self._listener.on_alarm(code, subject, text)

    async def _connection(self) -> None:
        """One connection to the present endpoint. Ends by an exception, always."""
        if self._standing.endpoint.startswith(MQTT_SCHEME):
            await self._mqtt_connection()
            return
        self._renewed.clear()
        credentials = await asyncio.to_thread(self._credentials)
        channel = open_channel(
            self._standing.endpoint,
            credentials,
            server_name=self._settings.server_name,
            keepalive_s=self._keepalive_s,
            compressed=self._settings.compression,
        )
        async with channel:
            await together(self._use(channel), self._until_renewed())

    async def _use(self, channel: aio.Channel) -> None:
        try:
            line = GrpcLine(channel, count_packed=self._count_packed)
            await self._link(line, self._device_streams(channel, None).run)
        except NotOfferedError:
            await self._carry(channel)
        raise LinkDownError("the connection ended")

    async def _mqtt_connection(self) -> None:
        """As `_connection`, over a broker."""
        host, port = split_address(self._standing.endpoint.removeprefix(MQTT_SCHEME))
        login = await self._mqtt_login(f"{host}:{port}")
        line = MqttLine(
            host,
            port,
            login,
            gateway_id=self._identity.gateway_id,
            keepalive_s=self._settings.stall_s,
            on_command=self._listener.command,
            on_signed=self._listener.signed,
            on_garbage=functools.partial(self._alarm, "uplink.mqtt_garbage", self._standing.endpoint),
            compressed=self._settings.compression,
        )
        try:
            await line.open(self._settings.stall_s)
            await self._link(line, functools.partial(self._show_live, line))
        finally:
            line.close()

    async def _show_live(self, line: MqttLine) -> None:
        """The devices' newest readings over a broker: what the devices' streams do over gRPC."""

        async def show(live: LiveReadings) -> None:
            live.keep_newest()
            while True:
                live.changed.clear()
                while (telemetry := live.take()) is not None:
                    line.live(telemetry)
                await live.changed.wait()

        await together(*(show(live) for live in self._live.values()))

    async def _link(self, line: FrameLine, beside: Callable[[], Coroutine[None, None, None]]) -> None:
        """The gateway's link over a line, and what goes beside it. Raises NotOfferedError before it is up."""
        self._introduce.clear()
        session, left = await self._new_session(), await left_incarnations(self._outbox)
        call = GatewayLinkCall(
            line,
            session,
            outbox=self._outbox,
            listener=self._listener,
            channel_frames=self._channel_frames,
            bids=self._bids,
            ahead=self._ahead,
            changed=self._changed,
            stall_s=self._settings.stall_s,
            pace=self._pace,
            held_s=lambda incarnation: self._refusals.hold_s(incarnation, self._draw()),
            left=left,
            on_acknowledged=self._standing.acknowledged,
            on_refused=self._on_refused,
        )
        try:
            welcome = await call.open()
            self._session = session
            self._standing.platform_id = escaped(welcome.platform_id)
            oddity = await call.resume(welcome.held, welcome.held_root)
            if oddity is not None:
                self._alarm(oddity.code, self._standing.endpoint, oddity.text)
            self._reconnect_after_s = welcome.reconnect_after_s
            self._up(Carrier.GATEWAY_LINK, f"connected to {self._standing.endpoint}")
            work = [call.run(), beside(), self._listener.connected(), self._until_introduced_again()]
            if self._standing.endpoint != self._settings.endpoints[0]:
                work.append(self._prefer_the_first())
            await together(*work)
        except LeftError:
            raise
        except Exception as error:
            self._ended_over_batches(session, describe(error))
            raise
        finally:
            self._latest_platform_time_us = session.latest_platform_time_us
            call.close()

    async def _until_introduced_again(self) -> None:
        await self._introduce.wait()
        raise LeftError("well, but the gateway has more to say of who it is, and says it when it connects")

    async def _until_renewed(self) -> None:
        await self._renewed.wait()
        raise LeftError("well, but there is a new client certificate, and it is used from now on")

    async def _prefer_the_first(self) -> None:
        """An endpoint that is not the first one is a makeshift: now and then the first is tried again."""
        await asyncio.sleep(self._settings.prefer_first_after_s)
        raise LeftError(f"well, but {self._settings.endpoints[0]} is preferred and is tried again")

    async def _carry(self, channel: aio.Channel) -> None:
        """The published contract alone: the devices' streams carry everything, until the connection is lost."""
        endpoint = self._standing.endpoint
        if endpoint not in self._heard:
            self._heard[endpoint] = await heard_at(self._outbox, endpoint)
        heard = self._heard[endpoint]
        to = self._settings.statements_as_telemetry
        tells_all = to is StatementsAsTelemetry.ALWAYS or (to is StatementsAsTelemetry.KNOWN and bool(heard.word))
        self._carrying = Carrying(
            self._outbox,
            self._standing.arrived,
            incarnation=self._identity.incarnation,
            ahead=self._ahead,
            stream_of=self._origins.stream_of if tells_all else None,
            heard=heard,
            undecided=to is StatementsAsTelemetry.KNOWN and not heard.word,
        )
        self._up(
            Carrier.DEVICE_STREAMS, f"connected to {self._standing.endpoint}, which has the published contract only"
        )
        work = [self._device_streams(channel, self._carrying).run()]
        if self._standing.endpoint != self._settings.endpoints[0]:
            work.append(self._prefer_the_first())
        await together(*work)

    def _device_streams(self, channel: aio.Channel, carrying: Carrying | None) -> DeviceStreams:
        return DeviceStreams(
            channel,
            live=self._live,
            listener=self._listener,
            details=self._standing.device_details,
            reconnect=Backoff(self._settings.reconnect_least_s, self._settings.reconnect_most_s),
            stall_s=self._settings.stall_s,
            draw=self._draw,
            origins=self._origins,
            pace=self._pace,
            count_packed=self._count_packed,
            on_refused=functools.partial(self._alarm, "uplink.device_refused", odd=False),
            on_fault=lambda code, text: self._alarm(code, self._standing.endpoint, text),
            carrying=carrying,
        )

    async def _new_session(self) -> Session:
        return Session(
            self._identity,
            self._platform_key,
            next_batch_number=await self._outbox.acknowledged_number() + 1,
            now_s=self._monotonic_s(),
            stall_s=self._settings.stall_s,
            latest_platform_time_us=self._latest_platform_time_us,
            probed=self._refusals.probed,
        )

    def _up(self, carrier: Carrier, detail: str) -> None:
        # Frames of before belong to a re-establishment that is over.
        self._channel_frames.clear()
        self._standing.up(carrier, detail)

    def _down(self) -> None:
        self._standing.down()
        self._session = None
        self._carrying = None
        self._channel_frames.clear()

    def _ended_over_batches(self, session: Session, why: str) -> None:
        for text in self._refusals.ended(session.owed, session.progressed, why):
            self._alarm("uplink.batch_refused", self._standing.endpoint, text)

    def _on_refused(self, refused: Refused) -> None:
        # The alarm is logged, too, and not more often than it is raised: a flood of forgeries must not fill the disk.
        self._alarm(refused.code, self._standing.endpoint, refused.text)
