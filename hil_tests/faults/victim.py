"""The whole agent over a known source, telling what its store has promised; made to be harmed.

python -m hil_tests.faults.victim CONFIG. As in hil_tests/rig/wrong_clock.py, what the agent asks of the outside is
replaced before it starts: its devices, the two calls to the kernel about time, and the class of its store by one that
writes a line for each call that has returned. All else is `v2g-gateway run`.

Lines on stdout: {"put": [hex of a statement, ...]}, {"sealed": [incarnation, number, hex of the root]},
{"acknowledged": [incarnation, number]}. Orders on stdin, JSON lines: {"do": "clock", "offset_s": -3600, "held": true}
sets the system clock; `held`: by NTP, which the kernel then says. {"do": "die", "stage": 0}: it is killed when the next
state of a channel has been committed at that stage. Such a commit is {"channel": [[incarnation, version, stage, hex]]}.
{"do": "harm", "at": "leaves go", "how": "before"}: what befalls it at the next commit of a kind (`points.py`).
With V2G_FAULTS_THINNING=1 there is never room for evidence, and what is older than a second is merged. V2G_FAULTS_BOOT
is the kernel's boot id: with another one the machine was rebooted. With V2G_FAULTS_AWAY_S=5 the platform is away after
so many seconds: the TPM's counter is raised then.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import agent.clock
import agent.gateway
import agent.roads.identity
import agent.roads.offline
import agent.roads.store_key
import agent.roads.thinning
from agent.clock import Clock
from agent.config import Settings
from agent.roads.alarms import Alarms
from agent.roads.desk import Desk
from agent.roads.devices import SiteDevices
from agent.roads.thinning import PLAN_NOTE, Thinner
from agent.store import ChannelRow, Cut, NarrowStore, Queued, Stage, Store, StoredBatch, open_store
from drivers.device import (
    Capabilities,
    DeadMan,
    DeviceKind,
    DeviceRefusedError,
    DeviceStatus,
    LinkState,
    Sample,
    Setpoint,
)
from drivers.sunspec.connection import ConnectionPool
from hil_tests.faults.points import DoomedFolder, How, Point, doom, harmed, tell
from hil_tests.faults.source import PERIOD_S, registers

CLOCK_ERROR_US = 1_000


EAGER = {"YOUNGEST_S": 1.0, "REST_S": 0.2, "LOOK_EVERY_S": 0.1, "MINUTE_SLOT_S": 1, "QUARTER_SLOT_S": 5}
"""Of `agent.roads.thinning`: a second and five in the place of a minute and a quarter of an hour."""
ORDERS_EVERY_S = 0.2


class TellingStore(Store):
    """The store, and a witness of what it has promised."""

    _stands_queued = False
    """What stands for merged readings has been put, and not been sealed."""

    async def cut(self, cuts: Sequence[Cut], notes: Mapping[str, bytes | None], sealed_kind: int) -> int:
        gone = await harmed(Point.LEAVES_GO, super().cut(cuts, notes, sealed_kind))
        tell(cut=gone)
        return gone

    async def put(
        self,
        statements: Sequence[Queued],
        notes: Mapping[str, bytes | None] | None = None,
        channel: Sequence[ChannelRow] = (),
    ) -> None:
        if notes and notes.get(PLAN_NOTE) is not None:
            await harmed(Point.THINNING_BEGINS, super().put(statements, notes, channel))
            self._stands_queued = True
        else:
            await super().put(statements, notes, channel)
        if channel:
            tell(channel=[[row.incarnation, row.version, int(row.stage), row.encoded.hex()] for row in channel])
            if any(row.stage is doom.stage for row in channel):
                os.kill(os.getpid(), signal.SIGKILL)
        if statements:
            tell(put=[statement.encoded.hex() for statement in statements])

    async def seal(self, batch: StoredBatch, up_to_rowid: int) -> None:
        if self._stands_queued:
            self._stands_queued = False
            await harmed(Point.THINNING_SEALED, super().seal(batch, up_to_rowid))
        else:
            await super().seal(batch, up_to_rowid)
        tell(sealed=[batch.incarnation, batch.number, batch.root.hex()])

    async def acknowledge(self, incarnation: int, up_to_number: int, at_us: int) -> int:
        new = await super().acknowledge(incarnation, up_to_number, at_us)
        tell(acknowledged=[incarnation, up_to_number])
        return new


class TellingNarrowStore(TellingStore, NarrowStore):
    """The same, on a disk without room."""


class KnownMeter:
    """A device that shows `source.registers`."""

    kind = DeviceKind.METER

    def __init__(self, device_id: str) -> None:
        self.device_id = device_id
        self._last: Sample | None = None

    def status(self) -> DeviceStatus:
        capabilities = Capabilities(
            rated_import_w=100_000,
            rated_export_w=100_000,
            limits_import=False,
            limits_export=False,
            follows_setpoint=False,
            dead_man=DeadMan.NONE,
            fallback_lowest_w=0,
            fallback_highest_w=0,
        )
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=LinkState.ONLINE,
            detail="a known source",
            capabilities=capabilities,
            last_sample=self._last,
        )

    async def run(self, emit: Callable[[Sample], None]) -> None:
        while True:
            monotonic_s = time.monotonic()
            imported, exported = registers(self.device_id, int(monotonic_s * 1000))
            self._last = Sample(
                device_id=self.device_id,
                monotonic_s=monotonic_s,
                power_w=39_600,
                import_register_milliwatt_hours=imported,
                export_register_milliwatt_hours=exported,
            )
            emit(self._last)
            await asyncio.sleep(PERIOD_S)

    async def apply(self, setpoint: Setpoint) -> None:
        raise DeviceRefusedError(f"{self.device_id} is a meter and takes no order")

    async def release(self) -> None:
        return


def known_devices(
    settings: Settings, *, store: Store, clock: Clock, on_event: Callable[[str, str, str], None], **approvals: object
) -> SiteDevices:
    """In place of the configured drivers."""
    del store, on_event, approvals
    devices = {device.id: KnownMeter(device.id) for device in settings.device}
    return SiteDevices({**devices}, None, ConnectionPool(clock.monotonic_s), {})


class SystemClock:
    """What the kernel says of wall time, from where it was set."""

    def __init__(self) -> None:
        self.offset_ns = 0
        self.held = True
        self._true_ns = time.time_ns

    def time_ns(self) -> int:
        return self._true_ns() + self.offset_ns

    def kernel_error_us(self) -> int | None:
        return CLOCK_ERROR_US if self.held else None


def take_orders(clock: SystemClock) -> None:
    """Until stdin ends; then nobody watches any more, and this process has no business to go on."""
    for line in sys.stdin:
        match json.loads(line):
            case {"do": "clock", "offset_s": int(offset_s), "held": bool(held)}:
                clock.offset_ns, clock.held = offset_s * 10**9, held
                tell(done="clock")
            case {"do": "die", "stage": int(stage)}:
                doom.stage = Stage(stage)
                tell(done="die")
            case {"do": "harm", "at": str(at), "how": str(how)}:
                doom.point, doom.how = Point(at), How(how)
                tell(done="harm")
            case other:
                tell(error=f"unknown order {other}")
    os._exit(1)


def thin_eagerly() -> None:
    """Never is there room, and what is a second old is old."""
    for name, value in EAGER.items():
        setattr(agent.roads.thinning, name, value)
    real = agent.roads.thinning.make_thinner

    def made(settings: Settings, *, store: Store, desk: Desk, clock: Clock, alarms: Alarms) -> Thinner:
        thinner = real(settings, store=store, desk=desk, clock=clock, alarms=alarms)
        thinner._most_bytes = 1
        return thinner

    for name, part in {"make_thinner": made}.items():
        setattr(agent.gateway, name, part)


def main(config: str) -> None:
    """Until SIGTERM or worse."""
    clock = SystemClock()
    clock.offset_ns = int(os.environ.get("V2G_FAULTS_CLOCK_OFFSET_S", "0")) * 10**9
    clock.held = os.environ.get("V2G_FAULTS_CLOCK_HELD", "1") == "1"
    time.time_ns = clock.time_ns
    agent.clock.kernel_clock_error_us = clock.kernel_error_us
    if (boot := os.environ.get("V2G_FAULTS_BOOT")) is not None:
        agent.clock.read_kernel_boot_id = lambda: boot
    agent.roads.offline.AWAY_S = float(os.environ.get("V2G_FAULTS_AWAY_S", agent.roads.offline.AWAY_S))  # type: ignore[misc]  # final for everybody else
    telling = functools.partial(open_store, usual=TellingStore, narrow=TellingNarrowStore)
    # The one place where the product names each.
    for module, name, part in (
        (agent.gateway, "make_devices", known_devices),
        (agent.roads.store_key, "open_store", telling),
    ):
        setattr(module, name, part)
    for name, value in {"LOOK_EVERY_S": ORDERS_EVERY_S, "IdentityFolder": DoomedFolder}.items():
        setattr(agent.roads.identity, name, value)
    if os.environ.get("V2G_FAULTS_THINNING") == "1":
        thin_eagerly()
    threading.Thread(target=take_orders, args=(clock,), daemon=True).start()
    from agent.cli import run

    sys.exit(run.main(["--config", config, "--json"]))


if __name__ == "__main__":
    main(sys.argv[1])
