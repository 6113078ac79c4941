"""A device's registers in a file: the form of recordings and fixtures, and the device that plays one back. No I/O.

JSON: `name`, `device`, `note`, `base`, `models` [[id, address, length]], `chain_end`, `unreadable` [addresses that
answer with an exception], `regs` {address: word}. What else a file says (source, license) is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drivers.modbus.server import Refusal, RegisterRefusedError
from drivers.sunspec.errors import SunSpecError

MOST_DUMP_BYTES: Final = 4 * 1024 * 1024
"""All 65536 registers take a quarter of this."""


class DumpError(SunSpecError):
    """A file is no recording of registers. Says what is wrong in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """Registers of one device at about one moment."""

    name: str
    device: str
    note: str
    base: int
    models: tuple[tuple[int, int, int], ...]
    """(id, address of the ID register, length)."""
    chain_end: str
    unreadable: frozenset[int]
    regs: dict[int, int]


def name_for(device: str) -> str:
    """A short name for files and tests, from manufacturer and model."""
    return re.sub(r"[^a-z0-9.]+", "-", device.partition(" / fw ")[0].lower()).strip("-")


def to_json(dump: Dump) -> bytes:
    """The file's content. `from_json` reads it back as it was."""
    return orjson.dumps(
        {
            "name": dump.name,
            "device": dump.device,
            "note": dump.note,
            "base": dump.base,
            "models": dump.models,
            "chain_end": dump.chain_end,
            "unreadable": sorted(dump.unreadable),
            "regs": {str(address): dump.regs[address] for address in sorted(dump.regs)},
        },
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


_Word = Annotated[int, Field(ge=0, le=0xFFFF, strict=True)]


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str = Field("", max_length=200)
    device: str = Field("", max_length=500)
    note: str = Field("", max_length=2000)
    base: _Word
    models: list[tuple[_Word, _Word, _Word]] = Field([], max_length=1000)
    chain_end: str = Field("", max_length=500)
    unreadable: list[_Word] = Field([], max_length=0x10000)
    regs: dict[Annotated[int, Field(ge=0, le=0xFFFF)], _Word] = Field(min_length=1)


def from_json(content: bytes) -> Dump:
    """The dump in a file. Raises DumpError."""
    if len(content) > MOST_DUMP_BYTES:
        raise DumpError(f"is larger than {MOST_DUMP_BYTES} bytes; is it a recording of registers?")
    try:
        file = _File.model_validate(orjson.loads(content))
    except orjson.JSONDecodeError as error:
        raise DumpError(f"is not JSON: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])[:80] or "the whole"
        more = f" (and {error.error_count() - 1} more faults)" if error.error_count() > 1 else ""
        raise DumpError(f"{where}: {fault['msg']}{more}; is it a recording of registers?") from error
    return Dump(
        name=file.name,
        device=file.device,
        note=file.note,
        base=file.base,
        models=tuple(file.models),
        chain_end=file.chain_end,
        unreadable=frozenset(file.unreadable),
        regs=dict(file.regs),
    )


@dataclass(slots=True)
class PlayedRegisters:
    """A dump as `drivers.modbus.server` gives access to it. Writes change what is read next, if they are allowed."""

    dump: Dump
    writable: bool = False
    _words: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self._words = dict(self.dump.regs)

    def read(self, address: int, count: int) -> list[int]:
        """Raises RegisterRefusedError for what was not readable on the device either."""
        self._check(range(address, address + count))
        return [self._words[at] for at in range(address, address + count)]

    def write(self, address: int, words: list[int]) -> None:
        """All of them or none. Raises RegisterRefusedError."""
        if not self.writable:
            raise RegisterRefusedError(Refusal.ILLEGAL_ADDRESS, "a recording that is played back takes no writes")
        self._check(range(address, address + len(words)))
        self._words.update(enumerate(words, address))

    def _check(self, addresses: Iterable[int]) -> None:
        for at in addresses:
            if at in self.dump.unreadable or at not in self._words:
                raise RegisterRefusedError(Refusal.ILLEGAL_ADDRESS, f"{at} answers with an exception")
