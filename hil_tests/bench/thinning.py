"""Bench `thinning`: hours of 50 devices at 1 s that nobody acknowledged are merged to a minute, then to 15 minutes.

The hours are stored as in bench `outage`. The space is set so that everything older than an hour is merged, as far as
it goes. Written bytes are the kernel's count for the process, commits synced as the agent's are.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from agent.clock import Clock
from agent.evidence.batch import KeyProtection
from agent.evidence.seal import SealPolicy
from agent.identity.purposes import EVIDENCE_KEY
from agent.roads.desk import Desk
from agent.roads.live_windows import Live
from agent.roads.sealing import Sealer
from agent.roads.thinning import PLAN_NOTE, Thinner
from agent.store import Store
from drivers.device import Signer
from hil_tests.bench._gateway import Installed, install
from hil_tests.bench.outage import DEVICES, HOUR_S, store_a_day, token_of, written_bytes

HOURS: Final = 2


def run(progress: Callable[[str], None], *, hours: int = HOURS) -> dict[str, float]:
    """The figures of this bench by their JSON keys."""
    with tempfile.TemporaryDirectory(prefix="v2g-bench-") as folder:
        return asyncio.run(_measure(progress, Path(folder), hours))


async def _measure(progress: Callable[[str], None], folder: Path, hours: int) -> dict[str, float]:
    installed = await install(folder)
    await store_a_day(progress, installed, hours)
    async with token_of(installed) as token:
        signer = token.signer(EVIDENCE_KEY)
        await signer.meet()
        # An hour and more later: all of it is old enough.
        clock = Clock(
            realtime_us=lambda: time.time_ns() // 1000 + 2 * HOUR_S * 1_000_000, kernel_error_us=lambda: 1_000
        )
        async with await Store.open(installed.state_dir) as store:
            return await _merge(progress, installed, store, clock, signer)


async def _merge(
    progress: Callable[[str], None], installed: Installed, store: Store, clock: Clock, signer: Signer
) -> dict[str, float]:
    desk = Desk(store, clock.monotonic_s)
    sealer = Sealer(
        store=store,
        desk=desk,
        clock=clock,
        signer=signer,
        gateway_id=installed.gateway_id,
        boot_id=os.urandom(16),
        key_protection=KeyProtection.SOFTWARE,
        policy=SealPolicy(),
        on_sealed=lambda _: None,
    )

    async def nothing_live(_: int) -> Mapping[str, Live]:
        return {}

    before = await store.used_bytes()
    thinner = Thinner(
        store=store,
        desk=desk,
        clock=clock,
        most_bytes=before,
        retain_days=7,
        live_at=nothing_live,
        on_alarm=lambda *_: None,
    )
    written, began_s = written_bytes(), time.monotonic()
    while await thinner.look() or await store.note(PLAN_NOTE) is not None:
        await sealer.seal_once()
    took_s = time.monotonic() - began_s
    readings = thinner.merged_readings
    progress(f"{readings} readings of {DEVICES} devices merged in {took_s:.1f} s: {thinner.trouble or 'there is room'}")
    return {
        "bytes_on_disk_per_reading_before": round(before / readings, 1),
        "bytes_on_disk_per_reading_merged": round(await store.used_bytes() / readings, 1),
        "bytes_written_per_merged_reading": round((written_bytes() - written) / readings, 1),
        "merged_readings_per_s": round(readings / took_s),
    }
