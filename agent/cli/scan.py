"""`v2g-gateway scan`: asks hosts for SunSpec devices and writes what it finds as ready configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drivers.device import DeviceKind
from drivers.sunspec.discovery import DeviceDescription, discover
from drivers.sunspec.errors import SunSpecError


@dataclass(frozen=True, slots=True)
class Place:
    """Where to ask."""

    address: str
    unit: int


@dataclass(frozen=True, slots=True)
class Found:
    """What one place said."""

    place: Place
    description: DeviceDescription | None
    problem: str

    def cells(self) -> list[str]:
        """A row for a person."""
        if self.description is None:
            return [self.place.address, str(self.place.unit), self.problem, ""]
        d = self.description
        models = ", ".join(f"{m.number} {m.label}" for m in d.models)
        return [self.place.address, str(self.place.unit), f"{d.title}, serial {d.serial or '?'}", models]

    def as_json(self) -> dict[str, object]:
        """The same for a machine."""
        d = self.description
        return {
            "address": self.place.address,
            "unit": self.place.unit,
            "problem": self.problem or None,
            "manufacturer": d and d.manufacturer,
            "model": d and d.model,
            "serial": d and d.serial,
            "kind": d and d.likely_kind,
            "models": d and [m.number for m in d.models],
        }


def places(hosts: Sequence[str], units: str) -> list[Place]:
    """Every host with every unit id. Raises ValueError, which says what would be right."""
    numbers: list[int] = []
    for part in units.split(","):
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", part.strip())
        if match is None or int(match[1]) > int(match[2] or match[1]) or int(match[2] or match[1]) > 247:
            raise ValueError(f"units {units!r}: write ids from 0 to 247, such as 1 or 1-3,126")
        numbers.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return [Place(_address(host), unit) for host in hosts for unit in numbers]


def _address(host: str) -> str:
    match = re.fullmatch(r"(?:tcp://)?(\[[0-9a-fA-F:]+\]|[^:/\s]+)(?::(\d{1,5}))?", host)
    if match is None:
        raise ValueError(f"{host!r}: write HOST or HOST:PORT")
    return f"tcp://{match[1]}:{match[2] or 502}"


async def scan(wanted: Sequence[Place], timeout_s: float, asking: Callable[[str], None]) -> list[Found]:
    """Ask one place after the other: many devices take one connection at a time."""
    found = []
    for place in wanted:
        asking(f"{place.address} unit {place.unit}")
        try:
            found.append(Found(place, await discover(place.address, place.unit, timeout_s=timeout_s), ""))
        except SunSpecError as error:
            found.append(Found(place, None, str(error)))
    return found


def configuration(found: Sequence[Found]) -> str:
    """[[device]] sections for what was found; the first meter is taken for the one at the grid connection."""
    metered = any(line.description and line.description.likely_kind is DeviceKind.METER for line in found)
    counts: dict[str, int] = {}
    parts = []
    for line in found:
        if line.description is None or line.description.likely_kind is None:
            continue
        kind = line.description.likely_kind
        counts[kind] = counts.get(kind, 0) + 1
        name = "grid" if kind is DeviceKind.METER and counts[kind] == 1 else f"{kind}-{counts[kind]}"
        parts.append(
            f'# {line.description.title}, serial {line.description.serial or "not given"}\n[[device]]\nid = "{name}"\n'
            f'kind = "{kind}"\ndriver = "sunspec"\naddress = "{line.place.address}"\nunit = {line.place.unit}\n'
            + ('parent = "grid"\n' if metered and name != "grid" else "")
        )
    return "\n".join(parts)
