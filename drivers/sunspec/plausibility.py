"""Which of a device's models are phantoms: there in its map, without the thing that they describe.

Inverters show storage models without having a battery, and some show a model twice, one copy of it empty. What is
judged is what does not change with the hour (ratings, counters) before what does (state of charge): a verdict is kept
with the device's description and must not follow day and night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from drivers.sunspec.codec import Value, layout
from drivers.sunspec.description import INVERTER_MODELS, METER_MODELS, STORAGE_MODELS, FoundModel
from drivers.sunspec.models import model_definition
from drivers.sunspec.registers import ModelPoll, Read

MOST_JUDGED: Final = 20
"""Models that are looked at: a device with more copies than that is not worth the requests."""
LARGEST_RATING: Final = 1_000_000_000
"""A gigawatt, or a gigawatt-hour: beyond it a rating is noise."""

_RATING_POINTS: Final[Mapping[int, tuple[str, ...]]] = {
    713: ("WHRtg",),
    802: ("WHRtg", "AHRtg"),
    124: ("WChaMax",),
    120: ("WRtg",),
    121: ("WMax",),
    702: ("WMaxRtg", "WMax"),
}
_CHARGE_POINT: Final[Mapping[int, str]] = {713: "SoC", 802: "SoC", 124: "ChaState"}
_COUNTER_POINTS: Final[Mapping[int, tuple[str, ...]]] = {
    701: ("TotWhInj", "TotWhAbs", "W", "LNV", "LLV"),
    **dict.fromkeys(INVERTER_MODELS[1:], ("WH", "W", "PhVphA", "PPVphAB")),
    **dict.fromkeys(METER_MODELS, ("TotWhImp", "TotWhExp", "W", "PhV", "PPV")),
}


def judged_points(number: int) -> tuple[str, ...]:
    """What to read of a model for a verdict; empty for one that is taken as it is."""
    charge = _CHARGE_POINT.get(number)
    return (*_RATING_POINTS.get(number, ()), *_COUNTER_POINTS.get(number, ()), *(() if charge is None else (charge,)))


def is_plausible(number: int, values: Mapping[str, Value]) -> bool:
    """Whether a model with these values of its `judged_points` describes something that is there."""
    ratings = [values[path].in_parts(1) for path in _RATING_POINTS.get(number, ()) if path in values]
    if any(0 < rating <= LARGEST_RATING for rating in ratings):
        return True
    if number in _CHARGE_POINT:
        charge = values.get(_CHARGE_POINT[number])
        # Without a rating, a charge between its ends speaks for a battery; a rating of 0 speaks against any charge.
        return not ratings and charge is not None and 0 < charge.in_parts(10) <= 1000
    return any(path in values for path in _COUNTER_POINTS.get(number, ()))


async def phantoms(read: Read, models: Sequence[FoundModel]) -> list[FoundModel]:
    """The phantoms among a device's models. Raises SunSpecErrors; what the device refuses to show is not judged."""
    numbers = [model.number for model in models]
    suspects = [
        model
        for model in models
        if judged_points(model.number) and (model.number in STORAGE_MODELS or numbers.count(model.number) > 1)
    ]
    found = [model for model in suspects[:MOST_JUDGED] if await judged_plausible(read, model) is False]
    # Where every copy is empty, asleep perhaps, none is worse than the others; a battery is there or not.
    empty = {number for number in numbers if all(model in found for model in models if model.number == number)}
    return [model for model in found if model.number in STORAGE_MODELS or model.number not in empty]


async def judged_plausible(read: Read, model: FoundModel) -> bool | None:
    """Whether the model describes something that is there; None when the device refuses to show it at present."""
    definition = model_definition(model.number)
    assert definition is not None  # every judged model is an official one
    poll = ModelPoll(layout(definition, model.length), model.address, judged_points(model.number))
    look = await poll.read(read, 0.0)
    return None if poll.unreadable else is_plausible(model.number, look.values)
