"""`status`, `stop` and `clear-stop`: how the gateway fares, and the local STOP."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from agent.cli.asking import settings_of as _settings
from agent.cli.asking import who as _who
from agent.cli.client import AgentUnreachableError, ask
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, field
from agent.cli.status import EXIT_CODES, picture
from agent.config import DEFAULT_PATH


def status(
    config: ConfigOption = DEFAULT_PATH,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """How the running gateway fares. Exit code 0: well, or in need of a look; 1: does not answer; 2: in trouble."""
    state_dir = _settings(config, as_json).gateway.state_dir
    try:
        answer = ask(state_dir, "/api/status")
        if as_json:
            emit_json(answer)
        elif watch:
            with Live(picture(answer), console=console, screen=False) as live:
                while True:
                    time.sleep(1.0)
                    answer = ask(state_dir, "/api/status")
                    live.update(picture(answer))
        else:
            console.print(picture(answer))
    except AgentUnreachableError as error:
        fail(str(error), as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    raise typer.Exit(EXIT_CODES.get(str(field(answer, "verdict")), 2))


def stop(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Local STOP: all controllable power to its safe value, at once.

    Until `clear-stop`, over restarts too. Needs no working agent.
    """
    settings = _settings(config, as_json)
    file = settings.control.gateway_stop_file or settings.gateway.state_dir / "STOP"
    by = _who()
    noted = reached = False
    problem = ""
    try:
        _note_stop(file, by)
        noted = True
    except OSError as error:
        problem = f"{file}: {error.strerror}"
    try:
        ask(settings.gateway.state_dir, "/api/stop", press_by=by)
        reached = True
    except AgentUnreachableError as error:
        problem = problem or str(error)
    if as_json:
        emit_json({"ok": noted or reached, "noted": noted, "agent_reached": reached, "problem": problem})
    elif reached:
        text = "STOP: the gateway takes all controllable power to its safe value. To end it: v2g-gateway clear-stop"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    elif noted:
        text = f"STOP is noted in {file}; no agent answered. It holds from the agent's next breath or start."
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if not noted and not reached:
        fail(f"STOP could not be given: {problem}")


def _note_stop(file: Path, by: str) -> None:
    """Write the STOP file as the owner of its folder would: one of root's the agent could not write again.

    Raises OSError. Never follows a link: root may run this, and the folder is not root's.
    """
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with open(opened, "w", encoding="utf-8") as out:
        if os.geteuid() == 0:
            owner = file.parent.stat()
            os.fchown(out.fileno(), owner.st_uid, owner.st_gid)
        out.write(by + "\n")


def clear_stop(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Take the local STOP back: the gateway controls devices again."""
    settings = _settings(config, as_json)
    file = settings.control.gateway_stop_file or settings.gateway.state_dir / "STOP"
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        fail(f"{file}: {error.strerror}", as_json=as_json)
    try:
        ask(settings.gateway.state_dir, "/api/clear-stop", press_by=_who())
        reached = True
    except AgentUnreachableError:
        reached = False
    if as_json:
        emit_json({"ok": True, "agent_reached": reached})
    else:
        console.print("STOP is cleared." if reached else "STOP is cleared; no agent runs now.")
