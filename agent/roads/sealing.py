"""The second stretch of the road up: queued statements become a signed batch, committed before anybody sees it.

While the token signs one root, new statements queue; the next signature covers them all. While the token is away,
statements wait in the store, and nothing else signs in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

import structlog

from agent.clock import Clock
from agent.evidence import batch as batches
from agent.evidence import statements
from agent.evidence.batch import FIRST_PREVIOUS_ROOT, KeyProtection, SealedBatch
from agent.evidence.cose import key_id_of
from agent.evidence.seal import MOST_QUEUED_BYTES, MOST_QUEUED_LEAVES, SealPolicy, wait_s
from agent.evidence.statements import Sealing
from agent.roads.desk import Desk
from agent.store import Store, StoredBatch, StoreError
from drivers.device import Signer, SignerUnavailableError

LAST_COMMIT_S: Final = 5.0
AFTER_ORDERS_S: Final = 0.02
"""What is urgent waits so long: a receipt is committed at the moment at which its command goes to the devices, and that
shares the interpreter and the store with what seals."""
RETRY_LEAST_S: Final = 0.2
RETRY_MOST_S: Final = 5.0

log = structlog.get_logger()


class Countersigner(Protocol):
    """Signs a sealed batch a second time (`agent.identity.countersigner`)."""

    async def countersign(self, sealed: SealedBatch) -> SealedBatch: ...


class Sealer:
    """One for the gateway. `run` it in a task of its own. `on_sealed` is told of each batch once it is committed."""

    def __init__(
        self,
        *,
        store: Store,
        desk: Desk,
        clock: Clock,
        signer: Signer,
        gateway_id: str,
        boot_id: bytes,
        key_protection: KeyProtection,
        policy: SealPolicy,
        on_sealed: Callable[[SealedBatch], None],
        countersigner: Countersigner | None = None,
    ) -> None:
        self._store = store
        self._desk = desk
        self._clock = clock
        self._signer = signer
        self._gateway_id = gateway_id
        self._boot_id = boot_id
        self._key_protection = key_protection
        self._policy = policy
        self._on_sealed = on_sealed
        self._countersigner = countersigner
        self._sealing = asyncio.Lock()
        self.trouble = ""
        """Why nothing is sealed; empty while it is."""

    async def run(self) -> None:
        """Seal until cancelled."""
        retry_s = RETRY_LEAST_S
        while True:
            try:
                await self._wait_for_company()
                while True:
                    # What comes while the token signs waits for company of its own.
                    self._desk.begin_wait()
                    if not await self.seal_once():
                        break
                    if wait_s(self._policy, await self._desk.queue(), self._clock.monotonic_s()) != 0:
                        break
                self.trouble, retry_s = "", RETRY_LEAST_S
            except (SignerUnavailableError, StoreError) as error:
                if not self.trouble:
                    log.warning("seal.waits", reason=str(error))
                self.trouble = str(error)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, RETRY_MOST_S)
                self._desk.arrived.set()

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Nothing is sealed meanwhile: the last batch stays the last."""
        async with self._sealing:
            yield

    def use(self, signer: Signer) -> None:
        """Sign the next batch with another key. Only while `paused`."""
        if not self._sealing.locked():
            raise RuntimeError("the key is changed while a batch may be on its way")
        self._signer = signer

    async def _wait_for_company(self) -> None:
        """Returns when the policy says that the queue is to be sealed."""
        await self._desk.arrived.wait()
        self._desk.begin_wait()
        while True:
            self._desk.arrived.clear()
            queue = await self._desk.queue()
            left_s = wait_s(self._policy, queue, self._clock.monotonic_s())
            if left_s == 0:
                if queue.urgent:
                    await asyncio.sleep(AFTER_ORDERS_S)
                return
            try:
                async with asyncio.timeout(left_s):
                    await self._desk.arrived.wait()
            except TimeoutError:
                continue
            if left_s is None:
                # The queue was empty: this is its first.
                self._desk.begin_wait()

    async def seal_once(self) -> bool:
        """Seal what is queued into one batch; False when nothing is. Raises SignerUnavailableError or StoreError.

        May be called beside `run`: one after the other, so that no two batches of one number are ever signed.
        """
        async with self._sealing:
            return await self._seal()

    async def _seal(self) -> bool:
        rows = await self._store.queued(MOST_QUEUED_LEAVES, MOST_QUEUED_BYTES)
        if not rows:
            return False
        last = await self._store.last_batch()
        incarnation = self._store.incarnation
        number, previous_root = 1, FIRST_PREVIOUS_ROOT
        if last is not None and last[0] == incarnation:
            number, previous_root = last[1] + 1, last[2]
        now = self._clock.now()
        sealing = Sealing(sealed_at_us=now.wall_us, clock_quality=now.quality, clock_error_bound_us=now.error_bound_us)
        unsigned = batches.assemble(
            [statements.encode(sealing), *(row.encoded for row in rows)],
            gateway_id=self._gateway_id,
            incarnation=incarnation,
            boot_id=self._boot_id,
            number=number,
            previous_root=previous_root,
            key_protection=self._key_protection,
            algorithm=self._signer.algorithm,
            key_id=key_id_of(self._signer.public_key_der),
        )
        sealed = batches.seal(unsigned, await self._signer.sign(unsigned.to_be_signed))
        if self._countersigner is not None:
            sealed = await self._countersigner.countersign(sealed)
        await self._commit(
            StoredBatch(
                incarnation=incarnation,
                number=number,
                root=sealed.root,
                previous_root=previous_root,
                encoded=sealed.encode(),
                sealed_at_us=now.wall_us,
                leaf_count=len(sealed.leaves),
            ),
            rows[-1].rowid,
        )
        self._on_sealed(sealed)
        return True

    async def _commit(self, batch: StoredBatch, last_rowid: int) -> None:
        """Raises StoreError. A cancellation waits for it: the store goes on with what it was given, and whoever seals
        next must see it, or would sign another batch of this number."""
        commit = asyncio.ensure_future(self._store.seal(batch, last_rowid))
        try:
            await asyncio.shield(commit)
        except asyncio.CancelledError:
            await asyncio.wait({commit}, timeout=LAST_COMMIT_S)
            raise
