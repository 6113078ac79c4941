"""The commands in `v2g-gateway --help`, by what somebody wants to do, not by the order of the code."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperGroup

PANELS: Final = {
    "Set up": ("init", "config", "enroll", "identity", "seal-pin", "store-key", "decrypt", "counter", "run"),
    "Operate": ("status", "why", "commands", "override", "stop", "clear-stop"),
    "Devices": ("scan", "read", "record", "serve", "chargers", "ocpp"),
    "Look ahead": ("plan", "envelope", "simulate"),
    "Evidence": ("export", "prove", "verify", "replay", "backup", "restore", "new-life", "quote", "challenge"),
}


class GroupedCommands(TyperGroup):
    """Lists each command under its panel; one of no panel comes last, under Commands."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # Any: typer's own copy of click has private types
        """As typer does it, panel by panel."""
        named = {name for names in PANELS.values() for name in names}
        rest = tuple(name for name in self.commands if name not in named)
        width = max(map(len, self.commands))
        for title, names in {**PANELS, "Commands": rest}.items():
            shown = [(name, self.commands[name]) for name in names if name in self.commands]
            if shown:
                limit = formatter.width - 6 - width
                with formatter.section(title):
                    # One width for all panels: padded names keep their columns in one line.
                    formatter.write_dl([(name.ljust(width), each.get_short_help_str(limit)) for name, each in shown])
