"""Logging of the running agent: one line per event on standard error; readable on a terminal, else JSON."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from typing import Final, TextIO, cast

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
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _LastWords(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    # Libraries that log for themselves: their warnings only.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    for chatty in ("pymodbus", "websockets", "asyncio", "grpc"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Nothing is logged meanwhile: what happens again was logged when it happened."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


class _LastWords:
    """A stream that nobody needs to read: a full disk or a broken pipe behind it costs the line, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _without_secrets(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A value under a key that sounds secret is never written, whoever put it there."""
    return {key: "(not shown)" if _SECRET.search(key) else value for key, value in event.items()}
