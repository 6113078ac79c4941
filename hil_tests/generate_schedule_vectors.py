"""Writes proto/vectors/schedules and proto/vectors/feeds: `python -m hil_tests.generate_schedule_vectors`.

The same every time, like the vectors of commands, whose keys and site they share. The verdicts are written here by hand
from proto/COMMANDS.md sections 9 and 10, and a test holds the gateway against them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import cbor2

from agent.control.authorization import TYP as COMMAND_TYP
from agent.control.authorization import sign_body, sign_body_dual
from agent.control.command import Point, Price
from agent.control.feeds import TYP as FEED_TYP
from agent.control.feeds import Feed, FeedValue, encode_value
from agent.control.schedule import STEP_US, TYP, Schedule, encode_schedule
from agent.evidence import cbor
from agent.evidence.cose import key_id_of
from hil_tests.command_parties import (
    BATTERIES,
    BOARD,
    DAY_US,
    GATEWAY,
    NOW_US,
    OPERATOR,
    RETIRED,
    SOLAR,
    STRANGER,
    Issuer,
    Json,
    text_of,
)
from hil_tests.schedule_sequence_cases import schedule_sequences, value_sequences
from hil_tests.vector_files import VECTORS, write

FOLDER: Final = VECTORS
QUARTER_US: Final = NOW_US // STEP_US * STEP_US
"""The quarter of an hour that runs at the vectors' moment."""
AREA: Final = "north"
FREQUENCY_FRESH_US: Final = 10_000_000
NEEDED: Final = 2
MARKET: Final = Issuer("market", 0xFEED01)
MIRROR: Final = Issuer("mirror", 0xFEED02)
THIRD: Final = Issuer("third", 0xFEED03)
UNKNOWN: Final = Issuer("market", 0xFEED04)

FULL: Final = Schedule(
    audience=GATEWAY,
    targets=("battery", "car"),
    point=Point.DEVICE,
    start_us=QUARTER_US,
    steps=(-4_000, -4_000, None, 2_000, 0),
    price=Price(123_456, "EUR"),
    random_start_s=600,
    issuer=OPERATOR.name,
    epoch=1,
    sequence=7,
)
SMALL: Final = Schedule(
    audience="zone:north",
    point=Point.CONNECTION,
    start_us=QUARTER_US + STEP_US,
    steps=(None,),
    issuer=OPERATOR.name,
    sequence=0,
)
WEEK: Final = replace(SMALL, start_us=QUARTER_US - STEP_US, steps=tuple(100 * (n % 7 - 3) for n in range(672)))
PRICE: Final = FeedValue(
    feed=Feed.PRICE,
    area=AREA,
    value=-12_345,
    currency="EUR",
    at_us=QUARTER_US,
    until_us=QUARTER_US + STEP_US,
    source=MARKET.name,
    sequence=5,
)
FREQUENCY: Final = replace(
    PRICE, feed=Feed.FREQUENCY, value=49_987, currency="", at_us=NOW_US - 1_000_000, until_us=NOW_US + 9_000_000
)


def main() -> None:
    """Write all files."""
    write(FOLDER, files())


def files() -> dict[str, str]:
    """Folder and file name -> content."""
    return {
        "schedules/bodies.json": text_of(list(_schedule_bodies())),
        "schedules/signed.json": text_of(asyncio.run(_signed_schedules())),
        "schedules/sequences.json": text_of(asyncio.run(schedule_sequences(FULL))),
        "feeds/site.json": text_of(_feed_site()),
        "feeds/bodies.json": text_of(list(_feed_bodies())),
        "feeds/signed.json": text_of(asyncio.run(_signed_values())),
        "feeds/sequences.json": text_of(asyncio.run(value_sequences(PRICE, FREQUENCY, MARKET, MIRROR))),
        "feeds/agreements.json": text_of(list(_agreements())),
    }


def _schedule_bodies() -> Iterator[Json]:
    for name, schedule, asked in (
        (
            "five quarters with everything",
            FULL,
            [(0, -4_000), (900, -4_000), (1_800, None), (2_700, 2_000), (3_600, 0)],
        ),
        ("nothing agreed", SMALL, [(900, None)]),
        ("a week", WEEK, [(-900, -300), (0, -200), (603_000, 300), (603_900, None)]),
    ):
        body = encode_schedule(schedule)
        yield {
            "name": name,
            "valid": True,
            "body": body.hex(),
            "schedule_hash": hashlib.sha256(body).hexdigest(),
            "end_us": schedule.start_us + 900_000_000 * len(schedule.steps),
            "asks": [{"at_us": QUARTER_US + after_s * 1_000_000, "power_w": power_w} for after_s, power_w in asked],
        }
    good = cbor2.loads(encode_schedule(FULL))
    for name, place, value in (
        ("unknown version", 0, 2),
        ("version as a boolean", 0, True),
        ("audience without a scheme", 1, "north"),
        ("target in capitals", 2, ["Battery"]),
        ("target twice", 2, ["battery", "battery"]),
        ("target as a number", 2, [1]),
        ("more than 200 targets", 2, [f"b{number}" for number in range(201)]),
        ("unknown point", 3, 2),
        ("point as a boolean", 3, True),
        ("begins within a quarter", 4, QUARTER_US + 1),
        ("begins before 1970", 4, -STEP_US),
        ("no steps", 5, []),
        ("more than a week", 5, [0] * 673),
        ("more than a gigawatt", 5, [1_000_000_001]),
        ("less than a gigawatt of export", 5, [-1_000_000_001]),
        ("step as text", 5, ["100"]),
        ("step as a boolean", 5, [True]),
        ("price without currency", 6, [123_456]),
        ("currency in small letters", 6, [123_456, "eur"]),
        ("price beyond a million per kWh", 6, [10**12 + 1, "EUR"]),
        ("negative price", 6, [-1, "EUR"]),
        ("random start beyond half an hour", 7, 1801),
        ("negative random start", 7, -1),
        ("empty issuer", 8, ""),
        ("issuer longer than 255 characters", 8, "x" * 256),
        ("negative epoch", 9, -1),
        ("epoch beyond 32 bits", 9, 2**32),
        ("negative sequence", 10, -1),
        ("sequence beyond 63 bits", 10, 2**63),
        ("ends beyond 2^53", 4, 2**53 // STEP_US * STEP_US),
    ):
        changed = [*good[:place], value, *good[place + 1 :]]
        yield {"name": name, "valid": False, "body": cbor.encode(changed).hex()}
    yield from _never_a_body(encode_schedule(FULL), good, float_at=4)


def _never_a_body(body: bytes, good: list[object], *, float_at: int) -> Iterator[Json]:
    """What no decoder may take, whatever it is of."""
    for name, encoded in (
        ("empty", b""),
        ("cut short", body[:-1]),
        ("byte after the end", body + b"\x00"),
        ("one element too many", cbor2.dumps([*good, 0])),
        ("one element missing", cbor2.dumps(good[:-1])),
        ("longer integer than needed", body[:1] + b"\x18\x01" + body[2:]),
        ("number as a float", cbor2.dumps([*good[:float_at], float(str(good[float_at])), *good[float_at + 1 :]])),
        ("a map", cbor2.dumps({1: 1})),
    ):
        yield {"name": name, "valid": False, "body": encoded.hex()}


async def _signed_schedules() -> Json:
    """Each judged by the gateway of commands/site.json, that has seen none of the others."""
    made: list[Json] = []

    async def one(name: str, verdict: str, schedule: Schedule, *by: Issuer, typ: str = TYP, body: str = "body") -> None:
        """`body`: what the receipt's hash is of: the body, or all that came."""
        encoded = encode_schedule(schedule)
        signers = by or (OPERATOR,)
        signed = (
            await sign_body_dual(encoded, typ, *signers)
            if len(signers) == 2
            else await sign_body(encoded, typ, *signers)
        )
        made.append(_signed_case(name, verdict, signed, encoded if body == "body" else signed))

    # 5 kW for 8 h are the 40 kWh of four hours at the site's 10 kW.
    most = replace(FULL, steps=(5_000,) * 32, price=None)
    solar = replace(FULL, issuer=SOLAR.name, targets=("pv",), steps=(0,))
    await one("for two devices", "admitted", FULL)
    await one("for the zone", "admitted", SMALL)
    await one("for another gateway", "refused", replace(FULL, audience="did:key:zAnotherGateway"))
    await one("for another zone", "refused", replace(FULL, audience="zone:south"))
    await one("for a device that is not here", "refused", replace(FULL, targets=("heatpump",)))
    await one("for all batteries", "admitted", replace(FULL, targets=("class:battery",)))
    await one("for a class of which there is none", "refused", replace(FULL, targets=("class:pv",)))
    await one("over", "refused", replace(FULL, start_us=QUARTER_US - 5 * STEP_US))
    await one("ends beyond the horizon", "refused", replace(SMALL, start_us=QUARTER_US + 7 * DAY_US))
    await one(
        "ends at the last quarter before the horizon", "admitted", replace(SMALL, start_us=QUARTER_US + 671 * STEP_US)
    )
    await one("by a stranger with a known name", "refused", FULL, STRANGER, body="all")
    await one("under another issuer's name", "refused", FULL, SOLAR, body="all")
    await one("without the right to charge", "refused", solar, SOLAR)
    await one("more power than the issuer may agree on", "refused", replace(FULL, steps=(50_001,)))
    await one("as much energy as one signature may agree on", "admitted", most)
    await one("more energy than that", "refused", replace(most, steps=(*most.steps, 100)))
    await one("more energy with two signatures", "admitted", replace(most, steps=(*most.steps, 100)), OPERATOR, BOARD)
    await one("two signatures of one role", "refused", FULL, OPERATOR, SOLAR, body="all")
    await one("two signatures by one key", "refused", FULL, OPERATOR, OPERATOR, body="all")
    await one("worth more than one signature may agree on", "refused",
              replace(FULL, steps=(4_000,), price=Price(10_000_000_001, "EUR")))  # fmt: skip
    await one("signed as a command", "refused", FULL, typ=COMMAND_TYP, body="all")
    await one("as much power as the issuer may agree on", "admitted", replace(FULL, steps=(50_000, -50_000)))
    await one("export of more power than the issuer may agree on", "refused", replace(FULL, steps=(-50_001,)))
    await one("both ways count", "refused", replace(most, steps=(5_000, -5_000) * 16 + (100,)))
    await one("energy in more than a day", "admitted", replace(FULL, steps=(1_600,) * 192, price=None))
    await one("more of it in some day", "refused",
              replace(FULL, steps=(1_000,) * 96 + (1_700,) * 96, price=None))  # fmt: skip
    await one("the governance signature first", "admitted", replace(most, steps=(*most.steps, 100)), BOARD, OPERATOR)
    await one("by governance alone", "admitted", replace(FULL, issuer=BOARD.name), BOARD)
    await one("two signatures, one by rights that have expired", "refused", FULL, OPERATOR, RETIRED)
    await one("by rights that have expired", "refused", replace(FULL, issuer=RETIRED.name), RETIRED)
    await one("for a device beyond rights over a class", "refused", replace(FULL, issuer=BATTERIES.name), BATTERIES)
    await one("within rights over a class", "admitted",
              replace(FULL, issuer=BATTERIES.name, targets=("class:battery",)), BATTERIES)  # fmt: skip
    made += _forged(await sign_body(encode_schedule(FULL), TYP, OPERATOR), "refused")
    return made


def _signed_case(name: str, verdict: str, signed: bytes, named: bytes) -> Json:
    return {"name": name, "verdict": verdict, "signed": signed.hex(), "hash": hashlib.sha256(named).hexdigest()}


def _forged(signed: bytes, verdict: str) -> list[Json]:
    """Envelopes that do not hold, around a body that would."""
    protected, _, body, signature = cbor2.loads(signed).value
    header = cbor2.loads(protected)

    def envelope(*parts: object, tag: int = 18) -> bytes:
        return cbor2.dumps(cbor2.CBORTag(tag, list(parts)))

    flipped = signature[:-1] + bytes([signature[-1] ^ 1])
    changed = body[:-1] + bytes([body[-1] ^ 1])
    cases = {
        "signature with a flipped bit": envelope(protected, {}, body, flipped),
        "another body under the signature": envelope(protected, {}, changed, signature),
        "signature in DER": envelope(protected, {}, body, b"\x30" + signature),
        "another algorithm": envelope(cbor.encode(header | {1: -47}), {}, body, signature),
        "no kid": envelope(cbor.encode({k: v for k, v in header.items() if k != 4}), {}, body, signature),
        "unprotected header": envelope(protected, {99: 1}, body, signature),
        "payload detached": envelope(protected, {}, None, signature),
        "another tag": envelope(protected, {}, body, signature, tag=17),
        "no COSE at all": b"\x00",
        "empty message": b"",
        "byte after the envelope": signed + b"\x00",
    }
    return [_signed_case(name, verdict, came, came) for name, came in cases.items()]


def _feed_site() -> Json:
    """Whose values count, and for how long."""
    return {
        "warning": "The secrets are public: never trust these keys outside tests.",
        "now_us": NOW_US,
        "area": AREA,
        "needed": NEEDED,
        "frequency_fresh_us": FREQUENCY_FRESH_US,
        "sources": [
            {
                "name": source.name,
                "algorithm": source.algorithm,
                "public_key_der": source.public_key_der.hex(),
                "key_id": key_id_of(source.public_key_der).hex(),
                "secret": f"{source.secret:064x}",
            }
            for source in (MARKET, MIRROR, THIRD)
        ],
    }


def _feed_bodies() -> Iterator[Json]:
    for name, said in (("a price below zero", PRICE), ("a frequency", FREQUENCY)):
        yield {"name": name, "valid": True, "body": encode_value(said).hex()}
    price, frequency = (cbor2.loads(encode_value(said)) for said in (PRICE, FREQUENCY))
    for name, good, place, value in (
        ("unknown version", price, 0, 2),
        ("version as a boolean", price, 0, True),
        ("unknown kind", price, 1, 2),
        ("area as a number", price, 2, 1),
        ("price beyond a thousand per kWh", price, 3, 1_000_000_001),
        ("price below minus a thousand per kWh", price, 3, -1_000_000_001),
        ("price as text", price, 3, "1"),
        ("price without currency", price, 4, ""),
        ("currency with a digit", price, 4, "EU1"),
        ("currency in small letters", price, 4, "eur"),
        ("frequency with a currency", frequency, 4, "EUR"),
        ("frequency below 45 Hz", frequency, 3, 44_999),
        ("frequency above 66 Hz", frequency, 3, 66_001),
        ("before 1970", price, 5, -1),
        ("ends as it begins", price, 6, QUARTER_US),
        ("ends beyond 2^53", price, 6, 2**53),
        ("source as null", price, 7, None),
        ("negative sequence", price, 8, -1),
        ("sequence beyond 63 bits", price, 8, 2**63),
    ):
        yield {"name": name, "valid": False, "body": cbor.encode([*good[:place], value, *good[place + 1 :]]).hex()}
    yield {
        "name": "longer than 1024 bytes",
        "valid": False,
        "body": cbor.encode([*price[:2], "x" * 1024, *price[3:]]).hex(),
    }
    yield from _never_a_body(encode_value(PRICE), price, float_at=5)


async def _signed_values() -> Json:
    """Each for a gateway that has seen none of the others. A value that does not count has no receipt."""
    made: list[Json] = []

    async def one(name: str, verdict: str, value: FeedValue, *by: Issuer, typ: str = FEED_TYP) -> None:
        encoded, signers = encode_value(value), by or (MARKET,)
        signed = (
            await sign_body_dual(encoded, typ, *signers)
            if len(signers) == 2
            else await sign_body(encoded, typ, *signers)
        )
        made.append({"name": name, "verdict": verdict, "signed": signed.hex()})

    await one("a price", "counts", PRICE)
    await one("a frequency", "counts", FREQUENCY)
    await one("by another source", "counts", replace(PRICE, source=MIRROR.name), MIRROR)
    await one("for another area", "ignored", replace(PRICE, area="south"))
    await one("by a key that is not enrolled", "ignored", PRICE, UNKNOWN)
    await one("in another source's name", "ignored", PRICE, MIRROR)
    await one("a price that is over", "ignored", replace(PRICE, at_us=QUARTER_US - STEP_US, until_us=NOW_US))
    await one("a price from in a minute on", "counts", replace(PRICE, at_us=NOW_US + 60_000_000))
    await one("a price of the future", "ignored", replace(PRICE, at_us=NOW_US + 60_000_001))
    await one("a frequency as old as may be", "counts", replace(FREQUENCY, at_us=NOW_US - FREQUENCY_FRESH_US))
    await one("a frequency that is too old", "ignored", replace(FREQUENCY, at_us=NOW_US - FREQUENCY_FRESH_US - 1))
    await one("two signatures", "ignored", PRICE, MARKET, MIRROR)
    await one("signed as a schedule", "ignored", PRICE, typ=TYP)
    for case in _forged(await sign_body(encode_value(PRICE), FEED_TYP, MARKET), "ignored"):
        assert isinstance(case, dict)
        made.append({key: value for key, value in case.items() if key != "hash"})
    return made


def _agreements() -> Iterator[Json]:
    """What the sources say at one moment, all of it fresh, and what they agree on; null: they do not."""
    for name, kind, values, agreed, sources in (
        ("one source is not enough", "price", [("EUR", 100_000)], None, 0),
        ("two that say the same", "price", [("EUR", 100_000), ("EUR", 100_000)], 100_000, 2),
        ("two that differ a little: the lower", "price", [("EUR", 100_000), ("EUR", 101_000)], 100_000, 2),
        ("two that differ", "price", [("EUR", 100_000), ("EUR", 200_000)], None, 0),
        ("one liar among three", "price", [("EUR", 100_000), ("EUR", 100_200), ("EUR", 900_000)], 100_000, 2),
        ("three that agree: the middle", "price", [("EUR", 100_200), ("EUR", 100_000), ("EUR", 100_400)], 100_200, 3),
        ("another currency is another thing", "price", [("EUR", 100_000), ("USD", 100_000)], None, 0),
        ("the currency of most", "price", [("EUR", 100_000), ("USD", 100_000), ("EUR", 100_000)], 100_000, 2),
        ("two frequencies 4 mHz apart", "frequency", [("", 50_000), ("", 50_004)], 50_000, 2),
        ("two frequencies that differ", "frequency", [("", 50_000), ("", 50_100)], None, 0),
    ):
        yield {
            "name": name,
            "kind": kind,
            "values": [{"currency": currency, "value": value} for currency, value in values],
            "agreed": agreed,
            "sources": sources,
        }


if __name__ == "__main__":
    main()
