"""A reading for the tests of agent/roads."""

from __future__ import annotations

from agent.measure.reading import Quality, Reading
from drivers.device import ValueSource


def reading(sequence: int, device_id: str = "pv-1") -> Reading:
    """A good reading; one second after the other."""
    return Reading(
        device_id=device_id,
        incarnation=1,
        boot_id=bytes(16),
        sequence=sequence,
        timestamp_us=1_800_000_000_000_000 + sequence * 1_000_000,
        net_energy_wh=-1,
        import_register_milliwatt_hours=0,
        export_register_milliwatt_hours=sequence * 1_000,
        meter_epoch=1,
        power_w=-3_600,
        voltage_millivolts=None,
        state_of_charge_permille=559,
        frequency_millihertz=50_000,
        quality=Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )
