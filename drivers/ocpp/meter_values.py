"""OCPP meter values to integers with our units and signs: one look at the meter per time stamp.

Registers to milliwatt-hours, power to watts (import minus export), by OCPP 2.0.1 part 2 section 2.44 (SampledValue).
A value that cannot be understood is left out and complained of; it never becomes 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

from drivers.ocpp.errors import quoted
from drivers.ocpp.messages import MeterValue, SampledValue
from drivers.ocpp.timestamps import parse_timestamp_us

_REGISTER_IMPORT: Final = "Energy.Active.Import.Register"
_REGISTER_EXPORT: Final = "Energy.Active.Export.Register"
_POWER_IMPORT: Final = "Power.Active.Import"
_POWER_EXPORT: Final = "Power.Active.Export"
_VOLTAGE: Final = "Voltage"
_FREQUENCY: Final = "Frequency"
_STATE_OF_CHARGE: Final = "SoC"

MEASURANDS: Final = (
    _REGISTER_IMPORT,
    _REGISTER_EXPORT,
    _POWER_IMPORT,
    _POWER_EXPORT,
    _STATE_OF_CHARGE,
    _VOLTAGE,
    _FREQUENCY,
)
"""What we understand, in the order of worth; what we ask chargers to send."""

# Unit spelling (part 2 appendix, StandardizedUnits) -> exponent to our unit. The empty name is what a value without
# unit means; the schema's default "Wh" makes sense for energy only.
_EXPONENTS: Final[dict[str, dict[str, int]]] = {
    _REGISTER_IMPORT: {"": 3, "Wh": 3, "kWh": 6},
    _REGISTER_EXPORT: {"": 3, "Wh": 3, "kWh": 6},
    _POWER_IMPORT: {"": 0, "Wh": 0, "W": 0, "kW": 3},
    _POWER_EXPORT: {"": 0, "Wh": 0, "W": 0, "kW": 3},
    _VOLTAGE: {"": 3, "Wh": 3, "V": 3},
    _FREQUENCY: {"": 3, "Wh": 3, "Hz": 3, "Hertz": 3},
    _STATE_OF_CHARGE: {"": 1, "Wh": 1, "Percent": 1, "%": 1},
}
_ONLY_AT_OUTLET: Final = frozenset({_REGISTER_IMPORT, _REGISTER_EXPORT, _POWER_IMPORT, _POWER_EXPORT, _VOLTAGE})
"""Values of the station's own inlet or of the car are another meter."""

_LARGEST: Final = 2**53
"""Of any value in our unit: what JSON numbers hold exactly. 9 PWh, no meter gets there."""
_LARGEST_MULTIPLIER: Final = 12
_PHASES: Final = ("L1", "L2", "L3")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterLook:
    """All that was measured at one moment, by the charger's clock. Absent is None."""

    timestamp_us: int
    power_w: int | None = None
    phase_power_w: tuple[int, ...] = ()
    import_register_milliwatt_hours: int | None = None
    export_register_milliwatt_hours: int | None = None
    voltage_millivolts: int | None = None
    frequency_millihertz: int | None = None
    state_of_charge_permille: int | None = None


def read_meter_values(values: Sequence[MeterValue]) -> tuple[list[MeterLook], list[str]]:
    """The looks of a message in order of time, and complaints about what could not be understood.

    Elements with the same time stamp are one look: some chargers send one element per measurand.
    """
    sampled: dict[int, list[SampledValue]] = {}
    for value in values:
        sampled.setdefault(parse_timestamp_us(value["timestamp"]), []).extend(value["sampledValue"])
    complaints: list[str] = []
    looks = [_look(timestamp_us, sampled[timestamp_us], complaints) for timestamp_us in sorted(sampled)]
    return looks, complaints


def _look(timestamp_us: int, sampled: Sequence[SampledValue], complaints: list[str]) -> MeterLook:
    # measurand -> phase ("" for the total) -> value in our unit
    found: dict[str, dict[str, int]] = {}
    for value in sampled:
        measurand = value.get("measurand", _REGISTER_IMPORT)
        if measurand not in _EXPONENTS:
            continue
        if measurand in _ONLY_AT_OUTLET and value.get("location", "Outlet") != "Outlet":
            continue
        number = _in_our_unit(measurand, value, complaints)
        if number is not None:
            found.setdefault(measurand, {})[_phase(value.get("phase", ""))] = number

    phase_power = _phase_power(found)
    soc_permille = _total(found.get(_STATE_OF_CHARGE))
    if soc_permille is not None and not 0 <= soc_permille <= 1000:
        complaints.append(f"state of charge of {soc_permille} permille")
        soc_permille = None
    return MeterLook(
        timestamp_us=timestamp_us,
        power_w=_power(found),
        phase_power_w=phase_power,
        import_register_milliwatt_hours=_register(_REGISTER_IMPORT, found, complaints),
        export_register_milliwatt_hours=_register(_REGISTER_EXPORT, found, complaints),
        voltage_millivolts=_voltage(found.get(_VOLTAGE)),
        frequency_millihertz=_total(found.get(_FREQUENCY)),
        state_of_charge_permille=soc_permille,
    )


def _in_our_unit(measurand: str, value: SampledValue, complaints: list[str]) -> int | None:
    measure = value.get("unitOfMeasure", {})
    unit, multiplier = measure.get("unit", ""), int(measure.get("multiplier", 0))
    exponent = _EXPONENTS[measurand].get(unit)
    if exponent is None or abs(multiplier) > _LARGEST_MULTIPLIER:
        complaints.append(f"{measurand} in unit {quoted(unit, 24)} times ten to the {quoted(multiplier, 24)}")
        return None
    try:
        # Through the shortest decimal text: 0.1 kWh is 100 Wh, not what binary makes of it.
        number = round(Decimal(repr(value["value"])).scaleb(exponent + multiplier))
    except InvalidOperation:
        number = _LARGEST
    if abs(number) >= _LARGEST:
        complaints.append(f"{measurand} of {quoted(value['value'], 24)}")
        return None
    return number


def _phase(phase: str) -> str:
    """ "L1-N" and "L1" are the same place for us; "L1-L2" stays apart."""
    return phase.removesuffix("-N")


def _total(phases: dict[str, int] | None) -> int | None:
    """The total where it was sent, else the sum over the phases that were."""
    if not phases:
        return None
    if "" in phases:
        return phases[""]
    known = [phases[phase] for phase in _PHASES if phase in phases]
    return sum(known) if known else None


def _power(found: dict[str, dict[str, int]]) -> int | None:
    taken, given = _total(found.get(_POWER_IMPORT)), _total(found.get(_POWER_EXPORT))
    if taken is None and given is None:
        return None
    return (taken or 0) - (given or 0)


def _phase_power(found: dict[str, dict[str, int]]) -> tuple[int, ...]:
    taken, given = found.get(_POWER_IMPORT, {}), found.get(_POWER_EXPORT, {})
    if not all(phase in taken or phase in given for phase in _PHASES):
        return ()
    return tuple(taken.get(phase, 0) - given.get(phase, 0) for phase in _PHASES)


def _register(measurand: str, found: dict[str, dict[str, int]], complaints: list[str]) -> int | None:
    register = _total(found.get(measurand))
    if register is not None and register < 0:
        complaints.append(f"{measurand} below zero")
        return None
    return register


def _voltage(phases: dict[str, int] | None) -> int | None:
    """Mean of the line-to-neutral voltages; a value without phase is one."""
    if not phases:
        return None
    known = [volts for phase, volts in phases.items() if phase in ("", *_PHASES)]
    return sum(known) // len(known) if known else None
