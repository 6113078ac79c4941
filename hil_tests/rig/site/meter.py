"""The grid meter as a SunSpec device: models 1 and 203, at the connection point."""

from __future__ import annotations

import math
from collections.abc import Callable

from .inverters import SunSpecDevice
from .registers import scale_factor_for
from .world import GridPoint


class MeterDevice(SunSpecDevice):
    """Three-phase wye meter. Power + is import from the grid, as the energy registers' names say."""

    MODELS = (1, 203)

    def __init__(self, grid: GridPoint, *, largest_w: float, serial: str, monotonic_s: Callable[[], float]) -> None:
        """`largest_w` is the most that can ever flow: it sets the scale factor of the currents."""
        super().__init__(self.MODELS, model_name="Meter 3", serial=serial, monotonic_s=monotonic_s)
        self._grid = grid
        put = self.registers.put
        put(203, A_SF=scale_factor_for(largest_w / 230, most=320) - 2, V_SF=-1, Hz_SF=-2, TotWh_SF=-2, Evt=0)
        self.after_step()

    def after_step(self) -> None:
        grid, put_scaled = self._grid, self.registers.put_scaled
        # Single watts while they fit the register, tens of watts beyond: the scale factor moves with the value.
        largest_w = max(abs(power) for power in (grid.power_milliwatts, *grid.phase_power_milliwatts)) / 1000
        self.registers.put(203, W_SF=scale_factor_for(largest_w), VA_SF=scale_factor_for(2 * largest_w))
        phases_w = [power / 1000 for power in grid.phase_power_milliwatts]
        volts = grid.voltages_v
        amps = [abs(power) / volt for power, volt in zip(phases_w, volts, strict=True)]
        put_scaled(203, A=sum(amps), AphA=amps[0], AphB=amps[1], AphC=amps[2])
        put_scaled(203, PhV=sum(volts) / 3, PhVphA=volts[0], PhVphB=volts[1], PhVphC=volts[2])
        put_scaled(203, PPV=sum(volts) / 3 * math.sqrt(3), Hz=grid.frequency_hz)
        put_scaled(203, W=grid.power_w, WphA=phases_w[0], WphB=phases_w[1], WphC=phases_w[2])
        put_scaled(203, VA=sum(abs(power) for power in phases_w))
        # Hundredths of a watt-hour: 42.9 MWh until the 32-bit counter rolls over.
        self.registers.put(203, TotWhImp=grid.energy.import_milliwatt_hours // 10)
        self.registers.put(203, TotWhExp=grid.energy.export_milliwatt_hours // 10)
