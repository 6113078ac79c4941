"""`v2g-gateway chargers`: who is here and who waits, and orders to chargers over the running agent's local socket.

NAME is a charger's OCPP identity or a device id. Exit codes: 0 done, 1 refused or no answer, 2 wrong use.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from agent.cli import departure as departing
from agent.cli.asking import settings_of, who
from agent.cli.client import AgentUnreachableError, RefusedError, order
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, field, plain, table
from agent.cli.status import watts
from agent.config import DEFAULT_PATH, Settings

app = typer.Typer(help="Chargers: who is here, who waits, and orders to them.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="OCPP identity or device id.")]
MARGIN_S = 10.0


def _ask(config: Path, as_json: bool, path: str) -> object:
    settings = settings_of(config, as_json)
    try:
        return order(settings.gateway.state_dir, path)
    except (RefusedError, AgentUnreachableError) as error:
        fail(str(error), code=error.exit_code, as_json=as_json)


def _order(config: Path, as_json: bool, name: str, what: str, arguments: dict[str, object]) -> object:
    settings = settings_of(config, as_json)
    asked = {"name": name, "order": what, "arguments": {k: v for k, v in arguments.items() if v is not None}}
    if what == "limit":
        asked["arguments"] = arguments  # there, None is a word
    try:
        return order(
            settings.gateway.state_dir, "/api/chargers/order", asked, press_by=who(), answer_s=_patience_s(settings)
        )
    except (RefusedError, AgentUnreachableError) as error:
        fail(str(error), code=error.exit_code, as_json=as_json)


def _patience_s(settings: Settings) -> float:
    """A charger's time to answer, for the few questions that one order is, with others before it."""
    return 6 * settings.ocpp.call_timeout_s + MARGIN_S


def _tell(told: object, as_json: bool) -> None:
    """The answer, and the exit code that it deserves."""
    if as_json:
        emit_json(told)
    else:
        parts = told if isinstance(told, dict) else {"answer": told}
        for key, value in parts.items():
            if key != "ok":
                for line in _lines(key, value):
                    console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
    if field(told, "ok") is False:
        raise typer.Exit(1)


def _lines(key: str, value: object) -> list[str]:
    """One thing that was told; a list has a line for each of its own."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return [f"{key}:", *(f"  {_shown(each)}" for each in value)]
    return [f"{key}: {_shown(value)}"]


def _shown(value: object) -> str:
    if isinstance(value, dict) and value:
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items() if part is not None)
    if isinstance(value, str):
        return value
    return "none" if value in (None, [], {}) else json.dumps(value)


def _rows(value: object) -> list[object]:
    return value if isinstance(value, list) else []


@app.command("list")
def list_(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Chargers and their EVSEs, and who waits for an approval."""
    told = _ask(config, as_json, "/api/chargers")
    if as_json:
        emit_json(told)
        return
    rows = []
    for charger in _rows(field(told, "chargers")):
        for evse in _rows(field(charger, "evses")):
            states = field(evse, "connectors")
            rows.append(
                [
                    str(field(charger, "charger")),
                    str(field(evse, "device")),
                    str(field(charger, "link")),
                    str(field(charger, "standing")),
                    ", ".join(map(str, states.values())) if isinstance(states, dict) else "",
                    str(field(evse, "transaction") or ""),
                    watts(field(evse, "power_w")),
                    "" if field(evse, "limit_w") is None else watts(field(evse, "limit_w")),
                ]
            )
    columns = ["Charger", "Device", "Link", "Standing", "Connectors", "Transaction", "Power", "Limit"]
    console.print(table("Chargers", columns, rows, right=["Power", "Limit"]))
    waiting = [
        [
            str(field(knock, "charger")),
            str(field(knock, "why")),
            str(field(knock, "address")),
            str(field(knock, "says")),
            "approved" if field(knock, "approved") else "here" if field(knock, "here") else "gone",
        ]
        for knock in _rows(field(told, "waiting"))
    ]
    if waiting:
        console.print(table("Waiting", ["Charger", "Why", "Address", "Says it is", ""], waiting))
        console.print("To let one in: v2g-gateway chargers approve NAME", highlight=False)


@app.command()
def show(name: NameArgument, config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """All about one charger: what it is, its EVSEs, monitors, events, reservations, logs."""
    told = _ask(config, as_json, f"/api/chargers/show?name={quote(name, safe='')}")
    _tell(told, as_json)


@app.command()
def variables(
    name: NameArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Only those whose name contains it.")] = "",
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the charger for a new report first.")] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Its device model, as it was reported last."""
    if refresh:
        told = _order(config, as_json, name, "report", {})
        if field(told, "ok") is not True:
            fail(f"the charger makes no report: {field(told, 'status')}", as_json=as_json)
    path = f"/api/chargers/variables?name={quote(name, safe='')}&text={quote(text, safe='')}"
    told = _ask(config, as_json, path)
    if as_json:
        emit_json(told)
        return
    rows = [
        [str(field(v, part) if field(v, part) is not None else "") for part in ("name", "value", "unit", "mutability")]
        for v in _rows(told)
    ]
    console.print(table(f"{len(rows)} variables", ["Variable", "Value", "Unit", ""], rows))


@app.command()
def approve(
    name: NameArgument,
    evses: Annotated[int, typer.Option(min=1, max=16, help="How many EVSEs an unknown charger has.")] = 1,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Let a charger in that waits: held back, unknown, or without its password.

    One that is in no [[device]] is given a password and works at once, with safe defaults: it never discharges and is
    not settled. The section that would change that is printed.
    """
    told = _order(config, as_json, name, "approve", {} if evses == 1 else {"evses": evses})
    secret = field(told, "password_secret")
    if secret is not None and not as_json:
        device_id = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "charger-1"
        section = (
            f'[[device]]\nid = "{device_id}"\nkind = "charger"\ndriver = "ocpp"\n'
            f"charger_id = {json.dumps(name)}\npassword_secret = {json.dumps(secret)}\n"
        )
        console.print("To configure it, for gateway.toml; the id is yours to choose:\n", highlight=False)
        console.print(section, markup=False, highlight=False, soft_wrap=True)
    _tell(told, as_json)


@app.command()
def lock(
    name: NameArgument,
    reject: Annotated[
        bool, typer.Option("--reject", help="Turn it away for good, in place of having it wait.")
    ] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Have a charger wait (Pending) until it is approved again; forget one that only knocked."""
    _tell(_order(config, as_json, name, "reject" if reject else "hold", {}), as_json)


@app.command()
def limit(
    name: NameArgument,
    power: Annotated[str, typer.Argument(metavar="WATTS", help='Most power, W; "none" takes the limit away.')],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Bound charging and discharging of an EVSE, below what the plan may use otherwise. Holds until taken away."""
    if power != "none" and not power.isdecimal():
        fail('WATTS is a whole number of watts, or "none"', code=2, as_json=as_json)
    watts_given = None if power == "none" else int(power)
    _tell(_order(config, as_json, name, "limit", {"watts": watts_given}), as_json)


@app.command()
def start(
    name: NameArgument,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="idToken that the transaction is for.")],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Start charging, as if the token had been shown at the EVSE."""
    _tell(_order(config, as_json, name, "start", {"token": token}), as_json)


@app.command()
def stop(name: NameArgument, config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """End the transaction at an EVSE."""
    _tell(_order(config, as_json, name, "stop", {}), as_json)


@app.command(name="charge-now")
def charge_now(
    name: NameArgument,
    off: Annotated[bool, typer.Option("--off", help="No longer: the plan has the say again.")] = False,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """The driver of the car at an EVSE wants to charge now, whatever the grid orders (chargers of OCPP 2.1)."""
    _tell(_order(config, as_json, name, "charge-now", {"on": not off}), as_json)


app.command()(departing.departure)


@app.command()
def password(name: NameArgument, config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Give a charger a new password. The old one is good until the charger came with the new one."""
    _tell(_order(config, as_json, name, "password", {}), as_json)


@app.command()
def revoke(name: NameArgument, config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Refuse the certificates that a charger has, at once and for good: one of the site's CA that it gets later counts.

    `approve NAME` takes it back.
    """
    _tell(_order(config, as_json, name, "revoke", {}), as_json)


@app.command()
def log(
    name: NameArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the charger uploads it: https, ftp, sftp.")],
    security: Annotated[bool, typer.Option("--security", help="The security log, in place of diagnostics.")] = False,
    oldest: Annotated[str | None, typer.Option(metavar="TIME", help="From then on, RFC 3339.")] = None,
    latest: Annotated[str | None, typer.Option(metavar="TIME", help="Up to then, RFC 3339.")] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Have a charger upload its log. How far it is: `chargers show NAME`."""
    kind = "SecurityLog" if security else "DiagnosticsLog"
    arguments: dict[str, object] = {"url": url, "kind": kind, "oldest": oldest, "latest": latest}
    _tell(_order(config, as_json, name, "log", arguments), as_json)


@app.command("order")
def order_(
    name: NameArgument,
    what: Annotated[str, typer.Argument(metavar="ORDER", help="unlock, reserve, availability, reset, set, ...")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="VALUE is JSON, or text, or @FILE.")
    ] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Any other order of the specification; one that nobody knows is answered with the list of those that are.

    Examples: `order CP-1 availability operative=false`, `order CP-1 set variable=AuthCtrlr/Enabled value=true`,
    `order car-1 reserve token=04AABBCC minutes=30`, `order CP-1 monitor variable=EVSE#1/Power value=10000 severity=4`.
    """
    given: dict[str, object] = {}
    for argument in arguments or []:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            fail(f"{argument!a} is no KEY=VALUE", code=2, as_json=as_json)
        if value.startswith("@"):
            try:
                given[key] = Path(value[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                fail(f"{value[1:]}: cannot be read: {error}", code=2, as_json=as_json)
            continue
        given[key] = _value(value)
    _tell(_order(config, as_json, name, what, given), as_json)


def _value(text: str) -> object:
    """What looks like JSON is JSON; a token such as 1E5 is text."""
    if text in ("true", "false") or re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) or text[:1] in ("{", "[", '"'):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


@app.command("reload-tokens")
def reload_tokens(config: ConfigOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Read [ocpp] tokens_file again. Chargers get the change with `order NAME local-list`, or when they come next."""
    settings = settings_of(config, as_json)
    try:
        told = order(settings.gateway.state_dir, "/api/chargers/reload-tokens", press_by=who())
    except (RefusedError, AgentUnreachableError) as error:
        fail(str(error), code=error.exit_code, as_json=as_json)
    _tell(told, as_json)
