"""The book of commands: what was admitted, what has become of it, and what is in force now. Pure.

What one command lives through is in `entry.py`; the book knows them all, from the first message to the last receipt. It
decides who gives way to whom: a later command of one issuer replaces an earlier one over the same devices for good
(or, with `resume`, for its own duration); between issuers rank decides, and nobody is replaced (DESIGN: Commands).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Final, TypeAlias

from agent.control.command import Command, Point
from agent.control.entry import Entry, receipt_of
from agent.control.order import Now, Order, Rank, began, name_of, precedence, same_matter, stands
from agent.control.ordered import Ordered, total
from agent.control.replay import ReplayWindow
from agent.control.tally import Register
from agent.evidence.statements import CommandReceipt, CommandState

MAX_OPEN: Final = 1000
"""Commands that are not final yet."""
RESERVED_FOR_RESTRICTIVE: Final = 100
"""Of MAX_OPEN: a flood of permissive commands never shuts out the one that stops."""
MAX_KEPT: Final = 1000
"""Final ones kept, to answer a repeated command with the same receipts."""
HOUR_US: Final = 3600 * 1_000_000
KEPT_FOR_US: Final = 24 * HOUR_US
"""After its end a command is kept so long: a day is what dual control adds up over (SAFETY 10)."""


_Words: TypeAlias = Mapping[bytes, list[tuple[tuple[int, int], int, bytes]]]
"""By issuer key: (age of the word, place in the book, hash), the newest word first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the plan does with one command, as the book needs it."""

    in_force: bool
    reason: str
    """Why not, or what binds it; for the final receipt."""
    responded: bool = False
    """The metered power is where the plan wants it for this command, and that is something."""
    counted_devices: tuple[str, ...] = ()
    """Whose registers its energy is counted on."""
    held: str = ""
    """What a person at the site has taken from it, once it was accepted; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Change:
    """A new book and what must be recorded with it."""

    book: Book
    receipts: tuple[CommandReceipt, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """What is asked of a book for every message, found once: a flood of them asks about the same book."""

    by_id: Mapping[str, Entry]
    """Admitted ones."""
    open: int
    unsigned_sequence: int
    """The highest of the unsigned."""


@dataclass(frozen=True, slots=True)
class Book:
    """All commands, by hash. A value: every method that changes something returns another one."""

    entries: Mapping[bytes, Entry] = field(default_factory=dict)
    windows: Mapping[tuple[bytes, str], ReplayWindow] = field(default_factory=dict)
    forgotten: Mapping[bytes, Mapping[int, Ordered]] = field(default_factory=dict)
    """By issuer's name and hour of receipt: ordered by commands that are kept no more; they still count (SAFETY 10)."""

    _found: _Known | None = field(init=False, default=None, compare=False, repr=False)
    _said: _Words | None = field(init=False, default=None, compare=False, repr=False)

    @property
    def _known(self) -> _Known:
        if self._found is not None:
            return self._found
        by_id: dict[str, Entry] = {}
        count_open = unsigned_sequence = 0
        for entry in self.entries.values():
            state = entry.state
            count_open += not state.final
            if state is not CommandState.REJECTED:
                by_id.setdefault(entry.order.command_id, entry)
            if entry.order.issuer_key == b"":
                unsigned_sequence = max(unsigned_sequence, entry.order.command.sequence)
        found = _Known(by_id, count_open, unsigned_sequence)
        object.__setattr__(self, "_found", found)  # of a value that does not change
        return found

    def known_by_id(self, command_id: str) -> Entry | None:
        """The admitted command of an id. Refused ones do not hold their id: a forgery must not block the real one."""
        return self._known.by_id.get(command_id)

    def window(self, issuer_key: bytes, audience: str) -> ReplayWindow:
        return self.windows.get((issuer_key, audience)) or ReplayWindow(issuer_key, audience)

    def room_for(self, command: Command) -> bool:
        """Whether another command can be kept."""
        return self.count_open < (MAX_OPEN if command.restrictive else MAX_OPEN - RESERVED_FOR_RESTRICTIVE)

    @property
    def count_open(self) -> int:
        """Commands that are not final yet."""
        return self._known.open

    def next_unsigned_sequence(self) -> int:
        """Arrival counts for the unsigned."""
        return 1 + self._known.unsigned_sequence

    def ordered(self, issuer: str, since_us: int) -> Ordered:
        """What one issuer ordered since then with any key, at full power and while each order stood (SAFETY 10)."""
        hours = self.forgotten.get(issuer.encode(), {})
        gone = (part for hour, part in hours.items() if hour >= since_us // HOUR_US)
        energy_wh, value_micro = total(gone)
        for entry in self.entries.values():
            order = entry.order
            if order.received_us >= since_us and order.command.issuer == issuer:
                part = entry.ordered()
                energy_wh += part.energy_wh
                value_micro += part.value_micro
        return Ordered(energy_wh, value_micro)

    def _of(self, issuer_key: bytes) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.order.issuer_key == issuer_key]

    # -- life ---------------------------------------------------------------------------------------------------

    def refused(self, order_hash: bytes, command_id: str, order: Order | None, reason: str, now: Now) -> Change:
        """REJECTED, which is final. With an `order` (its signature held) the refusal is remembered under its hash."""
        receipt = CommandReceipt(
            command_hash=order_hash,
            command_id=command_id,
            state=CommandState.REJECTED,
            timestamp_us=now.wall_us,
            reason=reason,
            delivered_energy_wh=None,
        )
        if order is None:
            return Change(self, (receipt,))
        # Its sequence number stays free: it was never obeyed, and its hash answers for it.
        entries = {**self.entries, order.hash: Entry(order=order, receipts=(receipt,))}
        return Change(replace(self, entries=entries), (receipt,))

    def admitted(self, order: Order, state: CommandState, reason: str, now: Now) -> Change:
        """RECEIVED and then ACCEPTED or PARTIAL; and whatever it cancels ends. Not durable until `committed`."""
        made = (
            receipt_of(order, CommandState.RECEIVED, "", now.wall_us, None),
            receipt_of(order, state, reason, now.wall_us, None),
        )
        entries = {**self.entries, order.hash: Entry(order=order, receipts=made, durable=False)}
        change = Change(replace(self, entries=entries, windows=self._used(order)), made)
        for cancelled in order.command.cancels:
            entry = change.book.entries.get(cancelled)
            if entry is None or entry.state.final or entry.order.issuer_key != order.issuer_key:
                continue
            change = change.book._ended(
                entry, CommandState.SUPERSEDED, f"cancelled by {name_of(order)}", now, change.receipts
            )
        return change

    def _used(self, order: Order) -> dict[tuple[bytes, str], ReplayWindow]:
        if order.rank is Rank.UNSIGNED:
            return dict(self.windows)
        command = order.command
        window = self.window(order.issuer_key, command.audience).after(command.epoch, command.sequence)
        return {**self.windows, (order.issuer_key, command.audience): window}

    def committed(self, order_hash: bytes) -> Book:
        """The store has it now."""
        entry = self.entries.get(order_hash)
        return self if entry is None else self._with(replace(entry, durable=True))

    def settle(self, now: Now) -> Change:
        """End what has been replaced or has run out. While the time is not known nothing ends by time."""
        change = Change(self)
        if not now.time_known:
            return change
        words = self._words()
        for entry in self.entries.values():
            if entry.state.final or not began(entry.order.command, now):
                continue
            replacing = change.book._replaced_for_good_by(entry, words, now)
            if replacing is not None:
                reason = f"replaced by {name_of(replacing)} of the same issuer"
                change = change.book._ended(entry, CommandState.SUPERSEDED, reason, now, change.receipts)
            elif now.wall_us >= entry.order.command.end_us:
                state, reason = entry.end_by_time()
                change = change.book._ended(entry, state, reason, now, change.receipts)
        return change

    def _ended(
        self, entry: Entry, state: CommandState, reason: str, now: Now, before: tuple[CommandReceipt, ...] = ()
    ) -> Change:
        delivered = entry.tally.delivered_wh() if entry.executed else None
        receipt = receipt_of(entry.order, state, reason, now.wall_us, delivered)
        closed = replace(entry.followed(receipt), tally=entry.tally.paused())
        return Change(self._with(closed), (*before, receipt))

    def next_change_us(self, wall_us: int) -> int | None:
        """The next moment at which a command starts or ends; None: none does."""
        moments = (
            moment_us
            for entry in self.entries.values()
            if not entry.state.final
            for moment_us in (entry.order.command.start_us, entry.order.command.end_us)
            if moment_us > wall_us
        )
        return min(moments, default=None)

    def candidates(self, now: Now) -> tuple[Order, ...]:
        """What stands now, highest first; the plan decides between those that want the same device."""
        words = self._words()
        standing = [
            entry
            for entry in self.entries.values()
            if not entry.state.final
            and (entry.durable or entry.order.command.restrictive)
            and stands(entry.order, now)
            and self._suspended_by(entry, words, now) is None
        ]
        return tuple(sorted((entry.order for entry in standing), key=precedence))

    def observe(self, outcomes: Mapping[bytes, Outcome], registers: Mapping[str, Register], now: Now) -> Change:
        """Take in what the plan did and what the meters say: EXECUTING, energy, and the end by `max_energy_wh`."""
        change = Change(self)
        for idle in self.entries.values():
            if idle.tally.accounts and idle.order.hash not in outcomes:
                change = Change(change.book._with(replace(idle, tally=idle.tally.paused())))
        for order_hash, outcome in outcomes.items():
            entry = change.book.entries.get(order_hash)
            if entry is None or entry.state.final:
                continue
            tally = entry.tally.seen(outcome.in_force, outcome.counted_devices, registers, now.wall_us, outcome.reason)
            entry = replace(entry, tally=tally)
            receipts = change.receipts
            if outcome.responded and not entry.executed:
                receipt = receipt_of(entry.order, CommandState.EXECUTING, outcome.reason, now.wall_us, None)
                entry, receipts = entry.followed(receipt), (*receipts, receipt)
            if outcome.held and entry.state in (CommandState.ACCEPTED, CommandState.EXECUTING):
                receipt = receipt_of(entry.order, CommandState.PARTIAL, outcome.held, now.wall_us, None)
                entry, receipts = entry.followed(receipt), (*receipts, receipt)
            change = Change(change.book._with(entry), receipts)
            most_wh, delivered_wh = entry.order.command.max_energy_wh, tally.delivered_wh()
            if most_wh is not None and delivered_wh is not None:
                along = -delivered_wh if entry.order.command.signed_power_w < 0 else delivered_wh
                if along >= most_wh:
                    if not entry.executed:
                        # Never quite where the plan wanted it, and yet: what was delivered proves that it was obeyed.
                        receipt = receipt_of(entry.order, CommandState.EXECUTING, outcome.reason, now.wall_us, None)
                        entry, receipts = entry.followed(receipt), (*receipts, receipt)
                    reason = f"its {most_wh} Wh are delivered"
                    change = change.book._ended(entry, CommandState.COMPLETED, reason, now, receipts)
        return change

    def tidied(self, now: Now) -> tuple[Book, tuple[bytes, ...]]:
        """The book without what nobody will ask for again, and the hashes that went."""
        final = [entry for entry in self.entries.values() if entry.state.final]
        excess = max(0, len(final) - MAX_KEPT)
        if excess:
            final.sort(key=lambda entry: entry.receipts[-1].timestamp_us)
        gone = {entry.order.hash for entry in final[:excess]}
        if now.time_known:
            for entry in final[excess:]:
                last_us = max(entry.order.command.end_us, entry.receipts[-1].timestamp_us)
                # A refused command may claim an end in a far future: it is not kept for that.
                if entry.state is CommandState.REJECTED:
                    last_us = entry.receipts[-1].timestamp_us
                if last_us + KEPT_FOR_US < now.wall_us:
                    gone.add(entry.order.hash)
        if not gone:
            return self, ()
        kept = {h: e for h, e in self.entries.items() if h not in gone}
        return Book(kept, self.windows, self._forgetting(gone, now)), tuple(sorted(gone))

    def _forgetting(self, gone: Set[bytes], now: Now) -> dict[bytes, dict[int, Ordered]]:
        """The sums by issuer and hour with those that go, and without what is older than a day."""
        oldest = (now.wall_us - KEPT_FOR_US) // HOUR_US if now.time_known else 0
        sums = {
            issuer: {hour: part for hour, part in hours.items() if hour >= oldest}
            for issuer, hours in self.forgotten.items()
        }
        for order_hash in gone:
            entry = self.entries[order_hash]
            part, hour = entry.ordered(), entry.order.received_us // HOUR_US
            if part.energy_wh > 0 and hour >= oldest:
                hours = sums.setdefault(entry.order.command.issuer.encode(), {})
                hours[hour] = total([hours.get(hour, Ordered()), part])
        return {issuer: hours for issuer, hours in sums.items() if hours}

    def joined(self, restored: Book) -> Book:
        """This book, begun while the store was away, together with the stored one."""
        windows = dict(restored.windows)
        for key, window in self.windows.items():
            windows[key] = window.joined(windows[key]) if key in windows else window
        entries = {**self.entries, **restored.entries}
        return Book(entries, windows, restored.forgotten)

    def in_force_between(self, device_id: str, start_us: int, end_us: int, *, is_meter: bool) -> tuple[bytes, ...]:
        """Hashes of the commands that were in force for a device in a window, in order; for settlement windows.

        `is_meter`: it is the grid meter, which commands at the connection are about.
        """
        found = []
        for entry in self.entries.values():
            tally, command = entry.tally, entry.order.command
            if is_meter:
                concerned = command.point is Point.CONNECTION
            else:
                concerned = not command.targets or device_id in command.targets
            if not concerned or tally.first_us is None or tally.last_us is None:
                continue
            if tally.first_us < end_us and tally.last_us >= start_us:
                found.append(entry.order.hash)
        return tuple(sorted(found))

    # -- who gives way ------------------------------------------------------------------------------------------

    def _words(self) -> _Words:
        """All that each issuer has said, its newest word first: a glance at its beginning finds who gives way to it."""
        if self._said is not None:
            return self._said
        words: dict[bytes, list[tuple[tuple[int, int], int, bytes]]] = {}
        for place, entry in enumerate(self.entries.values()):
            order = entry.order
            words.setdefault(order.issuer_key, []).append((order.age_of_word(), place, order.hash))
        for said in words.values():
            said.sort(reverse=True)
        object.__setattr__(self, "_said", words)  # of a value that does not change
        return words

    def _replaced_for_good_by(self, entry: Entry, words: _Words, now: Now) -> Order | None:
        for later in self._later_words(entry, words):
            if not later.command.resume and began(later.command, now):
                return later
        return None

    def _suspended_by(self, entry: Entry, words: _Words, now: Now) -> Order | None:
        for later in self._later_words(entry, words):
            if stands(later, now) and not self.entries[later.hash].state.final:
                return later
        return None

    def _later_words(self, entry: Entry, words: _Words) -> Iterable[Order]:
        """The issuer's later commands about the same, in overlapping time, but those cancelled before they began."""
        mine = entry.order
        mine_said = mine.age_of_word()
        later = takewhile(lambda word: word[0] > mine_said, words[mine.issuer_key])
        for _, order_hash in sorted((place, order_hash) for _, place, order_hash in later):
            other = self.entries[order_hash]
            theirs = other.order
            if (
                other.state is CommandState.REJECTED
                or not (other.durable or theirs.command.restrictive)
                or not same_matter(mine.command, theirs.command)
                or theirs.command.end_us <= mine.command.start_us
                or theirs.command.start_us >= mine.command.end_us
            ):
                continue
            if other.state.final and other.receipts[-1].timestamp_us <= theirs.command.start_us:
                continue  # cancelled before it began
            yield theirs

    def _with(self, entry: Entry) -> Book:
        return Book({**self.entries, entry.order.hash: entry}, self.windows, self.forgotten)
