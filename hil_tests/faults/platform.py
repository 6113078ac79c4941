"""The practice platform of a fault run: it may say its acknowledgements twice, late and in any order.

python -m hil_tests.faults.platform FOLDER --port PORT [--broker-port PORT --broker-certificate FILE --broker-key FILE].
Events of the platform as JSON lines on stdout; orders on stdin:
{"do": "acknowledge", "how": "at once" | "mixed" | "not"}, and {"do": "replay"}: all that was said about channels again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from hil_tests.rig.broker import ClientFiles
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.service import Server
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame, PlatformFrame

MOST_KEPT: Final = 50


class How(StrEnum):
    """How acknowledgements go out."""

    AT_ONCE = "at once"
    MIXED = "mixed"
    """Some are held back, some come twice, old ones come again, and all in any order."""
    NOT = "not"


class MixingPlatform(Platform):
    """A platform whose acknowledgements may be a mess; what they say is always true."""

    def __init__(
        self, practice: Practice, book: Book, *, say: Callable[[dict[str, object]], None], chance: random.Random
    ) -> None:
        super().__init__(practice, book, say=say, now_us=lambda: time.time_ns() // 1000)
        self._chance = chance
        self._kept: list[bytes] = []
        self._said_of_channels: list[ChannelFrame] = []
        self._how = How.AT_ONCE

    def take_telemetry(self, gateway_id: str, telemetry: DeviceTelemetry, *, carried: bool) -> int:
        """As the platform does, and tells of the batch that the reading's receipt is of."""
        taken = super().take_telemetry(gateway_id, telemetry, carried=carried)
        shown = self.audits[gateway_id].verifier.verify_receipt(telemetry.signature, telemetry.statement)
        self._say({"shown": [shown.batch.incarnation, shown.batch.number, shown.root.hex()]})
        return taken

    def take_batch(self, gateway_id: str, encoded: bytes) -> bytes | None:
        """As the platform does; the answer may be another acknowledgement, or none."""
        if self._has_lost_some_before(gateway_id, encoded):
            return None
        acknowledgement = super().take_batch(gateway_id, encoded)
        if acknowledgement is None or self._how is How.AT_ONCE:
            return acknowledgement
        self._kept = [*self._kept, acknowledgement][-MOST_KEPT:]
        if self._how is How.MIXED and self._chance.random() < 0.5:
            self._send_mixed(gateway_id)
        return None

    def _has_lost_some_before(self, gateway_id: str, encoded: bytes) -> bool:
        """A platform that lost its last second, behind a broker: the gateway has not noticed, and sends what is next.

        That contradicts nothing. Unacknowledged, it makes the gateway connect anew and ask where we stand.
        """
        at, batch = self.audits[gateway_id].position, self.audits[gateway_id].verifier.verify_batch(encoded).identity
        return batch.number > (at.number + 1 if at is not None and at.incarnation == batch.incarnation else 1)

    def _send_channel(self, gateway_id: str, frames: list[ChannelFrame]) -> None:
        self._said_of_channels = [*self._said_of_channels, *frames][-MOST_KEPT:]
        super()._send_channel(gateway_id, frames)

    def replay_channels(self) -> int:
        """Send it all again, in any order. How many messages."""
        again = [*self._said_of_channels]
        self._chance.shuffle(again)
        for gateway_id in self.audits:
            super()._send_channel(gateway_id, again)
        return len(again)

    def acknowledge(self, how: How) -> None:
        """From now on. What was held back goes out, out of order, when all is well again."""
        self._how = how
        if how is How.AT_ONCE:
            for gateway_id in self.audits:
                self._send_mixed(gateway_id)
            self._kept.clear()

    def _send_mixed(self, gateway_id: str) -> None:
        link = self._links.get(gateway_id)
        if link is None:
            return
        mixed = self._chance.choices(self._kept, k=len(self._kept)) + self._kept
        self._chance.shuffle(mixed)
        for each in mixed:
            link.put_nowait(PlatformFrame(acknowledgement=each))


def _say(event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)


async def _serve(folder: Path, port: int, seed: int, broker_port: int | None, files: ClientFiles) -> None:
    practice = Practice.open(folder)
    with Book(folder / "book.sqlite") as book:
        platform = MixingPlatform(practice, book, say=_say, chance=random.Random(seed))
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        async with contextlib.AsyncExitStack() as carriers:
            await carriers.enter_async_context(Server(platform, practice, port=port))
            if broker_port is not None:
                await carriers.enter_async_context(BrokerService(platform, practice, files, broker_port))
            _say({"ready": True})
            orders = asyncio.create_task(_take_orders(platform, ended))
            await ended.wait()
            orders.cancel()


async def _take_orders(platform: MixingPlatform, ended: asyncio.Event) -> None:
    """Until stdin ends, and with it whoever started us."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        order = json.loads(line)
        if order["do"] == "replay":
            _say({"replayed": platform.replay_channels()})
            continue
        how = How(order["how"])
        platform.acknowledge(how)
        _say({"acknowledging": how.value})
    ended.set()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m hil_tests.faults.platform")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker-port", type=int)
    parser.add_argument("--broker-certificate", type=Path)
    parser.add_argument("--broker-key", type=Path)
    chosen = parser.parse_args()
    login = ClientFiles(chosen.broker_certificate, chosen.broker_key)
    asyncio.run(_serve(chosen.folder, chosen.port, chosen.seed, chosen.broker_port, login))
