"""proto/vectors/schedules and feeds: the files are what the generator makes, and the gateway judges as they say.

A reader that shares no code with it (cbor2, pycose, and the tables of proto/COMMANDS.md sections 9 and 10 written down
here) comes to the same verdicts about bodies, and verifies each signature that holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import cbor2
import pytest
from pycose.keys.cosekey import CoseKey
from pycose.messages.sign1message import Sign1Message
from pycose.messages.signmessage import SignMessage

from agent.control.errors import CommandFormatError
from agent.control.feeds import Feed, FeedBook, FeedRules, FeedValue, Source, admit, agree, decode_value, encode_value
from agent.control.order import Now
from agent.control.schedule import Agreed, decode_schedule, encode_schedule
from agent.control.schedule_admission import ScheduleRefused, judge_schedule
from agent.evidence.cose import VerifyKey
from hil_tests.generate_schedule_vectors import FOLDER, files
from tests.agent.control.test_vectors import POLICY, SITE, _trust_list


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


SCHEDULES, SIGNED_SCHEDULES = _read("schedules/bodies.json"), _read("schedules/signed.json")
FEEDS, SIGNED_FEEDS, AGREEMENTS = _read("feeds/bodies.json"), _read("feeds/signed.json"), _read("feeds/agreements.json")
FEED_SITE = _read("feeds/site.json")
RULES = FeedRules(
    sources=tuple(
        Source(name=each["name"], key=VerifyKey(each["algorithm"], bytes.fromhex(each["public_key_der"])))
        for each in FEED_SITE["sources"]
    ),
    needed=FEED_SITE["needed"],
    fresh_us={Feed.PRICE: 3_600_000_000, Feed.FREQUENCY: FEED_SITE["frequency_fresh_us"]},
    area=FEED_SITE["area"],
)


def _name(case: dict[str, Any]) -> str:
    return str(case["name"])


def test_the_files_are_what_the_generator_makes() -> None:
    there = {f"{folder}/{path.name}": path for folder in ("schedules", "feeds") for path in (FOLDER / folder).iterdir()}
    assert {name: path.read_text(encoding="utf-8") for name, path in there.items()} == files()


# -- the gateway


@pytest.mark.parametrize("case", SCHEDULES, ids=_name)
def test_a_schedule_is_taken_or_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["body"])
    if not case["valid"]:
        with pytest.raises(CommandFormatError):
            decode_schedule(body)
        return
    schedule = decode_schedule(body)
    assert encode_schedule(schedule) == body
    assert schedule.end_us == case["end_us"]
    for asked in case["asks"]:
        run = schedule.run_at(asked["at_us"])
        assert (None if run is None else run[0]) == asked["power_w"]


@pytest.mark.parametrize("case", SIGNED_SCHEDULES, ids=_name)
def test_a_signed_schedule_is_judged_as_the_vector_says(case: dict[str, Any]) -> None:
    signed = bytes.fromhex(case["signed"])
    came = hashlib.sha256(signed).digest()
    verdict = judge_schedule(signed, came, POLICY, _trust_list(), (), {}, Now(wall_us=SITE["now_us"]), 0.0)
    assert isinstance(verdict, Agreed if case["verdict"] == "admitted" else ScheduleRefused), verdict
    assert verdict.hash.hex() == case["hash"]


@pytest.mark.parametrize("case", FEEDS, ids=_name)
def test_a_value_is_taken_or_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["body"])
    if case["valid"]:
        assert encode_value(decode_value(body)) == body
    else:
        with pytest.raises(CommandFormatError):
            decode_value(body)


@pytest.mark.parametrize("case", SIGNED_FEEDS, ids=_name)
def test_a_signed_value_counts_or_not_as_the_vector_says(case: dict[str, Any]) -> None:
    taken = admit(FeedBook(), bytes.fromhex(case["signed"]), RULES, FEED_SITE["now_us"])
    assert isinstance(taken, FeedBook) == (case["verdict"] == "counts"), taken


@pytest.mark.parametrize("case", AGREEMENTS, ids=_name)
def test_sources_agree_as_the_vector_says(case: dict[str, Any]) -> None:
    kind, now_us = Feed[case["kind"].upper()], FEED_SITE["now_us"]
    values = {
        (kind, f"s{number}"): FeedValue(
            feed=kind,
            area=RULES.area,
            value=each["value"],
            currency=each["currency"],
            at_us=now_us,
            until_us=now_us + 1_000_000,
            source=f"s{number}",
            sequence=1,
        )
        for number, each in enumerate(case["values"])
    }
    valid = agree(FeedBook(values=values), RULES, now_us).valid.get(kind)
    assert (None if valid is None else valid.value) == case["agreed"]
    assert (0 if valid is None else valid.sources) == case["sources"]


# -- somebody who has read proto/COMMANDS.md and nothing else


def _uint(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _price(value: object) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, list)
        and len(value) == 2
        and _uint(value[0], 10**12)
        and isinstance(value[1], str)
        and re.fullmatch("[A-Z]{3}", value[1]) is not None
    )


def _elements(body: bytes, count: int, most_bytes: int) -> list[Any] | None:
    """A deterministic array of so many elements that begins with version 1; None: it is none."""
    try:
        value = cbor2.loads(body)
    except (cbor2.CBORDecodeError, ValueError):
        return None
    if not isinstance(value, list) or len(value) != count or len(body) > most_bytes:
        return None
    return value if cbor2.dumps(value, canonical=True) == body and type(value[0]) is int and value[0] == 1 else None


def _is_schedule(body: bytes) -> bool:
    value = _elements(body, 11, 32 * 1024)
    if value is None:
        return False
    _, audience, targets, point, start, steps, price, random_start, issuer, epoch, sequence = value
    zone, did = r"zone:[A-Za-z0-9][A-Za-z0-9._-]{0,63}", r"did:(?:key|v2g):z[1-9A-HJ-NP-Za-km-z]{10,200}"
    return (
        isinstance(audience, str)
        and re.fullmatch(f"{zone}|{did}", audience) is not None
        and isinstance(targets, list)
        and all(
            isinstance(t, str) and re.fullmatch("[a-z0-9][a-z0-9-]{0,62}|class:(battery|charger|pv)", t)
            for t in targets
        )
        and len(set(targets)) == len(targets) <= 200
        and _uint(point, 1)
        and _uint(start, 2**53 - 1)
        and start % 900_000_000 == 0
        and isinstance(steps, list)
        and 1 <= len(steps) <= 672
        and all(step is None or (type(step) is int and abs(step) <= 10**9) for step in steps)
        and start + 900_000_000 * len(steps) <= 2**53
        and _price(price)
        and _uint(random_start, 1800)
        and isinstance(issuer, str)
        and 1 <= len(issuer) <= 255
        and _uint(epoch, 2**32 - 1)
        and _uint(sequence, 2**63 - 1)
    )


def _is_value(body: bytes) -> bool:
    value = _elements(body, 9, 1024)
    if value is None:
        return False
    _, kind, area, number, currency, at_us, until_us, source, sequence = value
    if not _uint(kind, 1) or type(number) is not int or not isinstance(currency, str):
        return False
    low, high = ((-(10**9), 10**9), (45_000, 66_000))[kind]
    return (
        isinstance(area, str)
        and low <= number <= high
        and re.fullmatch("" if kind else "[A-Z]{3}", currency) is not None
        and _uint(at_us, 2**53 - 1)
        and _uint(until_us, 2**53 - 1)
        and at_us < until_us
        and isinstance(source, str)
        and _uint(sequence, 2**63 - 1)
    )


@pytest.mark.parametrize("case", SCHEDULES, ids=_name)
def test_a_stranger_tells_the_same_schedules_apart(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["body"])
    assert _is_schedule(body) == case["valid"]
    if not case["valid"]:
        return
    assert hashlib.sha256(body).hexdigest() == case["schedule_hash"]
    value = cbor2.loads(body)
    for asked in case["asks"]:
        quarter = (asked["at_us"] - value[4]) // 900_000_000
        assert (value[5][quarter] if 0 <= quarter < len(value[5]) else None) == asked["power_w"]


@pytest.mark.parametrize("case", FEEDS, ids=_name)
def test_a_stranger_tells_the_same_values_apart(case: dict[str, Any]) -> None:
    assert _is_value(bytes.fromhex(case["body"])) == case["valid"]


def _key(entries: list[dict[str, Any]], key_id: bytes) -> CoseKey:
    (entry,) = (each for each in entries if each["key_id"] == key_id.hex())
    der = bytes.fromhex(entry["public_key_der"])
    assert hashlib.sha256(der).digest() == key_id
    return CoseKey.from_dict({1: 2, -1: 1, -2: der[-64:-32], -3: der[-32:]})


def _verified_body(signed: bytes, typ: str, entries: list[dict[str, Any]]) -> bytes:
    """The body of an envelope, each of whose signatures holds by pycose."""
    tag, headers = cbor2.loads(signed).tag, cbor2.loads(cbor2.loads(signed).value[0])
    assert headers[16] == typ
    if tag == 18:
        message = Sign1Message.decode(signed)
        message.key = _key(entries, headers[4])
        assert message.verify_signature()
        return _payload(message.payload)
    dual = SignMessage.decode(signed)
    signatures = cbor2.loads(signed).value[3]
    assert len(dual.signers) == len(signatures) == 2
    for index, (protected, _, _) in enumerate(signatures):
        signer = dual.signers[index]
        signer.key = _key(entries, cbor2.loads(protected)[4])
        assert signer.verify_signature()
    return _payload(dual.payload)


def _payload(payload: bytes | None) -> bytes:
    assert payload is not None
    return bytes(payload)


@pytest.mark.parametrize("case", [c for c in SIGNED_SCHEDULES if c["verdict"] == "admitted"], ids=_name)
def test_a_stranger_verifies_the_schedules_that_are_admitted(case: dict[str, Any]) -> None:
    body = _verified_body(bytes.fromhex(case["signed"]), "v2g-gateway/schedule+cose", SITE["issuers"])
    assert _is_schedule(body)
    assert hashlib.sha256(body).hexdigest() == case["hash"]
    names = {each["issuer"] for each in SITE["issuers"] if each["role"] == "operational"}
    assert cbor2.loads(body)[8] in names


@pytest.mark.parametrize("case", [c for c in SIGNED_FEEDS if c["verdict"] == "counts"], ids=_name)
def test_a_stranger_verifies_the_values_that_count(case: dict[str, Any]) -> None:
    body = _verified_body(bytes.fromhex(case["signed"]), "v2g-gateway/feed+cose", FEED_SITE["sources"])
    assert _is_value(body)
    assert cbor2.loads(body)[2] == FEED_SITE["area"]
