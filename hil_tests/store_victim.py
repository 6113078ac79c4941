"""A process that writes to a store and tells, a line each, what the store has acknowledged; made to be killed.

python -m hil_tests.store_victim FOLDER. Each device's readings are numbered; what the next number is, it reads from the
store, as the agent does. Lines: "put DEVICE SEQUENCE", "seal NUMBER ROOT", "ack NUMBER", after the store returned.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

import cbor2

from agent.store import Queued, Store, StoredBatch

DEVICES = 4
T0_US = 1_760_000_000_000_000


def leaf(device: str, sequence: int) -> bytes:
    """The one content that this reading may ever have."""
    return hashlib.sha256(f"{device}:{sequence}".encode()).digest()


def say(*words: object) -> None:
    print(*words, flush=True)


async def measure(store: Store, device: str) -> None:
    key = f"meter/{device}"
    sequence = int(await store.note(key) or b"0")
    while True:
        sequence += 1
        row = Queued(1, device, sequence, T0_US + sequence * 1_000_000, leaf(device, sequence))
        await store.put([row], {key: str(sequence).encode()})
        say("put", device, sequence)


async def seal(store: Store) -> None:
    last = await store.last_batch()
    number, root = (0, bytes(32)) if last is None else last[1:]
    while True:
        rows = await store.queued(50)
        if not rows:
            await asyncio.sleep(0)
            continue
        number += 1
        encoded = cbor2.dumps([1, b"signature", [b"sealing", *(row.encoded for row in rows)]])
        new_root = hashlib.sha256(encoded).digest()
        batch = StoredBatch(store.incarnation, number, new_root, root, encoded, T0_US, len(rows) + 1)
        await store.seal(batch, rows[-1].rowid)
        root = new_root
        say("seal", number, root.hex())
        if number % 7 == 0:
            await store.acknowledge(store.incarnation, number - 2, T0_US + number * 60_000_000)
            say("ack", number - 2)


async def main(folder: Path) -> None:
    """Until killed."""
    store = await Store.open(folder, reserve_bytes=64 << 10)
    say("open", store.incarnation)
    async with store, asyncio.TaskGroup() as tasks:
        for n in range(DEVICES):
            tasks.create_task(measure(store, f"d{n}"))
        tasks.create_task(seal(store))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
