"""Takes typed fields off a decoded CBOR array, in order, so that a decoder reads like the layout it decodes."""

from __future__ import annotations

from typing import Final

from agent.evidence import cbor

MAX_INT64: Final = (1 << 63) - 1


class Fields:
    """One pass over one array. Every method raises ValueError or TypeError that names the field by its place."""

    def __init__(self, fields: list[cbor.Value], first: int = 0) -> None:
        """`first` is the place of fields[0] in the array that a person sees."""
        self._fields = fields
        self._next = 0
        self._first = first

    def _take(self) -> cbor.Value:
        if self._next >= len(self._fields):
            raise ValueError(f"has {len(self._fields) + self._first} fields, more are needed")
        self._next += 1
        return self._fields[self._next - 1]

    @property
    def _place(self) -> str:
        return f"field {self._first + self._next - 1}"

    def number(self) -> int:
        """A signed 64-bit integer."""
        value = self._take()
        if type(value) is not int or not -MAX_INT64 - 1 <= value <= MAX_INT64:
            raise TypeError(f"{self._place} is not a signed 64-bit integer")
        return value

    def count(self) -> int:
        """Zero and above."""
        value = self.number()
        if value < 0:
            raise ValueError(f"{self._place} is negative")
        return value

    def ordinal(self) -> int:
        """One and above."""
        value = self.number()
        if value < 1:
            raise ValueError(f"{self._place} counts from 1")
        return value

    def number_or_none(self) -> int | None:
        return None if self._skip_none() else self.number()

    def count_or_none(self) -> int | None:
        return None if self._skip_none() else self.count()

    def text(self) -> str:
        value = self._take()
        if not isinstance(value, str):
            raise TypeError(f"{self._place} is not text")
        return value

    def text_or_none(self) -> str | None:
        return None if self._skip_none() else self.text()

    def flag(self) -> bool:
        value = self._take()
        if not isinstance(value, bool):
            raise TypeError(f"{self._place} is not a boolean")
        return value

    def octets(self, length: int | None = None) -> bytes:
        """A byte string, of this length where one is given."""
        value = self._take()
        if not isinstance(value, bytes) or (length is not None and len(value) != length):
            raise TypeError(f"{self._place} is not a byte string" + ("" if length is None else f" of {length}"))
        return value

    def octets_or_none(self) -> bytes | None:
        return None if self._skip_none() else self.octets()

    def items(self) -> list[cbor.Value]:
        value = self._take()
        if not isinstance(value, list):
            raise TypeError(f"{self._place} is not an array")
        return value

    def none(self) -> bool:
        """Whether null is next; it is taken then."""
        return self._skip_none()

    def items_or_none(self) -> list[cbor.Value] | None:
        return None if self._skip_none() else self.items()

    def end(self) -> None:
        """Nothing may be left."""
        if self._next != len(self._fields):
            raise ValueError(f"has {len(self._fields) + self._first} fields, {self._next + self._first} are right")

    def _skip_none(self) -> bool:
        if self._next < len(self._fields) and self._fields[self._next] is None:
            self._next += 1
            return True
        return False
