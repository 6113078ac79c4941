"""The commands of `v2g-gateway`, as a stranger reads them. Each has --json; exit code 0 good, 1 not, 2 wrong use."""

from __future__ import annotations

from agent.cli.table import COMMANDS, GROUPS, add, without_commands

app = without_commands()
for _name in (*COMMANDS, *GROUPS):
    add(app, _name)
