"""The site's price and frequency feeds: taken in, kept over restarts, and held against what is measured here.

A shell without tasks. A frequency that comes over the network is a cross-check and nothing else: the answer to the grid
is made of what is measured on the site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from agent.control.command import Price
from agent.control.errors import RestoreError
from agent.control.feeds import Feed, FeedBook, FeedRules, admit, agree, decode_valid, encode_valid
from agent.control.frequency_watch import Say
from agent.control.notes import PREFIX
from agent.evidence.statements import Severity

NOTE: Final = PREFIX + "feeds"
KEPT_EVERY_US: Final = 60 * 1_000_000
APART_MILLIHERTZ: Final = 100
APART_FOR_US: Final = 60 * 1_000_000
"""A feed is late by seconds: only a difference that stays tells of a wrong meter or a wrong feed."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedLine:
    """One feed, for people."""

    feed: str
    value: int
    currency: str
    age_s: float
    sources: int
    doubt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedMemory:
    """What the next look goes by, for the record of decisions."""

    book: FeedBook
    apart_since_us: int | None
    apart_said: bool
    doubted: frozenset[Feed]


class FeedKeeper:
    """One for the gateway."""

    def __init__(self, rules: FeedRules) -> None:
        self.rules = rules
        self._book = FeedBook()
        self._noted_us = 0
        self._restored = False
        self._note: bytes | None = None
        self._apart_since_us: int | None = None
        self._apart_said = False
        self._doubted: set[Feed] = set()
        self.refused = 0

    def memory(self) -> FeedMemory:
        """All that the next look goes by."""
        return FeedMemory(
            book=self._book,
            apart_since_us=self._apart_since_us,
            apart_said=self._apart_said,
            doubted=frozenset(self._doubted),
        )

    def recall(self, memory: FeedMemory) -> None:
        """Go on from there."""
        self._book, self._doubted = memory.book, set(memory.doubted)
        self._apart_since_us, self._apart_said = memory.apart_since_us, memory.apart_said

    def receive(self, signed: bytes, now_us: int) -> str:
        """Take what the link brought; why it does not count, or nothing."""
        taken = admit(self._book, signed, self.rules, now_us)
        if isinstance(taken, str):
            self.refused += 1
            log.warning("feed.refused", reason=taken)
            return taken
        self._book = taken
        return ""

    def look(self, measured_millihertz: int | None, now_us: int, say: Say) -> Price | None:
        """The spot price that decisions may go by; and what is amiss is said."""
        if not self.rules.sources:
            return None
        before = self._book
        self._book = agree(before, self.rules, now_us)
        for feed in Feed:
            doubt = self._book.doubts.get(feed)
            if doubt and feed not in self._doubted and feed in self._book.valid:
                say(Severity.WARNING, "feed.doubt", feed.name.lower(), f"the last valid value stays: {doubt}")
            (self._doubted.add if doubt else self._doubted.discard)(feed)
        self._cross_check(measured_millihertz, now_us, say)
        if self._restored and self._book.valid != before.valid and abs(now_us - self._noted_us) >= KEPT_EVERY_US:
            self._note, self._noted_us = encode_valid(self._book), now_us
        return self._book.spot(now_us, self.rules)

    def _cross_check(self, measured: int | None, now_us: int, say: Say) -> None:
        told = self._book.frequency_millihertz(now_us, self.rules)
        if told is None or measured is None or abs(told - measured) <= APART_MILLIHERTZ:
            if self._apart_said and told is not None and measured is not None:
                say(Severity.INFO, "site.frequency_agrees", "site", "feed and meters agree on the frequency again")
                self._apart_said = False
            self._apart_since_us = None
            return
        if self._apart_since_us is None:
            self._apart_since_us = now_us
        elif now_us - self._apart_since_us >= APART_FOR_US and not self._apart_said:
            self._apart_said = True
            text = (
                f"{measured / 1000:.3f} Hz are measured here, the feed's sources agree on {told / 1000:.3f} Hz: one of "
                "both is wrong; the site goes on by its own meters"
            )
            say(Severity.WARNING, "site.frequency_disagrees", "site", text)

    def restore(self, notes: Mapping[str, bytes]) -> list[str]:
        """Take what an earlier run has noted; sentences about what is damaged."""
        self._restored = True
        note = notes.get(NOTE)
        if note is None:
            return []
        try:
            stored = decode_valid(note)
        except RestoreError as error:
            return [f"{NOTE}: {error}"]
        # Who was taken out of the configuration meanwhile has no word any more.
        enrolled = {source.name for source in self.rules.sources}
        values = {key: v for key, v in stored.values.items() if v.source in enrolled and v.area == self.rules.area}
        # Nor what they agreed on, nor what holds in another area.
        told = {feed for feed, _ in values}
        valid = {feed: agreed for feed, agreed in stored.valid.items() if feed in told}
        self._book = FeedBook(values={**values, **self._book.values}, valid={**valid, **self._book.valid})
        return []

    def take_notes(self) -> dict[str, bytes | None]:
        """What has to be written since this was last asked."""
        note, self._note = self._note, None
        return {} if note is None else {NOTE: note}

    def lines(self, now_us: int) -> tuple[FeedLine, ...]:
        """For people."""
        return tuple(
            FeedLine(
                feed=feed.name.lower(),
                value=valid.value,
                currency=valid.currency,
                age_s=max(0, now_us - valid.agreed_us) / 1e6,
                sources=valid.sources,
                doubt=self._book.doubts.get(feed, ""),
            )
            for feed, valid in sorted(self._book.valid.items())
        )
