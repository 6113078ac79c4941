"""What a person writes for "where to look": hosts, ranges of addresses, serial ports, unit ids. Pure and bounded."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final

from drivers.sunspec.discovery import LIKELY_UNITS
from drivers.sunspec.endpoint import parse_address
from drivers.sunspec.errors import AddressError

MOST_ADDRESSES: Final = 1024
"""Of one scan: four class C networks."""
MOST_UNIT: Final = 247
HOW_TO_WRITE: Final = (
    "write HOST or HOST:PORT, a range such as 192.0.2.10-30 or 192.0.2.0/24, tls://HOST, rtutcp://HOST:PORT, "
    "or a serial port such as rtu:///dev/ttyUSB0"
)

_HOST: Final = re.compile(
    r"(?:(?P<scheme>tcp|tls|rtutcp)://)?(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\[\]?#@\s]+(?:/\d{1,2})?)(?::(?P<port>\d{1,5}))?"
)
_V4: Final = r"\d{1,3}(?:\.\d{1,3}){3}"
_RANGE: Final = re.compile(rf"({_V4})-(\d{{1,3}}|{_V4})")


def addresses(wanted: Sequence[str]) -> list[str]:
    """The address of every line to look at, each once. Raises ValueError, which says what would be right."""
    found: dict[str, None] = {}
    for text in wanted:
        for address in _addresses(text):
            found[address] = None
            if len(found) > MOST_ADDRESSES:
                raise ValueError(f"{text!r}: more than {MOST_ADDRESSES} addresses; scan a network in parts")
    return list(found)


def is_range(text: str) -> bool:
    """Several addresses in one word: that most of them are nobody's is no news."""
    match = _HOST.fullmatch(text)
    return match is not None and ("/" in match["host"] or _RANGE.fullmatch(match["host"]) is not None)


def unit_ids(text: str | None) -> tuple[int, ...]:
    """The ids of "1-3,126"; None: those that makers ship with SunSpec. Raises ValueError."""
    if text is None:
        return LIKELY_UNITS
    numbers: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", part.strip(), re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last > MOST_UNIT:
            raise ValueError(f"units {text!r}: write ids from 0 to {MOST_UNIT}, such as 1 or 1-3,126")
        numbers |= dict.fromkeys(range(first, last + 1))
    return tuple(numbers)


def _addresses(text: str) -> Iterator[str]:
    if text.startswith("/dev/"):
        text = f"rtu://{text}"
    if text.startswith("rtu://"):
        try:
            endpoint = parse_address(text)
        except AddressError as error:
            raise ValueError(str(error)) from None
        # Without settings it is asked with the usual ones, one after the other.
        yield str(endpoint) if "?" in text else f"rtu://{endpoint.host}"
        return
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: {HOW_TO_WRITE}")
    port = "" if match["port"] is None else f":{match['port']}"
    for host in _hosts(match["host"], text):
        try:
            yield str(parse_address(f"{match['scheme'] or 'tcp'}://{host}{port}"))
        except AddressError as error:
            raise ValueError(f"{text!r}: {error}") from None


def _hosts(host: str, text: str) -> Iterator[str]:
    try:
        if "/" in host:
            network = ipaddress.IPv4Network(host, strict=False)
            if network.num_addresses > MOST_ADDRESSES:
                raise ValueError(f"{text!r}: more than {MOST_ADDRESSES} addresses; scan a network in parts")
            yield from map(str, network.hosts())
        elif span := _RANGE.fullmatch(host):
            first = ipaddress.IPv4Address(span[1])
            last = ipaddress.IPv4Address(span[2] if "." in span[2] else f"{span[1].rpartition('.')[0]}.{span[2]}")
            if last < first:
                raise ValueError(f"{text!r}: the range ends before it begins")
            if int(last) - int(first) >= MOST_ADDRESSES:
                raise ValueError(f"{text!r}: more than {MOST_ADDRESSES} addresses; scan a network in parts")
            yield from (str(ipaddress.IPv4Address(number)) for number in range(int(first), int(last) + 1))
        else:
            yield host
    except ipaddress.AddressValueError as error:
        raise ValueError(f"{text!r}: {error}; {HOW_TO_WRITE}") from None
    except ipaddress.NetmaskValueError as error:
        raise ValueError(f"{text!r}: {error}; {HOW_TO_WRITE}") from None
