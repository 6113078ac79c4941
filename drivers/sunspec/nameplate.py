"""Reading what a device is built for: at first contact, and again, since some of it may be hidden (an SMA at night)."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Final

from drivers.sunspec.codec import layout
from drivers.sunspec.description import DeviceDescription
from drivers.sunspec.models import model_definition
from drivers.sunspec.ratings import RATING_PATHS, Ratings, ratings
from drivers.sunspec.registers import MapPoll, Read

RATINGS_PERIOD_S: Final = 600.0
"""What is known is looked at again this often: the settings among it (WMax of 121 and 702) are an installer's."""


class Nameplate:
    """The ratings of one device. What it said once and does not say now is still so: it hides it."""

    def __init__(self, description: DeviceDescription) -> None:
        found = {number: at for number in RATING_PATHS if (at := description.find(number)) is not None}
        self._numbers = tuple(found)
        self._poll = MapPoll(
            (layout(definition, at.length), at.address, RATING_PATHS[number])
            for number, at in found.items()
            if (definition := model_definition(number)) is not None  # all of them are shipped with the library
        )
        self.ratings = ratings({})

    async def look(self, read: Read, now_s: float) -> Ratings:
        """By its own word, as far as it ever said. Refused registers are asked for again in their time."""
        look = await self._poll.read(read, now_s)
        self.ratings = _completed(ratings(dict(zip(self._numbers, look.values, strict=True))), self.ratings)
        return self.ratings


def _completed(now: Ratings, before: Ratings) -> Ratings:
    missing = {field.name for field in fields(now) if getattr(now, field.name) is None}
    return replace(now, **{name: getattr(before, name) for name in missing})
