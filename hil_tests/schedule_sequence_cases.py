"""Schedules and values of feeds that come one after the other to one gateway: what replaces what, and sums."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cbor2

from agent.control.authorization import sign_body, sign_body_dual
from agent.control.command import Price
from agent.control.feeds import TYP as FEED_TYP
from agent.control.feeds import FeedValue, encode_value
from agent.control.schedule import STEP_US, TYP, Schedule, encode_schedule
from hil_tests.command_cases import P256_ORDER
from hil_tests.command_parties import BOARD, NOW_US, OPERATOR, SECOND_KEY, Issuer, Json


async def schedule_sequences(full: Schedule) -> Json:
    """Each for the gateway of commands/site.json, with nothing before."""

    async def one(verdict: str, schedule: Schedule, *by: Issuer, alarm: bool = False, about: str = "body") -> Json:
        body, signers = encode_schedule(schedule), by or (OPERATOR,)
        signed = await (sign_body_dual(body, TYP, *signers) if len(signers) == 2 else sign_body(body, TYP, *signers))
        named = body if about == "body" else signed
        return {
            "verdict": verdict, "signed": signed.hex(), "hash": hashlib.sha256(named).hexdigest(), "alarm": alarm,
        }  # fmt: skip

    def turned(case: Json) -> Json:
        """The same body under the other signature of the two that an ECDSA signature is."""
        assert isinstance(case, dict)
        protected, _, body, signature = cbor2.loads(bytes.fromhex(str(case["signed"]))).value
        other = signature[:32] + (P256_ORDER - int.from_bytes(signature[32:])).to_bytes(32)
        return {**case, "signed": cbor2.dumps(cbor2.CBORTag(18, [protected, {}, body, other])).hex()}

    def numbered(sequence: int, **changes: object) -> Schedule:
        return replace(full, sequence=sequence, **changes)  # type: ignore[arg-type]  # by name

    def energy(sequence: int, energy_wh: int, **changes: object) -> Schedule:
        return numbered(sequence, **{"steps": (energy_wh,) * 4, "price": None, "start_us": quarter(1), **changes})

    def quarter(number: int) -> int:
        return full.start_us + number * STEP_US

    first = await one("admitted", full)
    beyond = await one("refused", replace(full, steps=(50_001,)))
    dear, next_hour = Price(600 * 1_000_000, "EUR"), {"start_us": quarter(5)}
    sixteen = [await one("admitted", numbered(n, start_us=quarter(n), steps=(100,))) for n in range(1, 17)]
    cases: list[tuple[str, dict[str, Json], list[Json]]] = [
        ("the same again", {}, [first, await one("again", full)]),
        ("the same under the other signature", {}, [first, turned(await one("again", full))]),
        ("a number below the newest", {},
         [first, await one("refused", numbered(6, steps=(1,)), about="all")]),
        ("two schedules under one number", {},
         [first, await one("refused", replace(full, steps=(1,)), alarm=True)]),
        ("an epoch that is over", {}, [first, await one("refused", numbered(8, epoch=0), about="all")]),
        ("a new epoch begins its numbers anew", {}, [first, await one("admitted", numbered(0, epoch=2))]),
        ("each key has its numbers", {}, [first, await one("admitted", replace(full, steps=(1,)), SECOND_KEY)]),
        ("a refused one leaves its number free", {}, [beyond, first]),
        ("one that covers the one before replaces it", {},
         [await one("admitted", energy(1, 40_000)), await one("admitted", energy(2, 40_000))]),
        ("one that covers part of its time does not", {},
         [await one("admitted", energy(1, 40_000)),
          await one("refused", energy(2, 40_000, start_us=quarter(2)))]),
        ("one that covers part of its devices does not", {},
         [await one("admitted", energy(1, 40_000)), await one("refused", energy(2, 1, targets=("battery",)))]),
        ("one for all devices does", {},
         [await one("admitted", energy(1, 40_000)), await one("admitted", energy(2, 40_000, targets=()))]),
        ("one of another key does not", {},
         [await one("admitted", energy(1, 30_000)), await one("refused", energy(1, 10_001), SECOND_KEY),
          await one("admitted", energy(1, 10_000), SECOND_KEY)]),
        ("what was agreed is taken back with a schedule of nothing", {},
         [await one("admitted", energy(1, 40_000)), await one("admitted", energy(2, 0, steps=(None,) * 4)),
          await one("admitted", energy(3, 40_000, **next_hour))]),
        ("the energy of two", {},
         [await one("admitted", energy(1, 30_000)), await one("refused", energy(2, 10_001, **next_hour)),
          await one("admitted", energy(2, 10_000, **next_hour))]),
        ("two signatures go beyond it", {},
         [await one("admitted", energy(1, 30_000)),
          await one("admitted", energy(2, 30_000, **next_hour), OPERATOR, BOARD)]),
        ("the worth of two", {},
         [await one("admitted", energy(1, 10_000, price=dear)),
          await one("refused", energy(2, 7_000, price=dear, **next_hour)),
          await one("admitted", energy(2, 6_666, price=dear, **next_hour))]),
        ("the seventeenth", {},
         [*sixteen, await one("refused", numbered(17, start_us=quarter(17), steps=(100,))),
          await one("refused", numbered(17, start_us=quarter(16), steps=(100,)), SECOND_KEY),
          await one("admitted", numbered(17, start_us=quarter(16), steps=(100,)))]),
        ("under a trust list that has expired", {"trust_list_expires_us": NOW_US},
         [await one("refused", numbered(1, steps=(0,))),
          await one("refused", numbered(2, steps=(0,)), OPERATOR, BOARD)]),
    ]  # fmt: skip
    return [{"name": name, "changes": changes, "schedules": listed} for name, changes, listed in cases]


async def value_sequences(price: FeedValue, frequency: FeedValue, market: Issuer, mirror: Issuer) -> Json:
    """Each for the site of feeds/site.json, with nothing before."""

    async def one(verdict: str, value: FeedValue, by: Issuer = market) -> Json:
        return {"verdict": verdict, "signed": (await sign_body(encode_value(value), FEED_TYP, by)).hex()}

    first = await one("counts", price)
    cases: list[tuple[str, list[Json]]] = [
        ("the same again", [first, await one("ignored", price)]),
        ("another value under one number", [first, await one("ignored", replace(price, value=1))]),
        ("a number below the last", [first, await one("ignored", replace(price, sequence=price.sequence - 1))]),
        ("a number above it", [first, await one("counts", replace(price, sequence=price.sequence + 9))]),
        ("each kind has its numbers", [first, await one("counts", frequency)]),
        ("each source has its numbers", [first, await one("counts", replace(price, source=mirror.name), mirror)]),
        ("one that does not count leaves its number free",
         [await one("ignored", replace(price, area="south")), first]),
    ]  # fmt: skip
    return [{"name": name, "values": listed} for name, listed in cases]
