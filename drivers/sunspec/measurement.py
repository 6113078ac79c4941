"""What a model's points say about power and energy, in our signs and units. Pure.

SunSpec counts an inverter's power as positive when it generates (model 701: "Active power is positive for DER
generation"), a meter's as positive when the site imports. Ours is + for import, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from drivers.device import DeviceKind
from drivers.sunspec.codec import Value
from drivers.sunspec.discovery import INVERTER_MODELS, METER_MODELS, DeviceDescription, FoundModel

Values = Mapping[str, Value]

_PLAUSIBLE_MILLIHERTZ: Final = range(40_000, 70_001)
"""Wider than any grid: outside, the register is not a frequency (0 at night)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """As `drivers.device.Sample`, of one look at one model."""

    power_w: int | None
    import_register_milliwatt_hours: int | None
    export_register_milliwatt_hours: int | None
    phase_power_w: tuple[int, ...] = ()
    """By the device's own phases, one to three; empty when not told."""
    voltage_millivolts: int | None = None
    frequency_millihertz: int | None = None
    islanded: bool = False


@dataclass(frozen=True, slots=True)
class MeasuringModel:
    """How to measure with one kind of model: which points, and what they mean."""

    paths: tuple[str, ...]
    interpret: Callable[[Values], Measurement]
    single_phase: bool = False


def measuring_model(kind: DeviceKind, description: DeviceDescription) -> tuple[FoundModel, MeasuringModel] | None:
    """The model that measures a device of this kind; None when it has none.

    It follows from the models that are there and never from what they say at the moment: two counters of one device
    are not the same register, and changing over would look like energy.
    """
    numbers = METER_MODELS if kind is DeviceKind.METER else INVERTER_MODELS
    found = description.find(*numbers)
    return None if found is None else (found, _MODELS[found.number])


def state_of_charge_permille(number: int, values: Values) -> int | None:
    """From model 713, 802 or 124. None when not told, or when there is no battery behind the model."""
    rating = values.get("WHRtg")
    if rating is not None and rating.raw == 0:
        return None  # a phantom: inverters show storage models without having storage
    permille = _parts(values, _STATE_OF_CHARGE[number], 10)
    return permille if permille is not None and 0 <= permille <= 1000 else None


STATE_OF_CHARGE_PATHS: Final[Mapping[int, tuple[str, ...]]] = {
    713: ("ID", "L", "SoC", "WHRtg"),
    802: ("ID", "L", "SoC", "WHRtg"),
    124: ("ID", "L", "ChaState"),
}
_STATE_OF_CHARGE: Final = {713: "SoC", 802: "SoC", 124: "ChaState"}


def _parts(values: Values, path: str, parts_per_unit: int) -> int | None:
    value = values.get(path)
    return None if value is None else value.in_parts(parts_per_unit)


def _negative(number: int | None) -> int | None:
    return None if number is None else -number


def _frequency(values: Values) -> int | None:
    millihertz = _parts(values, "Hz", 1000)
    return millihertz if millihertz in _PLAUSIBLE_MILLIHERTZ else None


def _phases(values: Values, paths: tuple[str, ...], sign: int) -> tuple[int, ...]:
    powers = [_parts(values, path, 1) for path in paths]
    told = [sign * power for power in powers if power is not None]
    # Trailing phases that a device does not have are not told; a hole in the middle makes the rest ambiguous.
    return tuple(told) if None not in powers[: len(told)] else ()


def _mean_voltage(values: Values, whole: str | None, phases: tuple[str, ...]) -> int | None:
    """Line to neutral: the device's own mean, else ours over the phases that have a voltage."""
    mean = None if whole is None else _parts(values, whole, 1000)
    if mean is not None:
        return mean
    told = [millivolts for path in phases if (millivolts := _parts(values, path, 1000)) is not None and millivolts > 0]
    return round(sum(told) / len(told)) if told else None


_701_RUNNING: Final = (3, 4)  # InvSt: RUNNING, THROTTLED
_701_DISCONNECTED: Final = 0  # ConnSt
_701_GRID_FORMING: Final = 1 << 1  # DERMode


def _inverter_701(values: Values) -> Measurement:
    mode, connection, state = values.get("DERMode"), values.get("ConnSt"), values.get("InvSt")
    grid_forming = mode is not None and isinstance(mode.raw, int) and bool(mode.raw & _701_GRID_FORMING)
    # Disconnected and asleep is a PV inverter at night; disconnected and running is an island.
    running_alone = (
        connection is not None
        and connection.raw == _701_DISCONNECTED
        and state is not None
        and state.raw in _701_RUNNING
    )
    return Measurement(
        power_w=_negative(_parts(values, "W", 1)),
        import_register_milliwatt_hours=_parts(values, "TotWhAbs", 1000),
        export_register_milliwatt_hours=_parts(values, "TotWhInj", 1000),
        phase_power_w=_phases(values, ("WL1", "WL2", "WL3"), -1),
        voltage_millivolts=_mean_voltage(values, "LNV", ("VL1", "VL2", "VL3")),
        frequency_millihertz=_frequency(values),
        islanded=grid_forming or running_alone,
    )


def _inverter_10x(values: Values) -> Measurement:
    voltage = _mean_voltage(values, None, ("PhVphA", "PhVphB", "PhVphC"))
    if voltage is None and values.get("ID") is not None and values["ID"].raw in (101, 111):
        # Single-phase devices of some makers (SolarEdge) give line to neutral as "phase voltage AB".
        voltage = _mean_voltage(values, "PPVphAB", ())
    return Measurement(
        power_w=_negative(_parts(values, "W", 1)),
        import_register_milliwatt_hours=None,  # the model has one counter, of what was generated
        export_register_milliwatt_hours=_parts(values, "WH", 1000),
        voltage_millivolts=voltage,
        frequency_millihertz=_frequency(values),
    )


def _meter(values: Values) -> Measurement:
    return Measurement(
        power_w=_parts(values, "W", 1),
        import_register_milliwatt_hours=_parts(values, "TotWhImp", 1000),
        export_register_milliwatt_hours=_parts(values, "TotWhExp", 1000),
        phase_power_w=_phases(values, ("WphA", "WphB", "WphC"), 1),
        voltage_millivolts=_mean_voltage(values, "PhV", ("PhVphA", "PhVphB", "PhVphC")),
        frequency_millihertz=_frequency(values),
    )


_PATHS_701: Final = (
    *("ID", "L", "InvSt", "ConnSt", "DERMode", "W", "Hz", "TotWhInj", "TotWhAbs", "LNV"),
    *("VL1", "VL2", "VL3", "WL1", "WL2", "WL3"),
)
_PATHS_10X: Final = ("ID", "L", "W", "Hz", "WH", "PhVphA", "PhVphB", "PhVphC", "PPVphAB")
_PATHS_METER: Final = (
    *("ID", "L", "W", "WphA", "WphB", "WphC", "Hz", "TotWhImp", "TotWhExp"),
    *("PhV", "PhVphA", "PhVphB", "PhVphC"),
)
_MODELS: Final[Mapping[int, MeasuringModel]] = {
    701: MeasuringModel(_PATHS_701, _inverter_701),
    **{number: MeasuringModel(_PATHS_10X, _inverter_10x, number in (101, 111)) for number in INVERTER_MODELS[1:]},
    **{number: MeasuringModel(_PATHS_METER, _meter, number in (201, 211)) for number in METER_MODELS},
}
