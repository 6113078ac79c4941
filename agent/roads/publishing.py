"""What everybody may have of this gateway to verify its evidence with: its history, newest batch, who acknowledged it.

proto/IDENTITY.md section 8. All of it is signed by whom it speaks of, and none of it says what was measured: of the
newest batch nothing is shown but its sealing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import orjson
import structlog

from agent.evidence.batch import SealedBatch
from agent.evidence.partial import AnyBatch, cut, decode_any
from agent.identity.document import gateway_document, practice_document
from agent.identity.history import IdentityState
from agent.identity.locations import ACKNOWLEDGEMENT, DOCUMENT, HISTORY, NEWEST_BATCH, TRUST_LIST
from agent.store import Store, StoreError

NOTE: Final = "published/acknowledgement"
NOTE_EVERY_S: Final = 60.0

log = structlog.get_logger()


class Named(Protocol):
    """What says who this gateway is: `IdentityKeeper`."""

    @property
    def state(self) -> IdentityState | None:
        """None: named by its key."""
        ...

    def encoded_history(self) -> bytes:
        """Empty when it is named by its key."""
        ...


class Publication:
    """`restore` it before the first batch; `run` keeps what the platform signed over a restart."""

    def __init__(
        self,
        store: Store,
        identity: Named,
        *,
        public_url: str | None,
        gateway_id: Callable[[], str],
        acknowledgement: Callable[[], bytes],
        trust_list: Callable[[], bytes],
    ) -> None:
        """`acknowledgement` and `trust_list` give the newest as they were signed; empty: there is none yet."""
        self._store = store
        self._identity = identity
        self._public_url = public_url
        self._gateway_id = gateway_id
        self._acknowledgement = acknowledgement
        self._trust_list = trust_list
        self._kept = b""
        """The acknowledgement of an earlier run."""
        self._newest: AnyBatch | None = None
        self._shown: tuple[AnyBatch, bytes] | None = None
        """The newest batch when somebody asked last, and what he got."""

    async def restore(self) -> None:
        """What an earlier run left. Raises StoreError."""
        self._kept = await self._store.note(NOTE) or b""
        last = await self._store.last_batch()
        if last is not None:
            found = await self._store.batches(last[1], 1, incarnation=last[0])
            self._newest = decode_any(found[0].encoded) if found else None

    async def run(self) -> None:
        """Until cancelled. Each acknowledgement is written once a minute at most: the next one says more."""
        while True:
            await self.note()
            await asyncio.sleep(NOTE_EVERY_S)

    async def note(self) -> None:
        """Keep the newest acknowledgement; on a full disk the one before stays."""
        signed = self._acknowledgement()
        if signed and signed != self._kept:
            try:
                await self._store.set_note(NOTE, signed)
                self._kept = signed
            except StoreError as error:
                log.warning("gateway.acknowledgement_not_noted", reason=str(error))

    def sealed(self, batch: SealedBatch) -> None:
        """The newest batch is another one."""
        self._newest = batch

    def file(self, name: str) -> bytes | None:
        """What is had under a name of agent/identity/locations.py; None when there is no such thing here. Cheap."""
        match name:
            case str() if name == DOCUMENT:
                found = self._document()
            case str() if name == HISTORY:
                found = self._identity.encoded_history()
            case str() if name == NEWEST_BATCH:
                found = self._newest_batch()
            case str() if name == ACKNOWLEDGEMENT:
                found = self._acknowledgement() or self._kept
            case str() if name == TRUST_LIST:
                found = self._trust_list()
            case _:
                found = b""
        return found or None

    def _document(self) -> bytes:
        state, gateway_id = self._identity.state, self._gateway_id()
        if state is not None:
            return orjson.dumps(gateway_document(state, self._public_url), option=orjson.OPT_INDENT_2)
        return orjson.dumps(practice_document(gateway_id), option=orjson.OPT_INDENT_2) if gateway_id else b""

    def _newest_batch(self) -> bytes:
        """Signed header, and the sealing: when that was. The tree is walked once for each batch."""
        if self._newest is None:
            return b""
        if self._shown is None or self._shown[0] is not self._newest:
            self._shown = self._newest, cut(self._newest, (0,)).encode()
        return self._shown[1]
