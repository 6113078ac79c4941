"""One command in the book: its life along TRANSITIONS, a signed receipt a step, exactly one of them final. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from agent.control.order import Order
from agent.control.ordered import NOTHING, Ordered, ordered_by
from agent.control.tally import Tally
from agent.evidence.statements import CommandReceipt, CommandState

TRANSITIONS: Final[dict[CommandState, frozenset[CommandState]]] = {
    CommandState.RECEIVED: frozenset({CommandState.ACCEPTED, CommandState.PARTIAL, CommandState.REJECTED}),
    CommandState.ACCEPTED: frozenset(
        {
            CommandState.PARTIAL,
            CommandState.EXECUTING,
            CommandState.COMPLETED,
            CommandState.SUPERSEDED,
            CommandState.EXPIRED,
            CommandState.FAILED,
        }
    ),
    CommandState.PARTIAL: frozenset(
        {
            CommandState.EXECUTING,
            CommandState.COMPLETED,
            CommandState.SUPERSEDED,
            CommandState.EXPIRED,
            CommandState.FAILED,
        }
    ),
    CommandState.EXECUTING: frozenset(
        {CommandState.PARTIAL, CommandState.COMPLETED, CommandState.SUPERSEDED, CommandState.FAILED}
    ),
    CommandState.REJECTED: frozenset(),
    CommandState.COMPLETED: frozenset(),
    CommandState.SUPERSEDED: frozenset(),
    CommandState.EXPIRED: frozenset(),
    CommandState.FAILED: frozenset(),
}
"""What may follow what. A pair that is missing here is a fault of ours and raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One command in the book."""

    order: Order
    receipts: tuple[CommandReceipt, ...]
    tally: Tally = field(default_factory=Tally)
    durable: bool = True
    """Whether the store has it. What allows power is not acted on before (DESIGN: law 5)."""

    @property
    def state(self) -> CommandState:
        return self.receipts[-1].state

    @property
    def executed(self) -> bool:
        return any(receipt.state is CommandState.EXECUTING for receipt in self.receipts)

    def followed(self, receipt: CommandReceipt) -> Entry:
        """One step on. A step that TRANSITIONS lacks raises AssertionError."""
        if receipt.state not in TRANSITIONS[self.state]:
            raise AssertionError(f"command {self.order.hash.hex()[:16]}: {self.state.name} to {receipt.state.name}")
        return replace(self, receipts=(*self.receipts, receipt))

    def ordered(self) -> Ordered:
        """What a command ordered at most, for as long as it stood."""
        last, command = self.receipts[-1], self.order.command
        if not last.state.final:
            return ordered_by(command)
        if last.state is CommandState.REJECTED:
            return NOTHING
        return ordered_by(command, min(command.end_us, last.timestamp_us))

    def end_by_time(self) -> tuple[CommandState, str]:
        """How a command ends whose time is over."""
        if self.executed:
            return CommandState.COMPLETED, self.tally.reason
        if self.tally.first_us is not None:
            why = self.tally.reason or "the metered power never followed"
            return CommandState.FAILED, f"was in force, but not obeyed: {why}"
        why = self.tally.reason or "the gateway was not able to act in its time"
        return CommandState.EXPIRED, f"was never in force: {why}"


def receipt_of(
    order: Order, state: CommandState, reason: str, timestamp_us: int, delivered_wh: int | None
) -> CommandReceipt:
    """Of one step, to be signed."""
    return CommandReceipt(
        command_hash=order.hash,
        command_id=order.command_id,
        state=state,
        timestamp_us=timestamp_us,
        reason=reason,
        delivered_energy_wh=delivered_wh,
    )
