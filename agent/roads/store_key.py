"""The store under the key that the configuration names; while that key, or room for it, is away it is waited for.

A TPM that does not answer for now must not orphan the evidence: nothing is set aside, and nothing is written beside it.
A full disk stops no control either. What is waited for is said.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from agent.config import Settings
from agent.evidence.statements import Severity
from agent.roads.alarms import Alarms
from agent.roads.problems import Problems
from agent.store import (
    LockedStore,
    Store,
    StoreError,
    StoreFullError,
    StoreKeyError,
    key_problem,
    open_store,
    room_problem,
)
from agent.store.files import Lock
from agent.token.pin import sealed_problem
from agent.token.store_key import store_key

SUBJECT: Final = "store key"
SUBJECT_ROOM: Final = "store"
ASK_AGAIN_LEAST_S: Final = 1.0
ASK_AGAIN_MOST_S: Final = 60.0

log = structlog.get_logger()


async def configured_store(settings: Settings) -> Store:
    """The store, or what stands in its place while its key or room is away. Raises StoreError, OSError."""
    try:
        return await open_store(
            settings.gateway.state_dir,
            key=store_key(settings.evidence.store_key_secret),
            most_bytes=settings.evidence.most_mib << 20,
        )
    except (StoreKeyError, StoreFullError) as error:
        lacks_room = isinstance(error, StoreFullError)
        log.error("store.no_room_to_begin" if lacks_room else "store.locked", reason=str(error))
        # Two agents would control the same devices.
        lock = await asyncio.to_thread(Lock, settings.gateway.state_dir)
        return LockedStore(str(error), lock, lacks_room=lacks_room)


async def tell_sealed(settings: Settings, alarms: Alarms, problems: Problems) -> None:
    """At the start: of the secrets that the TPM sealed, which lies on a damaged part of the disk, or once only."""
    for subject, reference in (
        ("sealed store key", settings.evidence.store_key_secret),
        ("sealed PIN", settings.token.pin_secret),
    ):
        said, was_damaged = await asyncio.to_thread(sealed_problem, reference)
        if said:
            problems.note(subject, said)
        if was_damaged:
            alarms.raise_alarm(Severity.WARNING, "secret.damaged", subject, said)


async def wait_store(settings: Settings, store: LockedStore, problems: Problems, unlocked: asyncio.Event) -> None:
    """Ask for the key until it opens the store, or the disk until there is room for it; then set `unlocked`."""
    folder, key = settings.gateway.state_dir, store_key(settings.evidence.store_key_secret)
    look = partial(room_problem, folder) if store.lacks_room else partial(key_problem, folder, key)
    why, subject = store.why, SUBJECT_ROOM if store.lacks_room else SUBJECT
    wait_s = ASK_AGAIN_LEAST_S
    while why:
        text = "nothing is measured into evidence, no command is taken and none that was stored is known"
        problems.note(subject, f"{why}. Until then {text}; it is tried again, each minute at the latest")
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, ASK_AGAIN_MOST_S)
        try:
            why = await asyncio.to_thread(look)
        except StoreError as error:
            why = str(error)
    log.info("store.unlocked")
    unlocked.set()
