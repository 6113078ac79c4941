"""The record of decisions: what the plan saw, and what came out, so that an auditor can let it decide again.

A segment is a file: a header, then decisions, each with its length, compressed as one stream that is flushed with every
write, so that a power cut costs the last seconds only. SHA-256 over all before compression, chained from segment to
segment, is stated as signed evidence (alarm `control.record`, severity info) every quarter of an hour.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from agent.control import codec
from agent.control.errors import RestoreError
from agent.control.plan import CommandPlan, DeviceOrder, Plan, make_plan
from agent.control.site import SiteView

SUFFIX: Final = ".decisions"
MOST_BYTES: Final = 16 * 1024 * 1024
"""Of one decision: more is no decision of ours."""
_LENGTH: Final = struct.Struct(">I")


class Cause(IntEnum):
    """Why a plan was made."""

    TURN = 0
    """It was time; the orders went to the devices."""
    ADMISSION = 1
    """A command had been admitted, and was asked about alone: ACCEPTED or PARTIAL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a segment begins with."""

    version: int
    software: str
    """Of the agent that decided: another one may decide otherwise, and is told so."""
    previous: bytes
    """SHA-256 of the segment before; empty for the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One plan: its input and its output, encoded."""

    cause: Cause
    at_us: int
    view: bytes
    plan: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlanRecord:
    """A plan in an order that is always the same."""

    orders: tuple[DeviceOrder, ...]
    commands: tuple[CommandPlan, ...]


def plan_bytes(plan: Plan) -> bytes:
    """What is compared, byte for byte."""
    return codec.encode(
        _PlanRecord(
            orders=tuple(order for _, order in sorted(plan.orders.items())),
            commands=tuple(command for _, command in sorted(plan.commands.items())),
        )
    )


def plan_of(encoded: bytes) -> Plan:
    """Raises RestoreError."""
    record = codec.decode(_PlanRecord, encoded)
    return Plan({o.device_id: o for o in record.orders}, {c.order_hash: c for c in record.commands})


def decision_of(cause: Cause, view: SiteView, plan: Plan) -> Decision:
    """To be recorded."""
    return Decision(cause=cause, at_us=view.now.wall_us, view=codec.encode(view), plan=plan_bytes(plan))


def again(decision: Decision) -> Plan:
    """The same core, now. Raises RestoreError when the input cannot be read."""
    return make_plan(codec.decode(SiteView, decision.view))


class SegmentWriter:
    """Makes the bytes of one segment, in order; the caller writes them."""

    def __init__(self, header: Header) -> None:
        self._compress = zlib.compressobj(6)
        self._digest = hashlib.sha256()
        self.count = 0
        self._begun = [codec.encode(header)]

    @property
    def digest(self) -> bytes:
        """Of everything so far."""
        return self._digest.digest()

    def take(self, decisions: list[Decision]) -> bytes:
        """The bytes to append, which can be read once they are on the disk."""
        frames = [*self._begun, *(codec.encode(decision) for decision in decisions)]
        self._begun = []
        self.count += len(decisions)
        out = bytearray()
        for frame in frames:
            sized = _LENGTH.pack(len(frame)) + frame
            self._digest.update(sized)
            out += self._compress.compress(sized)
        return bytes(out + self._compress.flush(zlib.Z_SYNC_FLUSH))


def read_segment(path: Path) -> Iterator[tuple[Header | Decision, bytes]]:
    """The header, then each decision, each with the digest up to it; what a power cut tore off is not there.

    Raises RestoreError for what was never written so, OSError.
    """
    digest = hashlib.sha256()
    kind: type[Header] | type[Decision] = Header
    for frame in _frames(path):
        digest.update(_LENGTH.pack(len(frame)) + frame)
        try:
            value: Header | Decision = codec.decode(kind, frame)
        except RestoreError as error:
            raise RestoreError(f"{path.name}: {error}") from error
        yield value, digest.digest()
        kind = Decision


def _frames(path: Path) -> Iterator[bytes]:
    decompress, buffer = zlib.decompressobj(), bytearray()
    with path.open("rb") as file:
        while chunk := file.read(65_536):
            try:
                buffer += decompress.decompress(chunk)
            except zlib.error as error:
                raise RestoreError(f"{path.name}: is damaged: {error}") from error
            while len(buffer) >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(buffer)
                if size > MOST_BYTES:
                    raise RestoreError(f"{path.name}: is damaged: a decision of {size} bytes")
                if len(buffer) < _LENGTH.size + size:
                    break
                yield bytes(buffer[_LENGTH.size : _LENGTH.size + size])
                del buffer[: _LENGTH.size + size]
