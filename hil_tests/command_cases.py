"""Messages of proto/vectors/commands, each judged alone: the verdict of each, and the step that refuses it, by hand."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

import cbor2

from agent.control.authorization import TYP as COMMAND_TYP
from agent.control.authorization import authorize, authorize_dual, sign_body, sign_body_dual
from agent.control.command import Command, CommandType, Mode, Point, Priority, encode_body, grid_command
from agent.control.plain import plain_hash
from agent.evidence import cbor
from hil_tests.command_parties import (
    BATTERIES,
    BOARD,
    CARBON,
    CURTAIL,
    DAY_US,
    DISCHARGE,
    MINUTE_US,
    NOW_US,
    OPERATOR,
    RETIRED,
    SOLAR,
    STRANGER,
    Issuer,
    Json,
)
from proto.energysettlement.v1 import device_pb2
from proto.energysettlement.v1.device_pb2 import GridCommand

LAST_STEP_ABOUT_THE_MESSAGE = 5
"""COMMANDS.md section 5: until there a refusal is about the message hash."""
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True)
class Case:
    name: str
    verdict: str
    """admitted, refused, again (the receipts of before), or none: no command."""
    message: GridCommand
    step: int | None = None
    """Of section 5, where one of them refuses."""
    stream: str | None = None
    alarm: bool = False

    def json(self) -> dict[str, Json]:
        """As the files hold it."""
        m = self.message
        said: dict[str, Json] = {
            "name": self.name,
            "verdict": self.verdict,
            "step": self.step,
            "stream": self.stream,
            "command_id": m.command_id,
            "type": int(m.type),
            "power_limit_kw_bits": _bits(m.power_limit_kw),
            "price_per_kwh_cents_bits": _bits(m.price_per_kwh_cents),
            "valid_until_timestamp_us": m.valid_until_timestamp_us,
            "command_hash": m.command_hash.hex(),
            "authorization": m.authorization.hex(),
            "message_hash": plain_hash(m, self.stream).hex(),
        }
        about_message = not m.authorization or (self.step or 0) in range(1, LAST_STEP_ABOUT_THE_MESSAGE + 1)
        if self.verdict == "none":
            said["about"] = None
        else:
            said["about"] = said["message_hash"] if about_message else said["command_hash"]
        return said


async def one(name: str, verdict: str, command: Command, issuer: Issuer = OPERATOR, *, step: int | None = None) -> Case:
    """A command by one issuer, under its name as id."""
    return Case(name, verdict, grid_command(name, command, await authorize(command, issuer)), step)


async def two(
    name: str, verdict: str, command: Command, first: Issuer, second: Issuer, *, step: int | None = None
) -> Case:
    """A command by two."""
    return Case(name, verdict, grid_command(name, command, await authorize_dual(command, first, second)), step)


async def messages() -> list[Json]:
    """Messages as they come, each judged by a gateway that has seen none of the others."""
    return [case.json() for case in [*await _signed(), *await _enveloped(), *_unsigned()]]


async def _signed() -> list[Case]:
    big = replace(DISCHARGE, power_w=50_000, max_energy_wh=None, end_us=NOW_US + 60 * MINUTE_US)
    solar = replace(CURTAIL, issuer=SOLAR.name, point=Point.DEVICE, audience=DISCHARGE.audience)
    pool = replace(DISCHARGE, issuer=BATTERIES.name, targets=("battery",))
    desk = replace(CURTAIL, issuer=CARBON.name)
    # 40 kWh in 15 minutes are what one signature may order here: four hours at 10 kW.
    most = replace(DISCHARGE, power_w=50_000, max_energy_wh=40_000, price=None, end_us=NOW_US + 60 * MINUTE_US)
    return [
        await one("discharge", "admitted", DISCHARGE),
        await one("curtail for the zone", "admitted", CURTAIL),
        await one("for another gateway", "refused", replace(DISCHARGE, audience="did:key:zAnotherGateway"), step=6),
        await one("for another zone", "refused", replace(CURTAIL, audience="zone:south"), step=6),
        await one("for a device that is not here", "refused", replace(DISCHARGE, targets=("heatpump",)), step=6),
        await one("for all chargers", "admitted", replace(DISCHARGE, targets=("class:charger",))),
        await one("for a class of which there is none", "refused", replace(CURTAIL, targets=("class:pv",)), step=6),
        await one("for a class beyond rights over one device", "refused",
                  replace(solar, targets=("class:battery",)), SOLAR, step=9),
        await one("expired", "refused", replace(DISCHARGE, start_us=1, end_us=NOW_US), step=8),
        await one("beyond the horizon", "refused", replace(CURTAIL, end_us=NOW_US + 7 * DAY_US + 1), step=8),
        await one("until the horizon", "admitted", replace(CURTAIL, end_us=NOW_US + 7 * DAY_US)),
        await one("by a stranger with a known name", "refused", DISCHARGE, STRANGER, step=3),
        await one("under another issuer's name", "refused", DISCHARGE, SOLAR, step=3),
        await one("curtail within rights over one device", "admitted", replace(solar, targets=("pv",)), SOLAR),
        await one("beyond rights over one device", "refused", replace(solar, targets=("battery",)), SOLAR, step=9),
        await one("for the whole site with rights over one device", "refused", solar, SOLAR, step=9),
        await one("within rights over a class", "admitted", pool, BATTERIES),
        await one("for one device more than the class", "refused",
                  replace(pool, targets=("battery", "car")), BATTERIES, step=9),
        await one("within rights over a zone", "admitted", desk, CARBON),
        await one("for the gateway with rights over a zone", "refused",
                  replace(desk, audience=DISCHARGE.audience), CARBON, step=9),
        await one("without the right to its type", "refused",
                  replace(solar, targets=("pv",), mode=Mode.SETPOINT, type=CommandType.IDLE), SOLAR, step=9),
        await one("without the right to its priority", "refused",
                  replace(desk, priority=Priority.PEER_TO_PEER), CARBON, step=9),
        await one("by rights that have expired", "refused",
                  replace(CURTAIL, issuer=RETIRED.name), RETIRED, step=8),
        await one("by governance alone", "admitted", replace(CURTAIL, issuer=BOARD.name), BOARD),
        await one("more power than the issuer may order", "refused", replace(DISCHARGE, power_w=50_001), step=9),
        await one("a limit above that power", "admitted", replace(CURTAIL, power_w=50_001)),
        await one("as much energy as one signature may order", "admitted", most),
        await one("more energy with one signature", "refused", replace(most, max_energy_wh=40_001), step=10),
        await one("high value with one signature", "refused", big, step=10),
        await two("high value with two signatures", "admitted", big, OPERATOR, BOARD),
        await two("the governance signature first", "admitted", big, BOARD, OPERATOR),
        await two("two signatures of one role", "refused", solar, OPERATOR, SOLAR, step=3),
        await two("two signatures by one key", "refused", big, OPERATOR, OPERATOR, step=2),
        await two("two signatures, in the name of the governance", "refused",
                  replace(big, issuer=BOARD.name), OPERATOR, BOARD, step=3),
        await two("two signatures, one by a stranger", "refused", big, STRANGER, BOARD, step=3),
        await two("two signatures, one by rights that have expired", "refused", big, OPERATOR, RETIRED, step=8),
        await two("two signatures, one beyond its rights", "refused",
                  replace(CURTAIL, issuer=SOLAR.name), SOLAR, BOARD, step=9),
        await one("", "refused", DISCHARGE, step=1),
        await one("x" * 256, "refused", DISCHARGE, step=1),
    ]  # fmt: skip


async def _enveloped() -> list[Case]:
    """Around and beside a body that would do."""
    good = (await one("discharge", "admitted", DISCHARGE)).message
    body, value = encode_body(DISCHARGE), cbor2.loads(good.authorization)
    protected, _, _, signature = value.value
    header = cbor2.loads(protected)
    both = await sign_body_dual(body, COMMAND_TYP, OPERATOR, BOARD)
    outer, _, _, (first, second) = cbor2.loads(both).value

    def envelope(*parts: object, tag: int = 18) -> bytes:
        return cbor2.dumps(cbor2.CBORTag(tag, list(parts)))

    def dual(*signed: object, header: bytes = outer) -> bytes:
        return envelope(header, {}, body, list(signed), tag=98)

    def forged(name: str, step: int, **fields: object) -> Case:
        message = GridCommand()
        message.CopyFrom(good)
        for field, content in fields.items():
            setattr(message, field, content)
        return Case(name, "refused", message, step)

    def bent(name: str, authorization: bytes, step: int = 2) -> Case:
        return forged(name, step, authorization=authorization)

    r, s = signature[:32], int.from_bytes(signature[32:])
    flipped = signature[:-1] + bytes([signature[-1] ^ 1])
    twin = forged("the other signature of the two that an ECDSA signature is", 0)
    twin.message.authorization = envelope(protected, {}, body, r + (P256_ORDER - s).to_bytes(32))
    unread = cbor.encode([2, *cbor2.loads(body)[1:]])
    loose = body[:1] + b"\x18\x01" + body[2:]
    return [
        replace(twin, verdict="admitted", step=None),
        bent("signature with a flipped bit", envelope(protected, {}, body, flipped), 3),
        bent("signature in DER", envelope(protected, {}, body, b"\x30" + signature), 3),
        bent("signature as text", envelope(protected, {}, body, "signature")),
        bent("another typ", envelope(cbor.encode(header | {16: "v2g-gateway/ack+cose"}), {}, body, signature)),
        bent("another algorithm", envelope(cbor.encode(header | {1: -47}), {}, body, signature), 3),
        bent("no kid", envelope(cbor.encode({1: -7, 16: COMMAND_TYP}), {}, body, signature)),
        bent("a kid that is no hash", envelope(cbor.encode(header | {4: b"kid"}), {}, body, signature)),
        bent("one more header", envelope(cbor.encode(header | {3: "application/cbor"}), {}, body, signature)),
        bent("header with its keys out of order", envelope(cbor2.dumps({16: header[16], 4: header[4], 1: -7}), {},
                                                            body, signature)),
        bent("unprotected header", envelope(protected, {99: 1}, body, signature)),
        bent("payload detached", envelope(protected, {}, None, signature)),
        bent("another tag", envelope(protected, {}, body, signature, tag=17)),
        bent("without a tag", cbor2.dumps([protected, {}, body, signature])),
        bent("one part too many", envelope(protected, {}, body, signature, b"")),
        bent("no COSE at all", b"\x00"),
        bent("byte after the envelope", good.authorization + b"\x00"),
        bent("longer than 32 KiB", envelope(protected, {}, body, bytes(32 * 1024))),
        bent("COSE_Sign with one signature", dual(first)),
        bent("COSE_Sign with three signatures", dual(first, second, second)),
        bent("COSE_Sign with a key in the outer header", dual(first, second, header=protected)),
        bent("COSE_Sign with a typ in an inner header", dual([cbor.encode({1: -7, 4: header[4], 16: COMMAND_TYP}), {},
                                                              first[2]], second)),
        bent("COSE_Sign with an unprotected inner header", dual([first[0], {4: b""}, first[2]], second)),
        bent("COSE_Sign whose second signature does not hold", dual(first, [second[0], {}, flipped]), 3),
        bent("COSE_Sign signed as one COSE_Sign1", dual([first[0], {}, signature], second), 3),
        bent("signed body of another version", await sign_body(unread, COMMAND_TYP, OPERATOR)),
        bent("signed body with a longer integer than needed", await sign_body(loose, COMMAND_TYP, OPERATOR)),
        forged("plain type differs", 4, type=0),
        forged("plain power differs in one bit", 4, power_limit_kw=_float("40eccccc")),
        forged("plain price differs", 4, price_per_kwh_cents=12.0),
        forged("plain end differs", 4, valid_until_timestamp_us=DISCHARGE.end_us + 1),
        forged("plain hash is missing", 4, command_hash=b""),
        forged("plain hash is another", 4, command_hash=bytes(32)),
        Case("price of nothing with a sign", "refused",
             _with((await one("price of nothing with a sign", "", CURTAIL)).message, price_per_kwh_cents=-0.0), 4),
    ]  # fmt: skip


def plain(**fields: object) -> GridCommand:
    """An unsigned CURTAIL with other fields."""
    message = GridCommand(command_id="plain", power_limit_kw=2.5, valid_until_timestamp_us=NOW_US + MINUTE_US)
    message.type = device_pb2.CURTAIL
    return _with(message, **fields)


def _unsigned() -> Iterable[Case]:
    yield Case("empty message", "none", GridCommand())
    yield Case("acknowledgement alone", "none", GridCommand(acknowledged_sequence=12))
    yield Case("unsigned curtail", "admitted", plain(), stream="pv")
    yield Case("unsigned idle", "admitted", plain(type=2), stream="battery")
    yield Case("unsigned idle with a power, which says nothing", "admitted", plain(type=2, power_limit_kw=1e30),
               stream="battery")  # fmt: skip
    yield Case("unsigned charge with 0", "admitted", plain(type=0, power_limit_kw=0.0), stream="car")
    yield Case("unsigned on the gateway's link: for all devices", "admitted", plain())
    for name, stream, fields in (
        ("unsigned charge", "car", {"type": 0}),
        ("unsigned for a device that is not here", "heatpump", {}),
        ("unsigned with an unknown type", "pv", {"type": 4}),
        ("unsigned with NaN", "pv", {"power_limit_kw": float("nan")}),
        ("unsigned with infinity", "pv", {"power_limit_kw": float("inf")}),
        ("unsigned with a negative limit", "pv", {"power_limit_kw": -2.5}),
        ("unsigned with a negative price", "pv", {"price_per_kwh_cents": -0.5}),
        ("unsigned with more than a gigawatt", "pv", {"power_limit_kw": 1_100_000.0}),
        ("unsigned with no end", "pv", {"valid_until_timestamp_us": 0}),
        ("unsigned and expired", "pv", {"valid_until_timestamp_us": NOW_US}),
        ("unsigned beyond the horizon", "pv", {"valid_until_timestamp_us": NOW_US + 8 * DAY_US}),
    ):
        yield Case(name, "refused", plain(**fields), stream=stream)
    yield Case("unsigned with a very long id", "refused", plain(command_id="x" * 256), 1, "pv")


def _with(message: GridCommand, **fields: object) -> GridCommand:
    for field, content in fields.items():
        setattr(message, field, content)
    return message


def _float(bits: str) -> float:
    value: float = struct.unpack(">f", bytes.fromhex(bits))[0]
    return value


def _bits(value: float) -> str:
    return struct.pack(">f", value).hex()
