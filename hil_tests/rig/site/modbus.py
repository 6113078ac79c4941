"""A Modbus TCP server for one simulated device, with faults on order: `drivers/modbus/server.py` and switches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from drivers.modbus.server import READ_HOLDING, WRITE_MULTIPLE, WRITE_SINGLE, InputRegisters, Registers, answer
from drivers.modbus.server import ModbusTcpServer as FaultlessServer

from .outage import Outage

__all__ = ["READ_HOLDING", "WRITE_MULTIPLE", "WRITE_SINGLE", "ModbusTcpServer", "Registers", "answer"]


class ModbusTcpServer(FaultlessServer):
    """Faults: `drop` closes every connection, `silent` accepts and never answers.

    A port that has been bound stays bound while dropped, so that nobody else gets it: a client sees its connection
    reset at once, on every attempt.
    """

    def __init__(
        self,
        registers: Registers,
        *,
        unit: int,
        monotonic_s: Callable[[], float],
        inputs: InputRegisters | None = None,
        refuses: frozenset[int] = frozenset(),
        deaf_after_answer_s: float = 0.0,
    ) -> None:
        super().__init__(registers, unit=unit, inputs=inputs, refuses=refuses)
        self._monotonic_s = monotonic_s
        self.deaf_s = deaf_after_answer_s
        """How soon after an answer it does not hear the next request."""
        self._answered_s = float("-inf")
        self.unheard = 0
        """Requests that came too soon."""
        self.dropped = Outage(monotonic_s)
        self.silent = Outage(monotonic_s)

    @property
    def accepts(self) -> bool:
        return not self.dropped.active

    @property
    def is_silent(self) -> bool:
        if self._monotonic_s() - self._answered_s < self.deaf_s:
            self.unheard += 1
            return True
        return self.silent.active

    async def _one_exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        before = self.requests
        goes_on = await super()._one_exchange(reader, writer)
        if self.requests != before:
            self._answered_s = self._monotonic_s()
        return goes_on

    def drop(self, seconds: float) -> None:
        """Reset all connections, now and for so long."""
        self.dropped.begin(seconds)
        self._abort_all()
