"""Bench `outage`: a day of 50 devices at 1 s is stored without a platform, then drained while the devices go on.

The day runs through the real measuring, sealing, store and token with a clock that is moved a second at a time: one
batch of 50 readings each. It is drained by `v2g-gateway run` over 50 simulated devices, to a platform that acknowledges
and audits nothing: all of it, or what 20 minutes are enough for (`drained_share` below 1). `bytes_on_disk_per_reading`
shall be under 90; written bytes are the kernel's count for the process, of the first hour, with every commit synced.

Storing a day takes eight minutes on two busy cores, draining it three and a half; `--hours 1` does both in one.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from agent.cli.init import choose_softhsm
from agent.clock import Clock
from agent.config import TokenSettings, read_secret
from agent.evidence.batch import KeyProtection
from agent.evidence.seal import SealPolicy
from agent.identity.purposes import EVIDENCE_KEY
from agent.measure.meter import MeteredDevice
from agent.roads.desk import Desk
from agent.roads.measuring import Measuring
from agent.roads.sealing import Sealer
from agent.store import Store
from agent.store.files import DATABASE
from agent.token.token import Token
from drivers.device import Sample
from hil_tests.bench._gateway import TOKEN_LABEL, Installed, Site, device_ids, gateway_over, install
from hil_tests.bench.sunspec import serving
from hil_tests.rig.demo.child import StageError

DEVICES: Final = 50
HOURS: Final = 24
HOUR_S: Final = 3600
COUNTED_HOURS: Final = 1
MOST_DRAIN_S: Final = 1200.0
FIRST_S: Final = 180.0
"""Of an agent that starts over a day's store, which it checks whole."""
LOOK_EVERY_S: Final = 0.5
POWER_W: Final = 3_000


def run(progress: Callable[[str], None], *, hours: int = HOURS) -> dict[str, float]:
    """The figures of this bench by their JSON keys."""
    with serving(DEVICES, "_inverter_site") as ports, tempfile.TemporaryDirectory(prefix="v2g-bench-") as folder:
        return asyncio.run(_measure(progress, Path(folder), ports, hours))


async def _measure(progress: Callable[[str], None], folder: Path, ports: Sequence[int], hours: int) -> dict[str, float]:
    installed = await install(folder)
    readings = DEVICES * hours * HOUR_S
    written = await store_a_day(progress, installed, hours)
    counted = DEVICES * min(hours, COUNTED_HOURS) * HOUR_S
    on_disk = (installed.state_dir / DATABASE).stat().st_size
    progress(f"{on_disk / readings:.1f} bytes on disk for each of {readings} readings, {written / counted:.1f} written")
    async with gateway_over(installed, ports, ("-m", "hil_tests.bench._receiver")) as site:
        drained = await _drain(progress, site, readings)
    return {
        "bytes_on_disk_per_reading": round(on_disk / readings, 1),
        "bytes_written_per_reading": round(written / counted, 1),
        **drained,
    }


async def store_a_day(progress: Callable[[str], None], installed: Installed, hours: int) -> int:
    """Bytes that the kernel was given to write for the counted hours."""
    began_us, began_s = time.time_ns() // 1000 - hours * HOUR_S * 1_000_000, time.monotonic()
    elapsed_s = 0
    clock = Clock(
        realtime_us=lambda: began_us + elapsed_s * 1_000_000,
        monotonic_s=lambda: began_s + elapsed_s,
        kernel_error_us=lambda: 1_000,
    )
    async with token_of(installed) as token:
        signer = token.signer(EVIDENCE_KEY)
        await signer.meet()
        async with await Store.open(installed.state_dir) as store:
            desk, boot_id = Desk(store, clock.monotonic_s), os.urandom(16)
            devices = [MeteredDevice(device_id=name, period_s=1.0) for name in device_ids(DEVICES)]
            measuring = Measuring(devices, desk=desk, clock=clock, incarnation=store.incarnation, boot_id=boot_id)
            sealer = Sealer(
                store=store,
                desk=desk,
                clock=clock,
                signer=signer,
                gateway_id=installed.gateway_id,
                boot_id=boot_id,
                key_protection=KeyProtection.SOFTWARE,
                policy=SealPolicy(),
                on_sealed=lambda _: None,
            )
            before, written = written_bytes(), 0
            for elapsed_s in range(1, hours * HOUR_S + 1):
                for place, device in enumerate(devices):
                    measuring.offer(_sample(device.device_id, place, clock.monotonic_s(), elapsed_s))
                await measuring.commit_waiting()
                await sealer.seal_once()
                if elapsed_s == COUNTED_HOURS * HOUR_S:
                    written = written_bytes() - before
                    await store._write.execute("PRAGMA synchronous = OFF")
                if elapsed_s % HOUR_S == 0:
                    progress(f"{elapsed_s // HOUR_S} h stored in {time.monotonic() - began_s:.0f} s")
        await asyncio.to_thread(os.sync)
    return written


@asynccontextmanager
async def token_of(installed: Installed) -> AsyncIterator[Token]:
    """The token of an installed gateway, ready."""
    pin = f"file:{installed.state_dir / 'token-pin'}"
    settings = TokenSettings(label=TOKEN_LABEL, pin_secret=pin)
    choose_softhsm(settings, installed.state_dir)
    token = Token(module=settings.module, label=TOKEN_LABEL, read_pin=lambda: read_secret(pin))
    token.start()
    try:
        await token.wait_ready()
        yield token
    finally:
        await token.close()


def written_bytes() -> int:
    """Of this process, as the kernel counts what it has to write to disks."""
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise StageError("/proc/self/io does not count written bytes here")


def _sample(device_id: str, place: int, monotonic_s: float, elapsed_s: int) -> Sample:
    wobble = (elapsed_s * 37 + place * 101) % 200
    return Sample(
        device_id=device_id,
        monotonic_s=monotonic_s,
        power_w=-POWER_W - wobble,
        import_register_milliwatt_hours=1_000_000 * place,
        export_register_milliwatt_hours=21_480_000_000 + elapsed_s * (POWER_W + 100) * 10 // 36,
        voltage_millivolts=230_000 + 10 * wobble,
        frequency_millihertz=50_000 + wobble // 10 - 10,
    )


async def _drain(progress: Callable[[str], None], site: Site, backlog: int) -> dict[str, float]:
    began_s = time.monotonic()
    figures = await _figures(site)
    while not figures["first_s"]:
        if time.monotonic() - began_s > FIRST_S:
            raise StageError(f"nothing was drained within {FIRST_S:g} s")
        await asyncio.sleep(LOOK_EVERY_S)
        figures = await _figures(site)
    while figures["readings"] < backlog:
        if time.monotonic() - began_s > MOST_DRAIN_S:
            progress(f"{figures['readings']:.0f} of {backlog} readings were drained in {MOST_DRAIN_S:g} s, no more")
            break
        await asyncio.sleep(LOOK_EVERY_S)
        figures = await _figures(site)
    took_s = figures["last_s"] - figures["first_s"]
    progress(f"drained in {took_s:.1f} s, {figures['live_readings']:.0f} readings were shown live meanwhile")
    return {
        "drain_readings_per_s": round(figures["readings"] / took_s),
        "drain_s": round(took_s, 3),
        "drained_share": round(min(1.0, figures["readings"] / backlog), 4),
        "live_ms_p99": round(figures["live_ms_p99"], 1),
        "bytes_on_wire_per_reading": round(figures["wire_bytes"] / figures["readings"], 1),
    }


async def _figures(site: Site) -> dict[str, float]:
    since = len(site.platform.said)
    await site.platform.order(do="figures")
    said = await site.platform.hear("readings", since)
    return {name: float(value) if isinstance(value, int | float) else 0.0 for name, value in said.items()}
