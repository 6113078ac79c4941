"""Bench `pipeline`: from sample to the platform's acknowledgement, beside PyPI's thingsboard-gateway 3.8.5 in one run.

Both get the same readings of 64 devices as fast as they take them, one process each, one after the other, on the same
disk; a rate is all readings over the time from the first sample to the last arrival.
Ours: measured, committed (SQLite, synchronous FULL), sealed with SoftHSM, committed again, sent over gRPC with TLS, and
counted when the platform's signed acknowledgement is committed; the newest readings of each batch go out live as well.
The platform (`_receiver`) decodes and acknowledges, and audits nothing.
Theirs, as shipped but for what `_thingsboard.py` names: a custom connector converts, its sqlite storage keeps (in its
shipped synchronous NORMAL, which a power cut may undo), it delivers in packs of 1000 over MQTT without TLS to a local
mosquitto at QoS 1, and a reading counts when a subscriber has it. It signs nothing.
Readings come one by one, as drivers and connectors give them. `readings_per_s` shall be at least 15,000, `ratio` 2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.clock import Clock
from agent.config import PlatformSettings
from agent.evidence.batch import KeyProtection, SealedBatch
from agent.evidence.seal import SealPolicy
from agent.identity.keys import verify_key_from_pem
from agent.identity.purposes import EVIDENCE_KEY, UPLINK_KEY
from agent.measure.meter import MeteredDevice
from agent.roads.desk import Desk
from agent.roads.measuring import Measuring
from agent.roads.sealing import Sealer
from agent.roads.telemetry import live_telemetry
from agent.store import Store
from agent.uplink.mqtt_login import log_in
from agent.uplink.session import UplinkIdentity
from agent.uplink.tls import credentials_from_files
from agent.uplink.uplink import Uplink
from drivers.device import Sample
from hil_tests.bench import _thingsboard
from hil_tests.bench._gateway import Installed, install, installed_token
from hil_tests.bench._pipeline_readings import device_name, measured
from hil_tests.rig.demo.child import Child, StageError
from hil_tests.rig.demo.stage import ENVIRONMENT

DEVICES: Final = 64
READINGS: Final = 120_000
AHEAD: Final = 8_192
"""Samples that wait to be measured at most: the sources go on while a group commits."""
TURN: Final = 256
"""Samples given between two looks at what waits."""
MOST_S: Final = 180.0
"""Of either gateway. What has arrived by then counts; ours must have delivered all."""
TLS_SIGN_S: Final = 10.0
LOOK_EVERY_S: Final = 0.01


def run(progress: Callable[[str], None], *, readings: int = READINGS, python: Path | None = None) -> dict[str, float]:
    """The figures of this bench by their JSON keys. `python`: of a venv with thingsboard-gateway; None makes one."""
    with tempfile.TemporaryDirectory(prefix="v2g-bench-") as folder:
        for name in ("ours", "theirs"):
            (Path(folder) / name).mkdir()
        return asyncio.run(_measure(progress, Path(folder), readings, python))


async def _measure(
    progress: Callable[[str], None], folder: Path, readings: int, python: Path | None
) -> dict[str, float]:
    peer = python or await _thingsboard.install(folder, progress)
    progress(f"{readings} readings of {DEVICES} devices through v2g-gateway")
    ours = await _ours(folder / "ours", readings)
    progress(f"{ours:.0f} readings/s; the same readings through {_thingsboard.PACKAGE}")
    arrived, took_s = await _thingsboard.deliver(
        peer, folder / "theirs", progress, devices=DEVICES, readings=readings, most_s=MOST_S
    )
    theirs = arrived / took_s
    progress(f"{arrived} of {readings} readings arrived in {took_s:.1f} s")
    return {
        "readings_per_s": round(ours),
        "thingsboard_readings_per_s": round(theirs),
        "ratio": round(ours / theirs, 2),
    }


async def _ours(folder: Path, readings: int) -> float:
    """Readings per second, acknowledged by the platform. Raises StageError when they are not, in time."""
    installed = await install(folder)
    platform = await Child.start(
        "platform",
        ("-m", "hil_tests.bench._receiver", str(installed.platform_dir)),
        folder=folder,
        environment=ENVIRONMENT,
    )
    try:
        address = str((await platform.hear("ready"))["address"])
        async with _road(installed, address) as road:
            await road.connected()
            began_s = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MOST_S):
                    await asyncio.gather(road.give(readings), road.all_acknowledged(readings))
                    return readings / (time.monotonic() - began_s)
            raise StageError(f"not all of {readings} readings were acknowledged in {MOST_S:g} s: {platform.words()}")
    finally:
        await platform.end()


@dataclass(frozen=True, slots=True)
class Road:
    """The road up, running. Made by `_road`."""

    measuring: Measuring
    store: Store
    uplink: Uplink
    clock: Clock

    async def connected(self) -> None:
        """Wait for the link. Raises StageError when it does not come up."""
        deadline_s = time.monotonic() + MOST_S
        while not self.uplink.status().connected:
            if time.monotonic() > deadline_s:
                raise StageError(f"no link to the platform: {self.uplink.status().detail}")
            await asyncio.sleep(LOOK_EVERY_S)

    async def give(self, readings: int) -> None:
        """Offer samples, one device after the other, no more than AHEAD of what is committed."""
        given = 0
        while given < readings:
            while given - self.measuring.readings > AHEAD - TURN:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.001)
            for number in range(given, min(given + TURN, readings)):
                self.measuring.offer(_sample(number % DEVICES, 1 + number // DEVICES, self.clock.monotonic_s()))
            given = min(given + TURN, readings)
            await asyncio.sleep(0)

    async def all_acknowledged(self, readings: int) -> None:
        """Returns once so many readings are sealed and acknowledged."""
        while True:
            counts = await self.store.counts()
            if counts.sealed_statements - counts.unacknowledged_statements >= readings:
                return
            await asyncio.sleep(LOOK_EVERY_S)


@contextlib.asynccontextmanager
async def _road(installed: Installed, address: str) -> AsyncIterator[Road]:
    """Measuring, sealing, store, token and uplink as `agent/gateway.py` puts them together, in this process."""
    token = installed_token(installed)
    token.start()
    tasks: list[asyncio.Task[None]] = []
    try:
        await token.wait_ready()
        evidence, tls = token.signer(EVIDENCE_KEY), token.signer(UPLINK_KEY)
        await evidence.meet()
        await tls.meet()
        files = {key: value for key, value in installed.enrolled.items() if key.endswith("_file")}
        settings = PlatformSettings.model_validate({"endpoints": [address], "server_name": "localhost", **files})
        async with await Store.open(installed.state_dir) as store:
            clock, boot_id = Clock(), os.urandom(16)
            desk = Desk(store, clock.monotonic_s)
            names = tuple(device_name(place) for place in range(DEVICES))
            measuring = Measuring(
                [MeteredDevice(device_id=name, period_s=1.0) for name in names],
                desk=desk,
                clock=clock,
                incarnation=store.incarnation,
                boot_id=boot_id,
            )
            uplink = Uplink(
                settings,
                identity=UplinkIdentity(
                    gateway_id=installed.gateway_id,
                    incarnation=store.incarnation,
                    boot_id=boot_id,
                    software_version="bench",
                    device_ids=names,
                ),
                outbox=store,
                credentials=lambda: credentials_from_files(
                    ca_file=settings.ca_file,
                    certificate_file=settings.certificate_file,
                    public_key_der=tls.public_key_der,
                    sign_digest=lambda digest: token.sign_blocking(UPLINK_KEY, digest, TLS_SIGN_S),
                ),
                mqtt_login=lambda endpoint: log_in(settings, tls, installed.gateway_id, clock, endpoint),
                platform_key=verify_key_from_pem(settings.platform_key_file.read_bytes(), what="platform key"),
                clock=clock,
                on_command=_ignored,
                on_channel=_ignored,
                on_connected=_ignored,
                on_platform_time=clock.witness,
                on_alarm=lambda *_: None,
            )

            def on_sealed(batch: SealedBatch) -> None:
                uplink.batch_ready()
                for device_id, telemetry in live_telemetry(batch):
                    uplink.live(device_id, telemetry)

            sealer = Sealer(
                store=store,
                desk=desk,
                clock=clock,
                signer=evidence,
                gateway_id=installed.gateway_id,
                boot_id=boot_id,
                key_protection=KeyProtection.SOFTWARE,
                policy=SealPolicy(),
                on_sealed=on_sealed,
            )
            tasks += [asyncio.create_task(part.run()) for part in (measuring, sealer, uplink)]
            yield Road(measuring, store, uplink, clock)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await token.close()


async def _ignored(*_: object) -> None:
    """The platform of this bench asks for nothing."""


def _sample(place: int, sequence: int, monotonic_s: float) -> Sample:
    raw = measured(place, sequence)
    return Sample(
        device_id=device_name(place),
        monotonic_s=monotonic_s,
        power_w=raw["power_w"],
        import_register_milliwatt_hours=raw["import_milliwatt_hours"],
        export_register_milliwatt_hours=raw["export_milliwatt_hours"],
        voltage_millivolts=raw["voltage_millivolts"],
        frequency_millihertz=raw["frequency_millihertz"],
        state_of_charge_permille=raw["state_of_charge_permille"],
    )
