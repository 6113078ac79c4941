"""A gateway's side of the uplink without a gateway, and a practice platform in the same process: for tests."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agent.clock import Clock, Instant
from agent.config import PlatformSettings, StatementsAsTelemetry
from agent.evidence.batch import decode_batch
from agent.evidence.statements import Statement
from agent.identity.csr import certificate_request
from agent.uplink.delivery import readings_of
from agent.uplink.mqtt_login import log_in
from agent.uplink.tls import SignDigest, credentials_from_files
from agent.uplink.uplink import Uplink
from hil_tests.rig.broker import ClientFiles
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.keys import SoftwareKey
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame
from tests.agent.uplink.parts import FIRST_US, Evidence, MemoryOutbox, Row, row_of

NAME = "gateway-1"


async def until(condition: Callable[[], bool], what: str, *, within_s: float = 15.0) -> None:
    """Wait for a condition; fails with `what` when it does not come."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 (conditions of many parts, no one event)
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"did not happen within {within_s} s: {what}")


@dataclass
class Gateway:
    """What a gateway gives to its uplink, and what it gets from it."""

    evidence: Evidence
    tls: SoftwareKey
    device_key: SoftwareKey = field(default_factory=SoftwareKey.generate)
    """Of the settled device "pv"."""
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    commands: list[tuple[GridCommand, str | None]] = field(default_factory=list)
    signed: list[tuple[str, bytes]] = field(default_factory=list)
    channel_frames: list[ChannelFrame] = field(default_factory=list)
    connected: int = 0
    platform_times: list[tuple[int, float]] = field(default_factory=list)
    alarms: list[tuple[str, str, str]] = field(default_factory=list)
    history: bytes = b""
    """Of its name, as its hello says it."""

    async def on_command(self, command: GridCommand, device_id: str | None, received: Instant) -> None:
        self.commands.append((command, device_id))

    async def on_signed(self, kind: str, signed: bytes, received: Instant) -> None:
        self.signed.append((kind, signed))

    async def on_channel(self, frame: ChannelFrame) -> None:
        self.channel_frames.append(frame)

    async def on_connected(self) -> None:
        self.connected += 1

    def on_platform_time(self, time_us: int, round_trip_s: float) -> None:
        self.platform_times.append((time_us, round_trip_s))

    def on_alarm(self, code: str, subject: str, text: str) -> None:
        self.alarms.append((code, subject, text))

    def seal(self, uplink: Uplink, *device_ids: str) -> Row:
        """Seal a batch of readings into the outbox and show its readings live."""
        return self._ready(uplink, self.evidence.row(*device_ids))

    def seal_statements(self, uplink: Uplink, *statements: Statement) -> Row:
        """Seal a batch of any statements into the outbox."""
        return self._ready(uplink, row_of(self.evidence.seal(*statements)))

    def _ready(self, uplink: Uplink, row: Row) -> Row:
        self.outbox.rows.append(row)
        for telemetry in readings_of(decode_batch(row.encoded)):
            uplink.live(telemetry.device_id, telemetry)
        uplink.batch_ready()
        return row


@dataclass
class Rig:
    """A practice platform with one enrolled gateway."""

    practice: Practice
    platform: Platform
    gateway: Gateway
    events: list[dict[str, object]]

    mqtt: ClientFiles | None = None
    """What the gateway logs in with at a broker."""

    def settings(
        self,
        *endpoints: str,
        stall_s: float = 5.0,
        most_kbit_s: int | None = None,
        compression: bool = False,
        statements_as_telemetry: StatementsAsTelemetry = StatementsAsTelemetry.ALWAYS,
    ) -> PlatformSettings:
        return PlatformSettings(
            prefer_first_after_s=2.0,
            mqtt_certificate_file=None if self.mqtt is None else self.mqtt.certificate,
            mqtt_certificate_key_file=None if self.mqtt is None else self.mqtt.key,
            endpoints=list(endpoints),
            server_name="localhost",
            ca_file=self.practice.public_file("ca"),
            certificate_file=self.practice.certificate_file(NAME),
            platform_key_file=self.practice.public_file("platform"),
            trust_root_file=self.practice.public_file("trust-root"),
            trust_list_file=self.practice.trust_list_file,
            reconnect_least_s=0.1,
            reconnect_most_s=1.0,
            stall_s=stall_s,
            most_kbit_s=most_kbit_s,
            compression=compression,
            statements_as_telemetry=statements_as_telemetry,
        )

    @asynccontextmanager
    async def uplink(
        self,
        *endpoints: str,
        stall_s: float = 5.0,
        sign_digest: SignDigest | None = None,
        draw: float = 0.0,
        most_kbit_s: int | None = None,
        compression: bool = False,
        statements_as_telemetry: StatementsAsTelemetry = StatementsAsTelemetry.ALWAYS,
    ) -> AsyncIterator[Uplink]:
        """A running uplink of the gateway."""
        gateway = self.gateway
        settings = self.settings(
            *endpoints,
            stall_s=stall_s,
            most_kbit_s=most_kbit_s,
            compression=compression,
            statements_as_telemetry=statements_as_telemetry,
        )
        sign = sign_digest or gateway.tls.sign_digest_now
        uplink = Uplink(
            settings,
            identity=replace(gateway.evidence.identity("meter", "pv"), history=lambda: gateway.history),
            outbox=gateway.outbox,
            credentials=lambda: credentials_from_files(
                ca_file=settings.ca_file,
                certificate_file=settings.certificate_file,
                public_key_der=gateway.tls.public_key_der,
                sign_digest=sign,
            ),
            mqtt_login=functools.partial(log_in, settings, gateway.tls, gateway.evidence.gateway_id, Clock()),
            platform_key=self.practice.key("platform").verify_key,
            clock=Clock(),
            on_command=gateway.on_command,
            on_channel=gateway.on_channel,
            on_connected=gateway.on_connected,
            on_platform_time=gateway.on_platform_time,
            on_alarm=gateway.on_alarm,
            on_signed=gateway.on_signed,
            draw=lambda: draw,
        )
        task = asyncio.create_task(uplink.run())
        try:
            yield uplink
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled(), task

    def books(self) -> dict[str, object]:
        gateways = self.platform.books()["gateways"]
        assert isinstance(gateways, dict)
        page = gateways[self.gateway.evidence.gateway_id]
        assert isinstance(page, dict)
        return page


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    practice = Practice.make(tmp_path / "platform")
    gateway = Gateway(Evidence(), SoftwareKey.generate())
    request = await certificate_request(gateway.tls, common_name=NAME, did=gateway.evidence.gateway_id)
    practice.enrol(
        request,
        {"evidence": gateway.evidence.key.public_key_der, "device:pv": gateway.device_key.public_key_der},
    )
    events: list[dict[str, object]] = []
    with Book(practice.folder / "book.sqlite") as book:
        yield Rig(practice, Platform(practice, book, say=events.append, now_us=lambda: FIRST_US), gateway, events)


def address(port: int) -> str:
    return f"127.0.0.1:{port}"
