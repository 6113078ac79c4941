"""One connection per endpoint, shared by the unit ids behind it: many devices take one TCP client only.

Requests queue here, one at a time and paced. A connection that was lost, or on which nothing answers any more, is
opened anew by the next request, at most once per back-off; until then requests fail at once with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import structlog

from drivers.sunspec.errors import (
    AddressError,
    BadAnswerError,
    ModbusExceptionError,
    NoAnswerError,
    ReconnectedError,
    SunSpecError,
)
from drivers.sunspec.pace import Pace
from drivers.sunspec.patience import Patience
from drivers.sunspec.pdu import READ, READ_INPUT, words_of
from drivers.sunspec.tls import TlsFiles
from drivers.sunspec.transport import Endpoint, Line, open_line, parse_address
from drivers.sunspec.turns import Turns, is_urgent

BACKOFF_LEAST_S: Final = 0.5
BACKOFF_MOST_S: Final = 5.0
"""Short: a device that came back should not stay unseen, and one SYN each 5 s costs nothing."""
SILENCES_BEFORE_RECONNECT: Final = 3
"""Requests in a row, over all units, without an answer: the connection is taken for half open. In a row of one unit,
beside others that answer: that unit may have been exchanged."""

BUSY: Final = frozenset({5, 6})
"""Exceptions "acknowledge" and "busy": the same read may succeed in a moment."""
BUSY_PAUSES_S: Final = (0.1, 0.3)
GATEWAY_SILENCE: Final = 11
"""Exception by which a gateway says that the unit behind it does not answer."""

_T = TypeVar("_T")
_What = TypeVar("_What")
_log = structlog.get_logger()


class Words(NamedTuple):
    """What one read gave, and when: waiting for our turn on the line is not part of it."""

    octets: bytes
    """Of the registers, as they came."""
    asked_s: float
    answered_s: float

    @property
    def words(self) -> list[int]:
        """The registers as numbers."""
        return words_of(self.octets)

    @property
    def monotonic_s(self) -> float:
        """The moment of measurement: the middle of question and answer."""
        return (self.asked_s + self.answered_s) / 2


class Connection:
    """The requests of one endpoint, one after the other. Raises SunSpecErrors as Line does.

    A request with `only` is made on the connection of that generation or not at all (ReconnectedError): what is known
    of a device holds for the connection on which it said who it is. Orders overtake polls that wait (`turns.py`), and
    a unit that falls silent is asked shortly and rarely (`patience.py`).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        monotonic_s: Callable[[], float],
        gap_s: float = 0.0,
        line: Callable[[Endpoint], Line] = open_line,
    ) -> None:
        self.endpoint = endpoint
        self.generation = 0
        """Grows with each new connection, and when a unit falls silent: what answers may be another device now."""
        self._line = line(endpoint)
        self._monotonic_s = monotonic_s
        self.pace = Pace(gap_s)
        self._answered_s = float("-inf")
        self._turns = Turns(str(endpoint))
        self._patience: dict[int, Patience] = {}
        self._silences = 0
        """In a row, over all units."""
        self._silent: set[int] = set()
        """Units without an answer since the last answer of any."""
        self._heard: set[int] = set()
        """Units that have answered on this connection."""
        self._backoff_s = 0.0
        self._not_before_s = float("-inf")
        self._free_s = float("-inf")
        self._reason: NoAnswerError | BadAnswerError = NoAnswerError("not connected yet")
        """Why there is no connection: silence, or something that is no Modbus."""

    @property
    def is_open(self) -> bool:
        return self._line.connected

    async def read(
        self, unit: int, address: int, count: int, timeout_s: float, only: int | None = None, function: int = READ
    ) -> Words:
        """`count` registers from `address`, at most 125: holding (function 3) or input registers (function 4).

        A device that is busy is asked again, a few times.
        """
        ask, urgent = self._line.read_input if function == READ_INPUT else self._line.read, is_urgent()
        for pause_s in BUSY_PAUSES_S:
            try:
                return Words(*await self._in_turn(ask, unit, address, count, timeout_s, only, urgent))
            except ModbusExceptionError as error:
                if error.code not in BUSY:
                    raise
            await asyncio.sleep(pause_s)
        return Words(*await self._in_turn(ask, unit, address, count, timeout_s, only, urgent))

    async def write(
        self, unit: int, address: int, words: Sequence[int], timeout_s: float, only: int | None = None
    ) -> None:
        """All words in one request (function 16). Never repeated: after NoAnswerError its fate is unknown."""
        await self._in_turn(self._line.write, unit, address, words, timeout_s, only, True)

    async def write_one(self, unit: int, address: int, word: int, timeout_s: float, only: int | None = None) -> None:
        """One register by function 6."""
        await self._in_turn(self._line.write_one, unit, address, word, timeout_s, only, True)

    async def _in_turn(
        self,
        ask: Callable[[int, int, _What, float], Awaitable[_T]],
        unit: int,
        address: int,
        what: _What,
        timeout_s: float,
        only: int | None,
        urgent: bool,
    ) -> tuple[_T, float, float]:
        """(answer, when asked, when answered). `ask` is a method of the line, `what` its argument beside the place."""
        if not self._turns.take_at_once():
            await self._turns.take(urgent=urgent)
        try:
            if only is not None and (only != self.generation or not self._line.connected):
                raise ReconnectedError(f"{self.endpoint}: the connection was lost, who answers now is not known yet")
            if not self._line.connected:
                await self._connect(timeout_s)
            patience = self._patience.get(unit)
            if patience is None:
                patience = self._patience[unit] = Patience()
            # Alone on its line a silent unit slows nobody: it may take its time.
            has_neighbours = len(self._patience) > 1
            asked_s = self._monotonic_s()
            silent_s = patience.pause_s(asked_s)
            if silent_s > 0 and has_neighbours and not urgent:
                raise NoAnswerError(
                    f"{self.endpoint} unit {unit}: no answer {patience.silences} times; next try in {silent_s:.1f} s"
                )
            gap_s = self.pace.safe_s if urgent else self.pace.gap_s
            pause_s = self._free_s + gap_s - asked_s
            if pause_s > 0 and gap_s > 0:
                await asyncio.sleep(min(pause_s, gap_s))
                asked_s = self._monotonic_s()
            try:
                answer = await ask(unit, address, what, patience.timeout_s(timeout_s) if has_neighbours else timeout_s)
            except SunSpecError as error:
                self._failed(error, unit, patience, asked_s)
                raise
            finally:
                # Also when cancelled: the line tells an answer that still comes from the next one.
                answered_s = self._free_s = self._monotonic_s()
            self._heard_from(unit, patience, asked_s, answered_s)
            return answer, asked_s, answered_s
        finally:
            self._turns.give_back()

    def _failed(self, error: SunSpecError, unit: int, patience: Patience, asked_s: float) -> None:
        if isinstance(error, ModbusExceptionError):
            if error.code == GATEWAY_SILENCE:
                # The gateway lives, the unit behind it does not answer.
                self._silences, self._backoff_s = 0, 0.0
                self._silent.clear()
                self._was_silent(patience)
            else:
                if error.code in BUSY and self.pace.lost(unit, asked_s - self._answered_s):
                    self._paced()
                self._heard_from(unit, patience, asked_s, self._monotonic_s(), busy=error.code in BUSY)
        elif isinstance(error, NoAnswerError):
            self._silences += 1
            self._silent.add(unit)
            if self.pace.lost(unit, asked_s - self._answered_s):
                self._paced()
            # One dead unit is not a dead connection while its neighbours have not been asked since.
            half_open = self._silences >= SILENCES_BEFORE_RECONNECT and self._heard <= self._silent
            if half_open or not self._line.connected:
                self._drop(error)
            else:
                self._was_silent(patience)
        elif isinstance(error, BadAnswerError):
            # The two sides no longer agree on what was asked: only a new connection settles that.
            self._drop(error)

    def _was_silent(self, patience: Patience) -> None:
        patience.was_silent(self._monotonic_s())
        if patience.silences == SILENCES_BEFORE_RECONNECT:
            # Behind a line that stays open a device can be exchanged: whoever answers next says first who it is.
            self.generation += 1

    def _heard_from(
        self, unit: int, patience: Patience, asked_s: float, answered_s: float, *, busy: bool = False
    ) -> None:
        self._answered_s = answered_s
        patience.answered(answered_s - asked_s)
        if not busy and self.pace.answered(unit):
            self._paced()
        self._silences, self._backoff_s = 0, 0.0
        self._silent.clear()
        self._heard.add(unit)

    def _paced(self) -> None:
        pace = self.pace
        _log.info("modbus.paced", endpoint=str(self.endpoint), gap_s=pace.gap_s, on_trial=pace.is_on_trial)

    async def _connect(self, timeout_s: float) -> None:
        wait_s = self._not_before_s - self._monotonic_s()
        if wait_s > 0:
            raise type(self._reason)(f"{self._reason}; next try in {wait_s:.1f} s")
        try:
            await self._line.connect(timeout_s)
        except (NoAnswerError, BadAnswerError) as error:
            self._back_off(error)
            raise
        except OSError as error:
            # A host name that does not resolve, no route: not all of them end in the library's own error.
            self._back_off(NoAnswerError(f"{self.endpoint}: {error}"))
            raise self._reason from error
        self.generation += 1
        self._silences = 0
        self._silent.clear()
        self._heard.clear()
        self._patience.clear()
        _log.info("modbus.connected", endpoint=str(self.endpoint), generation=self.generation)

    def _drop(self, reason: NoAnswerError | BadAnswerError) -> None:
        self._line.close()
        self._back_off(reason)
        _log.warning("modbus.connection_dropped", endpoint=str(self.endpoint), reason=str(reason))

    def _back_off(self, reason: NoAnswerError | BadAnswerError) -> None:
        # Without what a traceback holds on to.
        self._reason = (BadAnswerError if isinstance(reason, BadAnswerError) else NoAnswerError)(str(reason))
        self._backoff_s = min(BACKOFF_MOST_S, max(BACKOFF_LEAST_S, self._backoff_s * 2))
        self._not_before_s = self._monotonic_s() + self._backoff_s

    def close(self) -> None:
        """Let go of the line. A later request opens it again."""
        self._line.close()


class Unit:
    """One Modbus unit behind a connection, with its own patience."""

    def __init__(self, connection: Connection, number: int, timeout_s: float) -> None:
        self.connection = connection
        self.number = number
        self.only: int | None = None
        """The generation of the connection that requests are for; None: whichever there is."""
        self._timeout_s = timeout_s

    def twin(self) -> Unit:
        """The same unit, with its own `only`."""
        return Unit(self.connection, self.number, self._timeout_s)

    def __str__(self) -> str:
        return f"{self.connection.endpoint} unit {self.number}"

    async def read(self, address: int, count: int, function: int = READ) -> Words:
        return await self.connection.read(self.number, address, count, self._timeout_s, self.only, function)

    async def write(self, address: int, words: Sequence[int]) -> None:
        await self.connection.write(self.number, address, words, self._timeout_s, self.only)

    async def write_one(self, address: int, word: int) -> None:
        await self.connection.write_one(self.number, address, word, self._timeout_s, self.only)


class ConnectionPool:
    """The connections of a gateway, by endpoint. Devices share one by naming the same address."""

    def __init__(
        self,
        monotonic_s: Callable[[], float],
        *,
        gap_s: float = 0.0,
        gaps_s: Mapping[Endpoint, float] | None = None,
        line: Callable[[Endpoint], Line] | None = None,
        tls: Mapping[Endpoint, TlsFiles] | None = None,
    ) -> None:
        """`gap_s`: pause between an answer and the next request of the same endpoint, seconds; `gaps_s` for those that
        need another. `tls`: what the endpoints of tls:// addresses need. `line` makes the lines, in place of
        `open_line`.
        """
        self._monotonic_s = monotonic_s
        self._gap_s = gap_s
        self._gaps_s = gaps_s or {}
        self._tls = tls or {}
        self._line = line or self._open_line
        self._connections: dict[Endpoint, Connection] = {}

    def connection(self, address: str) -> Connection:
        """The one connection of an address's endpoint; opened by its first request. Raises AddressError."""
        endpoint = parse_address(address)
        if endpoint not in self._connections:
            for other in self._connections:
                if (other.host, other.port) == (endpoint.host, endpoint.port):
                    raise AddressError(
                        f"{endpoint}: another device of the same line is configured as {other}; "
                        "they share one line, write the same address for both"
                    )
            self._connections[endpoint] = Connection(
                endpoint,
                monotonic_s=self._monotonic_s,
                gap_s=self._gaps_s.get(endpoint, self._gap_s),
                line=self._line,
            )
        return self._connections[endpoint]

    def _open_line(self, endpoint: Endpoint) -> Line:
        return open_line(endpoint, self._tls.get(endpoint))

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.close()
