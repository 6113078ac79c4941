"""Addresses: what can be written, and what is said to one who wrote something else."""

from __future__ import annotations

import pytest

from drivers.sunspec.endpoint import Endpoint, SerialSettings, parse_address
from drivers.sunspec.errors import AddressError


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("tcp://192.0.2.10", Endpoint("tcp", "192.0.2.10", 502)),
        ("tls://pv.example", Endpoint("tls", "pv.example", 802)),
        ("tls://[2001:db8::1]:8802", Endpoint("tls", "2001:db8::1", 8802)),
        ("rtutcp://192.0.2.10:4001", Endpoint("rtutcp", "192.0.2.10", 4001)),
        ("rtu:///dev/ttyUSB0", Endpoint("rtu", "/dev/ttyUSB0", 0, SerialSettings())),
        (
            "rtu:///dev/serial/by-id/usb-1?baudrate=19200&parity=e&stopbits=2&databits=8",
            Endpoint("rtu", "/dev/serial/by-id/usb-1", 0, SerialSettings(19200, "E", 2)),
        ),
    ],
)
def test_an_address_is_read_and_written_again(address: str, endpoint: Endpoint) -> None:
    assert parse_address(address) == endpoint
    assert parse_address(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://192.0.2.10", "tcp://host:port"),
        ("rtu://dev/ttyUSB0", "three slashes"),
        ("rtu:///", "rtu:///device"),
        ("rtu:///dev/ttyUSB0?baudrate=9601", "baudrate must be one of 1200, 2400"),
        ("rtu:///dev/ttyUSB0?parity=X", "parity must be one of N, E, O"),
        ("rtu:///dev/ttyUSB0?databits=7", "databits must be one of 8"),
        ("rtu:///dev/ttyUSB0?speed=9600", "there are baudrate, parity"),
        ("rtu:///dev/ttyUSB0?parity=N&parity=E", "twice"),
        ("tls://host?ca=x", "tls://host:port"),
        ("tcp://user@host", "tcp://host:port"),
        ("rtutcp://host:0", "rtutcp://host:port"),
    ],
)
def test_a_wrong_address_is_answered_with_what_would_be_right(address: str, said: str) -> None:
    with pytest.raises(AddressError, match=said):
        parse_address(address)


def test_characters_take_their_time_on_a_serial_line_only() -> None:
    assert parse_address("rtu:///dev/ttyS0?baudrate=9600").transfer_s(96) == pytest.approx(0.1)
    assert parse_address("rtu:///dev/ttyS0?baudrate=9600&parity=E&stopbits=2").transfer_s(96) == pytest.approx(0.12)
    assert parse_address("tcp://h").transfer_s(96) == 0
