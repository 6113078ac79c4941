"""`v2g-gateway scan` as a command: what is asked, shown and, with consent, probed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.markup import escape

from agent.cli import places
from agent.cli import probe as probing
from agent.cli import scan as scanning
from agent.cli.options import (
    CaOption,
    ConfigOption,
    JsonOption,
    TakeLineOption,
    held_text,
    interruptible,
    settings_and_held,
)
from agent.cli.output import console, emit_json, errors, fail, plain, progress_bar, table
from agent.config import DEFAULT_PATH
from drivers.sunspec.endpoint import parse_address
from drivers.sunspec.tls import TlsFiles


def scan(
    hosts: Annotated[
        list[str],
        typer.Argument(
            metavar="WHERE",
            help="HOST[:PORT]; a range, 192.0.2.10-30 or 192.0.2.0/24; tls://HOST; rtutcp://HOST:PORT; "
            "a serial port, rtu:///dev/ttyUSB0, whose baud rate and parity are found out.",
        ),
    ],
    units: Annotated[
        str | None, typer.Option(metavar="IDS", help="Modbus unit ids to ask: 1-3,126. Absent: those that makers ship.")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(min=0.05, max=30, metavar="SECONDS", help="How long a device may take to answer, s.")
    ] = 1.0,
    most_s: Annotated[
        float, typer.Option(min=1, max=86_400, metavar="SECONDS", help="How long the whole scan may take, s.")
    ] = scanning.SCAN_S,
    ca_file: CaOption = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Then test the revert timers of inverters and batteries: writes to them, asks first."
        ),
    ] = False,
    yes_probe: Annotated[
        bool, typer.Option("--yes-probe", help="With --probe: consent for scripts, nobody is asked.")
    ] = False,
    config: ConfigOption = DEFAULT_PATH,
    take_line: TakeLineOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find SunSpec devices; print them as ready configuration.

    Nothing is written to them, unless --probe is given and consented to. Lines that the running agent holds are left
    alone. Exit code 1 when nothing was found, or a probed device is not as it was found.
    """
    _check_probe(probe, yes_probe, take_line, as_json)
    try:
        numbers = places.unit_ids(units)
        wanted = places.addresses(hosts)
    except ValueError as error:
        fail(str(error), code=2, as_json=as_json)
    tls = None if ca_file is None else TlsFiles(ca_file)
    _, held = settings_and_held(config, take_line, as_json)
    why = {address: held_text(names) for address in wanted if (names := held.holders(parse_address(address)))}
    with progress_bar() as progress, interruptible():
        task = progress.add_task("", total=len(wanted))
        asked = 0

        def done() -> None:
            nonlocal asked
            asked += 1

        work = scanning.Scan(
            numbers,
            timeout_s,
            every_unit=units is not None,
            most_s=most_s,
            tls=tls,
            held=why,
            asking=lambda where: progress.update(task, description=f"{asked} of {len(wanted)} done, asking {where}"),
            done=done,
        )
        found = asyncio.run(work.run(wanted))
    ready = scanning.configuration(found, None if ca_file is None else str(ca_file.resolve()))
    if as_json:
        probed = _probe(found, timeout_s, tls, yes_probe) if probe else None
        probes = {} if probed is None else {"probes": [one.as_json() for one in probed]}
        emit_json({"devices": [line.as_json() for line in found], "configuration": ready, **probes})
    else:
        ranged = set(places.addresses([text for text in hosts if places.is_range(text)]))
        shown = [line for line in found if not (line.is_nobody and line.place.address in ranged)]
        console.print(table("Devices", ["Address", "Unit", "Device", "Models"], [line.cells() for line in shown]))
        if len(shown) < len(found):
            console.print(f"{len(found) - len(shown)} more addresses: nobody there.", highlight=False)
        if ready:
            console.print("\nReady configuration, for gateway.toml:\n")
            console.print(ready, markup=False, highlight=False, soft_wrap=True)
        probed = _probe(found, timeout_s, tls, yes_probe) if probe else None
        for line in [line for one in probed or [] for line in one.lines()]:
            console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
    if not any(line.description for line in found) or not all(one.is_well for one in probed or []):
        raise typer.Exit(1)


def _check_probe(probe: bool, yes_probe: bool, take_line: bool, as_json: bool) -> None:
    """Before anything is asked: a probe that nobody can consent to is wrong use."""
    if yes_probe and not probe:
        fail("--yes-probe is consent to --probe, which is not there", code=2, as_json=as_json)
    if probe and take_line:
        fail(
            "--probe does not go with --take-line: the agent would control the device meanwhile",
            code=2,
            as_json=as_json,
        )
    if probe and not yes_probe and not sys.stdin.isatty():
        fail(
            "--probe asks for consent, and there is no terminal; in a script give --yes-probe", code=2, as_json=as_json
        )


def _probe(
    found: list[scanning.Found], timeout_s: float, tls: TlsFiles | None, yes_probe: bool
) -> list[probing.Probed]:
    chosen = probing.worth_probing(found)
    if not chosen:
        return []
    if not yes_probe:
        for one in chosen:
            errors.print(plain(f"{one.place.address} unit {one.place.unit}: {one.cells()[2]}"), markup=False)
        errors.print(probing.WHAT_HAPPENS, markup=False, highlight=False, soft_wrap=True)
        errors.print(f"Type {probing.CONSENT} to go on: ", end="", markup=False)
        with interruptible():
            answer = sys.stdin.readline()
        if not probing.consented(answer):
            errors.print("Nothing was written.", markup=False)
            return []
    with progress_bar() as progress, interruptible():
        task = progress.add_task("")
        say: Callable[[str], None] = lambda what: progress.update(task, description=escape(plain(what)))  # noqa: E731
        return asyncio.run(probing.probe_all(chosen, timeout_s, tls, say))
