"""A store whose key is away: nothing is kept in it and nothing known of it, and everything else goes on.

Writing fails as on a full disk and reading as on a failed one, which every part lives with; a driver's journal has
nothing on record. So the site is controlled by its defaults and limits, STOP works, and nothing is lost: registers of
meters go on. Whoever opened it asks for the key again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from agent.store.cipher import PLAIN
from agent.store.errors import StoreKeyError
from agent.store.query import Parameter
from agent.store.rows import ChannelRow, Counts, Queued
from agent.store.store import Store, StoreJournal


class LockedStore(Store):
    """Stands in the place of a store until there is a key."""

    def __init__(self, why: str) -> None:
        """`why`: for a person, what is wrong with the key and what to do."""
        self.why = why
        self.content = PLAIN
        self.incarnation = 0
        self.set_aside: Path | None = None
        self.restored = self.put_back = False
        self.trouble = ""
        self.in_the_clear, self.newly_encrypted, self.damaged_values = "", False, 0

    async def close(self) -> None:
        pass

    async def put(
        self,
        statements: Sequence[Queued],
        notes: Mapping[str, bytes | None] | None = None,
        channel: Sequence[ChannelRow] = (),
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
        raise StoreKeyError(self.why)


class _NothingOnRecord(StoreJournal):
    async def recall(self, key: str) -> bytes | None:
        return None
