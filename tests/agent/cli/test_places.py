"""What a person may write for "where to look": any text is places to ask, few enough, or refused with what is right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.places import MOST_ADDRESSES, addresses, is_range, unit_ids
from drivers.sunspec.discovery import LIKELY_UNITS
from drivers.sunspec.endpoint import parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "tcp://192.0.2.1:502"),
        ("meter.local:1502", "tcp://meter.local:1502"),
        ("inverter-30", "tcp://inverter-30:502"),
        ("tcp://192.0.2.1:5020", "tcp://192.0.2.1:5020"),
        ("[2001:db8::1]", "tcp://[2001:db8::1]:502"),
        ("[2001:db8::1]:1502", "tcp://[2001:db8::1]:1502"),
        ("tls://192.0.2.1", "tls://192.0.2.1:802"),
        ("rtutcp://192.0.2.1:4001", "rtutcp://192.0.2.1:4001"),
        ("/dev/ttyUSB0", "rtu:///dev/ttyUSB0"),
        ("rtu:///dev/ttyUSB0", "rtu:///dev/ttyUSB0"),
        ("rtu:///dev/ttyUSB0?baudrate=19200", "rtu:///dev/ttyUSB0?baudrate=19200&parity=N&stopbits=1"),
    ],
)
def test_one_place_is_one_address(text: str, address: str) -> None:
    assert addresses([text]) == [address]
    assert not is_range(text)


@pytest.mark.parametrize(
    ("text", "count", "first", "last"),
    [
        ("192.0.2.10-30", 21, "tcp://192.0.2.10:502", "tcp://192.0.2.30:502"),
        ("192.0.2.10-10", 1, "tcp://192.0.2.10:502", "tcp://192.0.2.10:502"),
        ("192.0.2.250-192.0.3.5:1502", 12, "tcp://192.0.2.250:1502", "tcp://192.0.3.5:1502"),
        ("192.0.2.0/24", 254, "tcp://192.0.2.1:502", "tcp://192.0.2.254:502"),
        ("192.0.2.77/30", 2, "tcp://192.0.2.77:502", "tcp://192.0.2.78:502"),
        ("tls://192.0.2.8/31", 2, "tls://192.0.2.8:802", "tls://192.0.2.9:802"),
        ("192.0.2.7/32", 1, "tcp://192.0.2.7:502", "tcp://192.0.2.7:502"),
        ("192.0.0.0/22", 1022, "tcp://192.0.0.1:502", "tcp://192.0.3.254:502"),
    ],
)
def test_a_range_is_each_of_its_addresses(text: str, count: int, first: str, last: str) -> None:
    found = addresses([text])
    assert (len(found), found[0], found[-1]) == (count, first, last)
    assert is_range(text)


def test_an_address_that_is_named_twice_is_asked_once() -> None:
    assert addresses(["192.0.2.2", "192.0.2.1-3"]) == [f"tcp://192.0.2.{n}:502" for n in (2, 1, 3)]


@pytest.mark.parametrize("text", ["", "a b", "2001:db8::1", "host:port", "host:", "http://host", "host/path", "ho/24"])
def test_what_is_no_place_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        addresses([text])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.0/8", "in parts"),
        ("192.0.0.0/21", "in parts"),
        ("0.0.0.0-255.255.255.255", "in parts"),
        ("192.0.2.30-10", "ends before it begins"),
        ("192.0.2.10-300", "192.0.2.300"),
        ("192.0.2.0/33", "/33|33"),
        ("192.0.2.1:0", "192.0.2.1"),
        ("192.0.2.1:70000", "65535"),
        ("rtu://dev/ttyUSB0", "three slashes"),
        ("rtu:///dev/ttyUSB0?baudrate=7", "baudrate must be one of"),
    ],
)
def test_a_place_that_cannot_be_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        addresses([text])


def test_all_ranges_together_are_bounded() -> None:
    with pytest.raises(ValueError, match=str(MOST_ADDRESSES)):
        addresses([f"10.0.{number}.0/24" for number in range(5)])


@given(st.text(max_size=40) | st.from_regex(r"(tcp://|rtu://|tls://)?[0-9./:?-]{0,30}", fullmatch=True))
def test_any_text_is_places_or_refused(text: str) -> None:
    try:
        found = addresses([text])
    except ValueError:
        return
    assert 0 < len(found) <= MOST_ADDRESSES
    for address in found:
        parse_address(address)


def test_units_are_ids_and_ranges_of_them() -> None:
    assert unit_ids("1-3, 126,2") == (1, 2, 3, 126)
    assert unit_ids(None) == LIKELY_UNITS


@pytest.mark.parametrize("units", ["", "x", "3-1", "248", "1-999", "-1", "1,,2", "1-2-3", "1.5"])
def test_units_that_no_device_has_are_refused(units: str) -> None:
    with pytest.raises(ValueError, match="from 0 to 247"):
        unit_ids(units)


@given(st.text(max_size=20))
def test_any_text_is_units_or_refused(units: str) -> None:
    try:
        found = unit_ids(units)
    except ValueError:
        return
    assert found
    assert all(0 <= unit <= 247 for unit in found)
