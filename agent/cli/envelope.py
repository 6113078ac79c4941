"""`v2g-gateway envelope`: what the site offers to the platform for a quarter of an hour."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.asking import settings_of, who
from agent.cli.client import AgentUnreachableError, RefusedError, ask, order
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, field, plain
from agent.config import DEFAULT_PATH


def envelope(
    looked: Annotated[
        bool, typer.Option("--looked", help="A person has looked at the windows that the platform missed.")
    ] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """What the site could do otherwise for a quarter of an hour.

    It is offered to the platform each minute.
    """
    state_dir = settings_of(config, as_json).gateway.state_dir
    try:
        if looked:
            order(state_dir, "/api/looked", press_by=who())
        status = ask(state_dir, "/api/status")
    except (RefusedError, AgentUnreachableError) as error:
        fail(str(error), code=error.exit_code, as_json=as_json)
    offered = field(status, "envelope")
    if as_json:
        emit_json(offered)
        return
    for line in sentences(offered):
        console.print(plain(line), markup=False, highlight=False)


def sentences(offered: object) -> list[str]:
    """The envelope in words."""
    if field(offered, "why_not"):
        found = [f"Nothing is offered: {field(offered, 'why_not')}."]
    else:
        found = [
            f"{name}: {_kilo(field(offered, f'power_{key}_w'))} kW, {_kilo(field(offered, f'energy_{key}_wh'))} kWh, "
            f"ramp {_kilo(field(offered, f'ramp_{key}_w_per_min'))} kW a minute."
            for name, key in (("Up (towards export)", "up"), ("Down (towards import)", "down"))
        ]
    low, high = field(offered, "minimum_soc_percent"), field(offered, "maximum_soc_percent")
    if low is not None and high is not None:
        found.append(f"State of charge: from {low} to {high} %.")
    row, permille = field(offered, "windows_missed_in_a_row"), field(offered, "derated_permille")
    found.append(f"Windows that the platform missed: {field(offered, 'windows_missed')}, {row} of them in a row.")
    if isinstance(permille, int) and permille < 1000:
        found.append(
            "The platform dispatches the site no more until a person has looked."
            if permille == 0
            else f"The platform counts on {permille / 10:g} % of it."
        )
    return found


def _kilo(value: object) -> str:
    return f"{value / 1000:.1f}" if isinstance(value, int | float) else "?"
