"""Signing channel states after a start that the platform has not answered: behind one raise of the TPM's counter.

Read at the start, so that a copy of the store that was left behind is known before anything else; raised only when
something waits to be signed and the platform stays away. Without a counter there is nothing here, and windows wait.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from agent.clock import Clock
from agent.evidence.statements import Alarm, Severity
from agent.ledger.counter import Known, Standing, compare, decode_known
from agent.ledger.errors import LedgerError
from agent.roads.desk import Desk
from agent.store import Store
from agent.token.errors import TokenError

AWAY_S: Final = 60.0
"""The platform may take so long to answer after a start before the counter is raised."""
NOTE: Final = "channel-counter"
SUBJECT: Final = "channels"

log = structlog.get_logger()


class Counter(Protocol):
    """In hardware. Both raise TokenError, and block."""

    def read(self) -> int: ...

    def increment(self) -> int: ...


@dataclass(frozen=True, slots=True)
class OfflineStatus:
    """For people."""

    counter: int | None
    """Where it stood last; None: never read, or there is none."""
    sentence: str


class OfflineSigning:
    """One for the gateway."""

    def __init__(self, counter: Counter | None, *, store: Store, desk: Desk, clock: Clock) -> None:
        self._counter = counter
        self._store = store
        self._desk = desk
        self._clock = clock
        self._began_s = clock.monotonic_s()
        self._known: Known | None = None
        self._value: int | None = None
        self._raised = False
        self.trouble = ""
        """Why the counter cannot be used; empty when it can, or when there is none."""

    @property
    def status(self) -> OfflineStatus:
        """How it stands with signing offline."""
        if self._counter is None:
            return OfflineStatus(None, "after a start windows wait unsigned until the platform answers: no TPM counter")
        if self.trouble:
            return OfflineStatus(self._value, f"windows wait unsigned after a start: {self.trouble}")
        said = {
            Standing.AGREED: "windows are signed after a start without the platform: the TPM's counter is raised",
            Standing.UNBOUND: "the platform must answer once before the TPM's counter counts",
            Standing.AHEAD: "the TPM's counter is ahead of this store",
            Standing.BEHIND: "the TPM's counter is another one; the platform must answer once",
        }
        return OfflineStatus(
            self._value, "not looked yet" if self._value is None else said[self._standing(self._value)]
        )

    async def look(self) -> str:
        """Read the counter at the start. Why channels must not go on; empty when they may. Raises StoreError.

        A counter that cannot be read is a trouble, and no reason to stop: the platform is asked as it is without one.
        """
        note = await self._store.note(NOTE)
        try:
            self._known = None if note is None else decode_known(note)
        except LedgerError as error:
            self.trouble = str(error)
            return ""
        value = await self._ask()
        if value is None or self._standing(value) is not Standing.AHEAD:
            return ""
        known = 0 if self._known is None else self._known.value
        return (
            f"the TPM's counter stands at {value} and this store knows {known}: states were signed since that it does "
            "not have; was a backup restored, or a card cloned? `v2g-gateway restore` of the newest backup is the way"
        )

    async def may_sign(self) -> bool:
        """Whether states may be signed though the platform has not answered: raises the counter, once for each start.

        Raises StoreError.
        """
        if self._raised:
            return True
        if self._counter is None or self._clock.monotonic_s() - self._began_s < AWAY_S:
            return False
        value = await self._ask()
        if value is None or self._standing(value) is not Standing.AGREED:
            return False
        intended = Known(value, value + 1)
        await self._keep(intended)
        try:
            raised = await asyncio.to_thread(self._counter.increment)
        except TokenError as error:
            self._troubled(error)
            return False
        if raised != intended.intended:
            self.trouble = f"the TPM's counter went from {value} to {raised}: somebody else raises it, too"
            return False
        alarm = Alarm(
            timestamp_us=self._clock.now().wall_us,
            severity=Severity.INFO,
            code="channel.counter_raised",
            subject=SUBJECT,
            text=f"to {raised}: channel states are signed in this run before the platform has answered",
        )
        # Signed evidence of this raise, in the transaction that confirms it.
        await self._keep(Known(raised), alarm)
        self._value, self._raised = raised, True
        log.info("channel.counter_raised", counter=raised)
        return True

    async def in_step(self) -> None:
        """Every channel was found in step with the platform: the store is its newest life, whatever the counter said.

        Raises StoreError.
        """
        if self._counter is None or self._raised or self.trouble:
            return
        value = await self._ask()
        if value is not None and self._standing(value) is not Standing.AGREED:
            await self._keep(Known(value))
            log.info("channel.counter_bound", counter=value)

    def _standing(self, value: int) -> Standing:
        return compare(self._known, value)

    async def _ask(self) -> int | None:
        if self._counter is None:
            return None
        try:
            self._value = await asyncio.to_thread(self._counter.read)
        except TokenError as error:
            self._troubled(error)
            return None
        self.trouble = ""
        return self._value

    def _troubled(self, error: TokenError) -> None:
        if not self.trouble:
            log.warning("channel.counter_unreadable", reason=str(error))
        self.trouble = str(error)

    async def _keep(self, known: Known, *alarms: Alarm) -> None:
        await self._desk.put(list(alarms), {NOTE: known.encode()})
        self._known = replace(known)
