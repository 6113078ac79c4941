"""What values of the configuration look like: addresses, paths, references to secrets, and how a fault is told."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, tzinfo
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, TypeGuard
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MQTT_SCHEME: Final = "mqtts://"


def _secret_reference(value: str) -> str:
    if not re.fullmatch(r"(file:/.+|credential:[A-Za-z0-9_.-]+)", value):
        raise ValueError('write "file:/absolute/path" or "credential:NAME"; a secret itself never stands here')
    return value


def _pin_reference(value: str) -> str:
    return value if re.fullmatch(r"tpm:/.+", value) else _secret_reference(value)


SecretReference = Annotated[str, AfterValidator(_secret_reference)]
PinReference = Annotated[str, AfterValidator(_pin_reference)]
"""Also "tpm:/absolute/path" of a file that `v2g-gateway seal-pin` or `store-key` has made."""
HttpsUrl = Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[!-~]*)?$", max_length=500)]
"""Without user and password."""
EstUrl = Annotated[
    str,
    Field(
        pattern=r"^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/\.well-known/est(/[A-Za-z0-9._~-]+)?/?$",
        max_length=500,
    ),
]
"""RFC 7030 section 3.2.2, with a label or without."""
DeviceId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


def fault(why: str, *where: int | str) -> PydanticCustomError:
    """What contradicts something else, at the key that has to change: found from the section that is looked at."""
    return PydanticCustomError("contradiction", "{why}", {"why": why, "where": where})


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("write the whole path, from / on")
    return value


def _address(value: str) -> str:
    if not re.fullmatch(r"([^:\s]+|\[[0-9a-fA-F:]+\]):\d{1,5}", value) or split_address(value)[1] > 65_535:
        raise ValueError('write "host:port" or "[v6]:port", the port at most 65535')
    return value


def _endpoint(value: str) -> str:
    _address(value.removeprefix(MQTT_SCHEME))
    return value


def zone_of(name: str) -> tzinfo:
    """The time zone of a name. UTC needs no tz database: a small image may have none. Raises as ZoneInfo does."""
    return UTC if name == "UTC" else ZoneInfo(name)


def _timezone(value: str) -> str:
    try:
        zone_of(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError('is not in the tz database; write "Europe/Berlin", "Australia/Sydney" or "UTC"') from None
    return value


def _time_of_day(value: str) -> str:
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
        raise ValueError('write "07:30"')
    return value


def _efficiency(value: object) -> object:
    """A percentage, or points of one; else what would be right."""
    if _is_number(value):
        if not LEAST_EFFICIENCY <= value <= 100:
            raise ValueError(f"is outside {LEAST_EFFICIENCY} to 100 %")
        return float(value)
    if not isinstance(value, list | tuple) or not 2 <= len(value) <= MOST_POINTS:
        raise ValueError(_WRITE_POINTS)
    points = []
    for point in value:
        match point:
            case [load, percent] if _is_number(load) and _is_number(percent):
                points.append((float(load), float(percent)))
            case _:
                raise ValueError(_WRITE_POINTS)
    if not all(0 < load <= 100 and LEAST_EFFICIENCY <= percent <= 100 for load, percent in points):
        raise ValueError(f"a load is above 0 and at most 100 %, an efficiency {LEAST_EFFICIENCY} to 100 %")
    if any(load >= then for (load, _), (then, _) in pairwise(points)):
        raise ValueError("loads rise from point to point")
    return tuple(points)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


LEAST_EFFICIENCY: Final = 20
"""Percent; less is a mistake: a share in place of percent."""
MOST_POINTS: Final = 20
_WRITE_POINTS: Final = f"write 96.0, or 2 to {MOST_POINTS} points: [[10, 91.0], [50, 95.5], [100, 94.0]]"
Efficiency = Annotated[float | tuple[tuple[float, float], ...], BeforeValidator(_efficiency)]
"""At the rating, percent; or (percent of the rating, percent there), the loads rising."""
Timezone = Annotated[str, AfterValidator(_timezone)]
TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]
HostAndPort = Annotated[str, AfterValidator(_address)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def is_loopback(listen: str) -> bool:
    """Whether a listen address can be reached from this machine alone."""
    return is_this_machine(split_address(listen)[0])


def is_this_machine(host: str) -> bool:
    """Whether a host, without a port, is the machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)
