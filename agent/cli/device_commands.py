"""The commands read, record and serve: a device's registers for people, in a file, and played. Nothing is written."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from agent.cli.client import AgentUnreachableError
from agent.cli.lines import Held, Target, TargetError, held_by_agent, target
from agent.cli.options import (
    INTERRUPTED,
    CaOption,
    ConfigOption,
    JsonOption,
    MapOption,
    TakeLineOption,
    TimeoutOption,
    UnitOption,
    held_text,
    interruptible,
    settings_and_held,
)
from agent.cli.output import console, emit_json, fail, os_error, plain, progress_bar, table
from agent.cli.places import MOST_UNIT
from agent.cli.readings import Readings, looks, of_agent
from agent.config import DEFAULT_PATH, Settings
from drivers.modbus.server import ModbusTcpServer
from drivers.sunspec.dump import MOST_DUMP_BYTES, DumpError, PlayedRegisters, from_json, to_json
from drivers.sunspec.errors import SunSpecError
from drivers.sunspec.recording import record as record_device
from drivers.sunspec.scrubbing import scrub
from drivers.sunspec.tls import TlsFiles

PLAYING_PORT: Final = 5020
DeviceArgument = Annotated[
    str,
    typer.Argument(
        metavar="DEVICE", help="Id in the configuration, or HOST[:PORT], tls://HOST, rtutcp://HOST:PORT, rtu:///dev/..."
    ),
]


def read(
    device: DeviceArgument,
    models: Annotated[
        list[int] | None, typer.Argument(metavar="MODEL", help="SunSpec models to show; none is all of them.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    period_s: Annotated[
        float, typer.Option(min=0.2, max=3600, metavar="SECONDS", help="With --watch: pause between looks, s.")
    ] = 1.0,
    unit: UnitOption = None,
    timeout_s: TimeoutOption = None,
    map_name: MapOption = None,
    ca_file: CaOption = None,
    config: ConfigOption = DEFAULT_PATH,
    take_line: TakeLineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a device's points with their units.

    What it does not have is said to be not implemented. Many devices take one connection only. While the agent runs
    and holds the device's line, what the agent measured is shown instead; for all points stop the agent, or use
    --take-line with a device that takes several connections. With --watch --json: one JSON value a line.
    """
    settings, held = settings_and_held(config, take_line, as_json)
    wanted = _target(device, settings, unit, timeout_s, map_name, ca_file, as_json)
    with interruptible(0 if watch else INTERRUPTED), _shower(watch=watch, as_json=as_json) as show:
        if names := held.holders(wanted.endpoint):
            if models or device not in names:
                fail(f"{wanted.name}: {held_text(names)}", as_json=as_json)
            _show_agents(device, settings, held, period_s if watch else None, show)
        else:
            try:
                asyncio.run(_show_looks(wanted, models or [], period_s if watch else None, show))
            except (SunSpecError, TargetError) as error:
                fail(f"{error}{_hint(device, settings)}", as_json=as_json)


async def _show_looks(
    wanted: Target, models: list[int], period_s: float | None, show: Callable[[Readings], None]
) -> None:
    with wanted.open() as unit:
        async with aclosing(looks(wanted, unit, models, period_s or 0.0)) as seen:
            async for readings in seen:
                show(readings)
                if period_s is None:
                    return


def _show_agents(
    device: str, settings: Settings | None, held: Held, period_s: float | None, show: Callable[[Readings], None]
) -> None:
    while True:
        show(of_agent(device, held.line_of(device)))
        if period_s is None:
            return
        time.sleep(period_s)
        try:
            held = held_by_agent(settings)
        except (TargetError, AgentUnreachableError) as error:
            fail(str(error))


@contextmanager
def _shower(*, watch: bool, as_json: bool) -> Iterator[Callable[[Readings], None]]:
    """Shows one look after the other: in its place on a terminal, below the one before elsewhere."""
    if as_json and watch:
        yield lambda readings: print(orjson.dumps(readings.as_json()).decode(), flush=True)
    elif as_json:
        yield lambda readings: emit_json(readings.as_json())
    elif watch and console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
            yield lambda readings: live.update(_picture(readings), refresh=True)
    else:
        yield lambda readings: console.print(_picture(readings))


def _picture(readings: Readings) -> RenderableType:
    parts: list[RenderableType] = [Text(plain(f"{readings.device}: {readings.title}"), style="bold")]
    for section in readings.sections:
        parts += ["", Text(plain(section.title), style="bold")]
        if section.points:
            parts.append(table("", ["Point", "Value", "Unit"], section.rows()))
        else:
            parts.append(Text("Only its maker knows what its registers mean."))
    if readings.source == "agent":
        parts.append(Text("The running agent holds the device's line; for all points stop it, or see --take-line."))
    return Group(*parts)


def record(
    device: DeviceArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write: JSON.")],
    unit: UnitOption = None,
    timeout_s: TimeoutOption = None,
    ca_file: CaOption = None,
    vendor_models: Annotated[
        bool,
        typer.Option("--vendor-models", help="Keep models that only the maker can read: they may tell who you are."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    config: ConfigOption = DEFAULT_PATH,
    take_line: TakeLineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Save a SunSpec device's registers to a file, to send to us.

    `serve` plays it back. Serial numbers, network addresses, names and places are taken out of it. Nothing is
    written to the device.
    """
    settings, held = settings_and_held(config, take_line, as_json)
    wanted = _target(device, settings, unit, timeout_s, None, ca_file, as_json)
    if wanted.register_map is not None:
        fail(f"{wanted.name} is read by a register map; only SunSpec devices can be recorded", code=2, as_json=as_json)
    if names := held.holders(wanted.endpoint):
        fail(f"{wanted.name}: {held_text(names)}", as_json=as_json)
    if out.exists() and not force:
        fail(f"{out} is there already; name another file, or use --force", as_json=as_json)
    if not out.parent.is_dir():
        fail(f"{out.parent}: there is no such folder", as_json=as_json)

    async def take() -> bytes:
        with wanted.open() as opened:
            dump = await record_device(opened, lambda what: progress.update(task, description=what))
        return to_json(scrub(dump, vendor_models=vendor_models))

    with progress_bar() as progress, interruptible():
        task = progress.add_task("")
        try:
            content = asyncio.run(take())
        except SunSpecError as error:
            fail(f"{error}{_hint(device, settings)}", as_json=as_json)
        try:
            _write_whole(out, content)
        except OSError as error:
            fail(os_error(error, out), as_json=as_json)
    dump = from_json(content)
    numbers = [number for number, _, _ in dump.models]
    if as_json:
        emit_json(
            {
                "ok": True,
                "file": str(out),
                "device": dump.device,
                "registers": len(dump.regs),
                "unreadable": len(dump.unreadable),
                "models": numbers,
            }
        )
        return
    text = f"{out}: {len(dump.regs)} registers of {dump.device or 'a device without a name'}, models {numbers}"
    console.print(plain(text), markup=False, highlight=False, soft_wrap=True)
    text = "Serial numbers, addresses, names and places are taken out. Look through it before you send it."
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _write_whole(out: Path, content: bytes) -> None:
    """The whole file or none of it. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, out)
    except BaseException:
        os.unlink(name)
        raise


def serve(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A recording, as `record` writes it.")],
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, metavar="PORT", help="TCP port; 0: the system chooses.")
    ] = PLAYING_PORT,
    unit: Annotated[int, typer.Option(min=0, max=MOST_UNIT, metavar="ID", help="Modbus unit id.")] = 1,
    writable: Annotated[
        bool, typer.Option("--writable", help="Take writes: what is written is read back, and nothing else happens.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Play a recorded device as a Modbus TCP server, until Ctrl-C.

    It listens on this machine only, unless --host says otherwise, and takes no writes, unless --writable is given.
    """
    try:
        with file.open("rb") as opened:
            dump = from_json(opened.read(MOST_DUMP_BYTES + 1))
    except DumpError as error:
        fail(f"{file} {error}", as_json=as_json)
    except OSError as error:
        fail(os_error(error, file), as_json=as_json)

    async def play() -> None:
        server = ModbusTcpServer(PlayedRegisters(dump, writable=writable), unit=unit)
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await server.start(host, port)
        shown = f"[{host}]" if ":" in host else host
        address = f"tcp://{shown}:{server.port}"
        if as_json:
            line = {"ok": True, "address": address, "unit": unit, "device": dump.device}
            print(orjson.dumps(line).decode(), flush=True)
        else:
            text = f"{dump.device or dump.name or 'The device'} plays at {address} unit {unit}. Ctrl-C ends it."
            console.print(plain(text), markup=False, highlight=False, soft_wrap=True)
            sys.stdout.flush()
        try:
            await ended.wait()
        finally:
            await server.stop()

    try:
        asyncio.run(play())
    except OSError as error:
        fail(f"{host}:{port}: cannot listen there: {error.strerror or error}", as_json=as_json)


def _target(
    device: str,
    settings: Settings | None,
    unit: int | None,
    timeout_s: float | None,
    map_name: str | None,
    ca_file: Path | None,
    as_json: bool,
) -> Target:
    tls = None if ca_file is None else TlsFiles(ca_file)
    try:
        return target(device, settings, unit=unit, timeout_s=timeout_s, map_name=map_name, tls=tls)
    except TargetError as error:
        fail(str(error), code=2, as_json=as_json)


def _hint(device: str, settings: Settings | None) -> str:
    """A mistyped id is taken for the name of a host."""
    if settings is None or not device.replace("-", "").isalnum() or device in (one.id for one in settings.device):
        return ""
    ids = ", ".join(one.id for one in settings.device if one.address is not None)
    return f"; or did you mean a device of the configuration: {ids or 'there is none'}?"
