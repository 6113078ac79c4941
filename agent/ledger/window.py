"""Settlement windows: from a device's readings to what is settled, in whole Wh that add up to the registers.

A reading at time t tells of the energy up to t, so a window holds the readings with start < t <= end. They are cut by
sequence, not by time: the window takes the readings after the last one of the window before, in order, up to the last
that is due. So every reading is in exactly one window, also one that arrives late, and the energy of consecutive
windows adds up to the difference of the registers, whatever happens to the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent.clock import ClockQuality, Instant
from agent.evidence import cbor, merkle
from agent.evidence.errors import MalformedError
from agent.evidence.fields import Fields
from agent.evidence.statements import SettlementWindow
from agent.ledger.errors import LedgerError
from agent.measure.reading import Quality, Reading

MOST_COMMAND_HASHES: Final = 1024
"""In one window statement, so that it stays below the most that a statement may have."""
MOST_DUE: Final = 96
"""Windows closed in one go after an outage; the caller asks again."""
_PROGRESS_VERSION: Final = 1
_NOT_OUR_TIME: Final = Quality.CLOCK_UNTRUSTED | Quality.DEVICE_TIME


@dataclass(frozen=True, slots=True)
class Standing:
    """The registers as the last reading left them: where the next window begins to count."""

    timestamp_us: int
    meter_epoch: int
    import_milliwatt_hours: int | None
    export_milliwatt_hours: int | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the windows of a device are closed. Kept in the transaction that keeps the window's statement."""

    closed_until_us: int
    last_sequence: int = 0
    """Last reading that is in a window; 0: none."""
    standing: Standing | None = None

    def encode(self) -> bytes:
        """For a note."""
        s = self.standing
        standing: cbor.Value = (
            None if s is None else [s.timestamp_us, s.meter_epoch, s.import_milliwatt_hours, s.export_milliwatt_hours]
        )
        return cbor.encode([_PROGRESS_VERSION, self.closed_until_us, self.last_sequence, standing])


def decode_progress(encoded: bytes) -> Progress:
    """Raises LedgerError."""
    try:
        value = cbor.decode(encoded, what="window progress")
        match value:
            case [1, closed_until_us, last_sequence, standing]:
                f = Fields([closed_until_us, last_sequence])
                progress = Progress(f.count(), f.count())
                if isinstance(standing, list):
                    s = Fields(standing)
                    kept = Standing(s.count(), s.count(), s.number_or_none(), s.number_or_none())
                    s.end()
                    return replace(progress, standing=kept)
                if standing is None:
                    return progress
    except (MalformedError, ValueError, TypeError) as error:
        raise LedgerError(f"window progress cannot be read: {error}") from error
    raise LedgerError("window progress cannot be read: it is of another format")


def first_progress(now: Instant, *, window_us: int) -> Progress | None:
    """Where a device begins that has no windows yet: with the window that is open now. None while time is untrusted."""
    if now.quality is ClockQuality.UNTRUSTED:
        return None
    return Progress(now.wall_us - now.wall_us % window_us)


def due(progress: Progress, now: Instant, *, window_us: int, settle_us: int, most: int = MOST_DUE) -> list[int]:
    """Ends of the windows to close now, oldest first: those that ended `settle_us` ago, so that late readings are in.

    Windows are aligned to UTC; after a change of their length the first one is shorter. None while time is untrusted.
    """
    if now.quality is ClockQuality.UNTRUSTED:
        return []
    first_us = progress.closed_until_us - progress.closed_until_us % window_us + window_us
    # Cut before it is made: after a leap of time there would be more than memory holds.
    return list(range(first_us, now.wall_us - settle_us + 1, window_us)[:most])


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed window: its statement, and what the next one begins with."""

    window: SettlementWindow
    progress: Progress


def close_window(
    progress: Progress,
    readings: Sequence[tuple[Reading, bytes]],
    *,
    device_id: str,
    incarnation: int,
    end_us: int,
    tolerance_us: int,
    command_hashes: Sequence[bytes] = (),
) -> Closed:
    """Close the window from `progress.closed_until_us` to `end_us`.

    `readings`: the device's with sequences above `progress.last_sequence`, each with its statement bytes, in order;
    more than belong to the window are welcome, those that it must not take are left. `tolerance_us`: how far the last
    reading may be from a boundary before the energy counts as estimated, about two telemetry periods.
    `command_hashes`: commands that were in force for the device, in order; the first MOST_COMMAND_HASHES are named.
    Raises LedgerError when readings are out of order.
    """
    start_us = progress.closed_until_us
    if end_us <= start_us:
        raise LedgerError(f"window of {device_id} would end at {end_us}, before it starts at {start_us}")
    taken = _due_readings(device_id, progress.last_sequence, readings, end_us)
    energy = _Energy(progress.standing)
    for reading, _ in taken:
        energy.count(reading)
    quality = energy.quality
    sequences = [reading.sequence for reading, _ in taken]
    if sequences and sequences != list(range(progress.last_sequence + 1, sequences[-1] + 1)):
        quality |= Quality.ESTIMATED
    for standing, boundary_us in ((progress.standing, start_us), (energy.standing, end_us)):
        if standing is None or standing.timestamp_us < boundary_us - tolerance_us:
            quality |= Quality.ESTIMATED
    window = SettlementWindow(
        device_id=device_id,
        incarnation=incarnation,
        window_start_us=start_us,
        window_end_us=end_us,
        revision=0,
        import_wh=energy.import_wh,
        export_wh=energy.export_wh,
        net_energy_wh=energy.import_wh - energy.export_wh,
        first_sequence=sequences[0] if sequences else None,
        last_sequence=sequences[-1] if sequences else None,
        reading_count=len(taken),
        readings_root=merkle.root([merkle.leaf_hash(encoded) for _, encoded in taken]),
        meter_epoch=0 if energy.standing is None else energy.standing.meter_epoch,
        quality=quality,
        command_hashes=tuple(command_hashes[:MOST_COMMAND_HASHES]),
    )
    last = sequences[-1] if sequences else progress.last_sequence
    return Closed(window, Progress(end_us, last, energy.standing))


def standing_behind(readings: Sequence[Reading]) -> Standing | None:
    """The registers as windows over these readings leave them; None: none of them has any.

    One that is missing or has fallen stands where it was held, as in the windows themselves.
    """
    energy = _Energy(None)
    for reading in readings:
        energy.count(reading)
    return energy.standing


def _due_readings(
    device_id: str, after: int, readings: Sequence[tuple[Reading, bytes]], end_us: int
) -> Sequence[tuple[Reading, bytes]]:
    """The readings up to the last one that is not after the end and has none of our own time after the end before it.

    A time that is not ours to vouch for (untrusted clock, the device's word) never closes a window to what follows.
    """
    taken = 0
    for place, (reading, _) in enumerate(readings, start=1):
        if reading.device_id != device_id or reading.sequence <= after:
            raise LedgerError(
                f"reading {reading.sequence} of {reading.device_id[:64]} is out of order for windows of {device_id}, "
                f"{after} came before"
            )
        after = reading.sequence
        if reading.timestamp_us <= end_us:
            taken = place
        elif not reading.quality & _NOT_OUR_TIME:
            break
    return readings[:taken]


class _Energy:
    """Adds up whole Wh between readings, each register floored by itself, so that the sums telescope."""

    def __init__(self, standing: Standing | None) -> None:
        self.standing = standing
        self.import_wh = 0
        self.export_wh = 0
        self.quality = Quality.GOOD

    def count(self, reading: Reading) -> None:
        """Add what lies between the standing and a reading; the standing moves on."""
        self.quality |= reading.quality
        imported, exported = reading.import_register_milliwatt_hours, reading.export_register_milliwatt_hours
        if imported is None and exported is None:
            return
        before = self.standing
        if before is None or before.meter_epoch != reading.meter_epoch:
            # What flowed between two meters nobody has counted.
            self.quality |= Quality.ESTIMATED if before is not None else Quality.GOOD
            self.standing = Standing(reading.timestamp_us, reading.meter_epoch, imported, exported)
            return
        imported = self._held(before.import_milliwatt_hours, imported)
        exported = self._held(before.export_milliwatt_hours, exported)
        # Energy on an island is not the grid's, and is not settled (SAFETY 6).
        if not reading.quality & Quality.ISLANDED:
            self.import_wh += _whole_wh(before.import_milliwatt_hours, imported)
            self.export_wh += _whole_wh(before.export_milliwatt_hours, exported)
        time_us = max(before.timestamp_us, reading.timestamp_us)
        self.standing = Standing(time_us, reading.meter_epoch, imported, exported)

    def _held(self, before: int | None, now: int | None) -> int | None:
        """A register that is missing or has fallen stays where it was: within an epoch it only rises."""
        if before is None or (now is not None and now >= before):
            return now
        if now is not None:
            self.quality |= Quality.REGISTER_HELD | Quality.ESTIMATED
        return before


def _whole_wh(before: int | None, now: int | None) -> int:
    if before is None or now is None:
        return 0
    return now // 1000 - before // 1000
