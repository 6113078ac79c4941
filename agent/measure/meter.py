"""Sample -> Reading: one step of one meter. Pure: (state, sample, moment) -> (state, reading, oddities).

The registers are the truth. A reading's net energy is the difference of two floors of the net register, so that any run
of readings of one meter epoch sums to its register difference within 1 Wh, whatever is missing between.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from agent.clock import ClockQuality, Instant
from agent.measure.reading import Quality, Reading
from agent.measure.registers import Register, Verdict, first_look, look
from agent.measure.state import NO_REGISTERS, Doubt, MeterState, Registers
from drivers.device import Sample, SampleFlag, ValueSource

RESET_LOOKS: Final = 5
RESET_US: Final = 30_000_000
"""A fall is a reset once this many looks over this long agree: a waking inverter reads 0 for seconds."""
JUMP_LOOKS: Final = 3
"""A rise beyond the ratings is believed at this look that agrees: registers are never rejected."""
GAP_PERIODS: Final = 3
SHORTEST_GAP_S: Final = 5.0
"""Readings are missing when more than three periods, and no less than this, lie between two."""
POWER_MARGIN_PERCENT: Final = 125
POWER_SLACK_W: Final = 100
"""Power beyond 125 % of the rating plus 100 W (a PV inverter's own use at night) is no measurement."""
QUIET_US: Final = 900_000_000
"""A doubt that comes and goes is reported once in this time."""
MOST_MILLIWATT_HOURS: Final = 1 << 62
MOST_POWER_W: Final = 1_000_000_000
"""A gigawatt: no device of a site has it, whatever its rating, and a statement's integers have 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredDevice:
    """What is known of a device beforehand. Ratings in watts, zero or positive; None: not known."""

    device_id: str
    rated_import_w: int | None = None
    rated_export_w: int | None = None
    period_s: float = 10.0
    """How often it is sampled."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something that an auditor must know of. The gateway makes an alarm statement of it."""

    code: str
    """Stable: meter.replaced, meter.reset, meter.register_appeared, meter.register_held, meter.register_jumped,
    meter.register_rolled_over, meter.power_rejected."""
    text: str


@dataclass(frozen=True, slots=True)
class Step:
    """What one sample led to."""

    state: MeterState | None
    reading: Reading | None
    """None when the sample said nothing at all."""
    oddities: tuple[Oddity, ...]


# The three below live for one step and are never handed out. Freezing them would cost a tenth of the step.
@dataclass(slots=True)
class _Outcome:
    """The registers' part of a step."""

    state: MeterState
    """With the new registers, epoch and doubt; the caller sets what every reading moves."""
    shown: Registers
    """What the reading says."""
    net_wh: int
    quality: Quality
    oddities: tuple[Oddity, ...] = ()


def step(
    state: MeterState | None, sample: Sample, at: Instant, *, device: MeteredDevice, incarnation: int, boot_id: bytes
) -> Step:
    """The reading of a sample. `at` is the moment of the measurement: the clock's word on `sample.monotonic_s`.

    `state` is None for a device that never gave a reading in this incarnation's store.
    Raises ValueError when the sample is another device's.
    """
    if sample.device_id != device.device_id:
        raise ValueError(f"sample of {sample.device_id!r} given as one of {device.device_id!r}")
    said = _Said.of(sample, device)
    if said.empty:
        return Step(state, None, ())
    quality = _clock_flags(at)
    if sample.flags is not SampleFlag.NONE:
        quality |= Quality(int(sample.flags))
    if state is None:
        registers = said.as_origin(at.wall_us)
        fresh = MeterState(
            sequence=0, meter_epoch=1, meter_id=sample.meter_id, registers=registers, timestamp_us=at.wall_us
        )
        outcome = _Outcome(fresh, registers, 0, Quality.EPOCH_START | _missing(said))
    else:
        outcome = _registers(state, said, sample, at.wall_us, device)
        if not _is_history(state, sample, at.wall_us) and _gap(state, at, device):
            quality |= Quality.AFTER_GAP | Quality.ESTIMATED
    if outcome.quality is not Quality.GOOD:
        quality |= outcome.quality
    oddities = outcome.oddities
    after = outcome.state
    if said.power_rejected:
        quality |= Quality.POWER_REJECTED
        text = f"power of {sample.power_w} W is beyond the ratings of {device.device_id} and is left out"
        after, told = _once(after, Oddity("meter.power_rejected", text), at.wall_us)
        oddities += told
    after = after.moved_on(at.wall_us, at.monotonic_s)
    reading = Reading(
        device_id=device.device_id,
        incarnation=incarnation,
        boot_id=boot_id,
        sequence=after.sequence,
        timestamp_us=at.wall_us,
        net_energy_wh=outcome.net_wh,
        import_register_milliwatt_hours=_value(outcome.shown.imported),
        export_register_milliwatt_hours=_value(outcome.shown.exported),
        meter_epoch=after.meter_epoch,
        power_w=said.power_w,
        voltage_millivolts=said.voltage_millivolts,
        state_of_charge_permille=said.state_of_charge_permille,
        frequency_millihertz=said.frequency_millihertz,
        quality=quality,
        source=_source(sample, outcome.shown),
    )
    return Step(after, reading, oddities)


def _source(sample: Sample, shown: Registers) -> ValueSource:
    """Signed by the meter only where the registers are those that it signed: not held, and not past a roll-over."""
    said = sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours
    if sample.registers_signed and (_value(shown.imported), _value(shown.exported)) == said:
        return ValueSource.SIGNED_BY_METER
    return sample.source


@dataclass(slots=True)
class _Said:
    """The sample's values that can be what they claim."""

    power_w: int | None
    power_rejected: bool
    voltage_millivolts: int | None
    frequency_millihertz: int | None
    state_of_charge_permille: int | None
    imported: int | None
    exported: int | None

    @staticmethod
    def of(sample: Sample, device: MeteredDevice) -> _Said:
        power_w = sample.power_w
        outlier = power_w is not None and _beyond_ratings(power_w, device)
        soc = sample.state_of_charge_permille
        # Islanded, the frequency is the inverter's own and not the grid's (SAFETY 6).
        islanded = SampleFlag.ISLANDED in sample.flags
        return _Said(
            power_w=None if outlier else power_w,
            power_rejected=outlier,
            voltage_millivolts=_within(sample.voltage_millivolts, 0, 1 << 31),
            frequency_millihertz=None if islanded else _within(sample.frequency_millihertz, 1, 1 << 31),
            state_of_charge_permille=_within(soc, 0, 1000),
            imported=_within(sample.import_register_milliwatt_hours, 0, MOST_MILLIWATT_HOURS),
            exported=_within(sample.export_register_milliwatt_hours, 0, MOST_MILLIWATT_HOURS),
        )

    @property
    def has_registers(self) -> bool:
        return self.imported is not None or self.exported is not None

    @property
    def empty(self) -> bool:
        values = (self.power_w, self.voltage_millivolts, self.frequency_millihertz, self.state_of_charge_permille)
        return not (self.has_registers or self.power_rejected or any(value is not None for value in values))

    def as_origin(self, at_us: int) -> Registers:
        """These values as the first of an epoch."""
        return Registers(
            None if self.imported is None else first_look(self.imported, at_us),
            None if self.exported is None else first_look(self.exported, at_us),
        )


def _registers(state: MeterState, said: _Said, sample: Sample, at_us: int, device: MeteredDevice) -> _Outcome:
    """Registers, epoch and net energy of a sample that has one before it."""
    if _is_history(state, sample, at_us) and state.registers.known:
        return _Outcome(state, state.registers, 0, Quality.REGISTER_HELD)
    if sample.meter_id and state.meter_id and sample.meter_id != state.meter_id:
        text = f"meter {_quoted(state.meter_id)} was replaced by {_quoted(sample.meter_id)}"
        return _new_epoch(replace(state, meter_id=sample.meter_id), said, at_us, Oddity("meter.replaced", text))
    if sample.meter_id:
        state = replace(state, meter_id=sample.meter_id)
    if not said.has_registers:
        return _Outcome(state, NO_REGISTERS, 0, Quality.NO_REGISTER)
    if not state.registers.known:
        # The epoch began without registers: they are its origin now.
        origin = said.as_origin(at_us)
        return _Outcome(replace(state, registers=origin, held=False), origin, 0, Quality.GOOD)
    if _appeared(state.registers.imported, said.imported) or _appeared(state.registers.exported, said.exported):
        text = "the meter gives a register that it did not give before"
        return _new_epoch(state, said, at_us, Oddity("meter.register_appeared", text))
    judged = _judge(state.registers, said, at_us, device)
    if judged.doubtful:
        return _doubt(state, judged, said, at_us, device)
    quality = Quality.REGISTER_HELD if judged.held else Quality.GOOD
    if state.held and not judged.held:
        quality |= Quality.ESTIMATED
    rolled = (
        *_rolled("import", state.registers.imported, judged.registers.imported),
        *_rolled("export", state.registers.exported, judged.registers.exported),
    )
    net_wh = judged.registers.net_wh - state.registers.net_wh
    after = state.believing(judged.registers, held=judged.held)
    return _Outcome(after, judged.registers, net_wh, quality, rolled)


def _rolled(name: str, before: Register | None, now: Register | None) -> tuple[Oddity, ...]:
    if before is None or now is None or now.offset == before.offset:
        return ()
    return (Oddity("meter.register_rolled_over", f"the {name} register passed its limit and goes on from there"),)


@dataclass(slots=True)
class _Judged:
    """Both registers after a look: what may be believed, and why the rest may not."""

    registers: Registers
    """The new look, where a register is missing or slipped the last good one."""
    doubtful: bool
    """A register fell or jumped."""
    fell: bool
    held: bool
    """A register of the last good look is repeated."""
    waking: bool
    """Whatever fell reads 0: that says nothing yet."""


def _judge(last: Registers, said: _Said, at_us: int, device: MeteredDevice) -> _Judged:
    held = doubtful = False
    fallen = []
    kept: list[Register | None] = []
    for register, value, rated_w in (
        (last.imported, said.imported, device.rated_import_w),
        (last.exported, said.exported, device.rated_export_w),
    ):
        if register is None or value is None:
            held |= register is not None
            kept.append(register)
            continue
        verdict, now = look(register, value, at_us, rated_w)
        if verdict is Verdict.GOOD:
            kept.append(now)
            continue
        if verdict is Verdict.FELL:
            fallen.append(value)
        slipped = verdict is Verdict.SLIPPED
        held |= slipped
        doubtful |= not slipped
        kept.append(register if slipped else now)
    waking = bool(fallen) and not any(fallen)
    return _Judged(Registers(kept[0], kept[1]), doubtful, bool(fallen), held, waking)


def _doubt(state: MeterState, judged: _Judged, said: _Said, at_us: int, device: MeteredDevice) -> _Outcome:
    """Hold the last good registers, until enough looks agree that the meter means it."""
    reset = judged.fell
    doubt = state.doubt
    if doubt is not None and doubt.reset is reset and doubt.newest.known:
        agrees = _judge(doubt.newest, said, at_us, device)
        doubt = None if agrees.doubtful else replace(doubt, newest=agrees.registers, looks=doubt.looks + 1)
    else:
        doubt = None
    if doubt is None:
        doubt = Doubt(reset, judged.registers, judged.registers, at_us, 1)
    if not reset and doubt.looks >= JUMP_LOOKS:
        net_wh = judged.registers.net_wh - state.registers.net_wh
        oddity = Oddity("meter.register_jumped", f"net energy of {net_wh} Wh at once, beyond the ratings; believed")
        after = replace(state, registers=judged.registers, doubt=None, held=False)
        return _Outcome(after, judged.registers, net_wh, Quality.ESTIMATED, (oddity,))
    if reset and doubt.looks >= RESET_LOOKS and at_us - doubt.since_us >= RESET_US and not judged.waking:
        # The origin is the first look after the fall, so that what was counted while we doubted is not lost.
        text = f"the registers fell to {doubt.first.net_wh} Wh net and went on from there; a new meter epoch begins"
        after = replace(state, registers=doubt.first, meter_epoch=state.meter_epoch + 1, doubt=None, held=False)
        quality = Quality.EPOCH_START | Quality.ESTIMATED
        return _Outcome(after, doubt.first, 0, quality, (Oddity("meter.reset", text),))
    what = "fell" if reset else "rose faster than the device can"
    after, told = _once(
        replace(state, doubt=doubt, held=True),
        Oddity("meter.register_held", f"a register {what}; the last good one is repeated until this is clear"),
        at_us,
    )
    return _Outcome(after, state.registers, 0, Quality.REGISTER_HELD, told)


def _new_epoch(state: MeterState, said: _Said, at_us: int, oddity: Oddity) -> _Outcome:
    origin = said.as_origin(at_us)
    after = replace(state, registers=origin, meter_epoch=state.meter_epoch + 1, doubt=None, held=False)
    return _Outcome(after, origin, 0, Quality.EPOCH_START | _missing(said), (oddity,))


def _once(state: MeterState, oddity: Oddity, at_us: int) -> tuple[MeterState, tuple[Oddity, ...]]:
    """Report what can come back every second once in a while only."""
    until = dict(state.quiet)
    # The second comparison ends a silence that a clock set forward would have made endless.
    if at_us < until.get(oddity.code, 0) <= at_us + QUIET_US:
        return state, ()
    until[oddity.code] = at_us + QUIET_US
    return replace(state, quiet=tuple(sorted(until.items()))), (oddity,)


def _is_history(state: MeterState, sample: Sample, at_us: int) -> bool:
    """Whether it was measured before what is known already, and only delivered late: its energy is in that."""
    return SampleFlag.QUEUED in sample.flags and at_us <= state.timestamp_us


def _gap(state: MeterState, at: Instant, device: MeteredDevice) -> bool:
    """Whether readings are missing between the last one and this moment."""
    most_s = max(GAP_PERIODS * device.period_s, SHORTEST_GAP_S)
    if state.monotonic_s is not None:
        return at.monotonic_s - state.monotonic_s > most_s
    # After a restart only wall time can tell; without trust in it we do not claim that nothing is missing.
    return at.quality is ClockQuality.UNTRUSTED or at.wall_us - state.timestamp_us > most_s * 1e6


def _beyond_ratings(power_w: int, device: MeteredDevice) -> bool:
    rated_w = device.rated_import_w if power_w >= 0 else device.rated_export_w
    if abs(power_w) > MOST_POWER_W:
        return True
    return rated_w is not None and abs(power_w) > rated_w * POWER_MARGIN_PERCENT // 100 + POWER_SLACK_W


def _clock_flags(at: Instant) -> Quality:
    return {
        ClockQuality.SYNCED: Quality.GOOD,
        ClockQuality.HOLDOVER: Quality.CLOCK_HOLDOVER,
        ClockQuality.UNTRUSTED: Quality.CLOCK_UNTRUSTED,
    }[at.quality]


def _missing(said: _Said) -> Quality:
    return Quality.GOOD if said.has_registers else Quality.NO_REGISTER


def _appeared(before: Register | None, said: int | None) -> bool:
    return before is None and said is not None


def _value(register: Register | None) -> int | None:
    return None if register is None else register.milliwatt_hours


def _within(value: int | None, lowest: int, highest: int) -> int | None:
    return value if value is not None and lowest <= value <= highest else None


def _quoted(meter_id: str) -> str:
    return repr(meter_id[:80])
