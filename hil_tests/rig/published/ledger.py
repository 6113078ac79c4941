"""What a platform makes of telemetry that knows the published fields alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Device:
    """One device's points, by their time: one that comes again takes the place of the one that was there."""

    energy_wh_at_us: dict[int, int] = field(default_factory=dict)
    energy_wh_at_ms: dict[int, int] = field(default_factory=dict)
    energy_wh_at_s: dict[int, int] = field(default_factory=dict)
    """As the first, for who keeps points by the millisecond, or the second."""
    percent: int = 0
    """The last that came, as the contract says it: absent is 0."""
    charge_lost: int = 0
    """So many times a charge that was known was said to be 0 %."""
    overwritten: int = 0
    """So many points came again with another energy."""
    streams_ended_well: int = 0

    def take(self, timestamp_us: int, net_energy_wh: int, percent: int) -> None:
        """A message of the device's stream, the opening one too: this platform does not tell them apart."""
        before = self.energy_wh_at_us.get(timestamp_us, net_energy_wh)
        self.overwritten += before != net_energy_wh
        self.energy_wh_at_us[timestamp_us] = net_energy_wh
        self.energy_wh_at_ms[timestamp_us // 1000] = net_energy_wh
        self.energy_wh_at_s[timestamp_us // 1_000_000] = net_energy_wh
        self.charge_lost += self.percent > 0 and percent == 0
        self.percent = percent

    def page(self) -> dict[str, int]:
        """For the books."""
        return {
            "points": len(self.energy_wh_at_us),
            "energy_wh": sum(self.energy_wh_at_us.values()),
            "energy_wh_by_ms": sum(self.energy_wh_at_ms.values()),
            "energy_wh_by_s": sum(self.energy_wh_at_s.values()),
            "percent": self.percent,
            "charge_lost": self.charge_lost,
            "overwritten": self.overwritten,
            "streams_ended_well": self.streams_ended_well,
        }
