"""What the uplink needs of the store: sealed batches that wait, and the place to note that they have arrived."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol


class WaitingBatch(Protocol):
    """A sealed batch as stored (`agent.store` has the whole of it)."""

    @property
    def incarnation(self) -> int: ...

    @property
    def number(self) -> int:
        """From 1 within an incarnation, without gaps."""
        ...

    @property
    def root(self) -> bytes: ...

    @property
    def encoded(self) -> bytes:
        """The wire form: proto/EVIDENCE.md section 5."""
        ...


class Outbox(Protocol):
    """The part of `agent.store.Store` that the uplink uses. All of it survives a power cut when it returns."""

    async def unacknowledged_incarnations(self) -> Sequence[int]:
        """Incarnations with batches that nobody acknowledged, oldest first: more than one after a restored backup."""
        ...

    async def incarnations(self) -> Sequence[int]:
        """Incarnations with batches, acknowledged or not, oldest first."""
        ...

    async def unacknowledged(
        self, after_number: int, limit: int, *, incarnation: int | None = None
    ) -> Sequence[WaitingBatch]:
        """Batches of an incarnation (None: the present one) that nobody acknowledged, above a number, ascending."""
        ...

    async def acknowledged_number(self, incarnation: int | None = None) -> int:
        """Newest acknowledged batch of an incarnation (None: the present one); 0: none."""
        ...

    async def batches(self, from_number: int, limit: int, *, incarnation: int | None = None) -> Sequence[WaitingBatch]:
        """Batches acknowledged or not, from a number on, ascending; pruned ones are missing."""
        ...

    async def unacknowledged_with(
        self, kinds: Collection[int], after_number: int, *, incarnation: int | None = None
    ) -> Sequence[int]:
        """Numbers of an incarnation's batches that nobody acknowledged, above a number, ascending, which hold
        statements of these kinds."""
        ...

    async def newest_of(self, device_id: str, kind: int) -> bytes | None:
        """The newest sealed statement of a device and kind; None: there is none."""
        ...

    async def note(self, name: str) -> bytes | None:
        """A value that the store keeps under a name."""
        ...

    async def set_notes(self, notes: Mapping[str, bytes | None]) -> None:
        """Keep these; None: keep it no longer."""
        ...

    async def acknowledge(self, incarnation: int, up_to_number: int, at_us: int) -> int:
        """Note that batches up to this number have arrived. Returns how many that were new."""
        ...
