"""In words: what came, and how what comes out now differs from what was recorded then."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Final

from google.protobuf.message import DecodeError

from agent.control import codec
from agent.control.decisions import plan_of
from agent.control.errors import RestoreError, quoted
from agent.control.events import Event, HoldBegun, HoldEnded, Kind, Message, Wished, given_of
from agent.control.plan import Plan
from agent.control.rerun import Outcome
from agent.evidence import statements
from agent.evidence.errors import EvidenceError
from agent.evidence.statements import Alarm, CommandReceipt
from proto.energysettlement.v1 import device_pb2

MOST_WORDS: Final = 160
_CAME: Final = {
    Kind.TURN: "the plan of its time",
    Kind.KEPT: "what the books say of a plan",
    Kind.MESSAGE: "a command",
    Kind.SCHEDULE: "a schedule",
    Kind.FEED: "a value of a feed",
    Kind.STORED: "a command or schedule that was stored",
    Kind.HOLD_STORED: "a hold by hand that was stored",
    Kind.HOLD: "a hold by hand",
    Kind.HOLD_ENDED: "the end of a hold by hand",
    Kind.WISH: "a driver's word",
}


def what_came(event: Event) -> str:
    """An event, for the beginning of a sentence."""
    came = _CAME[event.kind]
    try:
        match given_of(event):
            case Message(message=message, device_id=device_id):
                name = device_pb2.GridCommand.FromString(message).command_id
                where = "the gateway's link" if device_id is None else f"the stream of {device_id}"
                return f"command {quoted(name)} on {where}"
            case HoldBegun(device_id=name) | HoldEnded(device_id=name) | Wished(device_id=name):
                return f"{came} of {quoted(name)}"
    except (RestoreError, DecodeError):
        return f"{came} that cannot be read"
    return came


def receipts(said: Sequence[bytes]) -> int:
    """How many of these statements are receipts."""
    return sum(isinstance(_decoded(each), CommandReceipt) for each in said)


def what_differs(event: Event, now: Outcome) -> str:
    """The first thing that is other than recorded; empty: nothing."""
    for then_said, now_said in zip_longest(event.said, now.said):
        if then_said != now_said:
            beside = f"; {now.otherwise}" if now.otherwise else ""
            return f"then said {_words(then_said)}; now {_words(now_said)}{beside}"
    if now.otherwise:
        return now.otherwise
    if event.answer != now.answer:
        return f"then answered {quoted(event.answer)}; now {quoted(now.answer)}"
    for then, made in zip_longest(event.decisions, now.decisions):
        if then is None or made is None:
            return f"then {len(event.decisions)} plans were made; now {len(now.decisions)}"
        if then != made:
            return plan_differs(then.plan, plan_of(made.plan))
    return ""


def plan_differs(recorded: bytes, now: Plan) -> str:
    """The first order or command that is other than it was."""
    try:
        then = plan_of(recorded)
    except RestoreError as error:
        return f"what was decided cannot be read: {error}"
    for name in sorted(then.orders.keys() | now.orders.keys()):
        if then.orders.get(name) != now.orders.get(name):
            return f"{name}: then {_ordered(then, name)}; now {_ordered(now, name)}"
    for order_hash in sorted(then.commands.keys() | now.commands.keys()):
        before, after = then.commands.get(order_hash), now.commands.get(order_hash)
        if before != after:
            was = "not there" if before is None else before.reason or "as asked"
            is_ = "not there" if after is None else after.reason or "as asked"
            return f"command {order_hash.hex()[:16]}: then {was}; now {is_}"
    return "the same values in other bytes"


def differing(then: object, now: object, where: str = "") -> str:
    """Where two values first differ, and how; empty: nowhere. By their encoding: a NaN is the same as itself."""
    if codec.encode(then) == codec.encode(now):
        return ""
    if dataclasses.is_dataclass(then) and type(then) is type(now):
        for field in dataclasses.fields(then):
            path = f"{where}.{field.name}" if where else field.name
            found = differing(getattr(then, field.name), getattr(now, field.name), path)
            if found:
                return found
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in sorted(then.keys() | now.keys()):
            found = differing(then.get(key), now.get(key), f"{where}[{_short(key)}]")
            if found:
                return found
    if isinstance(then, tuple) and isinstance(now, tuple):
        for place, (one, other) in enumerate(zip_longest(then, now)):
            found = differing(one, other, f"{where}[{place}]")
            if found:
                return found
    return f"{where}: then {_short(then)}; now {_short(now)}"


def _short(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else repr(value)
    return text if len(text) <= MOST_WORDS else text[:MOST_WORDS] + "..."


def _ordered(plan: Plan, name: str) -> str:
    order = plan.orders.get(name)
    return "nothing" if order is None else f"{order.lowest_w} to {order.highest_w} W ({order.reason})"


def _words(said: bytes | None) -> str:
    if said is None:
        return "nothing"
    match _decoded(said):
        case CommandReceipt() as receipt:
            reason = f" ({receipt.reason})" if receipt.reason else ""
            energy = "" if receipt.delivered_energy_wh is None else f", {receipt.delivered_energy_wh} Wh"
            return f"{receipt.state.name} of {quoted(receipt.command_id)}{energy}{reason}"
        case Alarm() as alarm:
            return f"alarm {alarm.code}: {alarm.text[:MOST_WORDS]}"
        case other:
            return f"{other!r:.80}"


def _decoded(said: bytes) -> object:
    try:
        return statements.decode(said)
    except EvidenceError as error:
        return error
