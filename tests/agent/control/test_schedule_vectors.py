"""proto/vectors/schedules and feeds: the files are what the generator makes, and the gateway judges as they say.

A reader that shares no code with it comes to the same verdicts.
"""

from __future__ import annotations

import hashlib
import json
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
from agent.control.schedule_admission import ScheduleKnown, ScheduleRefused, judge_schedule
from agent.control.schedule_keeper import ScheduleKeeper, Taken
from agent.evidence.cose import VerifyKey
from hil_tests.generate_schedule_vectors import FOLDER, files
from tests.agent.control import independent_schedules as stranger
from tests.agent.control.independent_admission import Site
from tests.agent.control.test_vectors import POLICY, SITE, _policy, _trust_list


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


SCHEDULES, SIGNED_SCHEDULES = _read("schedules/bodies.json"), _read("schedules/signed.json")
FEEDS, SIGNED_FEEDS, AGREEMENTS = _read("feeds/bodies.json"), _read("feeds/signed.json"), _read("feeds/agreements.json")
FEED_SITE = _read("feeds/site.json")
SEQUENCES, FEED_SEQUENCES = _read("schedules/sequences.json"), _read("feeds/sequences.json")
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


def _sequence(case: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return SITE | case["changes"], case["schedules"]


@pytest.mark.parametrize("case", SEQUENCES, ids=_name)
def test_schedules_one_after_the_other_are_judged_as_the_vector_says(case: dict[str, Any]) -> None:
    site, schedules = _sequence(case)
    keeper, now = ScheduleKeeper(lambda: 0.0), Now(wall_us=site["now_us"])
    keeper.restore({})
    for each in schedules:
        match keeper.receive(bytes.fromhex(each["signed"]), _policy(site), _trust_list(site), now):
            case ScheduleRefused(hash_, _, alarm):
                said = "refused", hash_.hex(), alarm
            case ScheduleKnown(agreed):
                said = "again", agreed.hash.hex(), False
            case Taken(hash_):
                said = "admitted", hash_.hex(), False
        assert said == (each["verdict"], each["hash"], each["alarm"])


@pytest.mark.parametrize("case", FEED_SEQUENCES, ids=_name)
def test_values_one_after_the_other_count_as_the_vector_says(case: dict[str, Any]) -> None:
    book = FeedBook()
    for each in case["values"]:
        taken = admit(book, bytes.fromhex(each["signed"]), RULES, FEED_SITE["now_us"])
        assert isinstance(taken, FeedBook) == (each["verdict"] == "counts"), taken
        book = taken if isinstance(taken, FeedBook) else book


# -- somebody who has read proto/COMMANDS.md and nothing else


@pytest.mark.parametrize("case", SCHEDULES, ids=_name)
def test_a_stranger_tells_the_same_schedules_apart(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["body"])
    schedule = stranger.schedule_of(body)
    assert (schedule is not None) == case["valid"]
    if schedule is None:
        return
    assert hashlib.sha256(body).hexdigest() == case["schedule_hash"]
    assert schedule.end_us == case["end_us"]
    assert [schedule.at(asked["at_us"]) for asked in case["asks"]] == [asked["power_w"] for asked in case["asks"]]


def _judged_by_a_stranger(case: dict[str, Any], site: dict[str, Any], memory: stranger.ScheduleMemory) -> None:
    verdict = stranger.judge_schedule(bytes.fromhex(case["signed"]), Site(site), memory)
    assert verdict == stranger.ScheduleVerdict(case["verdict"], bytes.fromhex(case["hash"]), case.get("alarm", False))


@pytest.mark.parametrize("case", SIGNED_SCHEDULES, ids=_name)
def test_a_stranger_judges_a_signed_schedule_as_the_vector_says(case: dict[str, Any]) -> None:
    _judged_by_a_stranger(case, SITE, stranger.ScheduleMemory())


@pytest.mark.parametrize("case", SEQUENCES, ids=_name)
def test_a_stranger_judges_schedules_one_after_the_other_as_the_vector_says(case: dict[str, Any]) -> None:
    site, schedules = _sequence(case)
    memory = stranger.ScheduleMemory()
    for each in schedules:
        _judged_by_a_stranger(each, site, memory)


@pytest.mark.parametrize("case", FEEDS, ids=_name)
def test_a_stranger_tells_the_same_values_apart(case: dict[str, Any]) -> None:
    assert (stranger.value_of(bytes.fromhex(case["body"])) is not None) == case["valid"]


@pytest.mark.parametrize("case", SIGNED_FEEDS, ids=_name)
def test_a_stranger_counts_a_signed_value_as_the_vector_says(case: dict[str, Any]) -> None:
    assert stranger.counts(bytes.fromhex(case["signed"]), FEED_SITE, {}) == (case["verdict"] == "counts")


@pytest.mark.parametrize("case", FEED_SEQUENCES, ids=_name)
def test_a_stranger_counts_values_one_after_the_other_as_the_vector_says(case: dict[str, Any]) -> None:
    last: dict[tuple[str, int], int] = {}
    for each in case["values"]:
        assert stranger.counts(bytes.fromhex(each["signed"]), FEED_SITE, last) == (each["verdict"] == "counts")


@pytest.mark.parametrize("case", AGREEMENTS, ids=_name)
def test_a_stranger_comes_to_the_same_agreement(case: dict[str, Any]) -> None:
    said = [(each["currency"], each["value"]) for each in case["values"]]
    kind = Feed[case["kind"].upper()]
    assert stranger.agreement(kind, said, FEED_SITE["needed"]) == (case["agreed"], case["sources"])


def _key(entries: list[dict[str, Any]], key_id: bytes) -> CoseKey:
    (entry,) = (each for each in entries if each["key_id"] == key_id.hex())
    der = bytes.fromhex(entry["public_key_der"])
    return CoseKey.from_dict({1: 2, -1: 1, -2: der[-64:-32], -3: der[-32:]})


GOOD = [
    *((case, SITE["issuers"]) for case in SIGNED_SCHEDULES if case["verdict"] == "admitted"),
    *((case, FEED_SITE["sources"]) for case in SIGNED_FEEDS if case["verdict"] == "counts"),
]


@pytest.mark.parametrize(("case", "entries"), GOOD, ids=lambda each: each["name"] if isinstance(each, dict) else "")
def test_a_library_of_cose_verifies_what_is_taken(case: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    signed = bytes.fromhex(case["signed"])
    value = cbor2.loads(signed)
    if value.tag == 18:
        message = Sign1Message.decode(signed)
        message.key = _key(entries, cbor2.loads(value.value[0])[4])
        assert message.verify_signature()
        return
    dual = SignMessage.decode(signed)
    assert len(dual.signers) == len(value.value[3]) == 2
    for index, (protected, _, _) in enumerate(value.value[3]):
        signer = dual.signers[index]
        signer.key = _key(entries, cbor2.loads(protected)[4])
        assert signer.verify_signature()
