"""Bench `wire`: bytes on the wire for each reading of an hour of 50 devices at 1 s, over gRPC and over MQTT.

The hour is stored as in bench `outage`, one batch of 50 readings a second, and drained once over each carrier, plain
and compressed, by the real uplink to a platform that acknowledges and audits nothing. Counted is all that goes up on
TCP: TLS, logins and acknowledgements of what comes down are in it. MQTT where mosquitto is installed.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from agent.clock import Clock
from agent.config import PlatformSettings
from agent.identity.purposes import UPLINK_KEY
from agent.store import Store
from agent.token.token import Token
from agent.uplink.mqtt_login import log_in
from agent.uplink.outbox import WaitingBatch
from agent.uplink.session import UplinkIdentity
from agent.uplink.tls import credentials_from_files
from agent.uplink.uplink import Uplink
from drivers.device import Signer
from hil_tests.bench._gateway import Installed, device_ids, install
from hil_tests.bench._receiver import Receiver
from hil_tests.bench.outage import DEVICES, HOUR_S, store_a_day, token_of
from hil_tests.rig.broker import PLATFORM, client_files, mosquitto, running_broker
from hil_tests.rig.demo.child import StageError
from hil_tests.rig.link import Link
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.service import Server

HOURS: Final = 1
MOST_DRAIN_S: Final = 300.0
SIGN_S: Final = 10.0


def run(progress: Callable[[str], None], *, hours: int = HOURS) -> dict[str, float]:
    """The figures of this bench by their JSON keys."""
    with tempfile.TemporaryDirectory(prefix="v2g-bench-") as folder:
        return asyncio.run(_measure(progress, Path(folder), hours))


async def _measure(progress: Callable[[str], None], folder: Path, hours: int) -> dict[str, float]:
    installed = await install(folder)
    await store_a_day(progress, installed, hours)
    practice = Practice.open(installed.platform_dir)
    readings = DEVICES * hours * HOUR_S
    figures: dict[str, float] = {}
    async with token_of(installed) as token, await Store.open(installed.state_dir) as store:
        signer = token.signer(UPLINK_KEY)
        await signer.meet()
        for carrier in ("grpc", "mqtt") if mosquitto() is not None else ("grpc",):
            for compression in (False, True):
                with Book(folder / "receiver.sqlite") as book:
                    receiver = Receiver(practice, book)
                    outbox = Again(store)
                    async with serving(carrier, receiver, practice, installed) as link:
                        scheme = "mqtts://" if carrier == "mqtt" else ""
                        settings = _settings(installed, practice, scheme + link.address, compression=compression)
                        await _drain(_uplink(settings, installed, outbox, token, signer), outbox)
                        sent = link.bytes_sent
                if receiver.readings != readings:
                    raise StageError(f"{receiver.readings} of {readings} readings arrived over {carrier}")
                name = f"{carrier}_{'gzip' if compression else 'plain'}_bytes_per_reading"
                figures[name] = round(sent / readings, 2)
                progress(f"{name}: {figures[name]}")
    return figures


@asynccontextmanager
async def serving(carrier: str, receiver: Receiver, practice: Practice, installed: Installed) -> AsyncIterator[Link]:
    """The platform behind a link that counts."""
    async with AsyncExitStack() as stack:
        if carrier == "grpc":
            port = (await stack.enter_async_context(Server(receiver, practice))).port
        else:
            broker = await stack.enter_async_context(running_broker(practice, installed.folder / "broker"))
            files = client_files(practice, installed.folder / "clients", PLATFORM)
            await stack.enter_async_context(BrokerService(receiver, practice, files, broker.port))
            port = broker.port
        yield await stack.enter_async_context(Link("127.0.0.1", port))


class Again:
    """The outbox of a store from which nothing was ever acknowledged; what is, is noted here alone."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._up_to = 0
        self.all_there = asyncio.Event()

    async def unacknowledged_incarnations(self) -> Sequence[int]:
        return await self._store.unacknowledged_incarnations()

    async def incarnations(self) -> Sequence[int]:
        return await self._store.incarnations()

    async def unacknowledged(
        self, after_number: int, limit: int, *, incarnation: int | None = None
    ) -> Sequence[WaitingBatch]:
        return await self._store.unacknowledged(max(after_number, self._up_to), limit, incarnation=incarnation)

    async def acknowledged_number(self, incarnation: int | None = None) -> int:
        return self._up_to

    async def batches(self, from_number: int, limit: int, *, incarnation: int | None = None) -> Sequence[WaitingBatch]:
        return await self._store.batches(from_number, limit, incarnation=incarnation)

    async def unacknowledged_with(
        self, kinds: Collection[int], after_number: int, *, incarnation: int | None = None
    ) -> Sequence[int]:
        return await self._store.unacknowledged_with(kinds, after_number, incarnation=incarnation)

    async def newest_of(self, device_id: str, kind: int) -> bytes | None:
        return await self._store.newest_of(device_id, kind)

    async def note(self, name: str) -> bytes | None:
        return None

    async def set_notes(self, notes: Mapping[str, bytes | None]) -> None:
        """Nothing is kept from one run to the next."""

    async def acknowledge(self, incarnation: int, up_to_number: int, at_us: int) -> int:
        before, self._up_to = self._up_to, max(self._up_to, up_to_number)
        if not await self._store.unacknowledged(self._up_to, 1):
            self.all_there.set()
        return self._up_to - before


def _settings(installed: Installed, practice: Practice, endpoint: str, *, compression: bool) -> PlatformSettings:
    ours = client_files(practice, installed.folder / "clients", installed.gateway_id)
    return PlatformSettings(
        endpoints=[endpoint],
        server_name="localhost",
        ca_file=practice.public_file("ca"),
        certificate_file=Path(str(installed.enrolled["certificate_file"])),
        platform_key_file=practice.public_file("platform"),
        trust_root_file=practice.public_file("trust-root"),
        trust_list_file=practice.trust_list_file,
        mqtt_certificate_file=ours.certificate,
        mqtt_certificate_key_file=ours.key,
        compression=compression,
    )


def _uplink(settings: PlatformSettings, installed: Installed, outbox: Again, token: Token, signer: Signer) -> Uplink:
    async def nothing(*_: object) -> None:
        """Nobody commands here, and no channel is settled."""

    def unheard(*_: object) -> None:
        """Neither the platform's time nor its oddities matter here."""

    return Uplink(
        settings,
        identity=UplinkIdentity(
            gateway_id=installed.gateway_id,
            incarnation=1,
            boot_id=bytes(16),
            software_version="bench",
            device_ids=tuple(device_ids(DEVICES)),
        ),
        outbox=outbox,
        credentials=lambda: credentials_from_files(
            ca_file=settings.ca_file,
            certificate_file=settings.certificate_file,
            public_key_der=signer.public_key_der,
            sign_digest=lambda digest: token.sign_blocking(UPLINK_KEY, digest, SIGN_S),
        ),
        mqtt_login=functools.partial(log_in, settings, signer, installed.gateway_id, Clock()),
        platform_key=Practice.open(installed.platform_dir).key("platform").verify_key,
        clock=Clock(),
        on_command=nothing,
        on_channel=nothing,
        on_connected=nothing,
        on_platform_time=unheard,
        on_alarm=unheard,
    )


async def _drain(uplink: Uplink, outbox: Again) -> None:
    """Raises StageError when it takes too long."""
    running = asyncio.create_task(uplink.run())
    try:
        async with asyncio.timeout(MOST_DRAIN_S):
            await outbox.all_there.wait()
    except TimeoutError:
        raise StageError(f"not drained within {MOST_DRAIN_S:g} s: {uplink.status().detail}") from None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
