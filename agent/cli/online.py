"""`verify --online`: what a verifier lacks is fetched, checked, and said: from where, how fresh, and what stays open.

proto/IDENTITY.md section 8. Whoever serves a history cannot change its past, because the name is the hash of its first
entry and each entry is signed; its newest entries can be held back. So several places are asked where several are
named, and what is at hand counts too: the longest history wins, and two that differ are told.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson

from agent.cli.fetching import Answer, Wanted, fetch
from agent.evidence.acknowledgement import Acknowledgement, verify_acknowledgement
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import EvidenceError, ProofError
from agent.evidence.verify import ChainPosition, VerifiedBatch, Verifier, follow
from agent.identity import history
from agent.identity.errors import IdentityError
from agent.identity.history import IdentityState
from agent.identity.locations import (
    ACKNOWLEDGEMENT,
    HISTORY,
    NEWEST_BATCH,
    SERVICE,
    TRUST_LIST,
    Location,
    LocationError,
    location_of,
)
from agent.identity.trust import TrustList, decode_trust_list
from agent.identity.trust_roots import TrustRoots

MOST_LOCATIONS = 8
MOST_DOCUMENT_BYTES = 1024 * 1024
OFFLINE = "this verdict is by what is in the file and at hand alone (offline)"
HOLDING_BACK = (
    "that there is nothing newer: who serves a history or a newest batch can hold back the newest, "
    "and can change nothing that was before"
)

_WORDS = {
    HISTORY: "the history",
    NEWEST_BATCH: "the newest batch",
    ACKNOWLEDGEMENT: "the platform's newest acknowledgement",
    TRUST_LIST: "the trust list",
}


class ForkedError(Exception):
    """Two histories of one name. Says where they are from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where to look, and what the person at the terminal trusts there."""

    history_url: str | None = None
    locations: tuple[Location, ...] = ()
    tls: ssl.SSLContext | None = None
    """Who certifies the servers; None: whom the system trusts."""
    platform_key: VerifyKey | None = None
    roots: TrustRoots | None = None

    @property
    def any(self) -> bool:
        return self.history_url is not None or bool(self.locations)


NOWHERE = Places()


@dataclass(frozen=True, slots=True)
class HistoryFrom:
    """A history of the right name that verifies."""

    source: str
    entries: tuple[bytes, ...]
    state: IdentityState


@dataclass(slots=True)
class Online:
    """What was fetched, and what it says about a file. `judge` it under the keys, then `see` each batch of the file."""

    places: Places = NOWHERE
    answers: list[Answer] = field(default_factory=list)
    refused: list[tuple[Wanted, str]] = field(default_factory=list)
    """What came and was not believed, and why; or did not come."""
    histories: list[HistoryFrom] = field(default_factory=list)
    """At hand and fetched."""
    best: HistoryFrom | None = None
    """The longest."""
    newest: list[tuple[str, VerifiedBatch]] = field(default_factory=list)
    """(URL, batch of which nothing is shown but its sealing)."""
    acknowledged: list[tuple[str, Acknowledgement]] = field(default_factory=list)
    trust_lists: list[tuple[str, TrustList, bool]] = field(default_factory=list)
    """(URL, list, whether it has expired)."""
    contradictions: list[str] = field(default_factory=list)
    last: ChainPosition | None = None
    """Of the file."""
    matched: set[tuple[int, int, bytes]] = field(default_factory=set)
    """Batches of the file that are among those fetched or acknowledged."""

    # -- The file against it ----------------------------------------------------------------------------------------

    def judge(self, gateway_id: str, verifier: Verifier) -> None:
        """What was fetched, under the trusted keys."""
        for answer in self.answers:
            if answer.content is None:
                continue
            try:
                self._judge_one(answer, answer.content, gateway_id, verifier)
            except (EvidenceError, IdentityError) as error:
                self.refused.append((answer.wanted, str(error)))

    def _judge_one(self, answer: Answer, content: bytes, gateway_id: str, verifier: Verifier) -> None:
        places = self.places
        url = answer.wanted.url
        match answer.wanted.name:
            case str() if answer.wanted.name == NEWEST_BATCH:
                batch = verifier.verify_batch(content)
                _require_gateway(batch.identity.gateway_id, gateway_id)
                self.newest.append((url, batch))
            case str() if answer.wanted.name == ACKNOWLEDGEMENT and places.platform_key is not None:
                seen = verify_acknowledgement(content, places.platform_key)
                _require_gateway(seen.gateway_id, gateway_id)
                self.acknowledged.append((url, seen))
            case str() if answer.wanted.name == TRUST_LIST and places.roots is not None:
                listed = decode_trust_list(content, places.roots, answer.at_us)
                self.trust_lists.append((url, listed, listed.expired(answer.at_us)))

    def see(self, at: ChainPosition) -> None:
        """One verified batch of the file, or the one that a statement of it is in."""
        self.last = at if self.last is None or at.place > self.last.place else self.last
        for url, newest in self.newest:
            self._compare(at, newest.position, f"{url} shows another {at.text}, signed by the same gateway")
        for url, seen in self.acknowledged:
            theirs = ChainPosition(seen.incarnation, seen.batch_number, seen.root)
            self._compare(at, theirs, f"the platform acknowledged another {at.text} ({url})")

    def _compare(self, at: ChainPosition, theirs: ChainPosition, otherwise: str) -> None:
        if at.place != theirs.place:
            return
        if at.root == theirs.root:
            self.matched.add((*at.place, at.root))
        else:
            self.contradictions.append(otherwise)

    def done(self, *, chain: bool) -> None:
        """The whole file was seen; `chain`: its batches are a run that the newest one may follow at once."""
        if not chain or self.last is None:
            return
        for url, newest in self.newest:
            if newest.identity.incarnation == self.last.incarnation and newest.identity.number == self.last.number + 1:
                try:
                    follow(self.last, newest)
                except ProofError as error:
                    self.contradictions.append(f"{url}: {error}")

    # -- For people and machines ------------------------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Everything that was asked for came and was believed."""
        return not self.refused

    def not_proven(self) -> Iterator[str]:
        """What stays open."""
        if self.places.any:
            yield HOLDING_BACK
        if self.places.locations and self.places.platform_key is None:
            yield "that the platform has it: its acknowledgement is looked at with --platform-key"

    def as_json(self) -> dict[str, object]:
        if not self.places.any:
            return {"verdict": "offline"}
        best = self.best
        stale = dict(self._batches_behind())
        return {
            "verdict": "online" if len(self.refused) < len(self.answers) else "offline",
            "complete": self.complete,
            "fetched": [
                {"what": a.wanted.name, "url": a.wanted.url, "bytes": len(a.content), "at_us": a.at_us}
                for a in self.answers
                if a.content is not None
            ],
            "failed": [{"what": w.name, "url": w.url, "why": why} for w, why in self.refused],
            "history": None
            if best is None
            else {
                "from": best.source,
                "entries": len(best.entries),
                "newest_applied_us": best.state.applied_us,
                "held_back": [
                    {"by": h.source, "entries": len(h.entries), "lacks": len(best.entries) - len(h.entries)}
                    for h in self._behind()
                ],
            },
            "newest_batches": [
                {
                    "url": url,
                    "incarnation": batch.identity.incarnation,
                    "number": batch.identity.number,
                    "sealed_at_us": None if batch.sealing is None else batch.sealing.sealed_at_us,
                    "newer_than_file": self._newer(batch.position),
                    "in_file": (*batch.position.place, batch.root) in self.matched,
                    "held_back": url in stale,
                }
                for url, batch in self.newest
            ],
            "acknowledgements": [
                {
                    "url": url,
                    "incarnation": seen.incarnation,
                    "number": seen.batch_number,
                    "platform_time_us": seen.platform_time_us,
                    "in_file": (seen.incarnation, seen.batch_number, seen.root) in self.matched,
                }
                for url, seen in self.acknowledged
            ],
            "trust_lists": [
                {"url": url, "version": t.version, "expires_us": t.expires_us, "expired": expired,
                 "issuers": [issuer.issuer for issuer in t.issuers]}
                for url, t, expired in self.trust_lists
            ],
            "contradictions": self.contradictions,
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """For a person, without markup."""
        if not self.places.any:
            return
        fetched = [a for a in self.answers if a.content is not None]
        for wanted, why in self.refused:
            yield f"Not had: {_WORDS[wanted.name]} from {wanted.url}: {why}."
        if len(self.refused) >= len(self.answers):
            yield f"Nothing was looked up: {OFFLINE}."
            return
        if self.best is not None:
            text = f"History: {len(self.best.entries)} entries, the newest of {_time(self.best.state.applied_us)}"
            yield f"{text}, from {self.best.source}."
        for behind in self._behind():
            lacks = len(self.best.entries if self.best is not None else ()) - len(behind.entries)
            yield f"Held back: {behind.source} lacks the newest entries ({lacks}): an older copy, or hidden."
        for url, batch in self.newest:
            sealed = "" if batch.sealing is None else f", sealed {_time(batch.sealing.sealed_at_us)}"
            yield f"Newest {batch.position.text}{sealed}: {self._relation(batch.position)} ({url})."
        for behind_batch, known in self._batches_behind():
            yield f"Held back: {behind_batch} shows an older batch as its newest; there is {known}."
        for url, seen in self.acknowledged:
            at = ChainPosition(seen.incarnation, seen.batch_number, seen.root)
            yield (
                f"The platform had everything up to {at.text} at {_time(seen.platform_time_us)}: "
                f"{self._relation(at)} ({url})."
            )
        for url, listed, expired in self.trust_lists:
            until = "expired" if expired else "good until"
            yield (
                f"Issuers: version {listed.version} of the trust list, {len(listed.issuers)} of them, {until} "
                f"{_time(listed.expires_us)} ({url})."
            )
        if fetched:
            yield f"Looked up at {_time(max(a.at_us for a in fetched))}."

    def _behind(self) -> list[HistoryFrom]:
        best = self.best
        return [] if best is None else [h for h in self.histories if len(h.entries) < len(best.entries)]

    def _batches_behind(self) -> Iterator[tuple[str, str]]:
        """(URL, what there is) where a later one than this newest is shown elsewhere, or the platform has one."""
        known = [batch.position for _, batch in self.newest]
        known += [ChainPosition(seen.incarnation, seen.batch_number, seen.root) for _, seen in self.acknowledged]
        for url, batch in self.newest:
            latest = max(known, key=lambda at: at.place)
            if batch.position.place < latest.place:
                yield url, latest.text

    def _newer(self, theirs: ChainPosition) -> int | None:
        """How many batches there are after the file's last, and up to this one; None: not of one life of the store."""
        if self.last is None or self.last.incarnation != theirs.incarnation:
            return None
        return theirs.number - self.last.number

    def _relation(self, theirs: ChainPosition) -> str:
        if (*theirs.place, theirs.root) in self.matched:
            return "it is in this file"
        newer = self._newer(theirs)
        if newer is None:
            return "of another incarnation than this file's last batch"
        if newer > 0:
            return f"{newer} later than the last one of this file"
        return "older than the last one of this file"


def look_up(gateway: str | None, at_hand: HistoryFrom | None, places: Places) -> Online:
    """Fetch what is wanted, and settle which history counts. Raises ForkedError."""
    online = Online(places)
    if at_hand is not None:
        online.histories.append(at_hand)
    name = gateway if at_hand is None else at_hand.state.gateway_id
    with_history = name is not None and name.startswith(history.PREFIX)
    wanted = list(_wanted(places, with_history))
    # Acknowledgements first: a batch that is sealed and acknowledged meanwhile would else look held back.
    rounds = ([w for w in wanted if (w.name == ACKNOWLEDGEMENT) is first] for first in (True, False))
    fetched = [answer for each in rounds for answer in fetch(each, places.tls)]
    online.answers = sorted(fetched, key=lambda answer: wanted.index(answer.wanted))
    for answer in online.answers:
        if answer.content is None:
            online.refused.append((answer.wanted, answer.why))
        elif answer.wanted.name == HISTORY:
            try:
                entries = history.decode_history(answer.content)
                state = history.replay(entries, gateway_id=name)
            except IdentityError as error:
                online.refused.append((answer.wanted, str(error)))
                continue
            online.histories.append(HistoryFrom(answer.wanted.url, entries, state))
    online.best = longest(online.histories)
    return online


def _wanted(places: Places, with_history: bool) -> Iterator[Wanted]:
    if places.history_url is not None:
        yield Wanted(HISTORY, places.history_url)
    names = [HISTORY] if with_history else []
    names.append(NEWEST_BATCH)
    if places.platform_key is not None:
        names.append(ACKNOWLEDGEMENT)
    if places.roots is not None:
        names.append(TRUST_LIST)
    for location in places.locations:
        for name in names:
            yield Wanted(name, location.url(name))


def longest(histories: Sequence[HistoryFrom]) -> HistoryFrom | None:
    """Which of the histories of one name counts. Raises ForkedError when they are not all beginnings of one."""
    best: HistoryFrom | None = None
    for each in sorted(histories, key=lambda h: len(h.entries), reverse=True):
        if best is None:
            best = each
        elif not history.continues(best.entries, each.entries):
            raise ForkedError(
                f"two histories of {each.state.gateway_id}, which differ in an entry: {best.source} and {each.source}; "
                "owner, operator and gateway signed both: keep both, and believe neither"
            )
    return best


def _require_gateway(said: str, wanted: str) -> None:
    if said != wanted:
        raise ProofError(f"is of {said[:80]} and not of {wanted[:80]}")


def locations_of(values: Sequence[str], gateway: str | None) -> tuple[Location, ...]:
    """Of URLs, or of files with a DID document that names the place. Raises LocationError, OSError."""
    if len(values) > MOST_LOCATIONS:
        raise LocationError(f"{len(values)} places to look are too many, {MOST_LOCATIONS} are right")
    return tuple(location_of(value) if "://" in value else _of_document(Path(value), gateway) for value in values)


def _of_document(path: Path, gateway: str | None) -> Location:
    with path.open("rb") as file:
        content = file.read(MOST_DOCUMENT_BYTES)
    try:
        document = orjson.loads(content)
        services = document.get("service", [])
        url = next(service["serviceEndpoint"] for service in services if service["type"] == SERVICE)
        subject = document["id"]
    except (ValueError, AttributeError, TypeError, KeyError, StopIteration) as error:
        raise LocationError(f"{path}: is no DID document that names a service {SERVICE}; give the URL") from error
    if gateway is not None and subject != gateway:
        raise LocationError(f"{path}: is about {str(subject)[:80]}, not about {gateway[:80]}")
    return location_of(str(url))


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
