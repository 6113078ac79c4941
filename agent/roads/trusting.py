"""The trust list in force: read from its file, checked against the root, never an older one than was used before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from agent.clock import Clock, ClockQuality
from agent.evidence.cose import VerifyKey
from agent.identity.errors import IdentityError
from agent.identity.trust import TrustList, TrustListPin, decode_pin, decode_trust_list
from agent.identity.trust_roots import TrustRoots
from agent.store import Store, StoreError

LOOK_EVERY_S: Final = 10.0
PIN_NOTE: Final = "trust-list/pin"

log = structlog.get_logger()


class TrustKeeper:
    """Holds the list. `run` it in a task of its own: a new list counts within seconds."""

    def __init__(self, path: Path, root: VerifyKey | TrustRoots, *, store: Store, clock: Clock) -> None:
        self._path = path
        self._root = root
        self._store = store
        self._clock = clock
        self._seen: bytes | None = None
        self.current: TrustList | None = None
        self.trouble = ""
        """Why there is no list, or no newer one; empty when all is well."""

    @property
    def signed(self) -> bytes:
        """The list in force as it was signed; empty: there is none."""
        return self._seen or b""

    async def run(self) -> None:
        """Look for a new list until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Take the file's list if it is a good one. A bad one is named, and the one in force stays.

        A new one counts only once it is noted which it is: else an older one could come after it.
        """
        try:
            encoded = await asyncio.to_thread(self._path.read_bytes)
        except OSError as error:
            self.trouble = f"{self._path}: {error.strerror}; enrol this gateway, or fetch the list again"
            return
        if encoded == self._seen:
            # The one in force; what was wrong with the file meanwhile has passed.
            self.trouble = ""
            return
        now = self._clock.now()
        try:
            pinned = await self._pin()
            taken = decode_trust_list(
                encoded,
                self._root,
                None if now.quality is ClockQuality.UNTRUSTED else now.wall_us,
                pinned=pinned,
            )
            if taken.pin != pinned:
                await self._store.set_note(PIN_NOTE, taken.pin.encode())
        except (IdentityError, StoreError) as error:
            if self.trouble != str(error):
                log.error("trust.refused", file=str(self._path), reason=str(error))
            self.trouble = str(error)
            return
        self._seen, self.current, self.trouble = encoded, taken, ""
        log.info("trust.taken", version=taken.version, issuers=len(taken.issuers))

    async def _pin(self) -> TrustListPin | None:
        note = await self._store.note(PIN_NOTE)
        return None if note is None else decode_pin(note)
