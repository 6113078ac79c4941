"""Bench `seal`: readings per second that are sealed and committed, with SoftHSM and with a token of 10 signatures/s.

The real desk, store, sealer and token in one process, as the gateway runs them; a reading counts when the batch that
holds it is committed. As many readings are on their way at once as `roads/measuring.py` commits together, in groups of
each device.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.clock import Clock
from agent.evidence.batch import KeyProtection, SealedBatch, decode_batch
from agent.evidence.seal import SealPolicy
from agent.evidence.statements import decode
from agent.measure.reading import Quality, Reading
from agent.roads.desk import Desk
from agent.roads.measuring import MOST_AT_ONCE
from agent.roads.sealing import Sealer
from agent.store import Store
from agent.token.token import Curve, Token
from drivers.device import Signer, ValueSource
from hil_tests.rig.token import make_softhsm

DEVICES: Final = 64
GROUP: Final = MOST_AT_ONCE // DEVICES
READINGS: Final = 200_000
BURST: Final = 10
"""Puts in one turn of the loop, where the load has to catch up."""
THROTTLED_PER_S: Final = 10.0
"""Signatures: what a discrete TPM or secure element makes at its best."""
OFFERED_PER_S: Final = 16_000
OFFERED_S: Final = 8.0
BOOT_ID: Final = bytes(16)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run showed."""

    readings_per_s: float
    encrypted_readings_per_s: float
    throttled_readings_per_s: float
    throttled_commit_ms_p99: float


class ThrottledSigner:
    """A real signer that is made as slow as a token behind a slow bus: one signature at a time, each this long."""

    def __init__(self, inner: Signer, per_s: float) -> None:
        self._inner = inner
        self._each_s = 1 / per_s
        self._turn = asyncio.Lock()
        self.algorithm = inner.algorithm
        self.public_key_der = inner.public_key_der

    async def sign(self, message: bytes) -> bytes:
        async with self._turn:
            began_s = time.monotonic()
            signature = await self._inner.sign(message)
            await asyncio.sleep(began_s + self._each_s - time.monotonic())
            return signature

    async def sign_digest(self, digest: bytes) -> bytes:
        async with self._turn:
            signature = await self._inner.sign_digest(digest)
            await asyncio.sleep(self._each_s)
            return signature


def reading(device: int, sequence: int) -> Reading:
    """A reading as a busy site makes it, measured now."""
    return Reading(
        device_id=f"device-{device}",
        incarnation=1,
        boot_id=BOOT_ID,
        sequence=sequence,
        timestamp_us=time.time_ns() // 1000,
        net_energy_wh=sequence % 3,
        import_register_milliwatt_hours=1_234_567_000 + 1_700 * sequence,
        export_register_milliwatt_hours=7_654_321_000,
        meter_epoch=1,
        power_w=6_120 + sequence % 50,
        voltage_millivolts=230_400 + sequence % 900,
        state_of_charge_permille=640,
        frequency_millihertz=50_010,
        quality=Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )


class Desks:
    """A store and sealer in a folder of their own, and when each batch was committed."""

    def __init__(self, store: Store, signer: Signer) -> None:
        self.store = store
        self.desk = Desk(store, time.monotonic)
        self.committed_us: dict[int, int] = {}
        self._sealed = asyncio.Event()
        self.sealer = Sealer(
            store=store,
            desk=self.desk,
            clock=Clock(),
            signer=signer,
            gateway_id="did:key:zDnaeBench",
            boot_id=BOOT_ID,
            key_protection=KeyProtection.SOFTWARE,
            policy=SealPolicy(),
            on_sealed=self._on_sealed,
        )

    def _on_sealed(self, batch: SealedBatch) -> None:
        self.committed_us[batch.identity.number] = time.time_ns() // 1000
        self._sealed.set()

    async def drained(self) -> None:
        """Returns once everything that was put is sealed and committed."""
        while (await self.store.counts()).queued:
            self._sealed.clear()
            await self._sealed.wait()


async def flat_out(desks: Desks, readings: int) -> float:
    """Readings per second with every producer putting as fast as the store takes them."""

    async def produce(device: int, groups: int) -> None:
        for group in range(groups):
            first = group * GROUP + 1
            await desks.desk.put([reading(device, first + n) for n in range(GROUP)])

    sealing = asyncio.create_task(desks.sealer.run())
    began_s = time.perf_counter()
    groups = readings // DEVICES // GROUP
    await asyncio.gather(*(produce(device, groups) for device in range(DEVICES)))
    await desks.drained()
    took_s = time.perf_counter() - began_s
    sealing.cancel()
    return DEVICES * groups * GROUP / took_s


async def offered(desks: Desks, per_s: int, seconds: float) -> tuple[float, float]:
    """(readings/s committed while the load lasts, p99 in ms from measurement to commit of the batch).

    The load does not wait for the store. Waits are judged of readings up to a second before its end: the last few
    linger for company that no longer comes.
    """
    sealing = asyncio.create_task(desks.sealer.run())
    began_s, end_us = time.perf_counter(), time.time_ns() // 1000 + round(seconds * 1e6)
    sequence = 0
    async with asyncio.TaskGroup() as group:
        while (elapsed_s := time.perf_counter() - began_s) < seconds:
            due = int(elapsed_s * per_s / DEVICES)
            for _ in range(min(due - sequence, BURST)):
                sequence += 1
                group.create_task(desks.desk.put([reading(device, sequence) for device in range(DEVICES)]))
            await asyncio.sleep(0.001)
    await desks.drained()
    sealing.cancel()
    waits_us: list[int] = []
    in_time = count = 0
    for batch in await desks.store.batches(1, 1_000_000):
        committed_us = desks.committed_us[batch.number]
        leaves = map(decode, decode_batch(batch.encoded).leaves)
        measured_us = [leaf.timestamp_us for leaf in leaves if isinstance(leaf, Reading)]
        waits_us += [committed_us - at_us for at_us in measured_us if at_us < end_us - 1_000_000]
        count += len(measured_us)
        in_time += batch.leaf_count - 1 if committed_us <= end_us else 0
    assert count == DEVICES * sequence, "a reading is missing from the sealed batches"
    return in_time / seconds, sorted(waits_us)[len(waits_us) * 99 // 100] / 1000


async def measure(progress: Callable[[str], None], folder: Path) -> Figures:
    """Both runs, one after the other, on the file system of `folder`."""
    scratch = make_softhsm(folder / "token")
    os.environ.update(scratch.environment)
    token = Token(module=scratch.module, label=scratch.label, read_pin=lambda: scratch.pin)
    token.start()
    try:
        await token.wait_ready()
        await token.create_key(b"evidence", Curve.P256)
        signer = token.signer(b"evidence")
        await signer.meet()
        progress(f"{READINGS} readings of {DEVICES} devices with SoftHSM, as fast as they are taken")
        async with await Store.open(folder / "fast") as store:
            fast = await flat_out(Desks(store, signer), READINGS)
        progress("the same with an encrypted store")
        site_key = secrets.token_bytes(32)
        async with await Store.open(folder / "encrypted", key=lambda: site_key) as store:
            encrypted = await flat_out(Desks(store, signer), READINGS)
        progress(f"{OFFERED_PER_S} readings/s for {OFFERED_S:g} s with {THROTTLED_PER_S:g} signatures/s")
        async with await Store.open(folder / "slow") as store:
            slow, p99_ms = await offered(
                Desks(store, ThrottledSigner(signer, THROTTLED_PER_S)), OFFERED_PER_S, OFFERED_S
            )
    finally:
        await token.close()
    return Figures(fast, encrypted, slow, p99_ms)


def run(progress: Callable[[str], None]) -> dict[str, float]:
    """The figures of this bench by their JSON keys."""
    with tempfile.TemporaryDirectory(prefix="v2g-bench-") as folder:
        figures = asyncio.run(measure(progress, Path(folder)))
    return {
        "readings_per_s": round(figures.readings_per_s),
        "encrypted_readings_per_s": round(figures.encrypted_readings_per_s),
        "throttled_readings_per_s": round(figures.throttled_readings_per_s),
        "throttled_commit_ms_p99": round(figures.throttled_commit_ms_p99, 1),
    }
