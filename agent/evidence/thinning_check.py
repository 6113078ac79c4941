"""What a run of verified batches shows of thinning: which leaves are gone, what stands for them, and whether it is so.

Takes batches in order. A thinning statement comes in a later batch than the leaves that it stands for, so judgement is
at the end. proto/EVIDENCE.md section 12.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from agent.evidence import merkle
from agent.evidence.kinds import OldBatches, Slot, Thinning
from agent.evidence.verify import VerifiedBatch
from agent.measure.reading import Quality, Reading

_NO_ENERGY: Final = Quality.NO_REGISTER | Quality.EPOCH_START


@dataclass(frozen=True, slots=True)
class Merged:
    """What the thinning statements of one device say."""

    device_id: str
    readings: int
    net_energy_wh: int
    first_us: int
    last_us: int
    slot_s: int
    """The coarsest."""


@dataclass(frozen=True, slots=True)
class _Point:
    """Where the registers stood after a reading or a slot."""

    epoch: int
    net_wh: int | None


@dataclass(slots=True)
class ThinningCheck:
    """One for one gateway's batches."""

    absent: int = 0
    """Leaves that roots cover and that are not in the file."""
    absent_batches: int = 0
    _roots: dict[tuple[int, int], bytes] = field(default_factory=dict)
    _found: dict[bytes, Thinning] = field(default_factory=dict)
    """By hash of the statement."""
    _ends: dict[tuple[str, int, int], _Point] = field(default_factory=dict)
    """(device, incarnation, sequence) of readings that a slot may follow."""
    _last: dict[tuple[str, int], tuple[int, _Point]] = field(default_factory=dict)

    def see(self, batch: VerifiedBatch) -> None:
        """The next batch."""
        self._roots[batch.identity.incarnation, batch.identity.number] = batch.root
        self.absent += batch.absent
        self.absent_batches += batch.absent > 0
        for verified in batch.statements:
            statement = verified.statement
            if isinstance(statement, Reading):
                self._see_reading(statement)
            elif isinstance(statement, Thinning):
                self._found[verified.hash] = statement

    def _see_reading(self, r: Reading) -> None:
        """Only the last reading of each unbroken run is remembered: a slot follows that one or none."""
        key = r.device_id, r.incarnation
        net = (r.import_register_milliwatt_hours or 0) - (r.export_register_milliwatt_hours or 0)
        none = r.import_register_milliwatt_hours is None and r.export_register_milliwatt_hours is None
        before = self._last.get(key)
        if before is not None and before[0] != r.sequence - 1:
            self._ends[(*key, before[0])] = before[1]
        self._last[key] = r.sequence, _Point(r.meter_epoch, None if none else net // 1000)

    @property
    def _in_force(self) -> list[Thinning]:
        """Those that no coarser one stands for."""
        replaced = {thinning.replaces for thinning in self._found.values()}
        return [thinning for hash_, thinning in self._found.items() if hash_ not in replaced]

    @property
    def merged_readings(self) -> int:
        """Readings that signed statements stand for."""
        return sum(thinning.reading_count for thinning in self._in_force)

    def devices(self) -> list[Merged]:
        """By device."""
        by_device: defaultdict[str, list[Thinning]] = defaultdict(list)
        for thinning in self._in_force:
            by_device[thinning.device_id].append(thinning)
        return [
            Merged(
                device_id,
                sum(each.reading_count for each in found),
                sum(each.net_energy_wh for each in found),
                min(slot.first_us for each in found for slot in each.slots),
                max(slot.first_us + slot.span_us for each in found for slot in each.slots),
                max(each.slot_s for each in found),
            )
            for device_id, found in sorted(by_device.items())
        ]

    def unseen_batches(self) -> int:
        """Thinning statements that name batches which are not all in the file: those roots are not compared."""
        return sum(any(self._roots_of(old) is None for old in each.old) for each in self._found.values())

    def false_claims(self) -> list[str]:
        """What thinning statements say and is not so, in words."""
        return [*self._wrong_roots(), *self._wrong_replacements(), *self._overlaps(), *self._wrong_energies()]

    def _roots_of(self, old: OldBatches) -> list[bytes] | None:
        """Roots of a run of batches; None unless all are at hand."""
        if old.last_number - old.first_number >= len(self._roots):
            return None
        roots = [self._roots.get((old.incarnation, n)) for n in range(old.first_number, old.last_number + 1)]
        found = [root for root in roots if root is not None]
        return found if len(found) == len(roots) else None

    def _wrong_roots(self) -> Iterator[str]:
        for thinning in self._found.values():
            for old in thinning.old:
                roots = self._roots_of(old)
                if roots is not None and merkle.root([merkle.leaf_hash(root) for root in roots]) != old.roots_root:
                    yield (
                        f"{_name(thinning)}: names batches {old.first_number} to {old.last_number} by roots that are "
                        "not theirs"
                    )

    def _wrong_replacements(self) -> Iterator[str]:
        for thinning in self._found.values():
            fine = self._found.get(thinning.replaces or b"")
            if fine is not None and _content(fine) != _content(thinning):
                yield f"{_name(thinning)}: is not of the readings that the statement had which it replaces"

    def _overlaps(self) -> Iterator[str]:
        ends: defaultdict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        for thinning in self._in_force:
            ends[thinning.device_id, thinning.incarnation] += [
                (t.first_sequence, t.last_sequence) for t in thinning.slots
            ]
        for (device_id, incarnation), ranges in ends.items():
            ranges.sort()
            for before, after in pairwise(ranges):
                if after[0] <= before[1]:
                    yield f"readings of {device_id[:64]}, incarnation {incarnation}, merged twice from {after[0]} on"
                    break

    def _wrong_energies(self) -> Iterator[str]:
        """A slot's energy is the difference of the registers before it and at its end, where both are at hand."""
        points = dict(self._ends)
        points |= {(*key, sequence): point for key, (sequence, point) in self._last.items()}
        for thinning in self._in_force:
            for slot in thinning.slots:
                key = thinning.device_id, thinning.incarnation, slot.last_sequence
                points[key] = _Point(thinning.meter_epoch, _net_wh(slot))
        for thinning in self._in_force:
            for slot in thinning.slots:
                before = points.get((thinning.device_id, thinning.incarnation, slot.first_sequence - 1))
                after = _net_wh(slot)
                if before is None or before.net_wh is None or after is None or slot.quality & _NO_ENERGY:
                    continue
                if before.epoch == thinning.meter_epoch and after - before.net_wh != slot.net_energy_wh:
                    yield (
                        f"{_name(thinning)}: {slot.net_energy_wh} Wh from reading {slot.first_sequence} on, "
                        f"its registers say {after - before.net_wh} Wh"
                    )


def _content(thinning: Thinning) -> tuple[object, ...]:
    """What a coarser statement must have in common with the one that it replaces."""
    t = thinning
    return (
        t.device_id, t.incarnation, t.boot_id, t.meter_epoch, t.source, t.reading_count, t.readings_root,
        t.net_energy_wh, t.slots[0].first_sequence, t.slots[-1].last_sequence,
    )  # fmt: skip


def _net_wh(slot: Slot) -> int | None:
    imported, exported = slot.import_register_milliwatt_hours, slot.export_register_milliwatt_hours
    return None if imported is None and exported is None else ((imported or 0) - (exported or 0)) // 1000


def _name(thinning: Thinning) -> str:
    return f"thinning of {thinning.device_id[:64]} from reading {thinning.slots[0].first_sequence} on"
