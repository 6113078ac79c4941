"""Messages of proto/vectors/commands that come one after the other to one gateway: what is said twice, and sums."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cbor2

from agent.control.command import Command, CommandType, Mode, Point, Price
from hil_tests.command_cases import P256_ORDER, Case, one, plain, two
from hil_tests.command_parties import (
    BOARD,
    CURTAIL,
    DISCHARGE,
    MINUTE_US,
    NOW_US,
    OPERATOR,
    SECOND_KEY,
    Json,
)
from proto.energysettlement.v1.device_pb2 import GridCommand


@dataclass(frozen=True)
class Sequence:
    name: str
    messages: list[Case]
    changes: dict[str, Json] = field(default_factory=dict)
    """Of the site."""

    def json(self) -> Json:
        """As the file holds it."""
        listed: list[Json] = [{**case.json(), "alarm": case.alarm} for case in self.messages]
        return {"name": self.name, "changes": self.changes, "messages": listed}


def numbered(sequence: int, **changes: object) -> Command:
    """A small command with another number."""
    return replace(CURTAIL, sequence=sequence, **changes)  # type: ignore[arg-type]  # by name


async def sequences() -> list[Json]:
    """Each for a gateway that has seen nothing before."""
    return [sequence.json() for sequence in [*await _said_twice(), *await _sums(), *await _expired(), *_unsigned()]]


async def _said_twice() -> list[Sequence]:
    first = await one("a", "admitted", DISCHARGE)
    again = replace(first, verdict="again")
    protected, _, body, signature = cbor2.loads(first.message.authorization).value
    turned = signature[:32] + (P256_ORDER - int.from_bytes(signature[32:])).to_bytes(32)
    envelope = cbor2.dumps(cbor2.CBORTag(18, [protected, {}, body, turned]))
    other_envelope = replace(again, message=_copy(first, authorization=envelope))
    unsigned_now = replace(again, message=_copy(first, authorization=cbor2.dumps(
        cbor2.CBORTag(18, [protected, {}, body, bytes(64)])
    )))  # fmt: skip
    forged = Case("a", "refused", _copy(first, authorization=envelope[:-1] + bytes([envelope[-1] ^ 1])), 3)
    beyond = replace(DISCHARGE, power_w=50_001)
    equivocal = replace(DISCHARGE, power_w=7_300)
    return [
        Sequence("the same command again", [first, again]),
        Sequence("the same under the other signature", [first, other_envelope]),
        Sequence("the same body under a signature that does not hold: known is known", [first, unsigned_now]),
        Sequence("the same body under another id", [first, replace(again, message=_copy(first, command_id="b"))]),
        Sequence("a forgery first: it ends nothing but itself", [forged, first]),
        Sequence("two commands under one number",
                 [first, replace(await one("b", "refused", equivocal, step=7), alarm=True)]),
        Sequence("one id for two commands",
                 [first, replace(await one("a", "refused", numbered(9), step=7), alarm=True)]),
        Sequence("a refused command is known, too",
                 [await one("a", "refused", beyond, step=9), replace(await one("a", "", beyond), verdict="again")]),
        Sequence("a refused command leaves its number and its id free",
                 [await one("a", "refused", beyond, step=9), first]),
        Sequence("numbers out of order within the window",
                 [await one("a", "admitted", numbered(2000)), await one("b", "admitted", numbered(977)),
                  await one("c", "refused", numbered(976), step=5)]),
        Sequence("a number that was jumped over", [await one("a", "admitted", numbered(5)),
                                                   await one("b", "admitted", numbered(3))]),
        Sequence("an epoch that is over", [await one("a", "admitted", numbered(1, epoch=2)),
                                           await one("b", "refused", numbered(2, epoch=1), step=5)]),
        Sequence("a new epoch begins its numbers anew", [await one("a", "admitted", numbered(10)),
                                                         await one("b", "admitted", numbered(0, epoch=1))]),
        Sequence("each audience has its numbers", [first, await one("b", "admitted", numbered(1))]),
        Sequence("each key has its numbers", [first, await one("b", "admitted", equivocal, SECOND_KEY)]),
        Sequence("the key of two signatures is the operational one",
                 [await two("a", "admitted", numbered(5), BOARD, OPERATOR),
                  replace(await one("b", "refused", numbered(5, power_w=1), step=7), alarm=True)]),
    ]  # fmt: skip


async def _sums() -> list[Sequence]:
    def setpoint(sequence: int, energy_wh: int, price: Price | None = None) -> Command:
        return replace(
            DISCHARGE, power_w=energy_wh, max_energy_wh=None, end_us=NOW_US + 60 * MINUTE_US, price=price,
            sequence=sequence,
        )  # fmt: skip

    dear = Price(600 * 1_000_000, "EUR")
    idle = replace(DISCHARGE, type=CommandType.IDLE, power_w=0, max_energy_wh=None, sequence=4)
    return [
        Sequence("more energy than one signature may order in a day",
                 [await one("a", "admitted", setpoint(1, 30_000)), await one("b", "refused", setpoint(2, 10_001),
                                                                             step=10),
                  await one("c", "admitted", setpoint(3, 10_000)), await one("d", "admitted", idle),
                  await two("e", "admitted", setpoint(5, 30_000), OPERATOR, BOARD),
                  await one("f", "admitted", numbered(6, power_w=40_000))]),
        Sequence("an issuer is its name, with any of its keys",
                 [await one("a", "admitted", setpoint(1, 30_000)),
                  await one("b", "refused", setpoint(1, 10_001), SECOND_KEY, step=10)]),
        Sequence("what two have signed counts for the next that one signs",
                 [await two("a", "admitted", setpoint(1, 40_000), OPERATOR, BOARD),
                  await one("b", "refused", setpoint(2, 1_000), step=10)]),
        Sequence("worth more than one signature may order",
                 [await one("a", "admitted", setpoint(1, 10_000, dear)),
                  await one("b", "refused", setpoint(2, 7_000, dear), step=10),
                  await one("c", "admitted", setpoint(3, 6_666, dear))]),
        Sequence("less energy than its power would be in its time",
                 [await one("a", "admitted", replace(setpoint(1, 50_000), max_energy_wh=39_999)),
                  await one("b", "refused", setpoint(2, 2), step=10)]),
    ]  # fmt: skip


async def _expired() -> list[Sequence]:
    charge = replace(DISCHARGE, type=CommandType.CHARGE, max_energy_wh=None, price=None)
    return [
        Sequence(
            "under a trust list that has expired only what restricts passes",
            [
                await one("a", "refused", DISCHARGE, step=8),
                await one("b", "refused", replace(charge, sequence=2), step=8),
                await two("c", "refused", replace(charge, sequence=3), OPERATOR, BOARD, step=8),
                await one("d", "refused", replace(charge, sequence=4, power_w=0, point=Point.CONNECTION), step=8),
                await one("e", "admitted", replace(charge, sequence=5, power_w=0)),
                await one("f", "admitted", replace(charge, sequence=6, type=CommandType.IDLE, power_w=0)),
                await one("g", "admitted", replace(CURTAIL, sequence=7, mode=Mode.IMPORT_LIMIT, power_w=5_000)),
            ],
            {"trust_list_expires_us": NOW_US},
        ),
        Sequence(
            "a trust list in its last moment",
            [await one("a", "admitted", DISCHARGE)],
            {"trust_list_expires_us": NOW_US + 1},
        ),
    ]


def _unsigned() -> list[Sequence]:
    def charge(name: str, verdict: str, kw: float) -> Case:
        end_us = NOW_US + 60 * MINUTE_US
        return Case(
            name, verdict, plain(command_id=name, type=0, power_limit_kw=kw, valid_until_timestamp_us=end_us),
            stream="car",
        )  # fmt: skip

    curtail = Case("plain", "admitted", plain(), stream="pv")
    return [
        Sequence("a site that obeys signed commands only",
                 [Case("plain", "refused", plain(), stream="pv"), Case("b", "refused", plain(command_id="b", type=2))],
                 {"unsigned_commands": "refuse"}),
        Sequence("a site that obeys all: the unsigned are one issuer, which has no second signature",
                 [charge("a", "admitted", 30.0), charge("b", "refused", 10.001), charge("c", "admitted", 10.0)],
                 {"unsigned_commands": "all"}),
        Sequence("the same unsigned message again", [curtail, replace(curtail, verdict="again")]),
        Sequence("the same on another stream is another message",
                 [curtail, replace(curtail, verdict="refused", stream="battery", alarm=True)]),
        Sequence("one id for two unsigned messages",
                 [curtail, Case("plain", "refused", plain(power_limit_kw=2.0), stream="pv", alarm=True)]),
        Sequence("a refused one leaves its id free",
                 [Case("plain", "refused", plain(type=4), stream="pv"), curtail]),
    ]  # fmt: skip


def _copy(case: Case, **fields: object) -> GridCommand:
    message = GridCommand()
    message.CopyFrom(case.message)
    for name, content in fields.items():
        setattr(message, name, content)
    return message
