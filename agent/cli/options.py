"""What several commands have: options, spelled once; the configuration and the lines of its agent; Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.cli.lines import NOTHING_HELD, Held, TargetError, held_by_agent, settings_if_there
from agent.cli.output import fail
from agent.cli.places import MOST_UNIT
from agent.config import Settings

ConfigOption = Annotated[
    # Not readable is for the reader to say, which knows what to do about it.
    Path, typer.Option("--config", metavar="FILE", readable=False, help="Configuration file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value for machines.")]

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""

_TAKE_LINE = "Connect although the running agent holds the line: only for a device that takes several connections."
TakeLineOption = Annotated[bool, typer.Option("--take-line", help=_TAKE_LINE)]
UnitOption = Annotated[
    int | None, typer.Option(min=0, max=MOST_UNIT, metavar="ID", help="Modbus unit id; 1 unless configured.")
]
TimeoutOption = Annotated[
    float | None, typer.Option(min=0.05, max=30, metavar="SECONDS", help="How long it may take to answer, s.")
]
CaOption = Annotated[
    Path | None, typer.Option("--ca-file", metavar="FILE", help="tls://: PEM certificate of who certifies the device.")
]
MapOption = Annotated[
    str | None, typer.Option("--map", metavar="NAME", help="Register map of a device without SunSpec, or its file.")
]


def settings_and_held(config: Path, take_line: bool, as_json: bool) -> tuple[Settings | None, Held]:
    try:
        settings = settings_if_there(config)
        return settings, NOTHING_HELD if take_line else held_by_agent(settings)
    except TargetError as error:
        fail(str(error), as_json=as_json)


def held_text(names: list[str]) -> str:
    return (
        f"the running agent holds this line ({', '.join(names)}), and a second connection could take it away; "
        "stop the agent first (systemctl stop v2g-gateway), or use --take-line if the device takes several connections"
    )


@contextmanager
def interruptible(code: int = INTERRUPTED) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(code) from None
