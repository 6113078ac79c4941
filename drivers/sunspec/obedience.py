"""Whether a device does what it confirmed, judged by metered power: a read-back proves the register. Pure."""

from __future__ import annotations

from typing import Final

from drivers.device import Sample, SampleFlag, Setpoint

DISOBEDIENCE_AFTER_S: Final = 30.0
DISOBEDIENCE_LEAST_W: Final = 100
DISOBEDIENCE_PERCENT: Final = 5
"""Metered power outside the confirmed band by more than the larger of both, for this long, is reported."""


class Obedience:
    """Of one device, over its bands and samples."""

    def __init__(self) -> None:
        self._outside_since_s: float | None = None
        self._ordered_s: float | None = None
        """Since when a band is in force that the metered power has not reached yet."""

    def ordered(self, band: Setpoint, before: Setpoint | None, last: Sample | None, rated_w: int, now_s: float) -> None:
        """A band was confirmed by the device; the same one again changes nothing."""
        if before is not None and (before.lowest_w, before.highest_w) == (band.lowest_w, band.highest_w):
            return
        self._outside_since_s = None
        is_off = last is not None and last.power_w is not None and _is_outside(band, last.power_w, rated_w)
        self._ordered_s = now_s if is_off else None

    def forgive(self) -> None:
        """What it did so far counts no more."""
        self._outside_since_s = self._ordered_s = None

    def saw(self, sample: Sample, band: Setpoint | None, rated_w: int) -> float | None:
        """Judge one sample. Returns the time from an order to the metered power, seconds, where it shows now."""
        if band is None or sample.flags & SampleFlag.ISLANDED:
            self.forgive()
            return None
        if sample.power_w is None or not _is_outside(band, sample.power_w, rated_w):
            self._outside_since_s = None
        elif self._outside_since_s is None:
            self._outside_since_s = sample.monotonic_s
        ordered_s = self._ordered_s
        if ordered_s is None or sample.power_w is None or self._outside_since_s is not None:
            return None
        if sample.monotonic_s <= ordered_s:
            return None
        self._ordered_s = None
        return sample.monotonic_s - ordered_s

    def follows(self, band: Setpoint, sample: Sample, rated_w: int, response_s: float) -> bool | None:
        """None: not to be judged yet. A slow device is not a disobedient one: it has its own response time."""
        if sample.power_w is None:
            return None
        if self._outside_since_s is None:
            # An order may be newer than the sample.
            return None if _is_outside(band, sample.power_w, rated_w) else True
        patience_s = max(DISOBEDIENCE_AFTER_S, response_s)
        return None if sample.monotonic_s - self._outside_since_s < patience_s else False

    def in_words(self, band: Setpoint, sample: Sample) -> str:
        """Of a device that does not follow, to come behind its state."""
        since_s = sample.monotonic_s if self._outside_since_s is None else self._outside_since_s
        return (
            f"; does not follow: {sample.power_w} W, for {sample.monotonic_s - since_s:.0f} s outside of the band "
            f"from {band.lowest_w} to {band.highest_w} W that it confirmed"
        )


def _is_outside(band: Setpoint, power_w: int, rated_w: int) -> bool:
    margin_w = max(DISOBEDIENCE_LEAST_W, rated_w * DISOBEDIENCE_PERCENT // 100)
    below = band.lowest_w is not None and power_w < band.lowest_w - margin_w
    return below or (band.highest_w is not None and power_w > band.highest_w + margin_w)
