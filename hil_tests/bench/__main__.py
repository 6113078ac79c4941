"""`python -m hil_tests.bench NAME [--hours N] [--json]`: one benchmark, its figures as a table for people or as JSON.

A bench is a module here with `run(progress) -> dict[str, float]`; its docstring's first line says what it measures.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import json
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import structlog

import hil_tests.bench

Run = Callable[[Callable[[str], None]], dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark. 0 when it gave its figures."""
    parser = argparse.ArgumentParser(prog="python -m hil_tests.bench", description="Figures are ratios and shares.")
    parser.add_argument("name", choices=names(), help="what to measure")
    parser.add_argument("--json", action="store_true", help="figures as one JSON object on standard output")
    parser.add_argument("--hours", type=int, metavar="N", help="of stored time, for a bench that stores some")
    chosen = parser.parse_args(arguments)
    bench = importlib.import_module(f"{hil_tests.bench.__name__}.{chosen.name}")
    measured: Callable[..., dict[str, float]] = cast(Run, bench.run)
    if chosen.hours is not None:
        if "hours" not in inspect.signature(measured).parameters:
            parser.error(f"{chosen.name} stores no hours")
        if chosen.hours < 1:
            parser.error("--hours: at least 1")
        measured = functools.partial(measured, hours=chosen.hours)
    with _quiet_logs():
        figures = measured(_progress)
    if chosen.json:
        print(json.dumps(figures))
        return 0
    print((bench.__doc__ or chosen.name).splitlines()[0])
    width = max(len(name) for name in figures)
    for name, figure in figures.items():
        print(f"  {name:<{width}}  {figure:>12,.3f}")
    return 0


def names() -> list[str]:
    """What can be measured: every module here without an underscore."""
    return sorted(found.name for found in pkgutil.iter_modules(hil_tests.bench.__path__) if found.name[0] != "_")


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Standard output is for the figures."""
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def _progress(text: str) -> None:
    print(f"... {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
