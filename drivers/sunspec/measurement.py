"""What a model's points say about power and energy, in our signs and units. Pure.

SunSpec counts an inverter's power as positive when it generates (model 701: "Active power is positive for DER
generation"), a meter's as positive when the site imports. Ours is + for import, everywhere.

A counter of 0 says nothing while a device wakes: an acc32 of 0 never does (the codec has it as absent), and a 64-bit or
float counter of 0 only on a device that is awake or whose other counter counts. Numbers that nothing can have are left
out and told, never passed on: what comes after us counts in 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from drivers.device import DeviceKind
from drivers.sunspec.codec import Value
from drivers.sunspec.description import INVERTER_MODELS, METER_MODELS, DeviceDescription, FoundModel

Values = Mapping[str, Value]

_PLAUSIBLE_MILLIHERTZ: Final = range(40_000, 70_001)
"""Wider than any grid: outside, the register is not a frequency (0 at night)."""
_PHASES_OFF_W: Final = 100
_PHASES_OFF_PERCENT: Final = 10
"""Powers of phases that miss their sum by more than both are not believed: some devices give them without a sign."""
LARGEST_W: Final = 1_000_000_000
"""A gigawatt: more than any device here has. Beyond it a power is noise."""
LARGEST_MILLIWATT_HOURS: Final = 1 << 62
"""A gigawatt over five hundred years."""
LARGEST_MILLIVOLTS: Final = 1_000_000_000


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
    rolls_over_milliwatt_hours: int | None = None
    """Where the registers start again at 0; None: they are too wide for that."""
    nonsense: tuple[str, ...] = ()
    """What the device told and nothing can have, in words; it is absent above."""

    @property
    def is_nonsense(self) -> bool:
        """Nothing of it may be used: the power makes no sense, or there is none beside something that makes none."""
        return self.power_w is None and bool(self.nonsense)


def sane(said: Measurement) -> Measurement:
    """Without what nothing can have: such registers are noise, or not what they are taken for."""
    nonsense: list[str] = []

    def within(value: int | None, least: int, most: int, what: str, unit: str, parts: int = 1) -> int | None:
        if value is None or least <= value <= most:
            return value
        nonsense.append(f"{what} of {value / parts:.3g} {unit}")
        return None

    power_w = within(said.power_w, -LARGEST_W, LARGEST_W, "a power", "W")
    phases = tuple(within(power, -LARGEST_W, LARGEST_W, "a phase's power", "W") for power in said.phase_power_w)
    imported = within(
        said.import_register_milliwatt_hours, 0, LARGEST_MILLIWATT_HOURS, "an imported energy", "Wh", 1000
    )
    exported = within(
        said.export_register_milliwatt_hours, 0, LARGEST_MILLIWATT_HOURS, "an exported energy", "Wh", 1000
    )
    millivolts = within(said.voltage_millivolts, 0, LARGEST_MILLIVOLTS, "a voltage", "V", 1000)
    if not nonsense:
        return said
    return replace(
        said,
        power_w=power_w,
        phase_power_w=tuple(power for power in phases if power is not None) if None not in phases else (),
        import_register_milliwatt_hours=imported,
        export_register_milliwatt_hours=exported,
        voltage_millivolts=millivolts,
        nonsense=tuple(nonsense),
    )


@dataclass(frozen=True, slots=True)
class MeasuringModel:
    """How to measure with one kind of model: which points, and what they mean."""

    paths: tuple[str, ...]
    meaning: Callable[[Values], Measurement]
    """As the device tells it."""
    single_phase: bool = False

    def interpret(self, values: Values) -> Measurement:
        """What the points say, without what makes no sense."""
        return sane(self.meaning(values))


def measuring_model(kind: DeviceKind, description: DeviceDescription) -> tuple[FoundModel, MeasuringModel] | None:
    """The model that measures a device of this kind; None when it has none.

    It follows from the models that are there and never from what they say at the moment: two counters of one device
    are not the same register, and changing over would look like energy.
    """
    numbers = METER_MODELS if kind is DeviceKind.METER else INVERTER_MODELS
    found = description.find(*numbers)
    return None if found is None else (found, _MODELS[found.number])


def frequency_models(description: DeviceDescription, measured_by: FoundModel) -> tuple[FoundModel, ...]:
    """Models that may tell a frequency beside the measuring one, the likeliest first."""
    others = [
        model
        for model in description.models
        if model.number in _FREQUENCY_ORDER and model != measured_by and not description.is_phantom(model)
    ]
    return tuple(sorted(others, key=lambda model: _FREQUENCY_ORDER[model.number])[:_MOST_FREQUENCY_MODELS])


def tells_frequency(values: Values) -> bool:
    """Whether the points of a model hold a frequency that a grid can have."""
    return _frequency(values) is not None


def state_of_charge_permille(number: int, values: Values) -> int | None:
    """From model 713, 802 or 124. None when not told, or when there is no battery behind the model."""
    rating = values.get("WHRtg")
    if rating is not None and rating.raw == 0:
        return None  # a phantom: inverters show storage models without having storage
    permille = _parts(values, _STATE_OF_CHARGE[number], 10)
    return permille if permille is not None and 0 <= permille <= 1000 else None


FREQUENCY_PATHS: Final = ("Hz",)
_MOST_FREQUENCY_MODELS: Final = 3
"""Where none of so many tells it, neither will a tenth meter behind the same inverter."""
_FREQUENCY_ORDER: Final = {number: place for place, number in enumerate((*INVERTER_MODELS, *METER_MODELS))}
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


def _phases(values: Values, paths: tuple[str, ...], sign: int, sum_w: int | None) -> tuple[int, ...]:
    powers = [_parts(values, path, 1) for path in paths]
    told = [sign * power for power in powers if power is not None]
    # Trailing phases that a device does not have are not told; a hole in the middle makes the rest ambiguous.
    if None in powers[: len(told)]:
        return ()
    off_w = 0 if sum_w is None else abs(sum(told) - sum_w)
    allowed_w = max(_PHASES_OFF_W, abs(sum_w or 0) * _PHASES_OFF_PERCENT // 100)
    return tuple(told) if off_w <= allowed_w else ()


def _counters(
    values: Values, import_path: str | None, export_path: str, asleep: bool
) -> tuple[int | None, int | None, int | None]:
    """(import, export, where they roll over) in mWh; absent while zeros may only mean that the device wakes."""
    found = {path: values[path] for path in (import_path, export_path) if path is not None and path in values}
    if asleep and not any(value.raw for value in found.values()):
        found = {}
    milliwatt_hours = {path: value.in_parts(1000) for path, value in found.items()}
    factor = next(
        (value.factor for path, value in found.items() if path in _ACC32 and isinstance(value.raw, int)), None
    )
    rolls_over = None if factor is None else Value(1 << 32, factor).in_parts(1000)
    return (
        None if import_path is None else milliwatt_hours.get(import_path),
        milliwatt_hours.get(export_path),
        rolls_over,
    )


def _mean_voltage(values: Values, whole: str | None, phases: tuple[str, ...]) -> int | None:
    """Line to neutral: the device's own mean, else ours over the phases that have a voltage."""
    mean = None if whole is None else _parts(values, whole, 1000)
    if mean is not None:
        return mean
    told = [millivolts for path in phases if (millivolts := _parts(values, path, 1000)) is not None and millivolts > 0]
    return round(sum(told) / len(told)) if told else None


_701_AWAKE: Final = (3, 4, 7)  # InvSt: RUNNING, THROTTLED, STANDBY
_701_RUNNING: Final = (3, 4)
_701_DISCONNECTED: Final = 0  # ConnSt
_701_GRID_FORMING: Final = 1 << 1  # DERMode
_701_PHASES: Final = {0: ("WL1",), 1: ("WL1", "WL2"), 2: ("WL1", "WL2", "WL3")}  # ACType
_10X_ASLEEP: Final = (1, 2, 3)  # St: OFF, SLEEPING, STARTING


def _raw(values: Values, path: str) -> int | None:
    value = values.get(path)
    return value.raw if value is not None and isinstance(value.raw, int) else None


def _inverter_701(values: Values) -> Measurement:
    state, mode = _raw(values, "InvSt"), _raw(values, "DERMode")
    # Disconnected and asleep is a PV inverter at night; disconnected and running is an island.
    running_alone = _raw(values, "ConnSt") == _701_DISCONNECTED and state in _701_RUNNING
    asleep = state is not None and state not in _701_AWAKE
    power_w = _negative(_parts(values, "W", 1))
    imported, exported, rolls_over = _counters(values, "TotWhAbs", "TotWhInj", asleep)
    ac_type = _raw(values, "ACType")
    phases = _phases(values, _701_PHASES.get(2 if ac_type is None else ac_type, ()), -1, power_w)
    if ac_type == 0 and not phases and power_w is not None:
        phases = (power_w,)
    return Measurement(
        power_w=power_w,
        import_register_milliwatt_hours=imported,
        export_register_milliwatt_hours=exported,
        phase_power_w=phases,
        voltage_millivolts=_mean_voltage(values, "LNV", ("VL1", "VL2", "VL3")),
        frequency_millihertz=_frequency(values),
        islanded=running_alone or bool((mode or 0) & _701_GRID_FORMING),
        rolls_over_milliwatt_hours=rolls_over,
    )


def _inverter_10x(values: Values) -> Measurement:
    voltage = _mean_voltage(values, None, ("PhVphA", "PhVphB", "PhVphC"))
    if voltage is None and _raw(values, "ID") in (101, 111):
        # Single-phase devices of some makers (SolarEdge) give line to neutral as "phase voltage AB".
        voltage = _mean_voltage(values, "PPVphAB", ())
    # The model has one counter, of what was generated.
    _, exported, rolls_over = _counters(values, None, "WH", _raw(values, "St") in _10X_ASLEEP)
    return Measurement(
        power_w=_negative(_parts(values, "W", 1)),
        import_register_milliwatt_hours=None,
        export_register_milliwatt_hours=exported,
        voltage_millivolts=voltage,
        frequency_millihertz=_frequency(values),
        rolls_over_milliwatt_hours=rolls_over,
    )


def _meter(phases: tuple[str, ...], has_neutral: bool = True) -> Callable[[Values], Measurement]:
    """Meters of one connection: `phases` are the points of power that it can tell apart."""

    def interpret(values: Values) -> Measurement:
        power_w = _parts(values, "W", 1)
        # A meter does not say whether it is awake: zeros in both counters are none of its readings.
        imported, exported, rolls_over = _counters(values, "TotWhImp", "TotWhExp", asleep=True)
        return Measurement(
            power_w=power_w,
            import_register_milliwatt_hours=imported,
            export_register_milliwatt_hours=exported,
            phase_power_w=_phases(values, phases, 1, power_w),
            voltage_millivolts=_mean_voltage(values, "PhV", ("PhVphA", "PhVphB", "PhVphC")) if has_neutral else None,
            frequency_millihertz=_frequency(values),
            rolls_over_milliwatt_hours=rolls_over,
        )

    return interpret


_ACC32: Final = frozenset({"WH", "TotWhImp", "TotWhExp"})
"""Counters of 32 bits in the integer models."""
_PATHS_701: Final = (
    *("ID", "L", "ACType", "InvSt", "ConnSt", "DERMode", "W", "Hz", "TotWhInj", "TotWhAbs", "LNV"),
    *("VL1", "VL2", "VL3", "WL1", "WL2", "WL3"),
)
_PATHS_10X: Final = ("ID", "L", "W", "Hz", "WH", "PhVphA", "PhVphB", "PhVphC", "PPVphAB", "St")
_PATHS_METER: Final = (
    *("ID", "L", "W", "WphA", "WphB", "WphC", "Hz", "TotWhImp", "TotWhExp"),
    *("PhV", "PhVphA", "PhVphB", "PhVphC"),
)
_METERS: Final = {
    1: _meter(("WphA",)),  # 201, 211: one phase, or two without neutral
    2: _meter(("WphA", "WphB")),  # 202, 212: split phase
    3: _meter(("WphA", "WphB", "WphC")),  # 203, 213: wye
    4: _meter((), has_neutral=False),  # 204, 214: delta, where only the sum of the powers means something
}
_MODELS: Final[Mapping[int, MeasuringModel]] = {
    701: MeasuringModel(_PATHS_701, _inverter_701),
    **{number: MeasuringModel(_PATHS_10X, _inverter_10x, number in (101, 111)) for number in INVERTER_MODELS[1:]},
    **{number: MeasuringModel(_PATHS_METER, _METERS[number % 10], number in (201, 211)) for number in METER_MODELS},
}
