"""Alarms on their way to the store: raised by anybody without waiting, committed as statements in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from agent.evidence.statements import Alarm, Severity
from agent.roads.desk import Desk
from agent.store import StoreError

MOST_WAITING: Final = 1000
MOST_SUBJECT: Final = 255
MOST_TEXT: Final = 1000
RETRY_S: Final = 1.0

log = structlog.get_logger()


class Alarms:
    """`run` it in a task of its own. Beyond MOST_WAITING new ones are logged only: the oldest tell how it began."""

    def __init__(self, desk: Desk, now_us: Callable[[], int]) -> None:
        self._desk = desk
        self.now_us = now_us
        """The wall clock."""
        self._waiting: list[Alarm] = []
        self._arrived = asyncio.Event()

    @property
    def waiting(self) -> tuple[Alarm, ...]:
        """What is not recorded yet, oldest first."""
        return tuple(self._waiting)

    def take_over(self, alarms: Sequence[Alarm]) -> None:
        """Have recorded, before all others, what an earlier gateway of this process could not."""
        self._waiting[:0] = alarms
        if self._waiting:
            self._arrived.set()

    def raise_alarm(self, severity: Severity, code: str, subject: str, text: str) -> None:
        """Have it recorded. Never blocks."""
        log.warning(code, subject=subject, text=text)
        if len(self._waiting) >= MOST_WAITING:
            return
        self._waiting.append(
            Alarm(
                timestamp_us=self.now_us(),
                severity=severity,
                code=code,
                subject=subject[:MOST_SUBJECT],
                text=text[:MOST_TEXT],
            )
        )
        self._arrived.set()

    def warn(self, code: str, subject: str, text: str) -> None:
        """As `raise_alarm`, with Severity.WARNING: what drivers and the uplink call."""
        self.raise_alarm(Severity.WARNING, code, subject, text)

    async def run(self) -> None:
        """Commit until cancelled; what cannot be committed now waits."""
        refused = ""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            taken = list(self._waiting)
            try:
                await self._desk.put(taken)
            except StoreError as error:
                if str(error) != refused:
                    refused = str(error)
                    log.error("alarms.not_recorded", count=len(taken), reason=refused)
                await asyncio.sleep(RETRY_S)
                self._arrived.set()
                continue
            refused = ""
            del self._waiting[: len(taken)]
