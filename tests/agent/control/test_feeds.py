"""Signed feeds: whose values count, what sources agree on, what is kept, and what they are used for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from agent.config import FeedSettings
from agent.control.authorization import sign_body, sign_body_dual
from agent.control.command import Price
from agent.control.errors import CommandFormatError, RestoreError
from agent.control.feed_keeper import APART_FOR_US, FeedKeeper
from agent.control.feeds import (
    TYP,
    Feed,
    FeedBook,
    FeedRules,
    FeedValue,
    Source,
    admit,
    agree,
    decode_valid,
    decode_value,
    encode_valid,
    encode_value,
)
from agent.control.order import Order
from agent.control.plan import make_plan
from agent.control.site import Mandate
from agent.evidence.statements import Severity
from agent.roads.feeding import feed_rules
from tests.agent.control.support import CAR, SOME_COMMAND, START_US, STRANGER, SoftKey, order_of, site

KEYS = [SoftKey(100 + number) for number in range(5)]
RULES = FeedRules(
    sources=tuple(Source(name=f"s{n}", key=key.verify_key) for n, key in enumerate(KEYS)),
    needed=2,
    fresh_us={Feed.PRICE: 3_600_000_000, Feed.FREQUENCY: 30_000_000},
    area="DE",
)
S = 1_000_000
PRICE = FeedValue(
    feed=Feed.PRICE, area="DE", value=200_000, currency="EUR", at_us=START_US - S, until_us=START_US + 900 * S,
    source="s0", sequence=1,
)  # fmt: skip


def value(number: int = 0, **changes: object) -> FeedValue:
    return replace(PRICE, source=f"s{number}", **changes)  # type: ignore[arg-type]  # fields of FeedValue


def hertz(number: int, millihertz: int, **changes: object) -> FeedValue:
    return value(number, feed=Feed.FREQUENCY, value=millihertz, currency="", **changes)


def signed(one: FeedValue, key: SoftKey | None = None) -> bytes:
    return asyncio.run(sign_body(encode_value(one), TYP, key or KEYS[int(one.source[1:])]))


def book_of(*values: FeedValue, now_us: int = START_US, rules: FeedRules = RULES) -> FeedBook:
    book = FeedBook()
    for each in values:
        taken = admit(book, signed(each), rules, now_us)
        assert isinstance(taken, FeedBook), taken
        book = taken
    return agree(book, rules, now_us)


def test_one_source_is_not_enough_and_two_that_agree_are() -> None:
    assert book_of(value(0)).spot(START_US, RULES) is None
    assert book_of(value(0), value(1, value=200_400)).spot(START_US, RULES) == Price(200_000, "EUR")


def test_two_that_differ_by_anything_do_not_agree() -> None:
    book = book_of(value(0), value(1, value=300_000))
    assert book.spot(START_US, RULES) is None
    assert "0 of 2 fresh sources agree, 2 are needed" in book.doubts[Feed.PRICE]


def test_one_liar_among_three_is_outvoted() -> None:
    assert book_of(value(0), value(1, value=200_300), value(2, value=-(10**9))).spot(START_US, RULES) == Price(
        200_000, "EUR"
    )


def test_another_currency_does_not_count() -> None:
    book = book_of(value(0), value(1), value(2, currency="USD"))
    assert book.valid[Feed.PRICE].sources == 2


def test_the_last_valid_value_stays_with_its_age_and_not_for_ever() -> None:
    book = book_of(value(0), value(1))
    later = START_US + 1_000 * S  # both are over
    book = agree(book, RULES, later)
    assert book.doubts
    assert book.spot(later, RULES) == Price(200_000, "EUR")
    assert book.spot(START_US + 3_601 * S, RULES) is None


def test_a_frequency_is_of_its_moment() -> None:
    book = book_of(hertz(0, 49_990), hertz(1, 49_992))
    assert book.frequency_millihertz(START_US, RULES) == 49_990
    assert book.frequency_millihertz(START_US + 31 * S, RULES) is None
    assert book_of(hertz(0, 49_990), hertz(1, 50_200)).frequency_millihertz(START_US, RULES) is None


@pytest.mark.parametrize(
    ("encoded", "says"),
    [
        (signed(value(0), STRANGER), "no enrolled source"),
        (signed(value(0), KEYS[1]), "names source 's0'"),
        (signed(value(0, area="FR")), "is for area"),
        (signed(value(0, at_us=START_US + 61 * S)), "of the future"),
        (signed(value(0, at_us=START_US - 9 * S, until_us=START_US)), "too old"),
        (signed(hertz(0, 50_000, at_us=START_US - 31 * S)), "too old"),
        (signed(value(0))[:-1] + b"\0", ""),
        (b"junk", ""),
        (b"", ""),
        (asyncio.run(sign_body(encode_value(PRICE), "v2g-gateway/command+cose", KEYS[0])), "typ is"),
        (asyncio.run(sign_body_dual(encode_value(PRICE), TYP, KEYS[0], KEYS[1])), "one signature"),
    ],
)
def test_what_does_not_count_is_refused_with_its_reason(encoded: bytes, says: str) -> None:
    taken = admit(FeedBook(), encoded, RULES, START_US)
    assert isinstance(taken, str)
    assert taken
    assert says in taken


def test_a_value_that_was_seen_before_does_not_come_back() -> None:
    book = book_of(value(0, sequence=5))
    for sequence in (5, 4):
        assert "seen before" in str(admit(book, signed(value(0, sequence=sequence)), RULES, START_US))


@pytest.mark.parametrize(
    "change",
    [
        {"value": 10**9 + 1}, {"currency": "euro"}, {"currency": ""}, {"until_us": START_US - 2 * S}, {"sequence": -1},
        {"feed": Feed.FREQUENCY}, {"feed": Feed.FREQUENCY, "currency": "", "value": 44_999},
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_does_not_exist(change: dict[str, object]) -> None:
    with pytest.raises(CommandFormatError, match="feed"):
        decode_value(encode_value(value(0, **change)))


@given(st.binary(max_size=60))
def test_bytes_are_never_a_fault(body: bytes) -> None:
    with pytest.raises(CommandFormatError):
        decode_value(body)
    with pytest.raises(RestoreError):
        decode_valid(body)


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=5), st.integers(1, 5))
def test_what_is_agreed_on_was_said_by_somebody_and_k_are_near_it(prices: list[int], needed: int) -> None:
    rules = replace(RULES, needed=needed)
    book = FeedBook(values={(Feed.PRICE, f"s{n}"): value(n, value=price) for n, price in enumerate(prices)})
    book = agree(book, rules, START_US)
    agreed = book.valid.get(Feed.PRICE)
    if agreed is None:
        assert book.doubts
        return
    assert agreed.value in prices
    assert sum(abs(price - agreed.value) <= 20_000 for price in prices) >= needed
    assert decode_valid(encode_valid(book)).valid == book.valid


def test_without_a_price_of_its_own_a_discharge_is_held_against_the_spot() -> None:
    mandates = {
        "owner": Mandate(token_id="owner", minimum_soc_permille=300, least_price_micro_per_kwh=250_000, currency="EUR")
    }
    asked = order_of(replace(SOME_COMMAND, targets=("car",)))
    priced = order_of(replace(SOME_COMMAND, targets=("car",), price=Price(1, "EUR")))

    def lowest(order: Order, spot: Price | None) -> int | None:
        view = site(CAR, mandates=mandates, orders=(order,), spot=spot)
        return make_plan(view).orders["car"].lowest_w

    assert lowest(asked, Price(250_000, "EUR")) == -5_000
    for spot in (Price(249_999, "EUR"), Price(300_000, "USD"), None):
        assert lowest(asked, spot) == 0
    assert lowest(priced, Price(300_000, "EUR")) == 0  # what the grid pays is what it says it pays


class _Said(list[tuple[str, str]]):
    def say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        self.append((code, text))


def test_a_frequency_that_stays_apart_is_said_once_and_changes_nothing_else() -> None:
    keeper, said = FeedKeeper(RULES), _Said()
    keeper.restore({})
    for second in range(0, 200, 10):
        now_us = START_US + second * S
        for number in (0, 1):
            keeper.receive(signed(hertz(number, 50_000, at_us=now_us, until_us=now_us + S, sequence=second)), now_us)
        keeper.look(50_150, now_us, said.say)
    assert [code for code, _ in said] == ["site.frequency_disagrees"]
    now_us = START_US + 200 * S
    for number in (0, 1):
        keeper.receive(signed(hertz(number, 50_000, at_us=now_us, until_us=now_us + S, sequence=999)), now_us)
    keeper.look(50_010, now_us, said.say)
    assert said[-1][0] == "site.frequency_agrees"
    assert APART_FOR_US < 200 * S


def test_the_last_price_survives_a_restart_and_a_doubt_is_said_once() -> None:
    keeper, said = FeedKeeper(RULES), _Said()
    assert keeper.restore({}) == []
    for number in (0, 1):
        assert keeper.receive(signed(value(number)), START_US) == ""
    assert keeper.look(None, START_US, said.say) == Price(200_000, "EUR")
    notes = {key: note for key, note in keeper.take_notes().items() if note is not None}
    again = FeedKeeper(RULES)
    assert again.restore(notes) == []
    later = START_US + 1_800 * S
    for _ in range(3):
        assert again.look(None, later, said.say) == Price(200_000, "EUR")
    assert [code for code, _ in said] == ["feed.doubt"]
    assert again.lines(later)[0].age_s == pytest.approx(1_800)
    assert "feeds" in again.restore({"command/feeds": b"junk"})[0]


def test_who_is_no_source_any_more_has_no_word_from_the_store() -> None:
    """A price may hold for years by its own end: a source that was taken out must not go on with it."""
    stored = encode_valid(book_of(value(0, until_us=2**52), value(1, until_us=2**52)))
    one_left = FeedKeeper(replace(RULES, sources=RULES.sources[1:]))
    assert one_left.restore({"command/feeds": stored}) == []
    later = START_US + 3_601 * S
    assert one_left.look(None, later, _Said().say) is None


def test_what_held_in_another_area_or_by_nobodys_word_any_more_is_no_price_after_a_restart() -> None:
    stored = encode_valid(book_of(value(0, until_us=2**52), value(1, until_us=2**52)))
    assert FeedKeeper(RULES).restore({"command/feeds": stored}) == []
    for rules in (replace(RULES, area="FR"), replace(RULES, sources=RULES.sources[2:])):
        keeper = FeedKeeper(rules)
        keeper.restore({"command/feeds": stored})
        assert keeper.look(None, START_US + S, _Said().say) is None
    kept = FeedKeeper(RULES)
    kept.restore({"command/feeds": stored})
    assert kept.look(None, START_US + S, _Said().say) == Price(200_000, "EUR")


def test_an_agreement_of_a_clock_that_was_ahead_gives_way_to_the_next_one() -> None:
    ahead = START_US + 10**15
    book = book_of(value(0, until_us=2**52), value(1, until_us=2**52), now_us=ahead)
    assert agree(book, RULES, START_US).spot(START_US, RULES) == Price(200_000, "EUR")


def test_after_a_clock_that_was_ahead_what_is_agreed_on_is_kept_again() -> None:
    ahead = START_US + 10**15
    keeper, said = FeedKeeper(RULES), _Said()
    keeper.restore({})
    for number in (0, 1):
        keeper.receive(signed(value(number, until_us=2**52)), ahead)
    keeper.look(None, ahead, said.say)
    assert keeper.take_notes()
    keeper.look(None, START_US, said.say)
    assert keeper.take_notes()


def test_without_sources_there_is_no_feed() -> None:
    keeper = FeedKeeper(FeedRules())
    assert "no enrolled source" in keeper.receive(signed(value(0)), START_US)
    assert keeper.look(50_000, START_US, _Said().say) is None


def test_a_source_whose_key_cannot_be_used_is_left_out_and_said(tmp_path: Path) -> None:
    def pem(number: int) -> bytes:
        return load_der_public_key(KEYS[number].public_key_der).public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    files = {"a": pem(0), "b": pem(1), "twin": pem(0), "bad": b"junk"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    sources = [{"name": name, "key_file": tmp_path / name} for name in (*files, "away")]
    problems: list[tuple[str, str]] = []
    made = feed_rules(
        FeedSettings.model_validate({"source": sources}), lambda subject, text: problems.append((subject, text))
    )
    assert [source.name for source in made.sources] == ["a", "b"]
    assert [subject for subject, _ in problems] == ["feed twin", "feed bad", "feed away"]


def test_a_frequency_is_as_old_as_its_measurement_and_not_as_its_agreement() -> None:
    fresh = {number: hertz(number, 50_010, at_us=START_US, until_us=START_US + S) for number in (0, 1)}
    book = agree(book_of(*fresh.values()), RULES, START_US + 20 * S)
    assert book.frequency_millihertz(START_US + 20 * S, RULES) == 50_010
    assert agree(book, RULES, START_US + 31 * S).frequency_millihertz(START_US + 31 * S, RULES) is None


def test_a_frequency_that_is_apart_for_less_than_a_minute_is_nobodys_fault() -> None:
    """A feed is late by seconds: while the frequency moves it is always a little apart."""
    keeper, said = FeedKeeper(RULES), _Said()
    for second in range(0, 200, 10):
        now_us = START_US + second * S
        for number in (0, 1):
            keeper.receive(signed(hertz(number, 50_000, at_us=now_us, until_us=now_us + S, sequence=second)), now_us)
        keeper.look(50_000 if second % 60 == 50 else 50_150, now_us, said.say)
    assert list(said) == []
