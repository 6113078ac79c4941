"""What values of the configuration look like: addresses, paths, references to secrets, and how a fault is told."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
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
"""Also "tpm:/absolute/path" of a file that `v2g-gateway seal-pin` has made."""
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


Timezone = Annotated[str, AfterValidator(_timezone)]
TimeOfDay = Annotated[str, AfterValidator(_time_of_day)]
HostAndPort = Annotated[str, AfterValidator(_address)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def is_loopback(listen: str) -> bool:
    """Whether a listen address can be reached from this machine alone."""
    host, _ = split_address(listen)
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
