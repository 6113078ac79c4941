"""The devices that the bench `sunspec` polls: one map of 21 models on as many loopback ports as asked for.

`python -m hil_tests.bench._sunspec_site COUNT` serves them in a process of its own, prints the ports, and ends when its
standard input does.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import sys
from collections.abc import Mapping
from typing import Final

from drivers.sunspec.codec import layout
from drivers.sunspec.models import PointKind, model_definition
from hil_tests.bench._fixtures import sunspec_fixture

BASE: Final = 40000
COMPOSED: Final[Mapping[str, tuple[tuple[int, int], ...]]] = {
    "sma-sb3.6-2025-06": (
        *((1, 66), (12, 98), (101, 50), (120, 26), (121, 30), (122, 44)),
        *((123, 24), (124, 24), (126, 64), (131, 64), (132, 64), (160, 128)),
    ),
    "dersec-1547-emulator": (
        *((701, 153), (702, 50), (704, 65), (705, 67), (706, 40)),
        *((707, 105), (708, 105), (709, 135), (710, 135)),
    ),
}
"""(model, length) by the fixture whose registers they have: 21 models, 1579 registers."""
COUNTS: Final = {705: (1, 4), 706: (1, 4), 707: (2, 5), 708: (2, 5), 709: (2, 5), 710: (2, 5)}
"""(curves, points of each) where the fixtures are absent; models not named repeat by their length."""
MODELS: Final = 21
REGISTERS: Final = 1579


def registers(serial: str) -> list[int]:
    """The map from its marker on, end model included."""
    words = [0x5375, 0x6E53]
    for name, models in COMPOSED.items():
        fixture = sunspec_fixture(name)
        for number, length in models:
            words += _synthetic(number, length) if fixture is None else _cut(fixture, number, length)
    assert len(words) - 2 == REGISTERS
    packed = serial.encode().ljust(32, b"\0")
    words[2 + 50 : 2 + 50 + 16] = struct.unpack(">16H", packed)  # model 1 SN: offset 50, 16 registers
    return [*words, 0xFFFF, 0]


def _cut(fixture: Mapping[int, int], number: int, length: int) -> list[int]:
    start = next(at for at in sorted(fixture) if (fixture[at], fixture.get(at + 1)) == (number, length))
    return [fixture[at] for at in range(start, start + length + 2)]


def _synthetic(number: int, length: int) -> list[int]:
    model, draw = model_definition(number), random.Random(number)
    assert model is not None
    words = [number, length, *[draw.randrange(0x7FFF) for _ in range(length)]]
    for place, name in model.count_places.items():
        curves, points = COUNTS[number]
        words[place] = points if name == "NPt" else curves
    for field in layout(model, length, words).fields.values():
        if field.point.kind is PointKind.SUNSSF:
            words[field.offset] = draw.choice((0, 0xFFFF, 0xFFFE))
        elif field.point.kind is PointKind.STRING:
            words[field.offset : field.end] = [0x4142] * field.point.size
    return words


class _Server(asyncio.Protocol):
    """One device: function 3, any number of connections, written for little of its own cost."""

    def __init__(self, image: bytes) -> None:
        self._image = image
        self._waiting = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._waiting += data
        while len(self._waiting) >= 12:
            transaction, _, _, unit, function, address, count = struct.unpack(">HHHBBHH", self._waiting[:12])
            self._waiting = self._waiting[12:]
            start = 2 * (address - BASE)
            body = self._image[start : start + 2 * count] if start >= 0 else b""
            if function == 3 and len(body) == 2 * count:
                answer = struct.pack(">HHHBBB", transaction, 0, 3 + len(body), unit, 3, len(body)) + body
            else:
                answer = struct.pack(">HHHBBB", transaction, 0, 3, unit, function | 0x80, 2)
            self._transport.write(answer)


async def _serve(count: int) -> None:
    loop = asyncio.get_running_loop()
    ports = []
    for index in range(count):
        words = registers(f"BENCH-{index:04d}")
        image = struct.pack(f">{len(words)}H", *words)
        server = await loop.create_server(lambda image=image: _Server(image), "127.0.0.1", 0)  # type: ignore[misc]
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
