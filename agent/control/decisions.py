"""A plan as bytes; and, in a record of version 1, with the view that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from agent.control import codec
from agent.control.plan import CommandPlan, DeviceOrder, Plan, make_plan
from agent.control.site import SiteView


class Cause(IntEnum):
    """Why a plan was made."""

    TURN = 0
    """It was time; the orders went to the devices."""
    ADMISSION = 1
    """A command had been admitted, and was asked about alone: ACCEPTED or PARTIAL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One plan of a record of version 1: its input and its output, encoded."""

    cause: Cause
    at_us: int
    view: bytes
    plan: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanRecord:
    """A plan in an order that is always the same."""

    orders: tuple[DeviceOrder, ...]
    commands: tuple[CommandPlan, ...]


def plan_bytes(plan: Plan) -> bytes:
    """What is compared, byte for byte."""
    return codec.encode(
        _PlanRecord(
            orders=tuple(order for _, order in sorted(plan.orders.items())),
            commands=tuple(command for _, command in sorted(plan.commands.items())),
        )
    )


def plan_of(encoded: bytes) -> Plan:
    """Raises RestoreError."""
    record = codec.decode(_PlanRecord, encoded)
    return Plan({o.device_id: o for o in record.orders}, {c.order_hash: c for c in record.commands})


def again(decision: Decision) -> Plan:
    """The same core, now. Raises RestoreError when the input cannot be read."""
    return make_plan(codec.decode(SiteView, decision.view))
