"""Entry point of `v2g-gateway`. `run` goes straight to the agent; everything else is the command line for people.

The running agent does without typer and rich: they cost memory on a small box and are of no use to it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import typer

PROGRAM: Final = "v2g-gateway"


def complete() -> typer.Typer:
    """Every command; for people, not for `run`."""
    from agent.cli.commands import app

    return app


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and not {"--help", "-h"} & set(arguments):
        from agent.cli.run import main as run

        sys.exit(run(arguments[1:]))
    # A shell that asks for words to complete a line with needs them all.
    asked = None if f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE" in os.environ else next(iter(arguments), None)
    (_alone(asked) or complete())(prog_name=PROGRAM)


def _alone(name: str | None) -> typer.Typer | None:
    from agent.cli.table import alone

    return None if name is None else alone(name)


if __name__ == "__main__":
    main()
