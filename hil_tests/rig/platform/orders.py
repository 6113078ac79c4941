"""Orders in JSON from the person or test that plays the grid operator, made into signed commands.

    {"do": "issue", "command": {"id": "c1", "type": "DISCHARGE", "power_w": 5000, "duration_s": 20}}

Keys of `command`, all but the first three optional: `id`; `type` CHARGE, DISCHARGE, IDLE or CURTAIL; `duration_s`;
`power_w` (0); `start_in_s` (0); `mode` setpoint, import_limit or export_limit (as fits the type); `point` connection or
device (connection; IDLE: device); `targets` device ids ([]); `audience` ("did:key:..." or "zone:NAME"; the gateway);
`max_energy_wh`; `price_micro_per_kwh` with `currency` ("EUR"); `issuer`; `epoch` (0); `sequence` (the next one);
`priority` 0 to 2 (0); `campaign`; `cancels` hex hashes; `resume` (false); `signed_by` operational, governance, both or
nobody (operational); `stream` a device id: send it on that device's own stream and not on the gateway's link;
`spoiled` signature (a bit of it is flipped) or power (the plain field says twice what was signed): a message that a
gateway must refuse. `start_us`, Unix time, goes in place of `start_in_s`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from agent.control.authorization import authorize, authorize_dual
from agent.control.command import (
    Command,
    CommandType,
    Mode,
    Point,
    Price,
    Priority,
    command_hash,
    decode_body,
    encode_body,
    grid_command,
)
from hil_tests.rig.platform.enrol import ISSUER
from hil_tests.rig.platform.keys import SoftwareKey
from proto.energysettlement.v1.device_pb2 import GridCommand

_KNOWN = frozenset({
    "id", "type", "duration_s", "power_w", "start_in_s", "mode", "point", "targets", "audience", "max_energy_wh",
    "price_micro_per_kwh", "currency", "issuer", "epoch", "sequence", "priority", "campaign", "cancels", "resume",
    "signed_by", "spoiled", "start_us", "stream",
})  # fmt: skip


class OrderError(Exception):
    """An order that cannot be carried out. Says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A command on its way."""

    message: GridCommand
    command: Command
    stream: str | None
    """Device whose own stream it goes on; None: the gateway's link, or any stream where there is none."""

    @property
    def note(self) -> str:
        """What the message alone does not say, for the book."""
        return json.dumps({"body": encode_body(self.command).hex(), "stream": self.stream})

    @classmethod
    def restore(cls, message: bytes, note: str) -> Issued:
        """From the book."""
        noted = json.loads(note)
        return cls(GridCommand.FromString(message), decode_body(bytes.fromhex(noted["body"])), noted["stream"])

    @property
    def hash(self) -> bytes:
        return command_hash(encode_body(self.command))


async def issue(
    order: object,
    *,
    gateway_id: str,
    now_us: int,
    next_sequence: int,
    operational: SoftwareKey,
    governance: SoftwareKey,
) -> Issued:
    """The command of an order. Raises OrderError (CommandFormatError for what no body can say)."""
    if not isinstance(order, dict):
        raise OrderError("`command` is an object")
    unknown = sorted(set(map(str, order)) - _KNOWN)
    if unknown:
        raise OrderError(f"unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_KNOWN))}")
    try:
        command_id = str(order["id"])
        command = _command(order, gateway_id, now_us, next_sequence)
    except KeyError as error:
        raise OrderError(f"{error} is missing") from error
    except (ValueError, TypeError) as error:
        raise OrderError(str(error)) from error
    match order.get("signed_by", "operational"):
        case "operational":
            authorization = await authorize(command, operational)
        case "governance":
            authorization = await authorize(command, governance)
        case "both":
            authorization = await authorize_dual(command, operational, governance)
        case "nobody":
            authorization = b""
        case other:
            raise OrderError(f"signed_by {other!r} is none of operational, governance, both, nobody")
    message = grid_command(command_id, command, authorization)
    match order.get("spoiled"):
        case None:
            pass
        case "signature":
            message.authorization = authorization[:-1] + bytes([authorization[-1] ^ 1])
        case "power":
            message.power_limit_kw *= 2
        case other:
            raise OrderError(f"spoiled {other!r} is neither signature nor power")
    stream = order.get("stream")
    return Issued(message, command, None if stream is None else str(stream))


def _command(order: dict[str, object], gateway_id: str, now_us: int, next_sequence: int) -> Command:
    type_ = CommandType[str(order["type"])]
    start_us = _number(order.get("start_us", now_us + _microseconds(order.get("start_in_s", 0))))
    default_mode = "export_limit" if type_ is CommandType.CURTAIL else "setpoint"
    default_point = "device" if type_ is CommandType.IDLE else "connection"
    price = order.get("price_micro_per_kwh")
    energy = order.get("max_energy_wh")
    campaign = order.get("campaign")
    return Command(
        audience=str(order.get("audience", gateway_id)),
        targets=tuple(str(target) for target in _items(order.get("targets", []))),
        mode=Mode[str(order.get("mode", default_mode)).upper()],
        point=Point[str(order.get("point", default_point)).upper()],
        type=type_,
        power_w=_number(order.get("power_w", 0)),
        max_energy_wh=None if energy is None else _number(energy),
        start_us=start_us,
        end_us=start_us + _microseconds(order["duration_s"]),
        price=None if price is None else Price(_number(price), str(order.get("currency", "EUR"))),
        issuer=str(order.get("issuer", ISSUER)),
        epoch=_number(order.get("epoch", 0)),
        sequence=_number(order.get("sequence", next_sequence)),
        priority=Priority(_number(order.get("priority", 0))),
        campaign=None if campaign is None else str(campaign),
        cancels=tuple(bytes.fromhex(str(text)) for text in _items(order.get("cancels", []))),
        resume=bool(order.get("resume", False)),
    )


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{str(value)[:40]!r} is not an integer")
    return value


def _microseconds(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{str(value)[:40]!r} is not a number of seconds")
    return round(value * 1_000_000)


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{str(value)[:40]!r} is not a list")
    return value
