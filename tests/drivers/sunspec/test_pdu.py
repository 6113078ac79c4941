"""What fits a request and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.errors import BadAnswerError, ModbusExceptionError
from drivers.sunspec.pdu import (
    READ_INPUT,
    Request,
    check,
    octets_of,
    read_request,
    words_of,
    write_one_request,
    write_request,
)

REQUESTS = [
    read_request(1, 40000, 2),
    read_request(1, 52, 2, READ_INPUT),
    write_request(1, 5, [1, 2]),
    write_one_request(1, 5, 0x1234),
]


def test_requests_are_those_of_the_specification() -> None:
    # MODBUS application protocol V1.1b3, sections 6.3, 6.4, 6.6 and 6.12: their own examples.
    assert read_request(1, 0x6B, 3).pdu == bytes.fromhex("03006b0003")
    assert read_request(1, 8, 1, READ_INPUT).pdu == bytes.fromhex("0400080001")
    assert write_one_request(1, 1, 3).pdu == bytes.fromhex("0600010003")
    assert write_request(1, 1, [0x000A, 0x0102]).pdu == bytes.fromhex("100001000204000a0102")


@given(st.sampled_from(REQUESTS), st.binary(min_size=1, max_size=12))
def test_only_an_answer_to_the_request_passes(request_: Request, pdu: bytes) -> None:
    fits = pdu.startswith(request_.answer_head) and len(pdu) == request_.answer_size
    try:
        passed = check("here", request_, 1, pdu) == pdu
    except (BadAnswerError, ModbusExceptionError):
        passed = False
    assert passed == fits


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\x03\x02Su", "holds 1 registers"),
        (b"\x03\x05SunS", "says 5 bytes and has 4"),
        (b"\x04\x04SunS", "function 4"),
        (b"\x83", "function 131"),
    ],
)
def test_a_wrong_answer_is_told_how_it_differs(answer: bytes, said: str) -> None:
    with pytest.raises(BadAnswerError, match=said):
        check("here", REQUESTS[0], 1, answer)


@pytest.mark.parametrize("echo", [b"\x10\0\x06\0\x02", b"\x10\0\x05\0\x01"])
def test_the_echo_of_another_write_is_refused(echo: bytes) -> None:
    with pytest.raises(BadAnswerError, match="which was not written"):
        check("here", write_request(1, 5, [1, 2]), 1, echo)


def test_another_unit_is_refused() -> None:
    with pytest.raises(BadAnswerError, match="unit 2 answered"):
        check("here", REQUESTS[0], 2, b"\x03\x04SunS")


@given(st.integers(0, 255))
def test_every_exception_code_is_the_devices_no(code: int) -> None:
    with pytest.raises(ModbusExceptionError) as fault:
        check("here", REQUESTS[0], 1, bytes((0x83, code)))
    assert fault.value.code == code


def test_registers_are_read_high_byte_first() -> None:
    assert words_of(b"SunS") == [0x5375, 0x6E53]
    assert octets_of([0x5375, 0x6E53]) == b"SunS"
