"""A store that cannot be opened for now: nothing is kept in it and nothing known of it, and everything else goes on.

Its key is away, or the disk has no room to make it ready (to begin one, or to bring it to a newer format).

Writing fails as on a full disk and reading as on a failed one, which every part lives with; a driver's journal has
nothing on record. So the site is controlled by its defaults and limits, STOP works, and nothing is lost: registers of
meters go on. Whoever opened it tries again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from agent.store.cipher import PLAIN
from agent.store.errors import StoreFullError, StoreKeyError
from agent.store.files import Lock
from agent.store.query import Parameter
from agent.store.room import Cut
from agent.store.rows import ChannelRow, Counts, Queued, Stage, StoredBatch
from agent.store.store import Store, StoreJournal


class LockedStore(Store):
    """Stands in the place of a store until there is a key, or room."""

    def __init__(self, why: str, lock: Lock | None = None, *, lacks_room: bool = False) -> None:
        """`why`: for a person, what is wrong with the key or the disk and what to do. `lock`: let go by `close`."""
        self.why = why
        self.lacks_room = lacks_room
        """Room, and not its key."""
        self._held = lock
        self.content = PLAIN
        self.incarnation = 0
        self.set_aside: Path | None = None
        self.restored = self.put_back = False
        self.trouble = ""
        self.in_the_clear, self.newly_encrypted, self.damaged_values = "", False, 0
        self.key_mended = False

    async def close(self) -> None:
        """Let others have what it stands for."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    async def put(
        self,
        statements: Sequence[Queued],
        notes: Mapping[str, bytes | None] | None = None,
        channel: Sequence[ChannelRow] = (),
    ) -> None:
        self._refuse()

    async def seal(self, batch: StoredBatch, up_to_rowid: int) -> None:
        self._refuse()

    async def acknowledge(self, incarnation: int, up_to_number: int, at_us: int) -> int:
        self._refuse()

    async def forget_kept(self, before_us: int) -> int:
        self._refuse()

    async def cut(self, cuts: Sequence[Cut], notes: Mapping[str, bytes | None], sealed_kind: int) -> int:
        self._refuse()

    async def channel_append(
        self, channel_id: bytes, incarnation: int, version: int, stage: Stage, encoded: bytes
    ) -> None:
        self._refuse()

    async def set_notes(self, notes: Mapping[str, bytes | None]) -> None:
        self._refuse()

    async def counts(self) -> Counts:
        return Counts()

    def journal(self, namespace: str) -> StoreJournal:
        return _NothingOnRecord(self, namespace)

    async def _all(self, sql: str, *parameters: Parameter) -> list[tuple[Any, ...]]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise (StoreFullError if self.lacks_room else StoreKeyError)(self.why)


class _NothingOnRecord(StoreJournal):
    async def recall(self, key: str) -> bytes | None:
        return None
