"""A Modbus TCP server for one simulated device, with faults on order: `drivers/modbus/server.py` and switches."""

from __future__ import annotations

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
    ) -> None:
        super().__init__(registers, unit=unit, inputs=inputs, refuses=refuses)
        self.dropped = Outage(monotonic_s)
        self.silent = Outage(monotonic_s)

    @property
    def accepts(self) -> bool:
        return not self.dropped.active

    @property
    def is_silent(self) -> bool:
        return self.silent.active

    def drop(self, seconds: float) -> None:
        """Reset all connections, now and for so long."""
        self.dropped.begin(seconds)
        self._abort_all()
