"""Lines over a wire in memory: what is sent, what of an answer is believed, and what is left for the next request."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

import pytest

from drivers.sunspec import rtu, transport
from drivers.sunspec.endpoint import parse_address
from drivers.sunspec.errors import BadAnswerError, NoAnswerError
from drivers.sunspec.pdu import words_of
from drivers.sunspec.transport import Line, open_line
from drivers.sunspec.wire import Wire

LONG_S = 30.0
SHORT_S = 0.02
Device = Callable[[bytes], list[bytes]]
"""A sent frame -> what comes back, piece by piece."""


class MemoryWire(Wire):
    """A wire with a device at its other end."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device
        self.sent: list[bytes] = []
        self._is_open = True

    @property
    def is_open(self) -> bool:
        return self._is_open

    def send(self, data: bytes) -> None:
        self.sent.append(data)
        for piece in self.device(data):
            self.data_received(piece)

    def close(self) -> None:
        self._is_open = False


async def opened(address: str, device: Device, monkeypatch: pytest.MonkeyPatch) -> tuple[Line, MemoryWire]:
    wire = MemoryWire(device)

    async def open_wire(*of: object) -> Wire:
        return wire

    monkeypatch.setattr(transport, "open_wire", open_wire)
    line = open_line(parse_address(address))
    await line.connect(1.0)
    return line, wire


def tcp_answer(sent: bytes, transaction: int | None = None) -> bytes:
    """A read's answer whose registers hold their own addresses."""
    at, count = struct.unpack(">HH", sent[8:12])
    pdu = bytes((3, 2 * count)) + struct.pack(f">{count}H", *range(at, at + count))
    number = int.from_bytes(sent[:2], "big") if transaction is None else transaction
    return struct.pack(">HHHB", number, 0, len(pdu) + 1, sent[6]) + pdu


def rtu_answer(sent: bytes) -> bytes:
    at, count = struct.unpack(">HH", sent[2:6])
    return rtu.frame(sent[0], bytes((3, 2 * count)) + struct.pack(f">{count}H", *range(at, at + count)))


async def test_late_answers_on_tcp_are_left_aside_and_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[bytes] = []

    def device(sent: bytes) -> list[bytes]:
        if len(late) < 3:
            late.append(tcp_answer(sent))
            return []
        return [*late, *late, tcp_answer(sent)]

    line, _ = await opened("tcp://h", device, monkeypatch)
    for at in (100, 200, 300):
        with pytest.raises(NoAnswerError, match="no answer within"):
            await line.read(1, at, 2, SHORT_S)
    assert words_of(await line.read(1, 400, 2, LONG_S)) == [400, 401]
    assert line.connected


async def test_an_answer_to_what_was_never_asked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    line, _ = await opened("tcp://h", lambda sent: [tcp_answer(sent, transaction=0)], monkeypatch)
    with pytest.raises(BadAnswerError, match="transaction 0"):
        await line.read(1, 100, 2, LONG_S)


async def test_half_an_answer_costs_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    line, _ = await opened("tcp://h", lambda sent: [tcp_answer(sent)[:-1]], monkeypatch)
    with pytest.raises(NoAnswerError, match="only the beginning"):
        await line.read(1, 100, 2, SHORT_S)
    assert not line.connected


async def test_a_wire_that_is_lost_ends_the_waiting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("tcp://h", "rtutcp://h"):
        line, wire = await opened(address, lambda sent: [], monkeypatch)
        asking = asyncio.create_task(line.read(1, 100, 2, LONG_S))
        while not wire.sent:  # noqa: ASYNC110 - the wire is memory
            await asyncio.sleep(0)
        wire.connection_lost(OSError("pulled out"))
        with pytest.raises(NoAnswerError, match="pulled out"):
            await asking


async def test_after_a_missing_answer_an_rtu_unit_is_asked_for_another_shape_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent = True
    late: list[bytes] = []

    def device(sent: bytes) -> list[bytes]:
        if silent:
            late.append(rtu_answer(sent))
            return []
        return [*late, rtu_answer(sent)]  # the late one comes first, every time

    line, wire = await opened("rtutcp://h", device, monkeypatch)
    with pytest.raises(NoAnswerError):
        await line.read(1, 100, 2, SHORT_S)
    silent = False
    asking = asyncio.create_task(line.read(1, 200, 2, LONG_S))
    while len(wire.sent) < 2:  # noqa: ASYNC110 - the wire is memory
        await asyncio.sleep(0.001)
    late.clear()  # it was said, with the answer to the probe
    assert words_of(await asking) == [200, 201]
    assert [struct.unpack(">BHH", sent[1:6]) for sent in wire.sent] == [(3, 100, 2), (3, 200, 1), (3, 200, 2)]


async def test_another_unit_on_the_line_is_asked_without_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def device(sent: bytes) -> list[bytes]:
        return [] if sent[0] == 9 else [rtu_answer(sent)]

    line, wire = await opened("rtutcp://h", device, monkeypatch)
    with pytest.raises(NoAnswerError):
        await line.read(9, 100, 2, SHORT_S)
    assert words_of(await line.read(1, 100, 2, LONG_S)) == [100, 101]
    assert [sent[0] for sent in wire.sent] == [9, 1]


async def test_no_write_ever_goes_to_all_units_of_a_serial_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line, wire = await opened("rtutcp://h", lambda sent: [], monkeypatch)
    for asking in (line.write(0, 5, [1], SHORT_S), line.write_one(0, 5, 1, SHORT_S), line.read(0, 5, 1, SHORT_S)):
        with pytest.raises(NoAnswerError, match="unit 0 is all units"):
            await asking
    assert wire.sent == []


async def test_what_was_on_the_line_before_a_request_is_no_answer_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    line, wire = await opened("rtutcp://h", lambda sent: [rtu_answer(sent)], monkeypatch)
    wire.data_received(rtu.frame(1, b"\x03\x04\xde\xad\xbe\xef"))
    assert words_of(await line.read(1, 100, 2, LONG_S)) == [100, 101]
