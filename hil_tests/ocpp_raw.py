"""A charger that speaks raw OCPP frames over TLS, for tests that say use case by use case what the CSMS must do.

It knows no package and no schema: what a test puts into `answers` is what goes on the wire.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from drivers.device import Sample
from drivers.ocpp import ChargerSettings, OcppServer
from drivers.ocpp.tokens import SiteTokens
from hil_tests.ocpp_station import MemoryJournal, stamp, until

Payload: TypeAlias = dict[str, Any]
Answer: TypeAlias = "Payload | Callable[[Payload], Payload | AnsweredError] | AnsweredError | Silence"


class AnsweredError(Exception):
    """A CALLERROR, either way."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(code, description)
        self.code = code
        self.description = description


class Silence:
    """No answer at all."""


def _each(name: str, request: str, **more: Any) -> Callable[[Payload], Payload]:
    def answer(payload: Payload) -> Payload:
        return {name: [{"component": e["component"], "variable": e["variable"], **more} for e in payload[request]]}

    return answer


def _composite(payload: Payload) -> Payload:
    period = {"startPeriod": 0, "limit": 0}
    schedule = {
        "evseId": payload["evseId"],
        "duration": payload["duration"],
        "scheduleStart": stamp(),
        "chargingRateUnit": payload.get("chargingRateUnit", "W"),
        "chargingSchedulePeriod": [period],
    }
    return {"status": "Accepted", "schedule": schedule}


class RawCharger:
    """One connection. `heard` are the calls that it got, `answers` what it says to them."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[tuple[str, Payload]] = []
        self.list_version = 0
        self.answers: dict[str, Answer] = {
            "SetChargingProfile": {"status": "Accepted"},
            "ClearChargingProfile": {"status": "Accepted"},
            "GetCompositeSchedule": _composite,
            "GetVariables": _each("getVariableResult", "getVariableData", attributeStatus="UnknownVariable"),
            "SetVariables": _each("setVariableResult", "setVariableData", attributeStatus="Accepted"),
            "TriggerMessage": {"status": "Rejected"},
            "GetTransactionStatus": {"messagesInQueue": False},
            "GetBaseReport": {"status": "NotSupported"},
            "GetLocalListVersion": lambda _: {"versionNumber": self.list_version},
            "SendLocalList": self._take_list,
        }
        self._waiting: dict[str, asyncio.Future[Payload]] = {}

    def calls(self, action: str) -> list[Payload]:
        return [payload for name, payload in self.heard if name == action]

    async def hear(self, action: str, count: int = 1) -> Payload:
        """Waits for the count-th call of this action."""
        await until(lambda: len(self.calls(action)) >= count, f"call {count} of {action}; heard {self.heard}")
        return self.calls(action)[count - 1]

    async def ask(self, action: str, payload: Payload, *, message_id: str | None = None) -> Payload:
        """The answer; raises AnsweredError."""
        message_id = message_id or str(uuid.uuid4())
        future: asyncio.Future[Payload] = asyncio.get_running_loop().create_future()
        self._waiting[message_id] = future
        await self.socket.send(orjson.dumps([2, message_id, action, payload]).decode())
        async with asyncio.timeout(10):
            return await future

    async def boot(self, serial: str = "S1", reason: str = "PowerUp") -> Payload:
        station = {"vendorName": "Test", "model": "Raw", "serialNumber": serial, "firmwareVersion": "1.0"}
        return await self.ask("BootNotification", {"chargingStation": station, "reason": reason})

    async def ready(self) -> None:
        """Booted and provisioned."""
        assert (await self.boot())["status"] == "Accepted"
        await self.hear("GetBaseReport")

    async def event(self, kind: str, number: int, **more: Any) -> Payload:
        """A TransactionEvent; returns the answer."""
        info = {"transactionId": more.pop("transaction", "T1"), **more.pop("info", {})}
        return await self.ask(
            "TransactionEvent",
            {
                "eventType": kind,
                "timestamp": more.pop("timestamp", stamp()),
                "triggerReason": more.pop("trigger", "Authorized" if kind == "Started" else "MeterValuePeriodic"),
                "seqNo": number,
                "transactionInfo": info,
                "evse": {"id": more.pop("evse", 1), "connectorId": 1},
                **more,
            },
        )

    async def run(self) -> None:
        """Answers until the socket closes."""
        async for message in self.socket:
            kind, message_id, *rest = orjson.loads(message)
            if kind == 2:
                await self._answer(message_id, rest[0], rest[1])
            elif message_id in self._waiting and not self._waiting[message_id].done():
                future = self._waiting[message_id]
                if kind == 3:
                    future.set_result(rest[0])
                else:
                    future.set_exception(AnsweredError(rest[0], rest[1]))

    async def _answer(self, message_id: str, action: str, payload: Payload) -> None:
        self.heard.append((action, payload))
        answer = self.answers.get(action, AnsweredError("NotImplemented"))
        if callable(answer):
            answer = answer(payload)
        if isinstance(answer, Silence):
            return
        if isinstance(answer, AnsweredError):
            frame = [4, message_id, answer.code, answer.description, {}]
        else:
            frame = [3, message_id, answer]
        await self.socket.send(orjson.dumps(frame).decode())

    def _take_list(self, payload: Payload) -> Payload:
        self.list_version = payload["versionNumber"]
        return {"status": "Accepted"}


def token(name: str, kind: str = "ISO14443") -> Payload:
    return {"idToken": name, "type": kind}


class Authority:
    """A certificate authority for tests."""

    def __init__(self, name: str, *, days: int = 30, parent: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key.public_key(), parent or self, days=days, ca=True)

    def issue(
        self, name: str, key: ec.EllipticCurvePrivateKey, *, days: int = 30, hosts: Sequence[str] = ()
    ) -> x509.Certificate:
        return self._sign(name, key.public_key(), self, days=days, ca=False, hosts=hosts)

    @staticmethod
    def _sign(
        name: str,
        key: ec.EllipticCurvePublicKey,
        by: Authority,
        *,
        days: int,
        ca: bool,
        hosts: Sequence[str] = (),
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = by.certificate.subject if hasattr(by, "certificate") else subject
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=40))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(by.key, hashes.SHA256())


def pem(*certificates: x509.Certificate) -> str:
    return "".join(c.public_bytes(serialization.Encoding.PEM).decode() for c in certificates)


def write_pair(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Path:
    """Certificate and key in one file."""
    file = folder / f"{name}.pem"
    file.touch(mode=0o600)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_text(private.decode() + pem(certificate))
    return file


@dataclass
class TlsSite:
    """Our CSMS behind TLS, what it said and measured, and chargers to connect to it."""

    folder: Path
    settings: Sequence[ChargerSettings]
    tokens: SiteTokens = field(default_factory=SiteTokens)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    options: Mapping[str, Any] = field(default_factory=dict)
    """More arguments of the server."""
    version: str = "ocpp2.0.1"
    """What its chargers speak."""

    def __post_init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.samples: list[Sample] = []
        self.authority = Authority("Site test root")
        key = ec.generate_private_key(ec.SECP256R1())
        pair = write_pair(self.folder, "server", self.authority.issue("csms", key, hosts=["localhost"]), key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair)
        context.load_verify_locations(cadata=pem(self.authority.certificate))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self.tls = context
        self.server = self.make_server()

    def make_server(self) -> OcppServer:
        """Another life of the CSMS, over the same journal."""
        return OcppServer(
            "127.0.0.1",
            0,
            self.settings,
            heartbeat_s=300,
            meter_interval_s=60,
            monotonic_s=time.monotonic,
            wall_us=lambda: time.time_ns() // 1000,
            journal=self.journal,
            on_event=lambda *event: self.events.append(event),
            ssl=self.tls,
            tokens=self.tokens,
            **{"call_timeout_s": 5.0, **self.options},
        )

    def codes(self) -> list[str]:
        return [code for code, _, _ in self.events]

    def client_tls(self, pair: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=pem(self.authority.certificate))
        # The test's certificates have no key usage extensions, as those of many chargers.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if pair is not None:
            context.load_cert_chain(pair)
        return context

    def open(
        self,
        identity: str = "CP-1",
        password: str | None = "secret-1",
        *,
        pair: Path | None = None,
    ) -> connect:
        headers = {}
        if password is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{identity}:{password}".encode()).decode()
        return connect(
            f"wss://localhost:{self.server.port}/ocpp/{identity}",
            ssl=self.client_tls(pair),
            host="127.0.0.1",
            server_hostname="localhost",
            subprotocols=[Subprotocol(self.version)],
            additional_headers=headers,
            open_timeout=10,
            close_timeout=1,
            proxy=None,
        )

    @asynccontextmanager
    async def charger(
        self, identity: str = "CP-1", password: str | None = "secret-1", *, pair: Path | None = None
    ) -> AsyncIterator[RawCharger]:
        async with self.open(identity, password, pair=pair) as socket:
            charger = RawCharger(socket)
            listening = asyncio.create_task(charger.run())
            try:
                yield charger
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TlsSite]:
        async with self.server:
            devices = self.server.devices.values()
            tasks = [asyncio.create_task(device.run(self.samples.append)) for device in devices]
            try:
                yield self
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def order(self, name: str, identity: str = "CP-1", **arguments: Any) -> Payload:
        """As the command line would."""
        return await self.server.chargers[identity].desk.order(name, arguments)
