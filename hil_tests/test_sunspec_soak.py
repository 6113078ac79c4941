"""Twenty thousand polls of a device that misbehaves at random: nothing grows, and no wrong value is ever accepted.

The line is real Modbus TCP and RTU in bytes, fed by a fake wire, so that a time-out costs no time: the loop's clock is
what `asyncio` has, and the device answers, or is silent, at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import struct
import sys
from collections.abc import Callable

import pytest
import structlog

from drivers.device import DeviceKind, Sample
from drivers.sunspec import ConnectionPool, SunSpecDevice, connection, discovery, pace, rtu, transport
from drivers.sunspec.endpoint import Endpoint
from drivers.sunspec.errors import SunSpecError
from drivers.sunspec.tls import TlsFiles
from drivers.sunspec.wire import Wire
from tests.drivers.sunspec.fakes import FakeDevice, MemoryJournal, Time, pv, set_point

POLLS = 20_000
WARM_UP = 2_000
MOST_GROWTH = 4_500
"""Blocks of memory, from the end of the warm-up: one more in every fourth poll would be a leak."""
CODES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 99)
POWERS = range(-4_999, -1)


class Misbehaving:
    """A device on a fake wire: every poll has another power, and a third of the answers is spoilt in some way."""

    def __init__(self, scheme: str, seed: int) -> None:
        self.fake: FakeDevice = pv()
        self.draw = random.Random(seed)
        self.is_rtu = scheme == "rtutcp"
        self.true_w = 0
        self.spoils = True
        self.late: list[bytes] = []
        """Answers that are still to come."""
        self.spoilt = 0
        self.wires = 0

    def set_power(self, power_w: int) -> None:
        self.true_w = power_w
        set_point(self.fake, 701, "W", -power_w)

    def answer(self, message: bytes) -> list[bytes]:
        """What arrives for a request: pieces."""
        right = self._right(message)
        if not self.spoils or self.draw.random() < 0.67:
            return [right]
        self.spoilt += 1
        other = self._framed(message, bytes([message[self._at]]) + b"\x02\x12\x34")
        pieces: list[Callable[[], list[bytes]]] = [
            list,
            lambda: [right[: self.draw.randrange(1, len(right))]],
            lambda: [right[:5], right[5:]],
            lambda: [self.draw.randbytes(self.draw.randrange(1, 40))],
            lambda: [
                self._framed(message, bytes([message[self._at] | 0x80, self.draw.choice((1, 2, 3, 4, 5, 6, 11))]))
            ],
            lambda: [other],
            lambda: [self._wrong_unit(right)],
            lambda: [self._wrong_transaction(right)],
            lambda: [self._flipped(right)],
            lambda: self._later(right),
        ]
        return self.draw.choice(pieces)()

    @property
    def _at(self) -> int:
        return 1 if self.is_rtu else 7

    def _right(self, message: bytes) -> bytes:
        address, count = struct.unpack(">HH", message[self._at + 1 : self._at + 5])
        try:
            words = self.fake.read(address, count)
        except SunSpecError:
            return self._framed(message, bytes([message[self._at] | 0x80, 2]))
        finally:
            self.fake.reads.clear()
        return self._framed(message, struct.pack(f">BB{count}H", 3, 2 * count, *words))

    def _framed(self, message: bytes, pdu: bytes) -> bytes:
        if self.is_rtu:
            return rtu.frame(message[0], pdu)
        return message[:4] + struct.pack(">HB", len(pdu) + 1, message[6]) + pdu

    def _wrong_unit(self, right: bytes) -> bytes:
        if self.is_rtu:
            return rtu.frame(9, right[1:-2])
        return right[:6] + b"\x09" + right[7:]

    def _wrong_transaction(self, right: bytes) -> bytes:
        return right[:-1] if self.is_rtu else self.draw.randbytes(2) + right[2:]

    def _flipped(self, right: bytes) -> bytes:
        """One bit in what a checksum (RTU) or a header (TCP, whose own checksum is below us) protects."""
        at = self.draw.randrange(len(right) if self.is_rtu else 6)
        return right[:at] + bytes([right[at] ^ 1 << self.draw.randrange(8)]) + right[at + 1 :]

    def _later(self, right: bytes) -> list[bytes]:
        self.late.append(right)
        return []


class FastWire(Wire):
    """Answers within the loop's next turn; a silence ends as soon as nothing more can come."""

    def __init__(self, device: Misbehaving, expire: Callable[[], None]) -> None:
        super().__init__()
        self._device = device
        self._expire = expire
        self._open = True
        device.wires += 1

    @property
    def is_open(self) -> bool:
        return self._open

    def send(self, data: bytes) -> None:
        late, self._device.late = self._device.late, []
        pieces = self._device.answer(data)
        self._loop.call_soon(self._arrive, [*late, *pieces])

    def _arrive(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if self._open and self.received is not None:
                self.received(piece)
        self._expire()

    def close(self) -> None:
        self._open = False


def fast(monkeypatch: pytest.MonkeyPatch, device: Misbehaving) -> None:
    """Lines with the fake wire, and time-outs as soon as the device has said what it says."""

    async def opened(*of: object) -> Wire:
        line = lines[-1]
        return FastWire(device, lambda: line._settle(TimeoutError()))

    lines: list[transport._WireLine] = []

    def made(endpoint: Endpoint, tls: TlsFiles | None = None) -> transport.Line:
        line = transport.RtuLine(endpoint) if device.is_rtu else transport.TcpLine(endpoint, tls)
        lines.append(line)
        return line

    monkeypatch.setattr(transport, "open_wire", opened)
    monkeypatch.setattr(connection, "open_line", made)
    monkeypatch.setattr(connection, "BUSY_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(discovery, "BACKOFF_LEAST_S", 0.0)
    monkeypatch.setattr(pace, "STEPS_S", ())
    monkeypatch.setattr(transport, "DRAIN_S", 0.0)
    monkeypatch.setattr(rtu, "LEAST_SILENCE_S", 0.0)
    monkeypatch.setattr(rtu, "SILENT_CHARACTERS", 0.0)


@pytest.mark.parametrize("scheme", ["tcp", "rtutcp"])
async def test_nothing_grows_and_no_wrong_value_is_accepted(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, misbehaving = Time(), Misbehaving(scheme, seed=1)
    fast(monkeypatch, misbehaving)
    pool = ConnectionPool(clock)
    device = SunSpecDevice(
        "pv-1",
        DeviceKind.PV,
        f"{scheme}://192.0.2.1:502",
        1,
        period_s=1.0,
        timeout_s=1.0,
        connections=pool,
        monotonic_s=clock,
        journal=MemoryJournal(),
    )
    right, failed = 0, 0
    meter_ids: set[str] = set()
    quietly = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quietly, cache_logger_on_first_use=False)
    try:
        for poll in range(POLLS):
            if poll == WARM_UP:
                tasks, before = len(asyncio.all_tasks()), _blocks()
            misbehaving.set_power(misbehaving.draw.choice(POWERS))
            clock.now_s += 1.0
            sample = await _look(device)
            if sample is None:
                failed += 1
                continue
            right += 1
            meter_ids.add(sample.meter_id)
            assert sample.power_w in (None, misbehaving.true_w)
            assert sample.export_register_milliwatt_hours in (None, 123_456_000)
            assert sample.import_register_milliwatt_hours in (None, 789_000)
        grown = _blocks() - before
    finally:
        structlog.reset_defaults()
    assert right > POLLS // 10
    assert failed > POLLS // 10, "it did misbehave"
    assert misbehaving.spoilt > POLLS // 5
    assert meter_ids == {"Maker/Model X/S-1"}, "nor was it ever taken for another"
    assert len(asyncio.all_tasks()) == tasks
    assert grown < MOST_GROWTH, f"{grown} blocks more than after {WARM_UP} polls"
    misbehaving.spoils = False
    clock.now_s += 1000.0
    last = None
    for _ in range(10):
        clock.now_s += 10.0
        last = await _look(device)
    assert last is not None
    assert last.power_w == misbehaving.true_w, "well again, it is read again"
    pool.close()


async def _look(device: SunSpecDevice) -> Sample | None:
    try:
        return await device.look()
    except SunSpecError:
        return None


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
