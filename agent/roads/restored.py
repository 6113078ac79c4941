"""The marker of a restore: a signed alarm that a person put a backup back, and which channels it still concerns.

Or that he began a new life because the card was copied (`new-life`): then it names where the old chain was left.

Committed at the first start after it, or at the next one where that was killed before. A channel may take over the
platform's newer state once the marker is sealed, and until it has been in step with the platform again.
"""

from __future__ import annotations

import hashlib
from typing import Final

from agent.evidence import statements
from agent.evidence.statements import Alarm, Severity
from agent.roads.alarms import MOST_TEXT, Alarms
from agent.roads.desk import Desk
from agent.roads.problems import Problems
from agent.store import Store, StoreError
from agent.uplink.left import LEFT_NOTE, encode_left, left_incarnations

CODE: Final = "store.restored"
MARKER_NOTE: Final = "restore-marker"
MARKED_NOTE: Final = "restore-marked"
"""The incarnation that the marker is of, in decimal."""
DONE_NOTE: Final = "restore-done/"
NEW_LIFE_NOTE: Final = "new-life"
"""Why a person ordered one, until it has begun."""
LEFT_A_CHAIN_NOTE: Final = "new-life-began"
"""The incarnation that began so, in decimal."""


async def mark(store: Store, desk: Desk, now_us: int) -> None:
    """Tell, signed and once, that the store is a backup that was put back, or a copy's new life. Raises StoreError."""
    if await store.note(MARKED_NOTE) == _life(store):
        return
    why = await store.note(NEW_LIFE_NOTE)
    text, more = "a backup was put back, what was sealed since is not here", dict[str, bytes | None]()
    if why is not None:
        text, more = await _leave(store, why.decode())
    marker = Alarm(
        timestamp_us=now_us,
        severity=Severity.CRITICAL,
        code=CODE,
        subject="store",
        text=f"{text}; incarnation {store.incarnation}"[:MOST_TEXT],
    )
    notes = {MARKER_NOTE: statements.encode(marker), MARKED_NOTE: _life(store)}
    await desk.put([marker], notes | more)


async def _leave(store: Store, why: str) -> tuple[str, dict[str, bytes | None]]:
    """Leave the chains of earlier incarnations where the platform acknowledged them last: words, and notes."""
    left = await left_incarnations(store)
    places = []
    for incarnation in await store.unacknowledged_incarnations():
        if incarnation == store.incarnation or incarnation in left:
            continue
        number = await store.acknowledged_number(incarnation)
        at = await store.batches(number, 1, incarnation=incarnation) if number else []
        root = f", root {at[0].root.hex()}" if at and at[0].number == number else ""
        places.append(f"incarnation {incarnation} behind batch {number}{root}")
        left |= {incarnation}
    where = "; ".join(places) or "everything was acknowledged"
    text = f"a new life was begun because: {why}; what follows was left, is disputed and stays here: {where}"
    return text, {LEFT_NOTE: encode_left(left), NEW_LIFE_NOTE: None, LEFT_A_CHAIN_NOTE: _life(store)}


async def has_left_a_chain(store: Store) -> bool:
    """Whether this life began by a person's order to leave the one before. Raises StoreError."""
    return await store.note(LEFT_A_CHAIN_NOTE) == _life(store)


async def tell(store: Store, desk: Desk, alarms: Alarms, problems: Problems, now_us: int) -> None:
    """At the start: what happened to the store since the last one, so that nobody takes it for the one that was."""
    if store.set_aside is not None:
        text = f"the database was damaged and is set aside as {store.set_aside.name}; this is a new incarnation"
        alarms.raise_alarm(Severity.CRITICAL, "store.set_aside", "store", text)
    if store.newly_encrypted:
        text = "the store was in the clear, and is encrypted from now on"
        alarms.raise_alarm(Severity.INFO, "store.encrypted", "store", text)
    if store.damaged_values:
        text = (
            f"{store.damaged_values} encrypted values did not open and were removed: notes, or readings not sealed yet"
        )
        alarms.raise_alarm(Severity.CRITICAL, "store.damaged", "store", text)
    if store.key_mended:
        text = "one of the two places of its wrapped key was damaged and is written anew: look after the disk (dmesg)"
        alarms.raise_alarm(Severity.WARNING, "store.key_mended", "store", text)
    if store.put_back:
        try:
            await mark(store, desk, now_us)
        except StoreError as error:
            # Without the marker channels freeze, as they do for a copied card.
            problems.note("store", f"a backup was put back, and that could not be noted: {error}")
    elif store.restored:
        text = f"an older store is in this place; incarnation {store.incarnation}"
        alarms.raise_alarm(Severity.CRITICAL, CODE, "store", text)


async def is_pending(store: Store, device_id: str) -> bool:
    """Whether a channel has not been in step since the newest restore. Raises StoreError."""
    if await _lacks_marker(store):
        return True
    marker = await store.note(MARKER_NOTE)
    return marker is not None and await store.note(DONE_NOTE + device_id) != _name(marker)


async def is_sealed(store: Store) -> bool:
    """Whether the marker is signed. Raises StoreError."""
    marker = await store.note(MARKER_NOTE)
    return marker is not None and not await _lacks_marker(store) and not await store.is_queued(marker)


async def done(store: Store, device_id: str) -> dict[str, bytes | None]:
    """Notes that end it for a channel, to be committed with what ends it. Raises StoreError."""
    marker = await store.note(MARKER_NOTE)
    return {} if marker is None or await _lacks_marker(store) else {DONE_NOTE + device_id: _name(marker)}


async def _lacks_marker(store: Store) -> bool:
    """Whether this life began with a backup, and the marker of that could not be committed yet: channels wait."""
    return store.put_back and await store.note(MARKED_NOTE) != _life(store)


def _life(store: Store) -> bytes:
    return str(store.incarnation).encode()


def _name(marker: bytes) -> bytes:
    return hashlib.sha256(marker).digest()
