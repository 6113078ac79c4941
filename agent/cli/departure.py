"""`v2g-gateway chargers departure`: what the driver of a car needs, and until when."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, tzinfo
from typing import Annotated

import typer

from agent.cli.asking import settings_of, who
from agent.cli.client import AgentUnreachableError, RefusedError, order
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, plain
from agent.config import DEFAULT_PATH, zone_of
from agent.control.needing import next_local_us


def departure(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Device id of the charger.")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="07:30 by [site] timezone, or RFC 3339.")
    ] = None,
    kwh: Annotated[
        float | None, typer.Option(min=0, max=1000, metavar="KWH", help="Energy that it needs from now on, kWh.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take the driver's word back.")] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """The driver's word for the car that is plugged in: it goes before the car's own and the configured default."""
    if clear == (at is not None or kwh is not None):
        fail("give --at, --kwh or both; or --clear alone", code=2, as_json=as_json)
    settings = settings_of(config, as_json)
    try:
        departure_us = None if at is None else moment_us(at, zone_of(settings.site.timezone), datetime.now(UTC))
    except ValueError as error:
        fail(str(error), code=2, as_json=as_json)
    energy_wh = None if kwh is None else round(kwh * 1000)
    asked = {"device": device, "energy_wh": energy_wh, "departure_us": departure_us}
    try:
        answer = order(settings.gateway.state_dir, "/api/wish", asked, press_by=who())
    except (RefusedError, AgentUnreachableError) as error:
        fail(str(error), code=error.exit_code, as_json=as_json)
    if as_json:
        emit_json(answer)
        return
    need = " what it told" if energy_wh is None else f" {energy_wh / 1000:g} kWh"
    until = "" if departure_us is None else f" until {datetime.fromtimestamp(departure_us / 1e6).astimezone():%F %H:%M}"
    text = f"{device}: " + ("the driver's word is taken back" if clear else f"the car needs{need}{until}")
    console.print(plain(text), markup=False, highlight=False)


def moment_us(text: str, zone: tzinfo, now: datetime) -> int:
    """Unix microseconds of "07:30" (the next one there) or of an RFC 3339 time. Raises ValueError."""
    if re.fullmatch(r"([01]?[0-9]|2[0-3]):[0-5][0-9]", text):
        return next_local_us(time.fromisoformat(text.zfill(5)), zone, round(now.timestamp() * 1e6))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'{text!a} is no time: write "07:30" or "2027-01-31T07:30:00Z"') from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return round(moment.timestamp() * 1e6)
