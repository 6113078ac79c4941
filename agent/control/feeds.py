"""Signed price and frequency feeds: which values count, and what their sources agree on. Pure.

A value counts when an enrolled source signed it, it is fresh, and at least k sources agree within two sigma. Sigma is
taken by median absolute deviation, since two sigma of a mean cannot shut out one liar among five; and it is bounded on
both sides, since two sources that differ by anything would else agree (proto/COMMANDS.md section 10).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from agent.control.authorization import decode_signed
from agent.control.command import Price
from agent.control.errors import CommandFormatError, RestoreError, quoted
from agent.evidence import cbor
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import EvidenceError

TYP: Final = "v2g-gateway/feed+cose"
MOST_BODY_BYTES: Final = 1024
AHEAD_US: Final = 60 * 1_000_000
"""A source's clock may be ahead of ours by so much."""
MAD_TO_SIGMA: Final = 1.4826


class Feed(IntEnum):
    """What a feed tells. Numbers are for ever."""

    PRICE = 0
    """Millionths of the currency's unit per kWh; may be below 0."""
    FREQUENCY = 1
    """mHz."""


_CURRENCY: Final = {Feed.PRICE: re.compile("[A-Z]{3}"), Feed.FREQUENCY: re.compile("")}
MOST: Final = {Feed.PRICE: (-(10**9), 10**9), Feed.FREQUENCY: (45_000, 66_000)}
LEAST_SIGMA: Final = {Feed.PRICE: 500.0, Feed.FREQUENCY: 2.0}
MOST_SIGMA: Final = {Feed.PRICE: 5_000.0, Feed.FREQUENCY: 10.0}
"""Prices half a cent apart, and frequencies 10 mHz apart, are no agreement any more: twice this is the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Somebody whose values count."""

    name: str
    key: VerifyKey


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRules:
    """What the configuration says."""

    sources: tuple[Source, ...] = ()
    needed: int = 2
    fresh_us: Mapping[Feed, int] = field(default_factory=dict)
    area: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedValue:
    """What one source says."""

    feed: Feed
    area: str
    value: int
    currency: str
    """Empty for a frequency."""
    at_us: int
    """When it was measured, or from when the price holds."""
    until_us: int
    source: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Valid:
    """What the sources agreed on when they last did."""

    value: int
    currency: str
    agreed_us: int
    sources: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedBook:
    """The newest value of each source, and the last agreement of each feed."""

    values: Mapping[tuple[Feed, str], FeedValue] = field(default_factory=dict)
    valid: Mapping[Feed, Valid] = field(default_factory=dict)
    doubts: Mapping[Feed, str] = field(default_factory=dict)
    """Why they do not agree now."""

    def spot(self, now_us: int, rules: FeedRules) -> Price | None:
        """The price that decisions may go by; None when there is none, or the last is too old."""
        valid = self.valid.get(Feed.PRICE)
        if valid is None or not 0 <= now_us - valid.agreed_us <= rules.fresh_us.get(Feed.PRICE, 0):
            return None
        return Price(valid.value, valid.currency)

    def frequency_millihertz(self, now_us: int, rules: FeedRules) -> int | None:
        """For a cross-check only; None when the sources do not agree on a fresh one."""
        valid = self.valid.get(Feed.FREQUENCY)
        if valid is None or not 0 <= now_us - valid.agreed_us <= rules.fresh_us.get(Feed.FREQUENCY, 0):
            return None
        return valid.value


def admit(book: FeedBook, signed: bytes, rules: FeedRules, now_us: int) -> FeedBook | str:
    """The book with a value that came, or why it does not count."""
    try:
        read = decode_signed(signed, TYP)
        value = decode_value(read.body)
        if len(read.signatures) != 1:
            return "a feed has one signature"
        source = next((s for s in rules.sources if s.key.key_id == read.signatures[0].key_id), None)
        if source is None:
            return f"key {read.signatures[0].key_id.hex()[:16]} is no enrolled source"
        read.verify(0, source.key)
    except (CommandFormatError, EvidenceError) as error:
        return str(error)
    if value.source != source.name:
        return f"names source {quoted(value.source)}, but is signed by {quoted(source.name)}"
    if value.area != rules.area:
        return f"is for area {quoted(value.area)}, not for {quoted(rules.area)}"
    if value.at_us > now_us + AHEAD_US:
        return "is of the future"
    if not _fresh(value, rules, now_us):
        return "is too old to count"
    before = book.values.get((value.feed, value.source))
    if before is not None and value.sequence <= before.sequence:
        return f"sequence {value.sequence} is not above {before.sequence}: a value that was seen before"
    return replace(book, values={**book.values, (value.feed, value.source): value})


def agree(book: FeedBook, rules: FeedRules, now_us: int) -> FeedBook:
    """The book after a look at what its sources say now."""
    valid, doubts = dict(book.valid), {}
    for feed in Feed:
        fresh = [v for (kind, _), v in sorted(book.values.items()) if kind is feed and _fresh(v, rules, now_us)]
        agreed = _agreed(feed, fresh)
        if len(agreed) >= max(1, rules.needed):
            # Of an even number the lower of the two in the middle: a value that somebody has signed.
            value = statistics.median_low([each.value for each in agreed])
            since_us = max(0, min(now_us, max(each.at_us for each in agreed)))
            kept = valid.get(feed)
            agreed_us = now_us if feed is Feed.PRICE else since_us
            if kept is None or agreed_us >= kept.agreed_us or kept.agreed_us > now_us:  # a clock was wrong
                valid[feed] = Valid(value=value, currency=agreed[0].currency, agreed_us=agreed_us, sources=len(agreed))
        elif any(kind is feed for kind, _ in book.values):
            doubts[feed] = f"{len(agreed)} of {len(fresh)} fresh sources agree, {rules.needed} are needed"
    return replace(book, valid=valid, doubts=doubts)


def _fresh(value: FeedValue, rules: FeedRules, now_us: int) -> bool:
    """A price holds until its end; a frequency is of its moment."""
    if value.feed is Feed.PRICE:
        return value.at_us <= now_us + AHEAD_US and now_us < value.until_us
    return abs(now_us - value.at_us) <= rules.fresh_us.get(value.feed, 0)


def _agreed(feed: Feed, fresh: list[FeedValue]) -> list[FeedValue]:
    """Those within two sigma of the median, of the currency that most of them name."""
    if not fresh:
        return []
    currencies = [value.currency for value in fresh]
    currency = max(sorted(set(currencies)), key=currencies.count)
    same = [value for value in fresh if value.currency == currency]
    middle = statistics.median(value.value for value in same)
    spread = statistics.median(abs(value.value - middle) for value in same)
    sigma = min(max(spread * MAD_TO_SIGMA, LEAST_SIGMA[feed]), MOST_SIGMA[feed])
    return [value for value in same if abs(value.value - middle) <= 2 * sigma]


def encode_value(value: FeedValue) -> bytes:
    """The bytes that a source signs."""
    return cbor.encode([
        1, int(value.feed), value.area, value.value, value.currency, value.at_us, value.until_us, value.source,
        value.sequence,
    ])  # fmt: skip


def decode_value(body: bytes) -> FeedValue:
    """Raises CommandFormatError for all but the one encoding of a value that can be meant."""
    try:
        value = cbor.decode(body, what="feed", most_bytes=MOST_BODY_BYTES)
    except EvidenceError as error:
        raise CommandFormatError(str(error)) from error
    match value:
        case [
            1, int(kind), str(area), int(number), str(currency), int(at_us), int(until_us), str(source), int(sequence)
        ] if not any(isinstance(each, bool) for each in value):  # fmt: skip
            pass
        case _:
            raise CommandFormatError("feed: not laid out as version 1")
    if kind not in Feed.__members__.values():
        raise CommandFormatError(f"feed: kind {quoted(kind)} is not known")
    feed = Feed(kind)
    low, high = MOST[feed]
    if not low <= number <= high:
        raise CommandFormatError(f"feed: {quoted(number)} is outside {low} to {high}")
    if not 0 <= at_us < until_us < 2**53 or not 0 <= sequence < 2**63:
        raise CommandFormatError("feed: its times or its sequence cannot be meant")
    if not _CURRENCY[feed].fullmatch(currency):
        raise CommandFormatError(f"feed: currency {quoted(currency)} does not go with {feed.name}")
    return FeedValue(
        feed=feed,
        area=area,
        value=number,
        currency=currency,
        at_us=at_us,
        until_us=until_us,
        source=source,
        sequence=sequence,
    )


def encode_valid(book: FeedBook) -> bytes:
    """For the store: what was last agreed on, and the numbers that were seen."""
    items: list[cbor.Value] = [
        [int(feed), v.value, v.currency, v.agreed_us, v.sources] for feed, v in sorted(book.valid.items())
    ]
    seen: list[cbor.Value] = [encode_value(value) for _, value in sorted(book.values.items())]
    return cbor.encode([1, items, seen])


def decode_valid(note: bytes) -> FeedBook:
    """The stored book. Raises RestoreError."""
    try:
        match cbor.decode(note, what="feeds note"):
            case [1, list(items), list(seen)]:
                valid = {}
                for item in items:
                    match item:
                        case [int(feed), int(value), str(currency), int(agreed_us), int(sources)]:
                            valid[Feed(feed)] = Valid(
                                value=value, currency=currency, agreed_us=agreed_us, sources=sources
                            )
                        case _:
                            raise RestoreError("feeds note: a value is not laid out as version 1")
                values = [decode_value(body) for body in seen if isinstance(body, bytes)]
                return FeedBook(values={(v.feed, v.source): v for v in values}, valid=valid)
    except (EvidenceError, CommandFormatError, ValueError) as error:
        raise RestoreError(f"feeds note: {error}") from error
    raise RestoreError("feeds note: not laid out as version 1")
