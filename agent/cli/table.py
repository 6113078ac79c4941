"""Which module has which command, and one command without the others.

A command line that is typed should answer at once, and to import all commands takes three times what one needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

import typer

from agent.cli.grouped import GroupedCommands
from agent.cli.logs import configure

COMMANDS: Final = {
    "run": "setting_up:run",
    "init": "setting_up:init",
    "status": "operating:status",
    "stop": "operating:stop",
    "clear-stop": "operating:clear_stop",
    "scan": "scan_command:scan",
    "read": "device_commands:read",
    "record": "device_commands:record",
    "serve": "device_commands:serve",
    "why": "why:why",
    "export": "exporting:export",
    "prove": "proving:prove",
    "verify": "verifying:verify",
    "enroll": "enroll:enroll",
    "backup": "backup:backup",
    "restore": "backup:restore",
    "new-life": "new_life:new_life",
    "seal-pin": "seal_pin:seal_pin",
    "store-key": "store_key:seal_store_key",
    "decrypt": "store_key:decrypt_store",
    "counter": "counter:define",
    "quote": "quote:quote",
    "envelope": "envelope:envelope",
    "plan": "plan:plan",
    "simulate": "simulate:simulate",
    "commands": "command_history:commands",
    "override": "override:override",
    "replay": "replay:replay",
}
"""Name: module of this package, and the function in it."""
GROUPS: Final = {
    "config": "setting_up:config_app",
    "identity": "identity:app",
    "challenge": "challenge:app",
    "chargers": "chargers:app",
    "ocpp": "ocpp:app",
}
"""The same for those that have commands of their own."""


def without_commands() -> typer.Typer:
    """The command line, to which commands are added."""
    app = typer.Typer(
        cls=GroupedCommands,
        help="Edge gateway for V2G chargers, inverters, batteries and meters: signed readings out, grid commands in.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"max_content_width": 110},
    )
    app.callback()(_quiet)
    return app


def add(app: typer.Typer, name: str) -> None:
    """Add the command or group of this name, which is in one of the tables."""
    module, _, attribute = (COMMANDS.get(name) or GROUPS[name]).partition(":")
    found = getattr(import_module(f"agent.cli.{module}"), attribute)
    if name in COMMANDS:
        app.command(name)(found)
    else:
        app.add_typer(found, name=name)


def alone(name: str) -> typer.Typer | None:
    """The command line with this command only; None for a name that is not in the tables."""
    if name not in COMMANDS and name not in GROUPS:
        return None
    app = without_commands()
    add(app, name)
    return app


def _quiet() -> None:
    """Logs of the parts go to standard error, and only when something is amiss."""
    configure("warning")
