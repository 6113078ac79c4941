"""Logging of the running agent: one line per event on standard error; readable on a terminal, else JSON."""

from __future__ import annotations

import logging
import re
import sys
from typing import Final

import structlog

_SECRET: Final = re.compile(r"pin|password|secret|credential|private", re.IGNORECASE)


def configure(level: str, *, as_json: bool = False) -> None:
    """Set up structlog for the process; `level` is a name as in the configuration."""
    readable = sys.stderr.isatty() and not as_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _without_secrets,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if readable
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that log for themselves: their warnings only.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for chatty in ("pymodbus", "websockets", "asyncio", "grpc"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def _without_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A value under a key that sounds secret is never written, whoever put it there."""
    return {key: "(not shown)" if _SECRET.search(key) else value for key, value in event.items()}
