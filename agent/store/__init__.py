"""The only room that speaks SQL. A value returned by the store means that it survives a power cut.

Knows rows, transactions and durability; knows nothing of what evidence, commands or channels mean.
"""

from agent.store.cipher import Content
from agent.store.errors import (
    ConflictError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreInUseError,
    StoreKeyError,
    StoreVersionError,
)
from agent.store.files import decrypt, key_problem
from agent.store.locked import LockedStore
from agent.store.narrow import NarrowStore, open_store, room_problem
from agent.store.places import PlacedBatch, PlacedSpan
from agent.store.reader import Reader
from agent.store.room import Cut, Kept
from agent.store.rows import ChannelRow, Counts, Queued, QueuedRow, Stage, StoredBatch
from agent.store.secret import KeySource
from agent.store.store import Store, StoreJournal

__all__ = [
    "ChannelRow",
    "ConflictError",
    "Content",
    "Counts",
    "Cut",
    "Kept",
    "KeySource",
    "LockedStore",
    "NarrowStore",
    "PlacedBatch",
    "PlacedSpan",
    "Queued",
    "QueuedRow",
    "Reader",
    "Stage",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreInUseError",
    "StoreJournal",
    "StoreKeyError",
    "StoreVersionError",
    "StoredBatch",
    "decrypt",
    "key_problem",
    "open_store",
    "room_problem",
]
