"""Lines: what carries Modbus requests to one endpoint. A new kind of line is one more class here and one scheme below.

A line does one request at a time (its Connection sees to that), checks every answer, never retries and never
reconnects by itself: those are decisions, and `connection.py` makes them.

The lines are our own, on asyncio's transports. pymodbus's clients take a late RTU answer for the next request's, take
transaction 0 for an answer to anything, say "no answer" where there was a wrong one, and cost over twice the CPU
(`hil_tests/bench/modbus_lines.py`). pymodbus builds the requests (`pdu.py`) and is the independent peer of the tests
in hil_tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from drivers.sunspec import mbap, rtu
from drivers.sunspec.endpoint import DEFAULT_PORT, Endpoint, SerialSettings, parse_address
from drivers.sunspec.errors import BadAnswerError, NoAnswerError, SunSpecError, quoted
from drivers.sunspec.names import Lookup
from drivers.sunspec.pdu import (
    EXCEPTION,
    MOST_READ,
    MOST_WRITTEN,
    READ_INPUT,
    Request,
    check,
    read_request,
    write_one_request,
    write_request,
)
from drivers.sunspec.tls import TlsFiles
from drivers.sunspec.wire import Wire, open_wire

DRAIN_S: Final = 0.05
"""After a request without an answer an RTU line must have been silent for this long: what still came is discarded."""
MOST_NOISE_S: Final = 0.5
"""A line that is not silent for so long is of no use at present."""

BROADCAST: Final = 0
"""On a serial line: heard by all, answered by none. MODBUS over Serial Line V1.02, section 2.1."""


class Line(Protocol):
    """One open way to an endpoint. Every method raises NoAnswerError, BadAnswerError or ModbusExceptionError."""

    async def connect(self, timeout_s: float) -> None:
        """Open it. BadAnswerError: the last connection ended, while nobody waited, with what is no Modbus."""
        ...

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        """The octets of exactly `count` holding registers (function 3)."""
        ...

    async def read_input(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        """The same of input registers (function 4): where many meters without SunSpec have their values."""
        ...

    async def write(self, unit: int, address: int, words: Sequence[int], timeout_s: float) -> None:
        """All of `words` in one request (function 16)."""
        ...

    async def write_one(self, unit: int, address: int, word: int, timeout_s: float) -> None:
        """One register (function 6), for devices that refuse function 16."""
        ...

    @property
    def connected(self) -> bool: ...

    def close(self) -> None: ...


class _WireLine:
    """What lines have in common: an open wire, and requests that become answers."""

    def __init__(self, endpoint: Endpoint, tls: TlsFiles | None = None) -> None:
        self._endpoint = endpoint
        self._name = str(endpoint)
        self._tls = tls
        self._lookup = Lookup(endpoint.host, endpoint.port)
        self._wire: Wire | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._due_s = float("inf")
        """When the answer must be there, by the event loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        return self._wire is not None and self._wire.is_open

    async def connect(self, timeout_s: float) -> None:
        self.close()
        wire = await open_wire(self._endpoint, self._tls, timeout_s, self._lookup)
        wire.lost = self._lost
        self._wire = wire
        self._opened()

    def close(self) -> None:
        wire, self._wire = self._wire, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wire is not None:
            wire.received = wire.lost = None
            wire.close()
            self._lost("the line was closed")

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        return (await self._ask(read_request(unit, address, count), timeout_s))[2:]

    async def read_input(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        return (await self._ask(read_request(unit, address, count, READ_INPUT), timeout_s))[2:]

    async def write(self, unit: int, address: int, words: Sequence[int], timeout_s: float) -> None:
        await self._ask(write_request(unit, address, words), timeout_s)

    async def write_one(self, unit: int, address: int, word: int, timeout_s: float) -> None:
        await self._ask(write_one_request(unit, address, word), timeout_s)

    async def _ask(self, request: Request, timeout_s: float) -> bytes:
        raise NotImplementedError

    def _opened(self) -> None:
        """A new wire is there."""

    def _where(self, request: Request) -> str:
        return f"{self._name} {request.what}"

    def _open_wire(self, request: Request) -> Wire:
        wire = self._wire
        if wire is None or not wire.is_open:
            raise NoAnswerError(f"{self._where(request)}: the connection is lost")
        return wire

    async def _answered(self, wire: Wire, message: bytes, timeout_s: float) -> bytes:
        """Send and wait for whoever completes `_answer`. Raises TimeoutError and what the answer raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._answer = answer
        self._due_s = loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._due_s:
            self._wait_until_due(loop)
        try:
            wire.send(message)
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, though we were cancelled in the moment it came
            raise
        finally:
            self._answer = None

    def _wait_until_due(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer a line: it outlasts the request that it was set for, as nearly all are answered long before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._due_s, self._is_due, loop)

    def _is_due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._answer is None:
            return
        if loop.time() < self._due_s:
            self._wait_until_due(loop)
        else:
            self._settle(TimeoutError())

    def _settle(self, answer: bytes | SunSpecError | TimeoutError) -> None:
        waiting = self._answer
        if waiting is None or waiting.done():
            return
        if isinstance(answer, bytes):
            waiting.set_result(answer)
        else:
            waiting.set_exception(answer)

    def _lost(self, reason: str) -> None:
        self._settle(NoAnswerError(f"{self._endpoint}: the connection is lost: {reason}"))


class TcpLine(_WireLine):
    """Modbus TCP, plain or in TLS. Answers to earlier requests of the connection are known by their transaction."""

    def __init__(self, endpoint: Endpoint, tls: TlsFiles | None = None) -> None:
        super().__init__(endpoint, tls)
        self._framer = mbap.MbapFramer()
        self._transactions = mbap.Transactions()
        self._transaction = 0
        self._request: Request | None = None
        self._foreign = ""
        """What ended the last connection while nobody waited: told by the next `connect`."""

    async def connect(self, timeout_s: float) -> None:
        foreign, self._foreign = self._foreign, ""
        if foreign:
            raise BadAnswerError(foreign)
        await super().connect(timeout_s)

    def _opened(self) -> None:
        assert self._wire is not None
        self._framer = mbap.MbapFramer()
        self._transactions = mbap.Transactions()
        self._wire.received = self._received

    async def _ask(self, request: Request, timeout_s: float) -> bytes:
        wire = self._open_wire(request)
        if self._transactions.used_up:
            self.close()
            raise NoAnswerError(f"{self._where(request)}: too many answers are missing on this connection")
        self._request = request
        self._transaction = self._transactions.begin()
        try:
            return await self._answered(wire, mbap.frame(self._transaction, request.unit, request.pdu), timeout_s)
        except TimeoutError:
            where = self._where(request)
            if self._framer.amid_frame:
                # The rest would be taken for the beginning of the next answer.
                self.close()
                raise NoAnswerError(f"{where}: no answer within {timeout_s:g} s, only the beginning of one") from None
            raise NoAnswerError(f"{where}: no answer within {timeout_s:g} s") from None
        finally:
            self._request = None

    def _received(self, data: bytes) -> None:
        try:
            frames = self._framer.feed(data)
        except mbap.ForeignBytesError as error:
            # A web server, or some other protocol, on this port: say so instead of "no answer".
            foreign = f"{self._endpoint}: what answers is not Modbus: {quoted(error.seen)}"
            if self._request is None:
                self._foreign = foreign
            self._settle(BadAnswerError(foreign))
            self.close()
            return
        for frame in frames:
            self._take(frame)

    def _take(self, frame: mbap.MbapFrame) -> None:
        request = self._request
        if request is None or frame.transaction != self._transaction:
            if self._transactions.was_asked(frame.transaction):
                self._transactions.answered(frame.transaction)  # late or double, and of no interest any more
            elif request is not None:
                self._settle(
                    BadAnswerError(
                        f"{self._where(request)}: the answer is to transaction {frame.transaction}, "
                        f"not to ours ({self._transaction})"
                    )
                )
            return
        self._transactions.answered(frame.transaction)
        try:
            self._settle(check(self._name, request, frame.unit, frame.pdu))
        except SunSpecError as error:
            self._settle(error)


class RtuLine(_WireLine):
    """Modbus RTU on a serial port or through a TCP converter: silence between frames, and no late answer is believed.

    An RTU answer does not say what it answers. After a request that was not answered, or not waited for, the unit is
    first asked for something of another shape (`rtu.Unanswered`): only when that has come is its next answer ours.
    """

    def __init__(self, endpoint: Endpoint, tls: TlsFiles | None = None) -> None:
        super().__init__(endpoint, tls)
        self._unanswered = rtu.Unanswered()
        self._silence_s = max(endpoint.transfer_s(1) * rtu.SILENT_CHARACTERS, rtu.LEAST_SILENCE_S)
        self._drains = False

    async def _ask(self, request: Request, timeout_s: float) -> bytes:
        if request.unit == BROADCAST:
            # A write would reach every device of the line.
            raise NoAnswerError(f"{self._where(request)}: not asked, unit 0 is all units; write the device's own id")
        loop = asyncio.get_running_loop()
        probe = self._unanswered.probe(request, loop.time())
        if probe is not None:
            try:
                await self._exchange(probe, timeout_s, exactly=True)
            except NoAnswerError as error:
                raise NoAnswerError(
                    f"{self._where(request)}: not asked, because an earlier answer may still come; {error}"
                ) from error
        return await self._exchange(request, timeout_s, exactly=False)

    async def _exchange(self, request: Request, timeout_s: float, *, exactly: bool) -> bytes:
        wire = self._open_wire(request)
        await self._silent(wire, request)
        framer = rtu.RtuFramer(request, exactly=exactly)

        def received(data: bytes) -> None:
            pdu = framer.feed(data)
            if pdu is not None:
                wire.received = None  # what follows an answer is noise
                self._settle(pdu)

        wire.received = received
        message = rtu.frame(request.unit, request.pdu)
        on_the_wire_s = self._endpoint.transfer_s(len(message) + 3 + request.answer_size)
        asked_s = asyncio.get_running_loop().time()
        answered = False
        try:
            pdu = await self._answered(wire, message, timeout_s + on_the_wire_s)
            answered = True
        except TimeoutError:
            noise = framer.seen
            came = f"; {len(noise)} bytes came that are no answer to it: {quoted(noise)}" if noise else ""
            raise NoAnswerError(f"{self._where(request)}: no answer within {timeout_s:g} s{came}") from None
        finally:
            wire.received = None
            if not answered:
                self._drains = True
                self._unanswered.asked(request, asked_s, is_probe=exactly)
        self._unanswered.answered(request, refused=bool(pdu[0] & EXCEPTION))
        return check(self._name, request, request.unit, pdu)

    async def _silent(self, wire: Wire, request: Request) -> None:
        """Until the line has been silent for long enough. What arrives meanwhile belongs to nobody."""
        loop = asyncio.get_running_loop()
        silence_s = self._silence_s
        begun_s = wire.last_byte_s
        if self._drains:
            silence_s = max(silence_s, DRAIN_S)
            begun_s = max(begun_s, loop.time())
        ends_s = loop.time() + silence_s + MOST_NOISE_S
        while (left_s := max(begun_s, wire.last_byte_s) + silence_s - loop.time()) > 0:
            if loop.time() > ends_s:
                raise NoAnswerError(
                    f"{self._where(request)}: not asked, the line is never silent; is there another master on it?"
                )
            await asyncio.sleep(left_s)
        self._drains = False
        self._open_wire(request)


def open_line(endpoint: Endpoint, tls: TlsFiles | None = None) -> Line:
    """A line, not yet connected, for an endpoint of `parse_address`. `tls` is for tls:// endpoints."""
    if endpoint.scheme in ("rtu", "rtutcp"):
        return RtuLine(endpoint)
    return TcpLine(endpoint, tls)


__all__ = [
    "DEFAULT_PORT",
    "MOST_READ",
    "MOST_WRITTEN",
    "Endpoint",
    "Line",
    "RtuLine",
    "SerialSettings",
    "TcpLine",
    "open_line",
    "parse_address",
]
