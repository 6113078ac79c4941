"""OCPP meter values to integers with our units and signs: one look at the meter per time stamp.

Registers to milliwatt-hours, power to watts (import minus export), by part 2 section 2.44 (SampledValue) and the table
in `measurands.py`. A value that cannot be understood, contradicts another of the same message or is beyond belief is
left out and complained of; it never becomes 0, and it never becomes a part of a sum. The others are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from drivers.ocpp.errors import quoted
from drivers.ocpp.measurands import (
    CONTEXTS,
    CURRENT_EXPORT,
    CURRENT_IMPORT,
    EXPORT_REGISTER,
    GRID_FREQUENCY,
    IMPORT_REGISTER,
    LINE_VOLTAGE,
    LOCATIONS,
    PHASE_NAMES,
    PHASES,
    POWER_EXPORT,
    POWER_IMPORT,
    QUANTITIES,
    STATE_OF_CHARGE,
)
from drivers.ocpp.messages import MeterValue, SampledValue, SignedMeterValue
from drivers.ocpp.timestamps import parse_timestamp_us

MEASURANDS: Final = (
    IMPORT_REGISTER,
    EXPORT_REGISTER,
    POWER_IMPORT,
    POWER_EXPORT,
    STATE_OF_CHARGE,
    LINE_VOLTAGE,
    GRID_FREQUENCY,
)
"""What readings are made of, in the order of worth; what we ask chargers to send."""

OUTLET: Final = "Outlet"
"""Where a value is measured that does not say where. One of the station's own inlet, of the cable or of the car is
another meter."""
MOST_SIGNED: Final = 16
"""Signed values of one message that are taken: judging one may take a millisecond, and a charger needs two of them."""
_LARGEST_MULTIPLIER: Final = 12
_PLACES_OF_CHARGE: Final = ("EV", OUTLET, *sorted(LOCATIONS - {"EV", OUTLET}))
_POWERS: Final[tuple[int, ...]] = tuple(int(10**exponent) for exponent in range(2 * _LARGEST_MULTIPLIER))
_WHOLE_OR_PHASE: Final = ("", *PHASES)
_DEFAULT_CONTEXT: Final = "Sample.Periodic"


class Measured(NamedTuple):
    """One value as it was measured, in the integer unit of its measurand (`measurands.QUANTITIES`)."""

    measurand: str
    phase: str
    """L1, L2, L3, N, L1-L2, ...; empty for the whole. "L1-N" is L1."""
    location: str
    context: str
    value: int


@dataclass(frozen=True, slots=True)
class SignedSample:
    """A value with its meter's signature, unread."""

    context: str
    sent: SignedMeterValue


_Place: TypeAlias = tuple[str, str, str]
"""Measurand, location, phase."""
_NOTHING: Final[Mapping[str, int]] = {}
_NOWHERE: Final[Mapping[_Place, tuple[str, int]]] = {}


class MeterLook(NamedTuple):
    """All that was measured at one moment, by the charger's clock. Absent is None."""

    timestamp_us: int
    power_w: int | None = None
    phase_power_w: tuple[int, ...] = ()
    phase_current_milliamperes: tuple[int, ...] = ()
    """Import minus export on L1, L2, L3; empty unless all are known."""
    import_register_milliwatt_hours: int | None = None
    export_register_milliwatt_hours: int | None = None
    voltage_millivolts: int | None = None
    phase_voltage_millivolts: tuple[int, ...] = ()
    """Line to neutral on L1, L2, L3; empty unless all are known."""
    frequency_millihertz: int | None = None
    state_of_charge_permille: int | None = None
    found: Mapping[_Place, tuple[str, int]] = _NOWHERE
    """Place -> context and value."""
    signed: tuple[SignedSample, ...] = ()

    @property
    def measured(self) -> tuple[Measured, ...]:
        """Every value that was understood, of all places and phases. For people: made when it is asked for."""
        return tuple(
            Measured(measurand, phase, location, context, value)
            for (measurand, location, phase), (context, value) in self.found.items()
        )


def read_meter_values(
    values: Sequence[MeterValue], phases: Sequence[int] = (1, 2, 3)
) -> tuple[list[MeterLook], list[str]]:
    """The looks of a message in order of time, and complaints about what could not be understood.

    Elements with the same time stamp are one look: some chargers send one element per measurand. `phases` are those
    that the EVSE is on: registers per phase are summed only where each of them was sent.
    """
    complaints: list[str] = []
    if len(values) == 1:
        looks = [_look(parse_timestamp_us(values[0]["timestamp"]), values[0]["sampledValue"], phases, complaints)]
    else:
        sampled: dict[int, list[SampledValue]] = {}
        for value in values:
            sampled.setdefault(parse_timestamp_us(value["timestamp"]), []).extend(value["sampledValue"])
        looks = [_look(timestamp_us, sampled[timestamp_us], phases, complaints) for timestamp_us in sorted(sampled)]
    signed = sum(len(look.signed) for look in looks)
    if signed > MOST_SIGNED:
        complaints.append(f"{signed} signed values in one message, {MOST_SIGNED} are taken")
        looks = _with_fewer_signed(looks)
    return looks, complaints


def _with_fewer_signed(looks: Sequence[MeterLook]) -> list[MeterLook]:
    """The newest ones: the end of a transaction, where there are both."""
    left, fewer = MOST_SIGNED, []
    for look in reversed(looks):
        fewer.append(look._replace(signed=look.signed[:left]))
        left -= len(fewer[-1].signed)
    return fewer[::-1]


def _look(
    timestamp_us: int, sampled: Sequence[SampledValue], phases: Sequence[int], complaints: list[str]
) -> MeterLook:
    table = _Table()
    signed = []
    for value in sampled:
        table.take(value, complaints)
        if "signedMeterValue" in value:
            signed.append(SignedSample(value.get("context", _DEFAULT_CONTEXT), value["signedMeterValue"]))
    if table.left_out:
        table.settle()
    return MeterLook(
        timestamp_us=timestamp_us,
        power_w=_net(table, POWER_IMPORT, POWER_EXPORT),
        phase_power_w=_per_phase(table, POWER_IMPORT, POWER_EXPORT),
        phase_current_milliamperes=_per_phase(table, CURRENT_IMPORT, CURRENT_EXPORT),
        import_register_milliwatt_hours=_register(table, IMPORT_REGISTER, phases, complaints),
        export_register_milliwatt_hours=_register(table, EXPORT_REGISTER, phases, complaints),
        voltage_millivolts=_voltage(table),
        phase_voltage_millivolts=_per_phase(table, LINE_VOLTAGE),
        frequency_millihertz=_single(table, GRID_FREQUENCY, OUTLET),
        state_of_charge_permille=_state_of_charge(table),
        found=table.found,
        signed=tuple(signed),
    )


class _Known(NamedTuple):
    """What a value says of itself beside its number, once it was understood."""

    place: _Place
    exponent: int | None
    """Power of ten from its unit to ours; None: its unit is none of its measurand."""
    least: int
    most: int


_KNOWN: Final[dict[tuple[str, str, str, str], _Known]] = {}
"""Measurand, location, phase and unit as they are sent: a charger says the same in each message."""
_MOST_KNOWN: Final = 2_000


def _learn(sent: tuple[str, str, str, str], complaints: list[str]) -> _Known | None:
    """None where nothing is known of such a place: perhaps another meter altogether."""
    measurand, location, phase, unit = sent
    quantity = QUANTITIES.get(measurand)
    if quantity is None:
        complaints.append(f"measurand {quoted(measurand, 50)} is not known")
        return None
    if location not in LOCATIONS or phase not in PHASE_NAMES:
        where = location if location not in LOCATIONS else phase
        complaints.append(f"{measurand} at {quoted(where, 24)}, which is not known")
        return None
    # "L1-N" and "L1" are the same place for us; "L1-L2" stays apart
    place = (measurand, location, phase.removesuffix("-N"))
    known = _Known(place, quantity.exponents.get(unit), quantity.least, quantity.most)
    if known.exponent is not None and len(_KNOWN) < _MOST_KNOWN:
        _KNOWN[sent] = known
    return known


class _Table:
    """The values of one look by place, and the places where one was left out. Made for every message: kept lean."""

    __slots__ = ("_elsewhere", "_outlet", "found", "left_out")

    def __init__(self) -> None:
        self.found: dict[_Place, tuple[str, int]] = {}
        self.left_out: set[_Place] = set()
        self._outlet: dict[str, dict[str, int]] = {}
        self._elsewhere: dict[tuple[str, str], dict[str, int]] = {}

    def take(self, value: SampledValue, complaints: list[str]) -> None:
        unit, multiplier = "", 0
        if "unitOfMeasure" in value:
            unit = value["unitOfMeasure"].get("unit", "")
            if "multiplier" in value["unitOfMeasure"]:
                multiplier = int(value["unitOfMeasure"]["multiplier"])
        sent = (value.get("measurand", IMPORT_REGISTER), value.get("location", OUTLET), value.get("phase", ""), unit)
        known = _KNOWN.get(sent) or _learn(sent, complaints)
        if known is None:
            return
        place, exponent, least, most = known
        number = _in_our_unit(value["value"], exponent, multiplier)
        if number is None or not least <= number <= most:
            complaints.append(_why_not(place[0], value["value"], unit, multiplier, exponent))
            self.left_out.add(place)
            return
        context, before = value.get("context", _DEFAULT_CONTEXT), self.found.get(place)
        if before is not None and _rank(context) >= _rank(before[0]):
            if before[1] != number and _rank(context) == _rank(before[0]):
                complaints.append(f"{place[0]} has two values at one moment, {before[1]} and {number}")
                self.left_out.add(place)
            return
        self.found[place] = context, number
        measurand, location, phase = place
        if location != OUTLET:
            self._elsewhere.setdefault((measurand, location), {})[phase] = number
        elif measurand in self._outlet:
            self._outlet[measurand][phase] = number
        else:
            self._outlet[measurand] = {phase: number}

    def settle(self) -> None:
        """All were taken: what contradicts itself goes."""
        for place in self.left_out:
            measurand, location, phase = place
            self.found.pop(place, None)
            here = self._outlet.get(measurand) if location == OUTLET else self._elsewhere.get((measurand, location))
            if here is not None:
                here.pop(phase, None)

    def phases(self, measurand: str, location: str = OUTLET) -> Mapping[str, int]:
        """Phase ("" is the whole) -> value."""
        if location == OUTLET:
            return self._outlet.get(measurand, _NOTHING)
        return self._elsewhere.get((measurand, location), _NOTHING)

    @property
    def elsewhere(self) -> bool:
        """Whether anything was measured beside the outlet."""
        return bool(self._elsewhere)

    def lacks(self, measurand: str, phases: Sequence[str] = _WHOLE_OR_PHASE) -> bool:
        """Whether a value at the outlet was left out on one of these phases."""
        return bool(self.left_out) and any((measurand, OUTLET, phase) in self.left_out for phase in phases)


def _rank(context: str) -> int:
    """Lower is preferred; an unknown context comes last."""
    return _RANKS.get(context, len(_RANKS))


_RANKS: Final = {context: rank for rank, context in enumerate(CONTEXTS)}


def _in_our_unit(sent: float, exponent: int | None, multiplier: int) -> int | None:
    if exponent is None or not -_LARGEST_MULTIPLIER <= multiplier <= _LARGEST_MULTIPLIER:
        return None
    exponent += multiplier
    try:
        # To the nearest integer: what binary made of 0.1 kWh is 100 Wh again, as long as a double has digits to spare.
        return round(sent * _POWERS[exponent] if exponent >= 0 else sent / _POWERS[-exponent])
    except (OverflowError, ValueError):  # infinite; NaN
        return None


def _why_not(measurand: str, sent: float, unit: str, multiplier: int, exponent: int | None) -> str:
    if exponent is None or not -_LARGEST_MULTIPLIER <= multiplier <= _LARGEST_MULTIPLIER:
        return f"{measurand} in unit {quoted(unit, 24)} times ten to the {quoted(multiplier, 24)}"
    return f"{measurand} of {quoted(sent, 24)} {unit} is beyond belief"


def _total(table: _Table, measurand: str) -> int | None:
    """The whole where it was sent, else the sum over the phases that were; None where one of them was left out."""
    found = table.phases(measurand)
    if "" in found:
        return found[""]
    if table.left_out and table.lacks(measurand, PHASES):
        return None
    total = None
    for phase in PHASES:
        if phase in found:
            total = found[phase] + (total or 0)
    return total


def _net(table: _Table, taken_as: str, given_as: str) -> int | None:
    """Import minus export. A direction that was not sent is none; one that was left out makes the net unknown."""
    taken, given = _total(table, taken_as), _total(table, given_as)
    if taken is None and given is None:
        return None
    if (taken is None and table.lacks(taken_as)) or (given is None and table.lacks(given_as)):
        return None
    return (taken or 0) - (given or 0)


def _per_phase(table: _Table, taken_as: str, given_as: str | None = None) -> tuple[int, ...]:
    taken, given = table.phases(taken_as), table.phases(given_as) if given_as else _NOTHING
    if len(taken) + len(given) < len(PHASES):
        return ()
    net = []
    for phase in PHASES:
        if phase not in taken and phase not in given:
            return ()
        net.append(taken.get(phase, 0) - given.get(phase, 0))
    if table.lacks(taken_as, PHASES) or (given_as is not None and table.lacks(given_as, PHASES)):
        return ()
    return tuple(net)


def _register(table: _Table, measurand: str, on_phases: Sequence[int], complaints: list[str]) -> int | None:
    """A cumulative register. A sum without one of its phases would fall and rise as that phase comes and goes: all that
    the EVSE is on have to be there."""
    found = table.phases(measurand)
    if not found or "" in found:
        return found.get("")
    sent = [phase for phase in PHASES if phase in found]
    if not sent or table.lacks(measurand):
        return None
    missing = [f"L{phase}" for phase in on_phases if f"L{phase}" not in found]
    if missing:
        complaints.append(f"{measurand} on {', '.join(sent)} but not on {', '.join(missing)}; set `phases`")
        return None
    return sum(found[phase] for phase in sent)


def _voltage(table: _Table) -> int | None:
    """Mean of the line-to-neutral voltages; a value without phase is one."""
    known = [volts for phase, volts in table.phases(LINE_VOLTAGE).items() if phase in _WHOLE_OR_PHASE]
    return sum(known) // len(known) if known else None


def _single(table: _Table, measurand: str, location: str) -> int | None:
    """A value that is the same on all phases."""
    found = table.phases(measurand, location)
    if found:
        for phase in _WHOLE_OR_PHASE:
            if phase in found:
                return found[phase]
    return None


def _state_of_charge(table: _Table) -> int | None:
    """The car's own word first, then wherever the charger says that it has it from."""
    if not table.elsewhere:
        return _single(table, STATE_OF_CHARGE, OUTLET)
    for place in _PLACES_OF_CHARGE:
        share = _single(table, STATE_OF_CHARGE, place)
        if share is not None:
            return share
    return None
