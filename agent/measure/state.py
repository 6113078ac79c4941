"""What is remembered of one meter between two samples, and how it survives a restart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import cbor2

from agent.measure.reading import Quality, Reading
from agent.measure.registers import Register, first_look

_FORMAT: Final = 2


class MeasureError(Exception):
    """A note about a meter cannot be read. Go on with `MeterState.from_reading`."""


@dataclass(frozen=True, slots=True)
class Registers:
    """Both directions, as far as the device counts them."""

    imported: Register | None
    exported: Register | None

    @property
    def known(self) -> bool:
        return self.imported is not None or self.exported is not None

    @property
    def net_wh(self) -> int:
        """floor(net register / 1000). A direction that the device does not count adds nothing."""
        net = (self.imported.milliwatt_hours if self.imported else 0) - (
            self.exported.milliwatt_hours if self.exported else 0
        )
        return net // 1000


NO_REGISTERS: Final = Registers(None, None)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A run of looks that agree among themselves and not with the last good one."""

    reset: bool
    """The registers fell; else they jumped."""
    first: Registers
    """The origin of the next epoch, should the fall prove to be a reset."""
    newest: Registers
    since_us: int
    looks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterState:
    """Everything that `meter.step` needs from the past."""

    sequence: int
    """Of the last reading."""
    meter_epoch: int
    meter_id: str
    """Empty while not known."""
    registers: Registers
    """The last good look of this epoch."""
    timestamp_us: int
    """The newest moment of a reading so far."""
    monotonic_s: float | None = None
    """The same on the monotonic clock; None after a restart."""
    held: bool = False
    """The newest live reading repeated a register."""
    doubt: Doubt | None = None
    quiet: tuple[tuple[str, int], ...] = ()
    """Oddities that can come back every second, by code, and until when they are not reported again."""

    # Every reading takes both of these steps: spelt out, they cost a fifth of `dataclasses.replace`.

    def believing(self, registers: Registers, *, held: bool) -> MeterState:
        """With these registers as the last good look, and no doubt left."""
        return MeterState(
            sequence=self.sequence,
            meter_epoch=self.meter_epoch,
            meter_id=self.meter_id,
            registers=registers,
            timestamp_us=self.timestamp_us,
            monotonic_s=self.monotonic_s,
            held=held,
            doubt=None,
            quiet=self.quiet,
        )

    def moved_on(self, wall_us: int, monotonic_s: float) -> MeterState:
        """One reading later, at this moment on both clocks."""
        return MeterState(
            sequence=self.sequence + 1,
            meter_epoch=self.meter_epoch,
            meter_id=self.meter_id,
            registers=self.registers,
            timestamp_us=max(self.timestamp_us, wall_us),
            monotonic_s=monotonic_s if self.monotonic_s is None else max(self.monotonic_s, monotonic_s),
            held=self.held,
            doubt=self.doubt,
            quiet=self.quiet,
        )

    @staticmethod
    def from_reading(last: Reading, last_with_registers: Reading | None = None) -> MeterState:
        """The state after `last`, where no note is left. Roll-overs, doubts and the meter's name are forgotten.

        `last_with_registers` is the newest reading whose registers are not null, where `last` itself has none: without
        it the energy since then is lost. It is ignored when it is of another meter epoch.
        """
        origin = last_with_registers if last_with_registers is not None else last
        if origin.meter_epoch != last.meter_epoch:
            origin = last

        def register(value: int | None) -> Register | None:
            return None if value is None else first_look(value, origin.timestamp_us)

        return MeterState(
            sequence=last.sequence,
            meter_epoch=last.meter_epoch,
            meter_id="",
            registers=Registers(
                register(origin.import_register_milliwatt_hours), register(origin.export_register_milliwatt_hours)
            ),
            timestamp_us=last.timestamp_us,
            held=Quality.REGISTER_HELD in last.quality,
        )

    def encode(self) -> bytes:
        """A note for the store, written in the transaction of the reading. The monotonic moment is not in it.

        Written for every reading, so it is short: CBOR without names, moments as what they lie before the newest one.
        """
        doubt, at_us = self.doubt, self.timestamp_us
        return cbor2.dumps(
            [
                _FORMAT, self.sequence, self.meter_epoch, self.meter_id, _pack(self.registers, at_us), at_us, self.held,
                None if doubt is None else [
                    doubt.reset, _pack(doubt.first, at_us), _pack(doubt.newest, at_us), doubt.since_us, doubt.looks
                ],
                [list(each) for each in self.quiet],
            ]
        )  # fmt: skip

    @staticmethod
    def decode(note: bytes) -> MeterState:
        """Raises MeasureError."""
        try:
            if note[:1] == b"{":
                return _of_first_format(note)
            format_, sequence, meter_epoch, meter_id, registers, at_us, held, said, quiet = cbor2.loads(note)
            if format_ != _FORMAT:
                raise ValueError(f"format {format_!r:.20} is not known here")
            doubt = None
            if said is not None:
                reset, first, newest, since_us, looks = said
                doubt = Doubt(bool(reset), _unpack(first, at_us), _unpack(newest, at_us), int(since_us), int(looks))
            return MeterState(
                sequence=int(sequence),
                meter_epoch=int(meter_epoch),
                meter_id=str(meter_id),
                registers=_unpack(registers, at_us),
                timestamp_us=int(at_us),
                held=bool(held),
                doubt=doubt,
                quiet=tuple((str(code), int(until_us)) for code, until_us in quiet),
            )
        except (ValueError, KeyError, TypeError, cbor2.CBORError) as error:
            raise MeasureError(f"note about a meter: {str(error)[:120]}") from error


def _pack(registers: Registers, at_us: int) -> list[list[int] | None]:
    return [
        None if r is None else [r.milliwatt_hours, r.offset, at_us - r.changed_us]
        for r in (registers.imported, registers.exported)
    ]


def _unpack(packed: list[list[int] | None], at_us: int) -> Registers:
    imported, exported = (None if r is None else Register(int(r[0]), int(r[1]), int(at_us) - int(r[2])) for r in packed)
    return Registers(imported, exported)


def _of_first_format(note: bytes) -> MeterState:
    """JSON with names, as it was once: an upgrade goes on where it stopped. Raises what `decode` catches."""
    saved = json.loads(note)
    if saved["format"] != 1:
        raise ValueError(f"format {saved['format']!r:.20} is not known here")

    def unpack(packed: list[list[int] | None]) -> Registers:
        return Registers(*(None if r is None else Register(int(r[0]), int(r[1]), int(r[2])) for r in packed))

    doubt = None
    if saved["doubt"] is not None:
        reset, first, newest, since_us, looks = saved["doubt"]
        doubt = Doubt(bool(reset), unpack(first), unpack(newest), int(since_us), int(looks))
    return MeterState(
        sequence=int(saved["sequence"]),
        meter_epoch=int(saved["meter_epoch"]),
        meter_id=str(saved["meter_id"]),
        registers=unpack(saved["registers"]),
        timestamp_us=int(saved["timestamp_us"]),
        held=bool(saved["held"]),
        doubt=doubt,
        quiet=tuple((str(code), int(until_us)) for code, until_us in saved["quiet"]),
    )
