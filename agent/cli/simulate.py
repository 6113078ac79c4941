"""`v2g-gateway simulate`: days in seconds on the pure core, drawn as a picture."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.asking import settings_of
from agent.cli.options import JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain, table
from agent.cli.picture import draw
from agent.config import zone_of
from agent.control.scenario import CarLine, CommandLine, Event, ScenarioError, ScheduleLine, read_scenario
from agent.control.simulation import Outcome, Simulation

HOUR_US = 3_600_000_000
MOST_HOURS = 31 * 24


def simulate(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="A gateway's configuration.")],
    scenario: Annotated[
        Path, typer.Argument(metavar="COMMANDS.jsonl", help="What happens, a JSON object a line; see the README.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture goes (SVG).")] = Path("simulation.svg"),
    hours: Annotated[
        float | None,
        typer.Option(min=0.1, max=MOST_HOURS, metavar="H", help="From the first line on; absent: to the last end."),
    ] = None,
    step_s: Annotated[float, typer.Option(min=1, max=60, metavar="S", help="Seconds from plan to plan.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Days in seconds on simulated devices, drawn as a picture.

    The gateway's own plan, on devices with simple physics.
    """
    settings = settings_of(site, as_json)
    try:
        text = scenario.read_text(encoding="utf-8")
        events = read_scenario(text.splitlines(), {d.id: d.kind.value for d in settings.device})
    except (OSError, UnicodeDecodeError) as error:
        fail(os_error(error, scenario) if isinstance(error, OSError) else f"{scenario}: is not UTF-8", as_json=as_json)
    except ScenarioError as error:
        fail(f"{scenario}: {error}", code=2, as_json=as_json)
    from_us, until_us = span_of(events, hours)
    if until_us - from_us > MOST_HOURS * HOUR_US:
        fail(f"{scenario}: is longer than {MOST_HOURS // 24} days; give --hours", code=2, as_json=as_json)
    begun_s = time.perf_counter()
    outcome = Simulation(settings, events, from_us=from_us, until_us=until_us, step_s=step_s).run()
    took_s = time.perf_counter() - begun_s
    title = f"{settings.gateway.name}: {scenario.name}"
    try:
        out.write_text(draw(outcome, title=title, zone=zone_of(settings.site.timezone)), encoding="utf-8")
    except OSError as error:
        fail(os_error(error, out), as_json=as_json)
    if as_json:
        emit_json(as_values(outcome) | {"picture": str(out), "took_s": round(took_s, 3)})
        return
    _tell(outcome, out, took_s)


def span_of(events: list[Event], hours: float | None) -> tuple[int, int]:
    """From the first line to an hour after the last end."""
    from_us = min(event.at_us for event in events)
    if hours is not None:
        return from_us, from_us + round(hours * HOUR_US)
    return from_us, max(_end_us(event) for event in events) + HOUR_US


def _end_us(event: Event) -> int:
    match event.what:
        case CommandLine(command=command):
            return command.end_us
        case ScheduleLine(schedule):
            return schedule.end_us
        case CarLine(stays_s=float() | int() as stays_s):
            return event.at_us + round(stays_s * 1e6)
    return event.at_us


def as_values(outcome: Outcome) -> dict[str, object]:
    """For machines."""
    values = asdict(outcome)
    values["deviations"] = {
        "quarters": outcome.deviations.quarters,
        "under_wh": outcome.deviations.under_wh,
        "over_wh": outcome.deviations.over_wh,
        "penalties_micro": dict(outcome.deviations.penalties_micro),
    }
    return values


def _tell(outcome: Outcome, out: Path, took_s: float) -> None:
    rows = [
        [
            life.command_id,
            life.text,
            " ".join(state.lower() for state in life.states),
            "" if life.delivered_wh is None else f"{life.delivered_wh:+} Wh",
            life.reason,
        ]
        for life in outcome.commands
    ]
    if rows:
        console.print(
            table("Commands", ["Id", "Command", "Receipts", "Delivered", "Reason"], rows, right=["Delivered"])
        )
    energies = [
        [name, *(f"{found[name] / 1000:.1f}" for found in (outcome.import_wh, outcome.export_wh, outcome.lost_wh))]
        for name in sorted(outcome.import_wh)
    ]
    console.print(
        table("Energy, kWh", ["Device", "Import", "Export", "Lost"], energies, right=["Import", "Export", "Lost"])
    )
    lines = [
        f"Above the import limit for {outcome.over_import_s:.0f} s, above the export limit for "
        f"{outcome.over_export_s:.0f} s.",
        *outcome.said[:20],
    ]
    if outcome.deviations.quarters:
        told = outcome.deviations
        cost = ", ".join(f"{micro / 1e6:.2f} {currency}" for currency, micro in told.penalties_micro.items())
        lines.append(
            f"Schedule: {told.quarters} quarters of an hour, {told.under_wh} Wh short, {told.over_wh} Wh over"
            + (f"; would cost {cost}." if cost else ".")
        )
    span_h = (outcome.until_us - outcome.from_us) / HOUR_US
    begin = datetime.fromtimestamp(outcome.from_us / 1e6).astimezone()
    lines.append(f"{span_h:.1f} hours from {begin:%F %H:%M} in {took_s:.1f} s. The picture: {out}")
    for line in lines:
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
