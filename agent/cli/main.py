"""Entry point of `v2g-gateway`. `run` goes straight to the agent; everything else is the command line for people.

The running agent does without typer and rich: they cost memory on a small box and are of no use to it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def complete() -> typer.Typer:
    """Every command; for people, not for `run`."""
    from agent.cli import chargers, ocpp
    from agent.cli.commands import app

    app.add_typer(chargers.app, name="chargers")
    app.add_typer(ocpp.app, name="ocpp")
    return app


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and not {"--help", "-h"} & set(arguments):
        from agent.cli.run import main as run

        sys.exit(run(arguments[1:]))
    complete()(prog_name="v2g-gateway")


if __name__ == "__main__":
    main()
