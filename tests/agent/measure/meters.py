"""A meter under test: says what it is told to, and keeps state and readings."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.clock import ClockQuality, Instant
from agent.measure import MeteredDevice, MeterState, Oddity, Quality, Reading, step
from drivers.device import Sample, SampleFlag

START_US = 1_790_000_000_000_000
BOOT_ID = bytes(16)
MWH = 1_000
"""Milliwatt-hours in a watt-hour."""


@dataclass
class Bench:
    """Feeds samples, one a second unless told otherwise."""

    device: MeteredDevice = field(
        default_factory=lambda: MeteredDevice(
            device_id="battery-1", rated_import_w=10_000, rated_export_w=10_000, period_s=1.0
        )
    )
    state: MeterState | None = None
    second: float = 0.0
    readings: list[Reading] = field(default_factory=list)
    oddities: list[Oddity] = field(default_factory=list)

    def say(
        self,
        imported_wh: float | None = None,
        exported_wh: float | None = None,
        *,
        after_s: float = 1.0,
        at_s: float | None = None,
        power_w: int | None = 0,
        meter_id: str = "meter A",
        flags: SampleFlag = SampleFlag.NONE,
        quality: ClockQuality = ClockQuality.SYNCED,
        state_of_charge_permille: int | None = None,
        frequency_millihertz: int | None = None,
    ) -> Reading:
        """The reading of one sample."""
        if at_s is None:
            self.second += after_s
        moment_s = self.second if at_s is None else at_s
        sample = Sample(
            device_id=self.device.device_id,
            monotonic_s=moment_s,
            power_w=power_w,
            import_register_milliwatt_hours=None if imported_wh is None else round(imported_wh * MWH),
            export_register_milliwatt_hours=None if exported_wh is None else round(exported_wh * MWH),
            meter_id=meter_id,
            flags=flags,
            state_of_charge_permille=state_of_charge_permille,
            frequency_millihertz=frequency_millihertz,
        )
        at = Instant(START_US + round(moment_s * 1e6), moment_s, quality, 1000)
        result = step(self.state, sample, at, device=self.device, incarnation=1, boot_id=BOOT_ID)
        assert result.reading is not None
        self.state = result.state
        self.readings.append(result.reading)
        self.oddities.extend(result.oddities)
        return result.reading

    def restart(self) -> None:
        """The agent stops and starts: what is left is the note."""
        assert self.state is not None
        self.state = MeterState.decode(self.state.encode())

    def codes(self) -> list[str]:
        return [oddity.code for oddity in self.oddities]


def net_register_wh(reading: Reading) -> float:
    """Import minus export of a reading, Wh."""
    imported = reading.import_register_milliwatt_hours or 0
    return (imported - (reading.export_register_milliwatt_hours or 0)) / MWH


def has_register(reading: Reading) -> bool:
    return Quality.NO_REGISTER not in reading.quality
