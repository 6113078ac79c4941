"""Merging: readings of one device become slots of a thinning statement, and fine slots coarse ones. Pure.

The energy is kept exactly: a slot's is the sum of its readings', and its registers are those of its last reading. What
goes is the course in between (each voltage, frequency and power). Layout and meaning: proto/EVIDENCE.md section 12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from agent.evidence import merkle
from agent.evidence.kinds import OldBatches, Slot, Thinning
from agent.evidence.thinning_fields import MOST_SLOTS
from agent.measure.reading import Quality, Reading

MINUTE_SLOT_S: Final = 60
QUARTER_SLOT_S: Final = 900
_KEPT_FLAGS: Final = Quality.ISLANDED
"""Readings that differ in these are never merged: energy on an island is not settled."""


def may_be_merged(reading: Reading) -> bool:
    """False for what must stay as it is: the reading names values that the meter signed."""
    return not reading.signed_values


def old_batches(incarnation: int, first_number: int, roots: Sequence[bytes]) -> OldBatches:
    """The name of a run of batches, given their roots in order."""
    return OldBatches(
        incarnation=incarnation,
        first_number=first_number,
        last_number=first_number + len(roots) - 1,
        roots_root=merkle.root([merkle.leaf_hash(root) for root in roots]),
    )


class Merger:
    """Takes the readings of one device, in order of sequence, one after the other."""

    def __init__(self, slot_s: int) -> None:
        self._slot_s = slot_s
        self._done: list[tuple[Reading, list[Slot], list[bytes]]] = []
        """Groups of readings that have device, incarnation, boot, epoch and source in common: the first of them, the
        slots, and the hashes of the leaves."""

    def take(self, reading: Reading, encoded: bytes) -> None:
        """One more reading to be merged."""
        group = self._done[-1] if self._done else None
        if group is None or _common(group[0]) != _common(reading) or len(group[1]) >= MOST_SLOTS:
            group = (reading, [], [])
            self._done.append(group)
        _, slots, hashes = group
        hashes.append(merkle.leaf_hash(encoded))
        slot = _slot_of(reading)
        if slots and _joins(slots[-1], slot, self._slot_s):
            slots[-1] = _joined(slots[-1], slot)
        else:
            slots.append(slot)

    def statements(self, *, old: OldBatches, at_us: int) -> list[Thinning]:
        """What all of it becomes."""
        return [
            Thinning(
                device_id=first.device_id,
                incarnation=first.incarnation,
                boot_id=first.boot_id,
                meter_epoch=first.meter_epoch,
                source=first.source,
                thinned_at_us=at_us,
                slot_s=self._slot_s,
                old=(old,),
                reading_count=len(hashes),
                readings_root=merkle.root(hashes),
                net_energy_wh=sum(slot.net_energy_wh for slot in slots),
                replaces=None,
                slots=tuple(slots),
            )
            for first, slots, hashes in self._done
        ]


def coarsened(fine: Thinning, encoded: bytes, *, slot_s: int, old: OldBatches, at_us: int) -> Thinning:
    """A thinning statement with longer slots in the place of one whose statement bytes are `encoded`.

    `old` names the batch that held it.
    """
    return replace(
        fine,
        thinned_at_us=at_us,
        slot_s=slot_s,
        old=(*fine.old, old),
        replaces=hashlib.sha256(encoded).digest(),
        slots=tuple(_merged(fine.slots, slot_s)),
    )


def _merged(slots: Iterable[Slot], slot_s: int) -> Iterable[Slot]:
    waiting: Slot | None = None
    for slot in slots:
        if waiting is None:
            waiting = slot
        elif _joins(waiting, slot, slot_s):
            waiting = _joined(waiting, slot)
        else:
            yield waiting
            waiting = slot
    if waiting is not None:
        yield waiting


def _common(r: Reading) -> tuple[object, ...]:
    return r.device_id, r.incarnation, r.boot_id, r.meter_epoch, r.source


def _slot_of(r: Reading) -> Slot:
    return Slot(
        first_sequence=r.sequence,
        reading_count=1,
        first_us=r.timestamp_us,
        span_us=0,
        net_energy_wh=r.net_energy_wh,
        import_register_milliwatt_hours=r.import_register_milliwatt_hours,
        export_register_milliwatt_hours=r.export_register_milliwatt_hours,
        lowest_power_w=r.power_w,
        highest_power_w=r.power_w,
        state_of_charge_permille=r.state_of_charge_permille,
        quality=r.quality,
    )


def _joins(before: Slot, after: Slot, slot_s: int) -> bool:
    slot_us = slot_s * 1_000_000
    return (
        after.first_sequence == before.last_sequence + 1
        and after.first_us // slot_us == before.first_us // slot_us
        and (after.first_us + after.span_us) // slot_us == before.first_us // slot_us
        and after.quality & _KEPT_FLAGS == before.quality & _KEPT_FLAGS
    )


def _joined(a: Slot, b: Slot) -> Slot:
    """`b` follows `a`."""
    first_us = min(a.first_us, b.first_us)
    last_us = max(a.first_us + a.span_us, b.first_us + b.span_us)
    counted = b if b.import_register_milliwatt_hours is not None or b.export_register_milliwatt_hours is not None else a
    return Slot(
        first_sequence=a.first_sequence,
        reading_count=a.reading_count + b.reading_count,
        first_us=first_us,
        span_us=last_us - first_us,
        net_energy_wh=a.net_energy_wh + b.net_energy_wh,
        import_register_milliwatt_hours=counted.import_register_milliwatt_hours,
        export_register_milliwatt_hours=counted.export_register_milliwatt_hours,
        lowest_power_w=_of(min, a.lowest_power_w, b.lowest_power_w),
        highest_power_w=_of(max, a.highest_power_w, b.highest_power_w),
        state_of_charge_permille=(
            a.state_of_charge_permille if b.state_of_charge_permille is None else b.state_of_charge_permille
        ),
        quality=a.quality | b.quality,
    )


def _of(choose: Callable[[int, int], int], a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return choose(a, b)
