"""The fields of a thinning statement, written and read. Layout: proto/EVIDENCE.md section 12."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from agent.evidence import cbor
from agent.evidence.fields import Fields
from agent.evidence.kinds import OldBatches, Slot, Thinning
from agent.measure.reading import Quality
from drivers.device import ValueSource

MOST_SLOTS: Final = 512
"""In one statement, which stays far below the most that a statement may have."""
MOST_SLOT_S: Final = 86_400
MOST_OLD: Final = 8
_ALL_FLAGS: Final = sum(int(flag) for flag in Quality)


def quality_of(f: Fields) -> Quality:
    """A flag that is not known here may change what the value means: refused, not passed over."""
    flags = f.count()
    if flags & ~_ALL_FLAGS:
        raise ValueError(f"quality {flags} has flags that are not known here")
    return Quality(flags)


def thinning_fields(s: Thinning) -> list[cbor.Value]:
    """Everything after kind and version."""
    old: list[cbor.Value] = [[o.incarnation, o.first_number, o.last_number, o.roots_root] for o in s.old]
    slots: list[cbor.Value] = [
        [
            t.first_sequence, t.reading_count, t.first_us, t.span_us, t.net_energy_wh,
            t.import_register_milliwatt_hours, t.export_register_milliwatt_hours,
            t.lowest_power_w, t.highest_power_w, t.state_of_charge_permille, int(t.quality),
        ]
        for t in s.slots
    ]  # fmt: skip
    return [
        s.device_id, s.incarnation, s.boot_id, s.meter_epoch, int(s.source), s.thinned_at_us, s.slot_s, old,
        s.reading_count, s.readings_root, s.net_energy_wh, s.replaces, slots,
    ]  # fmt: skip


def read_thinning(f: Fields) -> Thinning:
    """The statement, its sums and order checked. Raises ValueError or TypeError."""
    thinning = Thinning(
        device_id=f.text(),
        incarnation=f.ordinal(),
        boot_id=f.octets(16),
        meter_epoch=f.ordinal(),
        source=ValueSource(f.count()),
        thinned_at_us=f.count(),
        slot_s=f.ordinal(),
        old=tuple(_old(_inner(item)) for item in f.items()),
        reading_count=f.ordinal(),
        readings_root=f.octets(32),
        net_energy_wh=f.number(),
        replaces=f.octets_or_none(),
        slots=tuple(_slot(_inner(item)) for item in f.items()),
    )
    f.end()
    if not 1 <= len(thinning.slots) <= MOST_SLOTS or not 1 <= len(thinning.old) <= MOST_OLD:
        raise ValueError(f"{len(thinning.slots)} slots from {len(thinning.old)} runs of batches")
    if thinning.slot_s > MOST_SLOT_S:
        raise ValueError(f"slots of {thinning.slot_s} s")
    if thinning.replaces is not None and len(thinning.replaces) != 32:
        raise TypeError("what it replaces is not named by SHA-256")
    if sum(slot.net_energy_wh for slot in thinning.slots) != thinning.net_energy_wh:
        raise ValueError("its energy is not the sum of its slots")
    if sum(slot.reading_count for slot in thinning.slots) != thinning.reading_count:
        raise ValueError("its count of readings is not that of its slots")
    for before, after in pairwise(thinning.slots):
        if after.first_sequence <= before.last_sequence:
            raise ValueError(f"slots overlap at sequence {after.first_sequence}")
    return thinning


def _inner(item: cbor.Value) -> Fields:
    if not isinstance(item, list):
        raise TypeError("an element of a list is not an array")
    return Fields(item)


def _old(f: Fields) -> OldBatches:
    old = OldBatches(
        incarnation=f.ordinal(), first_number=f.ordinal(), last_number=f.ordinal(), roots_root=f.octets(32)
    )
    f.end()
    if old.last_number < old.first_number:
        raise ValueError("a run of batches ends before it begins")
    return old


def _slot(f: Fields) -> Slot:
    slot = Slot(
        first_sequence=f.ordinal(),
        reading_count=f.ordinal(),
        first_us=f.count(),
        span_us=f.count(),
        net_energy_wh=f.number(),
        import_register_milliwatt_hours=f.count_or_none(),
        export_register_milliwatt_hours=f.count_or_none(),
        lowest_power_w=f.number_or_none(),
        highest_power_w=f.number_or_none(),
        state_of_charge_permille=f.count_or_none(),
        quality=quality_of(f),
    )
    f.end()
    if (slot.lowest_power_w is None) != (slot.highest_power_w is None):
        raise ValueError("one end of the powers is missing")
    return slot
