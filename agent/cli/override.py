"""`v2g-gateway override`: owner or installer holds a device by hand, for a time; only at the box."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from agent.cli.asking import settings_of, who
from agent.cli.client import AgentUnreachableError, RefusedError, order
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, field, plain
from agent.config import DEFAULT_PATH

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def override(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="The device, by its id.")],
    power: Annotated[
        int | None, typer.Option(metavar="W", help="Hold it at this power, + import, - export; 0: it rests.")
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="Leave it to itself: no command moves it.")] = False,
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="How long: 90s, 30m, 2h, 1h30m, 7d at most.")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="End a hold before its time.")] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Hold a device by hand, above every setpoint of the network.

    Limits, fuses, the car's needs and STOP still bind. Commands that it takes from become PARTIAL, and say so.
    """
    if sum((power is not None, release, end)) != 1:
        fail("give one of --power W, --release and --end", as_json=as_json, code=2)
    asked: dict[str, object] = {"device": device}
    if end:
        asked["end"] = True
    else:
        seconds = None if lasting is None else seconds_of(lasting)
        if seconds is None:
            fail("give --for DURATION, such as --for 30m or --for 1h30m", as_json=as_json, code=2)
        asked |= {"duration_s": seconds} | ({"release": True} if release else {"power_w": power})
    try:
        answer = order(settings_of(config, as_json).gateway.state_dir, "/api/override", asked, press_by=who())
    except (AgentUnreachableError, RefusedError) as error:
        fail(str(error), code=error.exit_code, as_json=as_json)
    if as_json:
        emit_json(answer)
        return
    console.print(plain(f"{field(answer, 'done')}."), markup=False, highlight=False, soft_wrap=True)


def seconds_of(duration: str) -> float | None:
    """Seconds of "90s", "30m", "1h30m"; None for what is no duration."""
    text = duration.strip().lower()
    if not text or _PART.sub("", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
