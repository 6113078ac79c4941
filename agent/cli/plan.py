"""`v2g-gateway plan`: what will happen at a moment to come, and why, in plain sentences."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from agent.cli.asking import settings_of
from agent.cli.client import AgentUnreachableError, RefusedError, order
from agent.cli.departure import moment_us
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, field, plain
from agent.cli.status import band, held_words
from agent.config import DEFAULT_PATH, zone_of


def plan(
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="07:30 by [site] timezone, or RFC 3339.")],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """What will happen at a time ahead, and why.

    Commands that were sent ahead, schedules, departures, defaults.
    """
    settings = settings_of(config, as_json)
    try:
        at_us = moment_us(at, zone_of(settings.site.timezone), datetime.now(UTC))
    except ValueError as error:
        fail(str(error), code=2, as_json=as_json)
    try:
        foreseen = order(settings.gateway.state_dir, f"/api/plan?at_us={at_us}")
    except (RefusedError, AgentUnreachableError) as error:
        fail(str(error), code=error.exit_code, as_json=as_json)
    if as_json:
        emit_json(foreseen)
        return
    for line in lines(foreseen):
        console.print(plain(line), markup=False, highlight=False)


def lines(foreseen: object) -> list[str]:
    """The answer in words."""
    told, devices = field(foreseen, "sentences"), field(foreseen, "devices")
    found = [str(line) for line in told] if isinstance(told, list) else []
    for device in devices if isinstance(devices, list) else []:
        allowed = band(field(device, "lowest_w"), field(device, "highest_w"))
        held = "left to itself" if allowed == "free" else f"held {held_words(allowed)}"
        found.append(f"{field(device, 'device_id')}: {held}. {field(device, 'reason')}.")
    change_us = field(foreseen, "next_change_us")
    if isinstance(change_us, int):
        found.append(f"The next change after that: {datetime.fromtimestamp(change_us / 1e6, UTC):%Y-%m-%d %H:%M:%SZ}.")
    return found
