"""Every measurand of OCPP 2.0.1 and 2.1 with the integer unit that we keep it in, and how chargers spell that.

Part 2 section 3 (MeasurandEnumType) and appendix 3 (StandardizedUnitsOfMeasure). A value without a unit is in the
unit that its measurand has by nature; the schema's default "Wh" makes sense for active energy only, so elsewhere it is
read as "no unit".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A kind of number: its integer unit, and what is believed of it at all."""

    unit: str
    """For a person and for names: "milliwatt_hours", "w", "millivolts"."""
    exponents: Mapping[str, int]
    """How a unit may be spelled -> power of ten to our unit."""
    least: int
    most: int
    """Of our unit, inclusive. What lies outside no charger on earth measures: the value is left out."""


def _quantity(unit: str, exponents: Mapping[str, int], *, least: int, most: int) -> Quantity:
    return Quantity(unit=unit, exponents=exponents, least=least, most=most)


_JSON_EXACT: Final = 2**53 - 1
"""What JSON numbers hold exactly: 9 TWh in milliwatt-hours."""
_MOST_W: Final = 10_000_000
"""As the configuration's largest rating."""
_MOST_MILLIVOLTS: Final = 100_000_000
_MOST_MILLIAMPERES: Final = 100_000_000
_MOST_MILLIHERTZ: Final = 1_000_000
_MOST_SECONDS: Final = 366 * 86_400

ACTIVE_ENERGY: Final = _quantity("milliwatt_hours", {"": 3, "Wh": 3, "kWh": 6}, least=-_JSON_EXACT, most=_JSON_EXACT)
REGISTER: Final = _quantity("milliwatt_hours", {"": 3, "Wh": 3, "kWh": 6}, least=0, most=_JSON_EXACT)
"""Cumulative active energy: never below zero."""
REACTIVE_ENERGY: Final = _quantity(
    "millivar_hours", {"": 3, "Wh": 3, "varh": 3, "kvarh": 6}, least=-_JSON_EXACT, most=_JSON_EXACT
)
APPARENT_ENERGY: Final = _quantity(
    "millivoltampere_hours", {"": 3, "Wh": 3, "VAh": 3, "kVAh": 6}, least=-_JSON_EXACT, most=_JSON_EXACT
)
ACTIVE_POWER: Final = _quantity("w", {"": 0, "Wh": 0, "W": 0, "kW": 3}, least=-_MOST_W, most=_MOST_W)
# What is offered may be told in apparent power: AC chargers know amperes and volts, not the car's power factor.
OFFERED_POWER: Final = _quantity(
    "w", {"": 0, "Wh": 0, "W": 0, "kW": 3, "VA": 0, "kVA": 3}, least=-_MOST_W, most=_MOST_W
)
REACTIVE_POWER: Final = _quantity("var", {"": 0, "Wh": 0, "var": 0, "kvar": 3}, least=-_MOST_W, most=_MOST_W)
CURRENT: Final = _quantity("milliamperes", {"": 3, "Wh": 3, "A": 3}, least=-_MOST_MILLIAMPERES, most=_MOST_MILLIAMPERES)
VOLTAGE: Final = _quantity("millivolts", {"": 3, "Wh": 3, "V": 3}, least=-_MOST_MILLIVOLTS, most=_MOST_MILLIVOLTS)
FREQUENCY: Final = _quantity("millihertz", {"": 3, "Wh": 3, "Hz": 3, "Hertz": 3}, least=0, most=_MOST_MILLIHERTZ)
SHARE: Final = _quantity("permille", {"": 1, "Wh": 1, "Percent": 1, "%": 1}, least=0, most=1000)
FACTOR: Final = _quantity("permille", {"": 3, "Wh": 3, "Percent": 1, "%": 1}, least=-1000, most=1000)
DURATION: Final = _quantity("s", {"": 0, "Wh": 0, "s": 0}, least=0, most=_MOST_SECONDS)
YES_OR_NO: Final = _quantity("", {"": 0, "Wh": 0}, least=0, most=1)

IMPORT_REGISTER: Final = "Energy.Active.Import.Register"
EXPORT_REGISTER: Final = "Energy.Active.Export.Register"
POWER_IMPORT: Final = "Power.Active.Import"
POWER_EXPORT: Final = "Power.Active.Export"
CURRENT_IMPORT: Final = "Current.Import"
CURRENT_EXPORT: Final = "Current.Export"
LINE_VOLTAGE: Final = "Voltage"
GRID_FREQUENCY: Final = "Frequency"
STATE_OF_CHARGE: Final = "SoC"

QUANTITIES: Final[Mapping[str, Quantity]] = {
    "Current.Export": CURRENT,
    "Current.Export.Minimum": CURRENT,
    "Current.Export.Offered": CURRENT,
    "Current.Import": CURRENT,
    "Current.Import.Minimum": CURRENT,
    "Current.Import.Offered": CURRENT,
    "Current.Offered": CURRENT,
    "Display.BatteryEnergyCapacity": ACTIVE_ENERGY,
    "Display.ChargingComplete": YES_OR_NO,
    "Display.InletHot": YES_OR_NO,
    "Display.MaximumSOC": SHARE,
    "Display.MinimumSOC": SHARE,
    "Display.PresentSOC": SHARE,
    "Display.RemainingTimeToMaximumSOC": DURATION,
    "Display.RemainingTimeToMinimumSOC": DURATION,
    "Display.RemainingTimeToTargetSOC": DURATION,
    "Display.TargetSOC": SHARE,
    "Energy.Active.Export.Interval": ACTIVE_ENERGY,
    EXPORT_REGISTER: REGISTER,
    "Energy.Active.Import.CableLoss": ACTIVE_ENERGY,
    "Energy.Active.Import.Interval": ACTIVE_ENERGY,
    "Energy.Active.Import.LocalGeneration.Register": REGISTER,
    IMPORT_REGISTER: REGISTER,
    "Energy.Active.Net": ACTIVE_ENERGY,
    "Energy.Active.Setpoint.Interval": ACTIVE_ENERGY,
    "Energy.Apparent.Export": APPARENT_ENERGY,
    "Energy.Apparent.Import": APPARENT_ENERGY,
    "Energy.Apparent.Net": APPARENT_ENERGY,
    "Energy.Reactive.Export.Interval": REACTIVE_ENERGY,
    "Energy.Reactive.Export.Register": REACTIVE_ENERGY,
    "Energy.Reactive.Import.Interval": REACTIVE_ENERGY,
    "Energy.Reactive.Import.Register": REACTIVE_ENERGY,
    "Energy.Reactive.Net": REACTIVE_ENERGY,
    "EnergyRequest.Bulk": ACTIVE_ENERGY,
    "EnergyRequest.Maximum": ACTIVE_ENERGY,
    "EnergyRequest.Maximum.V2X": ACTIVE_ENERGY,
    "EnergyRequest.Minimum": ACTIVE_ENERGY,
    "EnergyRequest.Minimum.V2X": ACTIVE_ENERGY,
    "EnergyRequest.Target": ACTIVE_ENERGY,
    GRID_FREQUENCY: FREQUENCY,
    POWER_EXPORT: ACTIVE_POWER,
    POWER_IMPORT: ACTIVE_POWER,
    "Power.Active.Residual": ACTIVE_POWER,
    "Power.Active.Setpoint": ACTIVE_POWER,
    "Power.Export.Minimum": OFFERED_POWER,
    "Power.Export.Offered": OFFERED_POWER,
    "Power.Factor": FACTOR,
    "Power.Import.Minimum": OFFERED_POWER,
    "Power.Import.Offered": OFFERED_POWER,
    "Power.Offered": OFFERED_POWER,
    "Power.Reactive.Export": REACTIVE_POWER,
    "Power.Reactive.Import": REACTIVE_POWER,
    STATE_OF_CHARGE: SHARE,
    LINE_VOLTAGE: VOLTAGE,
    "Voltage.Maximum": VOLTAGE,
    "Voltage.Minimum": VOLTAGE,
}

PHASES: Final = ("L1", "L2", "L3")
PHASE_NAMES: Final = frozenset({"", "N", *PHASES, *(f"{phase}-N" for phase in PHASES), "L1-L2", "L2-L3", "L3-L1"})
"""PhaseEnumType; the empty one is a value of the whole."""
LOCATIONS: Final = frozenset({"Body", "Cable", "EV", "Inlet", "Outlet", "Upstream"})
"""LocationEnumType."""
CONTEXTS: Final = (
    "Transaction.End",
    "Transaction.Begin",
    "Sample.Clock",
    "Sample.Periodic",
    "Trigger",
    "Interruption.Begin",
    "Interruption.End",
    "Other",
)
"""ReadingContextEnumType, in the order in which one is preferred where the same moment was sampled for several."""
