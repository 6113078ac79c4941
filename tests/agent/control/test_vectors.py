"""proto/vectors/commands: the files are what the generator makes, and gateway and stranger judge as they say."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from agent.config import UnsignedCommands
from agent.control.admission import Admitted, Decision, Duplicate, Nothing, Policy, Refused, judge
from agent.control.book import Book
from agent.control.command import decode_body, encode_body
from agent.control.errors import CommandFormatError
from agent.control.order import Now
from agent.evidence.cose import VerifyKey
from agent.evidence.statements import CommandState
from agent.identity.trust import IssuerRights, Role, TrustList
from hil_tests.generate_command_vectors import FOLDER, files
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.control import independent
from tests.agent.control import independent_admission as stranger


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


SITE = _read("site.json")
BODIES = _read("bodies.json")
MESSAGES = _read("messages.json")
SEQUENCES = _read("sequences.json")
VERDICTS = {"admitted": Admitted, "refused": Refused, "again": Duplicate, "none": Nothing}


def _float(bits: str) -> float:
    value: float = struct.unpack(">f", bytes.fromhex(bits))[0]
    return value


def _trust_list(site: dict[str, Any] = SITE) -> TrustList:
    return TrustList(
        version=1,
        issued_us=1,
        expires_us=site["trust_list_expires_us"],
        issuers=tuple(
            IssuerRights(
                issuer=entry["issuer"],
                key=VerifyKey(entry["algorithm"], bytes.fromhex(entry["public_key_der"])),
                role=Role[entry["role"].upper()],
                types=frozenset(entry["types"]),
                targets=tuple(entry["targets"]),
                highest_power_w=entry["highest_power_w"],
                highest_priority=entry["highest_priority"],
                expires_us=entry["expires_us"],
            )
            for entry in site["issuers"]
        ),
    )


def _policy(site: dict[str, Any] = SITE) -> Policy:
    return Policy(
        gateway_id=site["gateway_id"],
        zones=frozenset(site["zones"]),
        unsigned=UnsignedCommands(site["unsigned_commands"]),
        controllable=frozenset(site["devices"]),
        site_rating_w=site["site_rating_w"],
        classes={kind: frozenset(members) for kind, members in site["classes"].items()},
    )


POLICY = _policy()


def _name(case: dict[str, Any]) -> str:
    return str(case["name"])[:80] or "without an id"


def test_the_files_are_what_the_generator_makes() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in Path(FOLDER).iterdir()} == files()


@pytest.mark.parametrize("case", BODIES, ids=_name)
def test_a_body_is_taken_or_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["body"])
    theirs = independent.body_of(body)
    if not case["valid"]:
        with pytest.raises(CommandFormatError):
            decode_body(body)
        assert theirs is None
        return
    assert encode_body(decode_body(body)) == body
    assert theirs is not None
    assert hashlib.sha256(body).hexdigest() == case["command_hash"]
    assert independent.power_bits(theirs) == case["power_limit_kw_bits"]
    assert independent.price_bits(theirs) == case["price_per_kwh_cents_bits"]


def _message(case: dict[str, Any]) -> GridCommand:
    message = GridCommand(
        command_id=case["command_id"],
        power_limit_kw=_float(case["power_limit_kw_bits"]),
        price_per_kwh_cents=_float(case["price_per_kwh_cents_bits"]),
        valid_until_timestamp_us=case["valid_until_timestamp_us"],
        command_hash=bytes.fromhex(case["command_hash"]),
        authorization=bytes.fromhex(case["authorization"]),
    )
    message.type = case["type"]
    return message


def _about(decision: Decision) -> str | None:
    """What the receipts are about, as the vectors have it."""
    match decision:
        case Admitted(order):
            return order.hash.hex()
        case Refused(hash_):
            return hash_.hex()
        case Duplicate(entry):
            return entry.order.hash.hex()
    return None


def _judged(case: dict[str, Any], site: dict[str, Any], book: Book) -> Book:
    """Hold one message against its vector; the book after it."""
    now = Now(wall_us=site["now_us"])
    decision = judge(_message(case), case["stream"], _policy(site), _trust_list(site), book, now)
    assert type(decision) is VERDICTS[case["verdict"]], decision
    assert _about(decision) == case["about"]
    if isinstance(decision, Refused):
        assert decision.alarm == case.get("alarm", False)
        return book.refused(decision.hash, decision.command_id, decision.order, decision.reason, now).book
    if isinstance(decision, Admitted):
        return book.admitted(decision.order, CommandState.ACCEPTED, "", now).book
    return book


@pytest.mark.parametrize("case", MESSAGES, ids=_name)
def test_a_message_is_judged_as_the_vector_says(case: dict[str, Any]) -> None:
    _judged(case, SITE, Book())


@pytest.mark.parametrize("case", SEQUENCES, ids=_name)
def test_messages_one_after_the_other_are_judged_as_the_vector_says(case: dict[str, Any]) -> None:
    site, book = SITE | case["changes"], Book()
    for message in case["messages"]:
        book = _judged(message, site, book)


# -- somebody who has read proto/COMMANDS.md and nothing else


def _judged_by_a_stranger(case: dict[str, Any], site: stranger.Site, memory: stranger.Memory) -> None:
    assert independent.message_hash(case).hex() == case["message_hash"]
    verdict = stranger.judge(case, site, memory)
    about = None if case["about"] is None else bytes.fromhex(case["about"])
    assert verdict == stranger.Verdict(case["verdict"], about, case["step"], case.get("alarm", False))


@pytest.mark.parametrize("case", MESSAGES, ids=_name)
def test_a_stranger_judges_a_message_as_the_vector_says(case: dict[str, Any]) -> None:
    _judged_by_a_stranger(case, stranger.Site(SITE), stranger.Memory())


@pytest.mark.parametrize("case", SEQUENCES, ids=_name)
def test_a_stranger_judges_messages_one_after_the_other_as_the_vector_says(case: dict[str, Any]) -> None:
    site, memory = stranger.Site(SITE | case["changes"]), stranger.Memory()
    for message in case["messages"]:
        _judged_by_a_stranger(message, site, memory)


def test_every_step_of_admission_that_one_message_can_fail_has_a_vector() -> None:
    steps = {case["step"] for case in MESSAGES} | {m["step"] for case in SEQUENCES for m in case["messages"]}
    # 11 is room for a thousand commands: no vector.
    assert set(range(1, 11)) <= steps
