"""Writes proto/vectors/commands: `python -m hil_tests.generate_command_vectors` from the root of the repository.

The same every time: a test compares the files with what this makes, so that neither changes unseen. The verdicts in
them are written here by hand from proto/COMMANDS.md, and another test holds the gateway against them.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.control.authorization import authorize, authorize_dual
from agent.control.command import Command, CommandType, Mode, Point, Price, Priority, encode_body, grid_command
from agent.control.plain import plain_hash
from agent.evidence import cbor
from agent.evidence.cose import ES256, key_id_of
from proto.energysettlement.v1 import device_pb2
from proto.energysettlement.v1.device_pb2 import GridCommand

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

FOLDER: Final = Path(__file__).parents[1] / "proto" / "vectors" / "commands"
GATEWAY: Final = "did:key:zGatewayUnderTest"
NOW_US: Final = 1_790_000_000_000_000
MINUTE_US: Final = 60_000_000
DAY_US: Final = 1440 * MINUTE_US


@dataclass(frozen=True)
class Issuer:
    """A key of the vectors. Its secret is public; signatures are deterministic (RFC 6979)."""

    name: str
    secret: int
    algorithm: int = ES256

    @property
    def public_key_der(self) -> bytes:
        public = ec.derive_private_key(self.secret, ec.SECP256R1()).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    async def sign(self, message: bytes) -> bytes:
        private = ec.derive_private_key(self.secret, ec.SECP256R1())
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        return r.to_bytes(32) + s.to_bytes(32)

    async def sign_digest(self, digest: bytes) -> bytes:
        raise NotImplementedError("commands are signed as messages")


OPERATOR: Final = Issuer("grid-operator", 0xC0FFEE01)
SOLAR: Final = Issuer("solar-only", 0xC0FFEE02)
BOARD: Final = Issuer("board", 0xC0FFEE03)
STRANGER: Final = Issuer("grid-operator", 0xC0FFEE04)

DISCHARGE: Final = Command(
    audience=GATEWAY,
    targets=("battery", "car"),
    mode=Mode.SETPOINT,
    point=Point.DEVICE,
    type=CommandType.DISCHARGE,
    power_w=7_400,
    max_energy_wh=5_000,
    start_us=NOW_US,
    end_us=NOW_US + 15 * MINUTE_US,
    price=Price(123_456, "EUR"),
    issuer=OPERATOR.name,
    epoch=1,
    sequence=1,
    campaign="evening",
    cancels=(bytes(32),),
    resume=True,
)
CURTAIL: Final = Command(
    audience="zone:north",
    mode=Mode.EXPORT_LIMIT,
    point=Point.CONNECTION,
    type=CommandType.CURTAIL,
    power_w=0,
    start_us=NOW_US + 5 * MINUTE_US,
    end_us=NOW_US + 10 * MINUTE_US,
    issuer=OPERATOR.name,
    sequence=2,
    priority=Priority.CARBON,
)


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
        print(f"{FOLDER / name}: {len(content)} characters")


def files() -> dict[str, str]:
    """File name -> content."""
    return {
        "site.json": text_of(_site()),
        "bodies.json": text_of(list(_bodies())),
        "messages.json": text_of(asyncio.run(_messages())),
    }


def text_of(value: Json) -> str:
    """As the files hold it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _site() -> Json:
    """Who and what the messages are judged by."""
    issuers: list[Json] = [
        {
            "issuer": issuer.name,
            "algorithm": issuer.algorithm,
            "public_key_der": issuer.public_key_der.hex(),
            "key_id": key_id_of(issuer.public_key_der).hex(),
            "secret": f"{issuer.secret:064x}",
            "role": role,
            "types": list(types),
            "targets": list(targets),
            "highest_power_w": 50_000,
            "highest_priority": 0,
        }
        for issuer, role, types, targets in (
            (OPERATOR, "operational", (0, 1, 2, 3), ("*",)),
            (SOLAR, "operational", (3,), ("pv",)),
            (BOARD, "governance", (0, 1, 2, 3), ("*",)),
        )
    ]
    return {
        "warning": "The secrets are public: never trust these keys outside tests.",
        "now_us": NOW_US,
        "gateway_id": GATEWAY,
        "zones": ["north"],
        "devices": ["battery", "car", "pv"],
        "classes": {"battery": ["battery"], "charger": ["car"]},
        "unsigned_commands": "restrictive",
        "site_rating_w": 10_000,
        "issuers": issuers,
    }


def _bodies() -> Iterator[Json]:
    """Bodies with their identity; and what no decoder may take."""
    for name, command in (("discharge with everything", DISCHARGE), ("curtail with nothing", CURTAIL)):
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
    ):
        changed = [*good[:place], value, *good[place + 1 :]]
        yield {"name": name, "valid": False, "body": cbor.encode(changed).hex()}
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
    ):
        yield {"name": name, "valid": False, "body": encoded.hex()}


@dataclass(frozen=True)
class _Case:
    name: str
    verdict: str
    """admitted, refused, or none: no command."""
    message: GridCommand
    stream: str | None = None


async def _messages() -> Json:
    """Messages as they come, each judged by a gateway that has seen none of the others."""
    return [
        {
            "name": case.name,
            "verdict": case.verdict,
            "stream": case.stream,
            "command_id": case.message.command_id,
            "type": int(case.message.type),
            "power_limit_kw_bits": _bits(case.message.power_limit_kw),
            "price_per_kwh_cents_bits": _bits(case.message.price_per_kwh_cents),
            "valid_until_timestamp_us": case.message.valid_until_timestamp_us,
            "command_hash": case.message.command_hash.hex(),
            "authorization": case.message.authorization.hex(),
            "message_hash": plain_hash(case.message, case.stream).hex(),
        }
        for case in [*await _signed(), *_unsigned()]
    ]


async def _signed() -> list[_Case]:
    async def one(name: str, verdict: str, command: Command, issuer: Issuer = OPERATOR) -> _Case:
        return _Case(name, verdict, grid_command(name, command, await authorize(command, issuer)))

    big = replace(DISCHARGE, power_w=50_000, max_energy_wh=None, end_us=NOW_US + 60 * MINUTE_US)
    solar = replace(CURTAIL, issuer=SOLAR.name, point=Point.DEVICE, audience=GATEWAY)
    cases = [
        await one("discharge", "admitted", DISCHARGE),
        await one("curtail for the zone", "admitted", CURTAIL),
        await one("for another gateway", "refused", replace(DISCHARGE, audience="did:key:zAnotherGateway")),
        await one("for another zone", "refused", replace(CURTAIL, audience="zone:south")),
        await one("for a device that is not here", "refused", replace(DISCHARGE, targets=("heatpump",))),
        await one("for all chargers", "admitted", replace(DISCHARGE, targets=("class:charger",))),
        await one("for a class of which there is none", "refused", replace(CURTAIL, targets=("class:pv",))),
        await one("for a class beyond rights over one device", "refused",
                  replace(solar, targets=("class:battery",)), SOLAR),
        await one("expired", "refused", replace(DISCHARGE, start_us=1, end_us=NOW_US)),
        await one("beyond the horizon", "refused", replace(CURTAIL, end_us=NOW_US + 7 * DAY_US + 1)),
        await one("by a stranger with a known name", "refused", DISCHARGE, STRANGER),
        await one("under another issuer's name", "refused", DISCHARGE, SOLAR),
        await one("curtail within rights over one device", "admitted", replace(solar, targets=("pv",)), SOLAR),
        await one("beyond rights over one device", "refused", replace(solar, targets=("battery",)), SOLAR),
        await one("more power than the issuer may order", "refused", replace(DISCHARGE, power_w=50_001)),
        await one("high value with one signature", "refused", big),
        _Case("high value with two signatures", "admitted",
              grid_command("dual", big, await authorize_dual(big, OPERATOR, BOARD))),
        _Case("two signatures of one role", "refused",
              grid_command("dual", solar, await authorize_dual(solar, OPERATOR, SOLAR))),
        _Case("two signatures by one key", "refused",
              grid_command("dual", big, await authorize_dual(big, OPERATOR, OPERATOR))),
        await one("", "refused", DISCHARGE),
    ]  # fmt: skip
    good = cases[0].message
    value = cbor2.loads(good.authorization)
    protected, _, body, signature = value.value
    header = cbor2.loads(protected)

    def envelope(*parts: object) -> bytes:
        return cbor2.dumps(cbor2.CBORTag(18, list(parts)))

    def forged(name: str, **fields: object) -> _Case:
        message = GridCommand()
        message.CopyFrom(good)
        for field, content in fields.items():
            setattr(message, field, content)
        return _Case(name, "refused", message)

    flipped = signature[:-1] + bytes([signature[-1] ^ 1])
    other_typ = cbor.encode(header | {16: "v2g-gateway/ack+cose"})
    return [
        *cases,
        forged("signature with a flipped bit", authorization=envelope(protected, {}, body, flipped)),
        forged("signature in DER", authorization=envelope(protected, {}, body, b"\x30" + signature)),
        forged("another typ", authorization=envelope(other_typ, {}, body, signature)),
        forged("another algorithm", authorization=envelope(cbor.encode(header | {1: -47}), {}, body, signature)),
        forged("unprotected header", authorization=envelope(protected, {99: 1}, body, signature)),
        forged("payload detached", authorization=envelope(protected, {}, None, signature)),
        forged("no COSE at all", authorization=b"\x00"),
        forged("plain type differs", type=0),
        forged("plain power differs in one bit", power_limit_kw=struct.unpack(">f", bytes.fromhex("40eccccc"))[0]),
        forged("plain price differs", price_per_kwh_cents=12.0),
        forged("plain end differs", valid_until_timestamp_us=DISCHARGE.end_us + 1),
        forged("plain hash is missing", command_hash=b""),
    ]


def _unsigned() -> Iterable[_Case]:
    def plain(**fields: object) -> GridCommand:
        message = GridCommand(command_id="plain", power_limit_kw=2.5, valid_until_timestamp_us=NOW_US + MINUTE_US)
        message.type = device_pb2.CURTAIL
        for field, content in fields.items():
            setattr(message, field, content)
        return message

    yield _Case("empty message", "none", GridCommand())
    yield _Case("acknowledgement alone", "none", GridCommand(acknowledged_sequence=12))
    yield _Case("unsigned curtail", "admitted", plain(), "pv")
    yield _Case("unsigned idle", "admitted", plain(type=2), "battery")
    yield _Case("unsigned charge with 0", "admitted", plain(type=0, power_limit_kw=0.0), "car")
    yield _Case("unsigned charge", "refused", plain(type=0), "car")
    yield _Case("unsigned for a device that is not here", "refused", plain(), "heatpump")
    yield _Case("unsigned with an unknown type", "refused", plain(type=4), "pv")
    yield _Case("unsigned with NaN", "refused", plain(power_limit_kw=float("nan")), "pv")
    yield _Case("unsigned with infinity", "refused", plain(power_limit_kw=float("inf")), "pv")
    yield _Case("unsigned with a negative limit", "refused", plain(power_limit_kw=-2.5), "pv")
    yield _Case("unsigned with no end", "refused", plain(valid_until_timestamp_us=0), "pv")
    yield _Case("unsigned and expired", "refused", plain(valid_until_timestamp_us=NOW_US), "pv")
    yield _Case("unsigned beyond the horizon", "refused", plain(valid_until_timestamp_us=NOW_US + 8 * DAY_US), "pv")
    yield _Case("unsigned with a very long id", "refused", plain(command_id="x" * 256), "pv")


def _bits(value: float) -> str:
    return struct.pack(">f", value).hex()


if __name__ == "__main__":
    main()
