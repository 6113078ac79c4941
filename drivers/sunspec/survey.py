"""Every point of a device's models as it is now, for people to read. Nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drivers.sunspec.codec import Field, Layout, Value
from drivers.sunspec.connection import Unit
from drivers.sunspec.description import DeviceDescription, FoundModel
from drivers.sunspec.models import PointKind, model_definition
from drivers.sunspec.registers import ModelPoll, layout_of

HEADER: Mapping[str, None] = dict.fromkeys(("ID", "L"))


@dataclass(frozen=True, slots=True)
class ModelReading:
    """What one model says. Without a public definition it has no points."""

    found: FoundModel
    is_phantom: bool
    fields: tuple[Field, ...]
    """Its points in order of address, but for header, padding and scale factors."""
    values: Mapping[str, Value]
    """By path; what is not implemented is absent."""
    refused: frozenset[str]
    """Points that the device refuses to tell at present."""


class Survey:
    """The same models again and again; where their points lie is found out once."""

    def __init__(self, unit: Unit, description: DeviceDescription, numbers: Sequence[int] = ()) -> None:
        """`numbers`: models to read; none is all of them."""
        self._unit = unit
        self._description = description
        self._models = [model for model in description.models if not numbers or model.number in numbers]
        self._polls: list[tuple[FoundModel, Layout, ModelPoll]] | None = None

    async def read(self, now_s: float) -> list[ModelReading]:
        """Raises SunSpecErrors, but not for registers that the device refuses."""
        if self._polls is None:
            self._polls = [made for found in self._models if (made := await self._poll(found)) is not None]
        polls = {found.address: (place, poll) for found, place, poll in self._polls}
        readings = []
        for found in self._models:
            fields: tuple[Field, ...] = ()
            values: Mapping[str, Value] = {}
            refused: frozenset[str] = frozenset()
            if found.address in polls:
                place, poll = polls[found.address]
                values = (await poll.read(self._unit.read, now_s)).values
                fields, refused = told(place), poll.unreadable
            readings.append(ModelReading(found, self._description.is_phantom(found), fields, values, refused))
        return readings

    async def _poll(self, found: FoundModel) -> tuple[FoundModel, Layout, ModelPoll] | None:
        definition = model_definition(found.number)
        if definition is None:
            return None
        place = await layout_of(self._unit.read, definition, found.address, found.length)
        return found, place, ModelPoll(place, found.address, [field.path for field in told(place)])


def told(place: Layout) -> tuple[Field, ...]:
    """The points that say something by themselves."""
    return tuple(
        field
        for field in sorted(place.fields.values(), key=lambda field: field.offset)
        if field.path not in HEADER and field.point.kind not in (PointKind.PAD, PointKind.SUNSSF)
    )
