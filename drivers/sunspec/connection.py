"""One connection per endpoint, shared by the unit ids behind it: many devices take one TCP client only.

Requests queue here, one at a time and paced. A connection that was lost, or on which nothing answers any more, is
opened anew by the next request, at most once per back-off; until then requests fail at once with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError, NoAnswerError, ReconnectedError
from drivers.sunspec.transport import Endpoint, Line, open_line, parse_address

BACKOFF_LEAST_S: Final = 0.5
BACKOFF_MOST_S: Final = 5.0
"""Short: a device that came back should not stay unseen, and one SYN each 5 s costs nothing."""
SILENCES_BEFORE_RECONNECT: Final = 3
"""Requests in a row, over all units, without an answer: the connection is taken for half open."""

_T = TypeVar("_T")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Words:
    """What one read gave, and when: waiting for our turn on the line is not part of it."""

    words: list[int]
    asked_s: float
    answered_s: float

    @property
    def monotonic_s(self) -> float:
        """The moment of measurement: the middle of question and answer."""
        return (self.asked_s + self.answered_s) / 2


class Connection:
    """The requests of one endpoint, one after the other. Raises SunSpecErrors as Line does.

    A request with `only` is made on the connection of that generation or not at all (ReconnectedError): what is known
    of a device holds for the connection on which it said who it is.
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
        """Grows with each new connection: what is at the other end may be another device now."""
        self._line = line(endpoint)
        self._monotonic_s = monotonic_s
        self._gap_s = gap_s
        self._lock = asyncio.Lock()
        self._silences = 0
        self._backoff_s = 0.0
        self._not_before_s = float("-inf")
        self._free_s = float("-inf")
        self._reason = "not connected yet"

    @property
    def is_open(self) -> bool:
        return self._line.connected

    async def read(self, unit: int, address: int, count: int, timeout_s: float, only: int | None = None) -> Words:
        """`count` holding registers from `address`, at most 125."""

        async def ask() -> Words:
            asked_s = self._monotonic_s()
            words = await self._line.read(unit, address, count, timeout_s)
            return Words(words, asked_s, self._monotonic_s())

        return await self._exclusively(ask, timeout_s, only)

    async def write(
        self, unit: int, address: int, words: Sequence[int], timeout_s: float, only: int | None = None
    ) -> None:
        """All words in one request (function 16). Never repeated: after NoAnswerError its fate is unknown."""
        await self._exclusively(lambda: self._line.write(unit, address, words, timeout_s), timeout_s, only)

    async def write_one(self, unit: int, address: int, word: int, timeout_s: float, only: int | None = None) -> None:
        """One register by function 6."""
        await self._exclusively(lambda: self._line.write_one(unit, address, word, timeout_s), timeout_s, only)

    async def _exclusively(self, ask: Callable[[], Awaitable[_T]], timeout_s: float, only: int | None) -> _T:
        async with self._lock:
            if only is not None and (only != self.generation or not self._line.connected):
                raise ReconnectedError(f"{self.endpoint}: the connection was lost, who answers now is not known yet")
            if not self._line.connected:
                await self._connect(timeout_s)
            pause_s = self._free_s - self._monotonic_s()
            if pause_s > 0:
                await asyncio.sleep(min(pause_s, self._gap_s))
            try:
                answer = await ask()
            except ModbusExceptionError:
                self._silences, self._backoff_s = 0, 0.0
                raise
            except NoAnswerError as error:
                self._silences += 1
                if self._silences >= SILENCES_BEFORE_RECONNECT or not self._line.connected:
                    self._drop(str(error))
                raise
            except BadAnswerError as error:
                # The two sides no longer agree on what was asked: only a new connection settles that.
                self._drop(str(error))
                raise
            finally:
                # Also when cancelled: an answer that still comes is told from the next one by its transaction.
                self._free_s = self._monotonic_s() + self._gap_s
            self._silences, self._backoff_s = 0, 0.0
            return answer

    async def _connect(self, timeout_s: float) -> None:
        wait_s = self._not_before_s - self._monotonic_s()
        if wait_s > 0:
            raise NoAnswerError(f"{self._reason}; next try in {wait_s:.1f} s")
        try:
            await self._line.connect(timeout_s)
        except NoAnswerError as error:
            self._back_off(str(error))
            raise
        except OSError as error:
            # A host name that does not resolve, no route: not all of them end in the library's own error.
            self._back_off(f"{self.endpoint}: {error}")
            raise NoAnswerError(self._reason) from error
        self.generation += 1
        self._silences = 0
        _log.info("modbus.connected", endpoint=str(self.endpoint), generation=self.generation)

    def _drop(self, reason: str) -> None:
        self._line.close()
        self._silences = 0
        self._back_off(reason)
        _log.warning("modbus.connection_dropped", endpoint=str(self.endpoint), reason=reason)

    def _back_off(self, reason: str) -> None:
        self._reason = reason
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

    async def read(self, address: int, count: int) -> Words:
        return await self.connection.read(self.number, address, count, self._timeout_s, self.only)

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
        line: Callable[[Endpoint], Line] = open_line,
    ) -> None:
        """`gap_s`: pause between an answer and the next request of the same endpoint, seconds."""
        self._monotonic_s = monotonic_s
        self._gap_s = gap_s
        self._line = line
        self._connections: dict[Endpoint, Connection] = {}

    def connection(self, address: str) -> Connection:
        """The one connection of an address's endpoint; opened by its first request. Raises AddressError."""
        endpoint = parse_address(address)
        if endpoint not in self._connections:
            self._connections[endpoint] = Connection(
                endpoint, monotonic_s=self._monotonic_s, gap_s=self._gap_s, line=self._line
            )
        return self._connections[endpoint]

    def close(self) -> None:
        """Close every connection."""
        for connection in self._connections.values():
            connection.close()
