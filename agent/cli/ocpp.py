"""`v2g-gateway ocpp`: the live conversation with a charger, readable, over the running agent's local socket."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Annotated
from urllib.parse import quote

import typer

from agent.cli.asking import settings_of
from agent.cli.client import AgentUnreachableError, RefusedError, listen
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import fail, field, plain
from agent.config import DEFAULT_PATH

app = typer.Typer(help="Watch what a charger and the gateway say to each other.", no_args_is_help=True)

_ARROWS = {"charger": "charger -> ", "gateway": "gateway -> "}
_MARKS = {"call": "", "answer": "answers ", "error": "refuses ", "note": ""}


@app.callback()
def _protocol() -> None:
    """A group, so that `ocpp tap` stays `ocpp tap` while it is the only one."""


@app.command()
def tap(
    name: Annotated[str, typer.Argument(metavar="CHARGER", help="OCPP identity or device id.")],
    seconds: Annotated[float | None, typer.Option(metavar="SECONDS", help="End by itself after so long, s.")] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Show what a charger and the gateway say to each other, until Ctrl-C. Tokens and passwords are masked.

    With --json one JSON value on each line.
    """
    settings = settings_of(config, as_json)
    path = f"/api/chargers/tap?name={quote(name, safe='')}" + ("" if seconds is None else f"&seconds={seconds}")
    try:
        with listen(settings.gateway.state_dir, path) as lines:
            for line in lines:
                if line.strip():
                    sys.stdout.write((line.decode().rstrip("\n") if as_json else _readable(json.loads(line))) + "\n")
                    sys.stdout.flush()
    except (RefusedError, AgentUnreachableError) as error:
        fail(str(error), code=error.exit_code, as_json=as_json)
    except (KeyboardInterrupt, BrokenPipeError):
        raise typer.Exit(0) from None
    if seconds is None:
        fail("the agent has ended the conversation", as_json=as_json)


def _readable(line: object) -> str:
    """One line for a person; nothing that a charger wrote moves the cursor."""
    if field(line, "kind") == "missed":
        return f"... {field(line, 'count')} lines were missed"
    at = field(line, "time_us")
    when = datetime.fromtimestamp(at / 1e6).astimezone().strftime("%H:%M:%S.%f")[:-3] if isinstance(at, int) else ""
    content = field(line, "content")
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=True)
    who = _ARROWS.get(str(field(line, "by")), "")
    return plain(f"{when}  {who}{_MARKS.get(str(field(line, 'kind')), '')}{field(line, 'action')} {text}")
