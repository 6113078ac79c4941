"""The platform of the bench `outage`: acknowledges every batch, signed, and audits none: the gateway is measured.

`python -m hil_tests.bench._receiver FOLDER`, the folder of a practice platform. Orders on stdin, JSON lines: {"do":
"figures"} has it say {"readings", "first_s", "last_s", "wire_bytes", "live_readings", "live_ms_p99"}: readings that
arrived in batches, monotonic seconds of the first and the last one, bytes on the wire from the gateway, and how old
readings were that were shown live.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from agent.evidence.acknowledgement import Acknowledgement, prepare
from agent.evidence.batch import decode_batch
from hil_tests.rig.link import Link
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.service import Server
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry


class Receiver(Platform):
    """Takes evidence as fast as it can: a real platform is many machines."""

    def __init__(self, practice: Practice, book: Book) -> None:
        super().__init__(practice, book, say=lambda _: None, now_us=lambda: time.time_ns() // 1000)
        self.readings = 0
        self.first_s = self.last_s = 0.0
        self.live_ms: list[float] = []

    def take_batch(self, gateway_id: str, encoded: bytes) -> bytes | None:
        """Counted, and acknowledged."""
        batch = decode_batch(encoded)
        self.last_s = time.monotonic()
        self.first_s = self.first_s or self.last_s
        self.readings += len(batch.leaves) - 1
        unsigned = prepare(
            Acknowledgement(
                gateway_id=gateway_id,
                incarnation=batch.identity.incarnation,
                batch_number=batch.identity.number,
                root=batch.root,
                platform_time_us=self.now_us(),
            ),
            algorithm=self._key.algorithm,
            key_id=self._key.verify_key.key_id,
        )
        return unsigned.encode(self._key.sign_now(unsigned.to_be_signed))

    def take_telemetry(self, gateway_id: str, telemetry: DeviceTelemetry, *, carried: bool) -> int:
        """Its age, and no answer."""
        self.live_ms.append((self.now_us() - telemetry.timestamp_us) / 1000)
        return 0


def _say(**words: object) -> None:
    print(json.dumps(words), flush=True)


async def _serve(folder: Path) -> None:
    practice = Practice.open(folder)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with Book(folder / "receiver.sqlite") as book:
        receiver = Receiver(practice, book)
        async with Server(receiver, practice) as server, Link("127.0.0.1", server.port) as link:
            _say(ready=True, address=link.address)
            orders = asyncio.create_task(_take_orders(receiver, link, ended))
            await ended.wait()
            orders.cancel()


async def _take_orders(receiver: Receiver, link: Link, ended: asyncio.Event) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        ages = sorted(receiver.live_ms)
        _say(
            readings=receiver.readings,
            first_s=receiver.first_s,
            last_s=receiver.last_s,
            wire_bytes=link.bytes_sent,
            live_readings=len(ages),
            live_ms_p99=ages[len(ages) * 99 // 100] if ages else None,
        )
    ended.set()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
