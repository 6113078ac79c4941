"""Judges thinning: what stands for merged readings is what they were, and nothing went that nothing stands for.

Pure. The readings themselves are known from outside the store: from what its callers were promised, and from what the
platform was sent before they were merged.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

from agent.evidence import merkle
from agent.evidence.errors import EvidenceError
from agent.evidence.kinds import Slot
from agent.evidence.statements import Statement, Thinning, decode
from agent.evidence.thinning_check import ThinningCheck
from agent.evidence.verify import VerifiedBatch
from agent.measure.reading import Reading

Meter = tuple[str, int]
"""(device, incarnation)."""


class Stood:
    """Which readings the sealed thinning statements of a store stand for."""

    def __init__(self, batches: Sequence[VerifiedBatch]) -> None:
        said: dict[bytes, Thinning] = {}
        for batch in batches:
            said |= {each.hash: each.statement for each in batch.statements if isinstance(each.statement, Thinning)}
        self._replaced = {each.replaces for each in said.values()}
        self.in_force = [each for hash_, each in said.items() if hash_ not in self._replaced]
        self._slots: dict[Meter, list[Slot]] = defaultdict(list)
        for thinning in self.in_force:
            self._slots[thinning.device_id, thinning.incarnation] += thinning.slots
        for slots in self._slots.values():
            slots.sort(key=lambda slot: slot.first_sequence)

    def slots(self, device_id: str, incarnation: int) -> Sequence[Slot]:
        """In order of sequence."""
        return self._slots.get((device_id, incarnation), ())

    def stands_for(self, encoded: bytes) -> bool:
        """Whether a statement that is gone may be: a reading in a slot, or a finer thinning statement."""
        statement = read(encoded)
        if isinstance(statement, Thinning):
            return hashlib.sha256(encoded).digest() in self._replaced
        if not isinstance(statement, Reading):
            return False
        slots = self.slots(statement.device_id, statement.incarnation)
        place = bisect_right([slot.first_sequence for slot in slots], statement.sequence) - 1
        return place >= 0 and statement.sequence <= slots[place].last_sequence


def wrong(stood: Stood, batches: Sequence[VerifiedBatch], known: Mapping[tuple[str, int, int], bytes]) -> list[str]:
    """What is not so of the thinning statements, in words. `known`: readings by (device, incarnation, sequence)."""
    check = ThinningCheck()
    for batch in batches:
        check.see(batch)
    found = check.false_claims()
    for thinning in stood.in_force:
        found += _wrong_sums(thinning, known)
    return found


def _wrong_sums(thinning: Thinning, known: Mapping[tuple[str, int, int], bytes]) -> list[str]:
    found, leaves = [], []
    for slot in thinning.slots:
        name = f"{thinning.device_id} {thinning.incarnation}.{slot.first_sequence}-{slot.last_sequence}"
        numbers = range(slot.first_sequence, slot.last_sequence + 1)
        of = [known.get((thinning.device_id, thinning.incarnation, number)) for number in numbers]
        there = [each for each in of if each is not None]
        leaves += there
        if len(there) < len(of):
            # Killed between a commit and the word of it, before anybody was shown the reading.
            continue
        readings = [reading for reading in map(read, there) if isinstance(reading, Reading)]
        if sum(reading.net_energy_wh for reading in readings) != slot.net_energy_wh:
            found.append(f"{name}: {slot.net_energy_wh} Wh, which is not the sum of its readings")
        last = readings[-1]
        ends = last.import_register_milliwatt_hours, last.export_register_milliwatt_hours
        if ends != (slot.import_register_milliwatt_hours, slot.export_register_milliwatt_hours):
            found.append(f"{name}: its registers are not those of its last reading")
    if (
        len(leaves) == thinning.reading_count
        and merkle.root([merkle.leaf_hash(leaf) for leaf in leaves]) != thinning.readings_root
    ):
        found.append(f"{thinning.device_id}: the root over {len(leaves)} merged readings is another")
    return found


@lru_cache(maxsize=1 << 16)
def read(encoded: bytes) -> Statement | None:
    """A statement; None: it is none."""
    try:
        return decode(encoded)
    except EvidenceError:
        return None
