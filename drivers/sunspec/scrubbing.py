"""Takes out of a dump what says whose device it is: serial numbers, network addresses, names, places. Pure.

What remains is what the device is and does. Texts keep their place and whether they are there, nothing else; models
that nobody but the vendor can read are left out, because nobody can say what stands in them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from drivers.sunspec.codec import Field, Layout, layout
from drivers.sunspec.dump import Dump, name_for
from drivers.sunspec.models import HEADER_SIZE, PointKind, model_definition

SCRUBBED: Final = b"SCRUBBED"
KEPT_TEXTS: Final[Mapping[int, frozenset[str]]] = {
    1: frozenset({"Mn", "Md", "Opt", "Vr"}),
    122: frozenset({"TmSrc"}),
}
"""Texts that say what a device is, not whose."""
PRIVATE_NUMBERS: Final = frozenset({*range(10, 20), 305, 601})
"""Models of interfaces and of the place: their wide numbers are telephone numbers, subscriber ids, coordinates."""
_WIDE: Final[Mapping[PointKind, bytes]] = {
    PointKind.INT32: b"\x80\0\0\0",
    PointKind.UINT32: b"\xff" * 4,
    PointKind.ACC32: b"\0" * 4,
    PointKind.INT64: b"\x80" + b"\0" * 7,
    PointKind.UINT64: b"\xff" * 8,
    PointKind.ACC64: b"\0" * 8,
}
"""Not implemented, by kind."""
_ADDRESSES: Final[Mapping[PointKind, bytes]] = {
    PointKind.IPADDR: bytes((192, 0, 2, 1)),  # RFC 5737
    PointKind.IPV6ADDR: bytes((0x20, 0x01, 0x0D, 0xB8)) + b"\0" * 11 + b"\1",  # RFC 3849
    PointKind.EUI48: b"\0\0\0\0\x5e\0\x53\x01",  # RFC 7042
}
"""Addresses for documentation, which are nobody's."""
LEAST_SERIAL: Final = 5
"""Characters: a shorter serial number would be found by chance."""
MOST_DIGITS: Final = 19
"""Of a number in 64 bits."""
DIGITS: Final = re.compile(rb"\d+")
SERIAL_NAME: Final = re.compile(r"(^|\.)SN$|[Ss]erial")
"""Points that hold serial numbers: 1 SN, 805 SN, 64001 S1Serial, 64020 SerialNumber."""
EMPTY_WORDS: Final = frozenset({0, 0x8000, 0xFFFF})
"""What padding holds."""


def scrub(dump: Dump, *, vendor_models: bool = False) -> Dump:
    """The dump without identity. `vendor_models`: models without a public definition stay in it, as they are.

    A serial number is also looked for where it does not belong: as text and as a number, in every register and in what
    the file says about the device. Scrubbing twice changes nothing more.
    """
    regs = dict(dump.regs)
    unreadable = set(dump.unreadable)
    serials: set[bytes] = set()
    for number, address, length in dump.models:
        definition = model_definition(number)
        body = range(address + HEADER_SIZE, address + HEADER_SIZE + length)
        if definition is None:
            if not vendor_models:
                unreadable.update(body)
                for at in body:
                    regs.pop(at, None)
            continue
        place = layout(definition, length, [regs.get(address + offset, 0) for offset in range(length + HEADER_SIZE)])
        for field in _private(number, place):
            here = range(address + field.offset, address + field.end)
            data = _packed([regs.get(at, 0) for at in here])
            if SERIAL_NAME.search(field.path):
                serials.add(data.split(b"\0", 1)[0].strip())
            instead = struct.unpack(f">{len(here)}H", _instead(field.point.kind, data))
            regs.update((at, word) for at, word in zip(here, instead, strict=True) if at in regs)
        covered = {address + at for field in place.fields.values() for at in range(field.offset, field.end)}
        for at in body:
            if at not in covered and regs.get(at, 0) not in EMPTY_WORDS:
                regs[at] = 0  # half a point that the model is too short for, or something of the vendor's
    for pattern in _patterns(serials):
        _take_out(regs, pattern)
    device = _without(dump.device, serials)
    return replace(
        dump,
        name=dump.name if device == dump.device else name_for(device),
        device=device,
        note=_without(dump.note, serials),
        regs=regs,
        unreadable=frozenset(unreadable),
    )


def _private(number: int, place: Layout) -> Iterator[Field]:
    kept = KEPT_TEXTS.get(number, frozenset())
    for field in place.fields.values():
        kind = field.point.kind
        if (
            kind in _ADDRESSES
            or (kind is PointKind.STRING and field.path not in kept)
            or (kind in _WIDE and number in PRIVATE_NUMBERS)
        ):
            yield field


def _instead(kind: PointKind, data: bytes) -> bytes:
    if not any(data):
        return data
    if kind in _WIDE:
        return _WIDE[kind]
    if kind in _ADDRESSES:
        return data if data == b"\xff" * len(data) else _ADDRESSES[kind]
    return SCRUBBED[: len(data)].ljust(len(data), b"\0") if data.strip(b"\0 ") else data


def _packed(words: Sequence[int]) -> bytes:
    return struct.pack(f">{len(words)}H", *words)


def _searched(serials: Iterable[bytes]) -> list[bytes]:
    """Serial numbers that are none of ours and long enough not to be found by chance, the longest first."""
    found = {serial for serial in serials if len(serial) >= LEAST_SERIAL and serial[:8] != SCRUBBED[: len(serial)]}
    return sorted((serial for serial in found if serial.strip(b"0")), key=len, reverse=True)


def _without(text: str, serials: Iterable[bytes]) -> str:
    for serial in _searched(serials):
        text = text.replace(serial.decode("utf-8", "replace"), "0" * len(serial))
    return text


def _patterns(serials: Iterable[bytes]) -> Iterator[bytes]:
    """A serial number as it may also stand somewhere: the text, its bytes swapped, its number in either word order."""
    for serial in _searched(serials):
        yield serial
        yield serial.swapcase()
        for odd in (serial + b"\0" * (len(serial) % 2), b"\0" + serial + b"\0" * ((len(serial) + 1) % 2)):
            yield b"".join(odd[at + 1 : at + 2] + odd[at : at + 1] for at in range(0, len(odd), 2))
        digits = b"".join(DIGITS.findall(serial))
        if not LEAST_SERIAL <= len(digits) <= MOST_DIGITS:
            continue
        number = int(digits)
        size = 4 if number < 1 << 32 else 8
        if number >= 1 << 16:
            as_number = number.to_bytes(size, "big")
            yield as_number
            yield b"".join(as_number[at : at + 2] for at in range(size - 2, -1, -2))


def _take_out(regs: dict[int, int], pattern: bytes) -> None:
    """Overwrite the pattern wherever it stands in adjoining registers."""
    for first, end in _runs(regs):
        data = _packed([regs[at] for at in range(first, end)])
        if pattern in data:
            clean = bytes(data.replace(pattern, b"\0" * len(pattern)))
            regs.update(enumerate(struct.unpack(f">{len(clean) // 2}H", clean), first))


def _runs(regs: Mapping[int, int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for at in sorted(regs):
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], at + 1)
        else:
            runs.append((at, at + 1))
    return runs
