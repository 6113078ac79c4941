"""`python -m hil_tests.faults [--count N] [--seed S] [--token softhsm|tpm] [--encrypted] [--json]`: a run of faults.

0 when nothing was lost and nothing is wrong, 1 when something is, 2 when the harness itself cannot work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import structlog

from agent.cli.init import InitError
from agent.token.softhsm import SoftHsmError
from hil_tests.faults.disk import DiskError
from hil_tests.faults.run import Outcome, run
from hil_tests.rig.demo.child import StageError

COUNT = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m hil_tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many faults (default {COUNT})")
    parser.add_argument("--seed", type=int, help="repeats a run; drawn and printed when it is not given")
    parser.add_argument("--token", choices=("softhsm", "tpm"), default="softhsm", help="default softhsm")
    parser.add_argument("--encrypted", action="store_true", help="every store is encrypted")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave state and logs of the run in a new folder")
    chosen = parser.parse_args(arguments)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    seed = chosen.seed if chosen.seed is not None else random.SystemRandom().randrange(1 << 31)
    print(f"... seed {seed}", file=sys.stderr, flush=True)
    try:
        if chosen.keep is not None:
            chosen.keep.mkdir(parents=True)
            outcome = asyncio.run(_run(chosen.keep.resolve(), chosen.count, seed, chosen.token, chosen.encrypted))
        else:
            with tempfile.TemporaryDirectory(prefix="v2g-faults-") as folder:
                outcome = asyncio.run(_run(Path(folder), chosen.count, seed, chosen.token, chosen.encrypted))
    except (DiskError, StageError, SoftHsmError, InitError, RuntimeError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps(outcome.as_json()))
    else:
        _print(outcome)
    return 1 if outcome.violations else 0


async def _run(folder: Path, count: int, seed: int, token: str, encrypted: bool) -> Outcome:
    return await run(folder, count=count, seed=seed, token=token, say=_progress, encrypted=encrypted)


def _progress(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


def _print(outcome: Outcome) -> None:
    for kind, count in sorted(outcome.counts.items()):
        print(f"  {count:4d} {kind}")
    print(f"{outcome.faults} faults in {outcome.seconds:.0f} s, seed {outcome.seed}")
    print(f"{outcome.readings} statements promised, {outcome.readings_lost} lost; {outcome.batches} batches sealed")
    print(f"{len(outcome.violations)} violations")
    for where, violation in outcome.violations:
        print(f"  {where}: {violation}")


if __name__ == "__main__":
    sys.exit(main())
