"""Bench `command`: from a command's frame in the process to its first byte at the device, in milliseconds.

The whole gateway with store, SoftHSM and a platform over gRPC; the devices and their clocks are processes of their own.
Signed commands come one by one: for a battery (its first Modbus write) and for chargers (SetChargingProfile decoded at
the other end). Verification, the plan and the commit that goes before every permission lie in between; `ms_p99` shall
be under 15.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Final

from agent.cli.init import choose_softhsm
from agent.cli.logs import configure
from agent.cli.run import spare_collector
from agent.clock import ClockQuality
from agent.config import read_settings
from agent.gateway import Gateway
from agent.uplink.grpc_line import GrpcLine
from hil_tests.bench._gateway import TOKEN_LABEL, Installed, install
from hil_tests.rig.demo.child import Child, StageError
from hil_tests.rig.demo.stage import ENVIRONMENT, PLATFORM, free_ports
from proto.energysettlement.v1.gateway_pb2 import PlatformFrame

CHARGERS: Final = 10
ROUNDS: Final = 20
"""Each a command for every charger, and as many for the battery."""
BETWEEN_S: Final = 0.05
"""The next command comes when this one has been obeyed for long."""
READY_S: Final = 90.0
ARRIVED_S: Final = 5.0
TOP_W: Final = 11_000
STEP_W: Final = 300
"""Each command of a charger asks for so much less than the one before: what narrows never waits."""
BATTERY_W: Final = (3_000, 4_000, 5_000)


@dataclass(frozen=True, slots=True)
class Asked:
    """One command of the bench."""

    command_id: str
    device_id: str
    power_w: int


def run(progress: Callable[[str], None], *, chargers: int = CHARGERS, rounds: int = ROUNDS) -> dict[str, float]:
    """The figures, by the names that the README has."""
    with tempfile.TemporaryDirectory(prefix="v2g-bench-") as folder:
        modbus_ms, ocpp_ms = asyncio.run(_measure(progress, Path(folder), chargers, rounds))
    for name, waits in (("Modbus write", modbus_ms), ("SetChargingProfile", ocpp_ms)):
        progress(f"{len(waits)} times {name}: median {statistics.median(waits):.2f} ms, worst {max(waits):.2f} ms")
    both = sorted(modbus_ms + ocpp_ms)
    return {
        "ms_p50": round(statistics.median(both), 2),
        "ms_p99": round(_p99(both), 2),
        "modbus_ms_p99": round(_p99(sorted(modbus_ms)), 2),
        "ocpp_ms_p99": round(_p99(sorted(ocpp_ms)), 2),
    }


def _p99(waits_ms: Sequence[float]) -> float:
    return waits_ms[len(waits_ms) * 99 // 100]


async def _measure(
    progress: Callable[[str], None], folder: Path, chargers: int, rounds: int
) -> tuple[list[float], list[float]]:
    installed = await install(folder)
    ocpp_port, page_port = free_ports(2)
    async with contextlib.AsyncExitStack() as stack:
        site = await stack.enter_async_context(_process("_command_site"))
        meter_port, battery_port = json.loads(await _line(site))
        platform = await Child.start(
            "platform", ("-m", PLATFORM, "serve", str(installed.platform_dir)), folder=folder, environment=ENVIRONMENT
        )
        stack.push_async_callback(platform.end)
        address = str((await platform.hear("ready"))["address"])
        config = folder / "gateway.toml"
        config.write_text(
            _configuration(installed, address, page_port, ocpp_port, (meter_port, battery_port), chargers),
            encoding="utf-8",
        )
        received_ns = stack.enter_context(_noting_frames())
        settings = read_settings(config)
        configure(settings.gateway.log_level, as_json=True)
        choose_softhsm(settings.token, installed.state_dir)
        async with Gateway.open(settings) as gateway:
            spare_collector()
            running = asyncio.create_task(gateway.run())
            stations = await stack.enter_async_context(_process("_ocpp_chargers", str(ocpp_port), str(chargers)))
            try:
                await _until(lambda: _ready(gateway, stations), "everything is connected", READY_S)
                progress(f"{chargers} chargers and a battery are there; {2 * rounds * chargers} commands")
                asked = [one async for one in _order(platform, received_ns, chargers, rounds)]
                arrived_ns = {key: int(at) for key, at in json.loads(await _ended(stations)).items()}
            finally:
                await gateway.shut_down()
                await running
        written_ns = json.loads(await _ended(site))
    return _waits(asked, received_ns, written_ns, arrived_ns)


async def _order(platform: Child, received_ns: dict[str, int], chargers: int, rounds: int) -> AsyncIterator[Asked]:
    """Send all commands, each after the frame of the one before has come and had its time."""
    for number in range(rounds * chargers):
        charger, turn = number % chargers, number // chargers
        for asked, type_ in (
            (Asked(f"b{number}", "battery", BATTERY_W[number % len(BATTERY_W)]), "DISCHARGE"),
            (Asked(f"c{number}", f"car-{charger}", TOP_W - STEP_W * (turn + 1)), "CHARGE"),
        ):
            command = {
                "id": asked.command_id, "type": type_, "power_w": asked.power_w, "duration_s": 600, "point": "device",
                "targets": [asked.device_id], "signed_by": "operational",
            }  # fmt: skip
            await platform.order(do="issue", command=command)
            await _until(lambda name=asked.command_id: name in received_ns, f"frame {asked.command_id}", ARRIVED_S)  # type: ignore[misc]
            await asyncio.sleep(BETWEEN_S)
            yield asked


def _waits(
    asked: Sequence[Asked], received_ns: dict[str, int], written_ns: list[int], arrived_ns: dict[str, int]
) -> tuple[list[float], list[float]]:
    """Of the battery's commands and of the chargers', ms. Raises StageError for a command that never arrived."""
    modbus_ms, ocpp_ms = [], []
    by_limit = {(name.split()[0], float(name.split()[1])): at for name, at in arrived_ns.items()}
    for one in asked:
        began_ns = received_ns[one.command_id]
        if one.device_id == "battery":
            after = bisect_right(written_ns, began_ns)
            if after == len(written_ns):
                raise StageError(f"command {one.command_id} never came to the battery")
            modbus_ms.append((written_ns[after] - began_ns) / 1e6)
        else:
            station = one.device_id.replace("car", "CP")
            at_ns = by_limit.get((station, float(one.power_w)))
            if at_ns is None:
                raise StageError(f"command {one.command_id}, {one.power_w} W, never came to {station}")
            ocpp_ms.append((at_ns - began_ns) / 1e6)
    return modbus_ms, ocpp_ms


def _ready(gateway: Gateway, stations: asyncio.subprocess.Process) -> bool:
    """Raises StageError when the chargers are gone, which nothing else here would notice."""
    if stations.returncode is not None:
        raise StageError(f"the chargers' process has ended with {stations.returncode}; its error is above")
    snapshot = gateway.snapshot()
    linked = any(part.name == "link" and part.ok for part in snapshot.parts)
    timed = snapshot.clock.quality != ClockQuality.UNTRUSTED.name
    # A charger holds what it may do by default once it has been set up.
    settled = [device.confirmed for device in gateway._controller.snapshot().devices]
    return linked and timed and all(settled) and all(device.link == "online" for device in snapshot.devices)


@contextlib.contextmanager
def _noting_frames() -> Iterator[dict[str, int]]:
    """When the frame of each command came off the link, while this lasts."""
    received_ns: dict[str, int] = {}
    read = GrpcLine.read

    async def noted(self: GrpcLine) -> PlatformFrame:
        frame = await read(self)
        if frame.WhichOneof("frame") == "command":
            received_ns[frame.command.command_id] = time.monotonic_ns()
        return frame

    GrpcLine.read = noted  # type: ignore[method-assign]  # for the time of the bench
    try:
        yield received_ns
    finally:
        GrpcLine.read = read  # type: ignore[method-assign]


async def _until(condition: Callable[[], bool], what: str, within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise StageError(f"did not happen within {within_s:g} s: {what}")
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def _process(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A module beside this one, which ends with its standard input."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"hil_tests.bench.{module}", *arguments, stdin=PIPE, stdout=PIPE, limit=1 << 24
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()


async def _ended(process: asyncio.subprocess.Process) -> bytes:
    """The last words of a process whose input ends now."""
    async with asyncio.timeout(30):
        said, _ = await process.communicate(b"")
    return said


def _configuration(
    installed: Installed, address: str, page_port: int, ocpp_port: int, ports: tuple[int, int], chargers: int
) -> str:
    files = "\n".join(f'{key} = "{value}"' for key, value in installed.enrolled.items() if key.endswith("_file"))
    stations = "\n".join(
        f'[[device]]\nid = "car-{number}"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "CP-{number}"\n'
        f'parent = "meter"\nrated_import_w = {TOP_W}\n'
        for number in range(chargers)
    )
    return f"""\
[gateway]
name = "bench"
state_dir = "{installed.state_dir}"

[site]
fuse_a = 4000
phase_difference_a = 0
import_limit_w = 2000000
export_limit_w = 2000000
discharge_permitted = true

[token]
label = "{TOKEN_LABEL}"
pin_secret = "file:{installed.state_dir / "token-pin"}"

[platform]
endpoints = ["{address}"]
server_name = "localhost"
{files}

[control]
lease_s = 900
return_delay_most_s = 0
return_ramp_percent_per_minute = 6000

# More commands in a minute than a site allows in an hour.
[bounds]
events_per_hour = 0

[ocpp]
listen = "127.0.0.1:{ocpp_port}"
meter_interval_s = 1

[web]
listen = "127.0.0.1:{page_port}"

[[device]]
id = "meter"
kind = "meter"
driver = "sunspec"
address = "tcp://127.0.0.1:{ports[0]}"

[[device]]
id = "battery"
kind = "battery"
driver = "sunspec"
address = "tcp://127.0.0.1:{ports[1]}"
parent = "meter"

{stations}"""
