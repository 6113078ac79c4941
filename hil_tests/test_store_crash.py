"""The store under kill -9 at random moments: what it acknowledged is there, once, and numbers go on without reuse."""

from __future__ import annotations

import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.store import Reader, Store, spans
from hil_tests.store_victim import DEVICES, leaf

ROOT = Path(__file__).parent.parent


def run_and_kill(folder: Path, lines: int) -> list[list[str]]:
    """Everything that the victim said before it was killed; it is killed in the midst of its work after some lines."""
    victim = subprocess.Popen(
        [sys.executable, "-m", "hil_tests.store_victim", str(folder)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert victim.stdout is not None
    try:
        said: list[str] = []
        while len(said) < lines:
            assert select.select([victim.stdout], [], [], 60)[0], "the victim does not get on"
            said.append(victim.stdout.readline())
        victim.send_signal(signal.SIGKILL)
        # A line cut by the kill says nothing.
        said += [line for line in victim.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        return [line.split() for line in said]
    finally:
        victim.kill()
        victim.wait()
        victim.stdout.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_at_any_moment_nothing_acknowledged_is_lost_doubled_or_reused(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged = dict.fromkeys((f"d{n}" for n in range(DEVICES)), 0)
    roots: dict[int, str] = {}
    acked = 0
    for _ in range(5):
        for words in run_and_kill(tmp_path, chance.randint(20, 400)):
            match words:
                case ["open", incarnation]:
                    assert incarnation == "1"
                case ["put", device, sequence]:
                    assert int(sequence) > acknowledged[device], "a sequence was used twice"
                    acknowledged[device] = int(sequence)
                case ["seal", number, root]:
                    assert int(number) not in roots, "a batch number was used twice"
                    roots[int(number)] = root
                case ["ack", number]:
                    acked = int(number)
        async with Reader.beside(tmp_path) as reader:
            for device, most in acknowledged.items():
                kept = await reader.statements(device, 1, 0, 1 << 62)
                assert len(kept) >= most
                assert kept == [leaf(device, n) for n in range(1, len(kept) + 1)], "lost, doubled or out of order"
    async with await Store.open(tmp_path, reserve_bytes=64 << 10) as store:
        assert store.set_aside is None
        assert await store.acknowledged_number() >= acked
        previous = bytes(32)
        held = await store.batches(1, 1_000_000)
        assert [b.number for b in held] == list(range(1, len(held) + 1))
        for batch in held:
            assert batch.previous_root == previous
            assert roots.get(batch.number, batch.root.hex()) == batch.root.hex()
            assert len(spans.leaves_of(batch.encoded)) == batch.leaf_count
            previous = batch.root
        assert await store.counts() == await Reader.counts(store)
