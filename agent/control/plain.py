"""Messages without a signature: their identity, and the command that their plain fields say (COMMANDS.md 2.2 and 5).

In the published contract CHARGE is 0, so that an empty message reads as "CHARGE": nothing is taken for granted here.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Final

from agent.control.command import MAX_POWER_W, MAX_PRICE_MICRO, Command, CommandType, Mode, Point, Price
from agent.control.errors import CommandFormatError
from agent.control.order import Now
from agent.evidence import cbor
from proto.energysettlement.v1 import device_pb2

UNSIGNED_ISSUER: Final = "(unsigned)"
NO_CURRENCY: Final = "XXX"
"""ISO 4217: no currency. The plain price names none, so no owner's least price is met by it."""


def plain_hash(message: device_pb2.GridCommand, device_id: str | None) -> bytes:
    """Identity of a message as it came: SHA-256 over its fields and the stream's device (COMMANDS.md section 2.2)."""
    return hashlib.sha256(
        cbor.encode([
            0, message.command_id, device_id, int(message.type), struct.pack(">f", message.power_limit_kw),
            struct.pack(">f", message.price_per_kwh_cents), message.valid_until_timestamp_us, message.command_hash,
            hashlib.sha256(message.authorization).digest() if message.authorization else None,
        ])
    ).digest()  # fmt: skip


def plain_command(
    message: device_pb2.GridCommand, device_id: str | None, *, gateway_id: str, sequence: int, now: Now
) -> Command:
    """The command that the plain fields say: its target is the stream's device, its start is now (PLATFORM 6 to 8).

    Raises CommandFormatError for what cannot be meant.
    """
    if int(message.type) not in CommandType.__members__.values():
        raise CommandFormatError(f"type {int(message.type)} is not known")
    type_ = CommandType(int(message.type))
    end_us = message.valid_until_timestamp_us
    if end_us <= 0:
        raise CommandFormatError(f"valid_until_timestamp_us is {end_us}: a command needs an end")
    if now.time_known and end_us <= now.wall_us:
        raise CommandFormatError(f"expired {(now.wall_us - end_us) // 1_000_000} s ago")
    power_w = 0 if type_ is CommandType.IDLE else _rounded(message.power_limit_kw, 1000, MAX_POWER_W, "power_limit_kw")
    price = _rounded(message.price_per_kwh_cents, 10_000, MAX_PRICE_MICRO, "price_per_kwh_cents")
    return Command(
        audience=gateway_id,
        targets=() if device_id is None else (device_id,),
        mode=Mode.EXPORT_LIMIT if type_ is CommandType.CURTAIL else Mode.SETPOINT,
        point=Point.DEVICE,
        type=type_,
        power_w=power_w,
        start_us=min(now.wall_us, end_us - 1),
        end_us=end_us,
        price=Price(price, NO_CURRENCY) if price else None,
        issuer=UNSIGNED_ISSUER,
        sequence=sequence,
    )


def _rounded(value: float, factor: int, most: int, name: str) -> int:
    if not math.isfinite(value):
        raise CommandFormatError(f"{name} is {value}, which is no number to act on")
    if value < 0:
        raise CommandFormatError(f"{name} is {value:g}: a negative one has no meaning, the type gives the direction")
    number = round(value * factor)
    if number > most:
        raise CommandFormatError(f"{name} is {value:g}, beyond anything that can be meant")
    return number
