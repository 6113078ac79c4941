"""Deterministic CBOR (RFC 8949 section 4.2.1): one encoding for each value, and a decoder that reads no other.

Encoding is cbor2's, except that cbor2 sorts map keys length first (RFC 7049) when asked for canonical output, so maps
are ordered here. Decoding is our own: cbor2 accepts duplicate keys, longer-than-needed heads and trailing bytes, and it
runs whatever tags ask for (regular expressions, decimals, shared references that unfold to any size) before a caller
sees the value. Here a tag is a number with a value.
"""

from __future__ import annotations

import io
import threading
from typing import Final, TypeAlias

import cbor2

from agent.evidence.errors import MalformedError

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[int, Value] | cbor2.CBORTag | None"

MAX_DEPTH: Final = 8
"""Of arrays, maps and tags inside one another."""

# Major types of RFC 8949 section 3.1.
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLE_VALUES: Final[dict[int, Value]] = {0xF4: False, 0xF5: True, 0xF6: None}

_PLAIN: Final = frozenset({type(None), bool, str, bytes})
_LEAST: Final = -(1 << 64)
_BEYOND: Final = 1 << 64


def encode(value: Value) -> bytes:
    """The one encoding of a value. Raises TypeError for floats and whatever else the format has no place for."""
    return _scratch.encode(_ordered(value, MAX_DEPTH))


class _Scratch(threading.local):
    """An encoder and its buffer for each thread: making them anew takes twice as long as encoding a reading."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._buffer = io.BytesIO()
        self._encoder = cbor2.CBOREncoder(self._buffer)

    def encode(self, value: Value) -> bytes:
        try:
            self._encoder.encode(value)
            return self._buffer.getvalue()
        except BaseException:
            self._clear()  # it remembers the lists that it was in, and would call them cyclic next time
            raise
        finally:
            self._buffer.seek(0)
            self._buffer.truncate()


_scratch: Final = _Scratch()


def decode(encoded: bytes, *, what: str, most_bytes: int = 1 << 20) -> Value:
    """The value of exactly these bytes. `what` names the thing in the error.

    Raises MalformedError when they are too long, no CBOR, hold a float, or are not the value's one encoding.
    """
    if len(encoded) > most_bytes:
        raise MalformedError(f"{what}: {len(encoded)} bytes, at most {most_bytes} are allowed")
    value, end = decode_first(encoded, what=what)
    if end != len(encoded):
        raise MalformedError(f"{what}: {len(encoded) - end} bytes follow the value")
    return value


def decode_first(encoded: bytes, *, what: str) -> tuple[Value, int]:
    """The value at the start of these bytes, and how many of them it takes. Raises MalformedError as `decode`."""
    try:
        return _read(encoded, 0, MAX_DEPTH)
    except (ValueError, IndexError) as error:
        reason = "ends in the middle of a value" if isinstance(error, IndexError) else str(error)
        raise MalformedError(f"{what}: not deterministic CBOR of this format: {reason[:120]}") from error


def _read(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    """The value that begins at `at`, and where it ends. Raises ValueError or IndexError."""
    if depth < 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    first = data[at]
    major, argument = first >> 5, first & 0x1F
    if major == _SIMPLE:
        if first not in _SIMPLE_VALUES:
            raise ValueError("a float, or a simple value other than false, true and null")
        return _SIMPLE_VALUES[first], at + 1
    at += 1
    if argument > 23:
        argument, at = _long_argument(data, at, argument)
    if major == _UNSIGNED:
        return argument, at
    if major == _NEGATIVE:
        return -1 - argument, at
    if major in (_BYTES, _TEXT):
        end = at + argument
        if end > len(data):
            raise ValueError(f"a string of {argument} bytes where {len(data) - at} are left")
        return (data[at:end] if major == _BYTES else data[at:end].decode("utf-8")), end
    if major == _ARRAY:
        items: list[Value] = []
        for _ in range(argument):
            item, at = _read(data, at, depth - 1)
            items.append(item)
        return items, at
    if major == _MAP:
        return _read_map(data, at, argument, depth)
    item, at = _read(data, at, depth - 1)
    return cbor2.CBORTag(argument, item), at


def _long_argument(data: bytes, at: int, kind: int) -> tuple[int, int]:
    """The argument of a head that continues in 1, 2, 4 or 8 bytes, which must need that many."""
    if kind > 27:
        raise ValueError("indefinite length, or a reserved head")
    width = 1 << (kind - 24)
    end = at + width
    if end > len(data):
        raise IndexError
    argument = int.from_bytes(data[at:end])
    if argument < (24 if width == 1 else 1 << (4 * width)):
        raise ValueError("a number or length is encoded longer than it needs")
    return argument, end


def _read_map(data: bytes, at: int, size: int, depth: int) -> tuple[Value, int]:
    entries: dict[int, Value] = {}
    previous = b""
    for _ in range(size):
        start = at
        if data[at] >> 5 > _NEGATIVE:
            raise ValueError("map keys are integers")
        key, at = _read(data, at, depth - 1)
        assert isinstance(key, int)
        if data[start:at] <= previous:
            raise ValueError("map keys are not in bytewise order, or one stands twice")
        previous = data[start:at]
        entries[key], at = _read(data, at, depth - 1)
    return entries, at


def _ordered(value: Value, depth: int) -> Value:
    if depth < 0:
        raise TypeError(f"nested deeper than {MAX_DEPTH}")
    if type(value) in _PLAIN:
        return value
    if type(value) is int:
        if not _LEAST <= value < _BEYOND:
            raise TypeError("integer outside 64 bits")
        return value
    if type(value) is list:
        # Statements are flat lists: what needs no second look is passed on here, without a call for each.
        return [
            item
            if (kind := type(item)) in _PLAIN or (kind is int and _LEAST <= item < _BEYOND)  # type: ignore[operator]  # an int
            else _ordered(item, depth - 1)
            for item in value
        ]
    if type(value) is dict:
        if any(type(key) is not int for key in value):
            raise TypeError("map keys are integers")
        # Bytewise order of the encoded keys.
        return {key: _ordered(value[key], depth - 1) for key in sorted(value, key=cbor2.dumps)}
    if type(value) is cbor2.CBORTag:
        return cbor2.CBORTag(value.tag, _ordered(value.value, depth - 1))
    raise TypeError(f"{type(value).__name__} has no place in this format")
