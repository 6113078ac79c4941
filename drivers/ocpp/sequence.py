"""Which events of a transaction have come, which are missing, and which came twice (OCPP 2.0.1 part 2, E). Pure.

A charger repeats an event under a new message id when our answer was lost, delivers a queue in batches, and fills gaps
late. What is kept here survives a restart, so that the same event counts once whatever happened in between.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from drivers.ocpp.schemas import Json, JsonObject

REMEMBERED_EVENTS: Final = 256
"""Events whose repetition is recognised. A queue that outgrew this is recognised by its transaction having ended."""
KEPT_EVENTS: Final = 64
"""Of those, what survives a restart."""
REMEMBERED_TRANSACTIONS: Final = 8
MOST_MISSING: Final = 1000
"""Numbers; a charger that jumps further is not counting."""

MOST_NUMBER: Final = 2**31


@dataclass(slots=True)
class _Counted:
    highest: int
    missing: set[int] = field(default_factory=set)
    resumed: bool = False
    """Restored: live events of the time after the last word kept may be unknown here without having been lost."""


class SequenceLog:
    """The events of one EVSE's transactions."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()  # oldest first
        self._transactions: OrderedDict[str, _Counted] = OrderedDict()

    def count(self, transaction_id: str, number: int, kind: str, timestamp: str) -> tuple[bool, str]:
        """Whether the event is new, and a sentence when a gap opened with it. Chargers are known that count wrongly:
        an event is the same one only if number, kind and time agree."""
        key = _digest(transaction_id, number, kind, timestamp)
        if key in self._seen:
            return False, ""
        self._see(key)
        if not 0 <= number < MOST_NUMBER:
            return True, ""  # is not counting
        counted = self._transactions.get(transaction_id)
        if counted is None:
            counted = self._transactions[transaction_id] = _Counted(number)
            if len(self._transactions) > REMEMBERED_TRANSACTIONS:
                self._transactions.popitem(last=False)
            return True, ""  # what came before was somebody else's to hear
        if number <= counted.highest:
            counted.missing.discard(number)
            return True, ""
        gap, counted.highest = range(counted.highest + 1, number), number
        resumed, counted.resumed = counted.resumed, False
        if not gap or resumed or len(gap) + len(counted.missing) > MOST_MISSING:
            return True, ""
        counted.missing.update(gap)
        return True, f"{len(gap)} events of transaction {transaction_id!a} before number {number} have not come"

    def missing(self, transaction_id: str) -> Sequence[int]:
        """Numbers of the events that have not come (yet)."""
        counted = self._transactions.get(transaction_id)
        return () if counted is None else sorted(counted.missing)

    def give_up(self, transaction_id: str) -> int:
        """The charger has nothing left to deliver of it. How many events will never come."""
        counted = self._transactions.get(transaction_id)
        if counted is None:
            return 0
        lost = len(counted.missing)
        counted.missing.clear()
        return lost

    def with_gaps(self) -> list[str]:
        """Transactions with missing events."""
        return [transaction_id for transaction_id, counted in self._transactions.items() if counted.missing]

    # --- over restarts

    def encode(self) -> JsonObject:
        """What must survive a restart."""
        return {
            "seen": [key.hex() for key in list(self._seen)[-KEPT_EVENTS:]],
            "transactions": {
                transaction_id: {"highest": counted.highest, "missing": cast(Json, sorted(counted.missing))}
                for transaction_id, counted in self._transactions.items()
            },
        }

    def restore(self, kept: Mapping[str, Json]) -> None:
        """Go on from what `encode` gave. Raises what damaged values raise (ValueError, TypeError, ...)."""
        seen = [bytes.fromhex(key) for key in cast(list[str], kept["seen"])]
        transactions = cast(dict[str, dict[str, Json]], kept["transactions"])
        counted = {
            transaction_id: _Counted(
                int(cast(int, each["highest"])), {int(n) for n in cast(list[int], each["missing"])}, resumed=True
            )
            for transaction_id, each in transactions.items()
        }
        for key in seen:
            self._see(key)
        self._transactions.update(counted)

    def _see(self, key: bytes) -> None:
        self._seen[key] = None
        if len(self._seen) > REMEMBERED_EVENTS:
            self._seen.popitem(last=False)


def _digest(transaction_id: str, number: int, kind: str, timestamp: str) -> bytes:
    return hashlib.blake2b(f"{number}/{kind}/{timestamp}/{transaction_id}".encode(), digest_size=8).digest()
