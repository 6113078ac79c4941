"""Writes proto/vectors/commands: `python -m hil_tests.generate_command_vectors` from the root of the repository.

The same every time: a test compares the files with what this makes, so that neither changes unseen. The verdicts in
them are written by hand from proto/COMMANDS.md, here and in `command_cases`, and another test holds the gateway against
them.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import cbor2

from agent.control.command import Price, Priority, encode_body, grid_command
from agent.evidence import cbor
from hil_tests.command_cases import messages
from hil_tests.command_parties import CURTAIL, DISCHARGE, NOW_US, Json, site, text_of
from hil_tests.command_sequence_cases import sequences
from hil_tests.vector_files import VECTORS, write

FOLDER: Final = VECTORS / "commands"


MOST: Final = replace(
    DISCHARGE,
    targets=tuple(f"{number:063}" for number in range(200)),
    power_w=1_000_000_000,
    max_energy_wh=10**12,
    start_us=2**53 - 1,
    end_us=2**53,
    price=Price(10**12, "XXX"),
    issuer="\u20ac" * 255,
    epoch=2**32 - 1,
    sequence=2**63 - 1,
    priority=Priority.CARBON,
    campaign="x" * 255,
    cancels=tuple(bytes([number]) * 32 for number in range(10)),
)
_WIDE: Final[list[cbor.Value]] = [f"{number:063}" for number in range(200)]
_MANY: Final[list[cbor.Value]] = [bytes([number]) * 32 for number in range(64)]
_LONG: Final = "\U0001f50c" * 255
"""Each is allowed; all together are too long."""


def main() -> None:
    """Write all files."""
    write(FOLDER, files())


def files() -> dict[str, str]:
    """File name -> content."""
    return {
        "site.json": text_of(site()),
        "bodies.json": text_of(list(_bodies())),
        "messages.json": text_of(asyncio.run(messages())),
        "sequences.json": text_of(asyncio.run(sequences())),
    }


def _bodies() -> Iterator[Json]:
    """Bodies with their identity; and what no decoder may take."""
    for name, command in (
        ("discharge with everything", DISCHARGE),
        ("curtail with nothing", CURTAIL),
        ("all that is allowed at most", MOST),
        ("between two binary32 numbers", replace(DISCHARGE, power_w=16_777_217, price=Price(16_777_217, "XAU"))),
    ):
        body = encode_body(command)
        message = grid_command("id", command)
        yield {
            "name": name,
            "valid": True,
            "body": body.hex(),
            "command_hash": message.command_hash.hex(),
            "power_limit_kw_bits": _bits(message.power_limit_kw),
            "price_per_kwh_cents_bits": _bits(message.price_per_kwh_cents),
        }
    good = cbor2.loads(encode_body(DISCHARGE))
    for name, place, value in (
        ("unknown version", 0, 2),
        ("audience without a scheme", 1, "north"),
        ("target in capitals", 2, ["Battery"]),
        ("target twice", 2, ["battery", "battery"]),
        ("unknown class", 2, ["class:heatpump"]),
        ("unknown mode", 3, 3),
        ("discharge as an export limit", 3, 2),
        ("unknown point", 4, 2),
        ("unknown type", 5, 4),
        ("negative power", 6, -7_400),
        ("power as text", 6, "7400"),
        ("idle with power", 5, 2),
        ("no energy allowed", 7, 0),
        ("ends as it starts", 9, NOW_US),
        ("price without currency", 10, [123_456]),
        ("currency in small letters", 10, [123_456, "eur"]),
        ("empty issuer", 11, ""),
        ("negative sequence", 13, -1),
        ("unknown priority", 14, 3),
        ("empty campaign", 15, ""),
        ("short hash to cancel", 16, [b"\x00"]),
        ("resume as a number", 17, 1),
        ("version as a boolean", 0, True),
        ("audience of another method", 1, "did:web:gateway.example"),
        ("audience without a name of its zone", 1, "zone:"),
        ("target as a number", 2, [1]),
        ("targets as one text", 2, "battery"),
        ("target longer than 63 characters", 2, ["b" * 64]),
        ("more than 200 targets", 2, [f"b{number}" for number in range(201)]),
        ("curtail as a setpoint", 5, 3),
        ("mode as a boolean", 3, False),
        ("more than a gigawatt", 6, 1_000_000_001),
        ("more than a terawatt-hour", 7, 10**12 + 1),
        ("starts before 1970", 8, -1),
        ("ends after 2^53", 9, 2**53 + 1),
        ("price beyond a million per kWh", 10, [10**12 + 1, "EUR"]),
        ("negative price", 10, [-1, "EUR"]),
        ("price with three parts", 10, [1, "EUR", 0]),
        ("issuer longer than 255 characters", 11, "x" * 256),
        ("issuer as bytes", 11, b"grid-operator"),
        ("epoch beyond 32 bits", 12, 2**32),
        ("sequence beyond 63 bits", 13, 2**63),
        ("campaign longer than 255 characters", 15, "x" * 256),
        ("more than 64 to cancel", 16, [bytes([number]) * 32 for number in range(65)]),
        ("one to cancel twice", 16, [bytes(32), bytes(32)]),
        ("resume as null", 17, None),
    ):
        changed = [*good[:place], value, *good[place + 1 :]]
        yield {"name": name, "valid": False, "body": cbor.encode(changed).hex()}
    idle = [*good[:4], 0, 2, 0, *good[7:]]
    yield {"name": "idle at the connection", "valid": False, "body": cbor.encode(idle).hex()}
    charge = [*good[:3], 1, good[4], 0, *good[6:]]
    yield {"name": "charge as an import limit", "valid": False, "body": cbor.encode(charge).hex()}
    body = encode_body(DISCHARGE)
    for name, encoded in (
        ("empty", b""),
        ("cut short", body[:-1]),
        ("byte after the end", body + b"\x00"),
        ("one element too many", cbor.encode([*good, 0])),
        ("one element missing", cbor.encode(good[:-1])),
        ("longer integer than needed", body[:1] + b"\x18\x01" + body[2:]),
        ("power as a float", cbor2.dumps([*good[:6], 7400.0, *good[7:]])),
        ("a map", cbor.encode({1: 1})),
        ("a text in two pieces", body.replace(_text("EUR"), b"\x7f" + _text("E") + _text("UR") + b"\xff")),
        ("a tag around it", b"\xd8\x62" + body),
        (
            "longer than 16 KiB",
            cbor.encode([*good[:2], _WIDE, *good[3:11], _LONG, *good[12:15], _LONG, _MANY, good[17]]),
        ),
    ):
        yield {"name": name, "valid": False, "body": encoded.hex()}


def _text(text: str) -> bytes:
    return cbor.encode(text)


def _bits(value: float) -> str:
    return struct.pack(">f", value).hex()


if __name__ == "__main__":
    main()
