"""The gateway's own identity while it runs: its name, the key that signs now, and orders that change them.

An order that owner and operator signed lies in the state directory (identity/order.cose). It is carried out between two
batches: the last one of the old key is named in the entry, and the next one is signed by the new key. The order is the
intent, the rename of the history the commit; a crash in between carries it out at the next start, or finds it done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from agent.clock import Clock
from agent.evidence.cose import VerifyKey
from agent.evidence.verify import ChainPosition
from agent.identity import history
from agent.identity.cosign import Cosigned
from agent.identity.did import did_of
from agent.identity.errors import HistoryError
from agent.identity.folder import Held, IdentityFolder
from agent.identity.history import IdentityState
from agent.identity.orders import Kind, Order, commitment_of, decode_order
from agent.identity.purposes import EVIDENCE_KEY, evidence_key
from agent.identity.subject import possible_keys
from agent.roads.sealing import Sealer
from agent.store import Store, StoreError
from agent.token.token import PinnedSigner, Token
from drivers.device import Signer, SignerUnavailableError

LOOK_EVERY_S: Final = 2.0

log = structlog.get_logger()


class EpochSigner:
    """A key of the token under the algorithm of its epoch: one P-256 key may sign as ES256 or as ESP256."""

    def __init__(self, signer: PinnedSigner, key: VerifyKey) -> None:
        self._signer = signer
        self.key = key

    @property
    def algorithm(self) -> int:
        return self.key.algorithm

    @property
    def public_key_der(self) -> bytes:
        return self.key.public_key_der

    async def sign(self, message: bytes) -> bytes:
        """As the token's signer does."""
        return await self._signer.sign(message)

    async def sign_digest(self, digest: bytes) -> bytes:
        """As the token's signer does."""
        return await self._signer.sign_digest(digest)


class IdentityKeeper:
    """`bring_up` before the first batch, `run` beside the sealer."""

    def __init__(
        self,
        state_dir: Path,
        *,
        token: Token,
        store: Store,
        clock: Clock,
        on_entry: Callable[[Order], None] = lambda _: None,
    ) -> None:
        """`on_entry` is told of each order that has been carried out."""
        self._folder = IdentityFolder(state_dir)
        self._token = token
        self._store = store
        self._clock = clock
        self._on_entry = on_entry
        self._held: Held | None = None
        self._sealer: Sealer | None = None
        self.trouble = ""
        """Why the order that waits is not carried out, or why there is no name; empty when all is well."""

    @property
    def state(self) -> IdentityState | None:
        """None: named by its key."""
        return None if self._held is None else self._held.state

    def encoded_history(self) -> bytes:
        """For whoever verifies; empty when this gateway is named by its key."""
        return b"" if self._held is None else history.encode_history(self._held.entries)

    async def bring_up(self) -> tuple[str, Signer]:
        """The gateway's name and the key that signs now, once an order that waits has been carried out or refused.

        Raises SignerUnavailableError, StoreError, HistoryError (the history is damaged), or OSError.
        """
        self._held = await asyncio.to_thread(self._folder.history)
        await self._look()
        state = self.state
        if state is None:
            signer = await self._token.pinned_signer(EVIDENCE_KEY, self._store.journal("token"))
            return did_of(signer.public_key_der), signer
        epoch = state.epochs[-1]
        signer = self._signer_of(epoch.number, epoch.key)
        await signer.meet()
        return state.gateway_id, EpochSigner(signer, epoch.key)

    async def run(self, sealer: Sealer) -> None:
        """Carry out orders as they come, until cancelled."""
        self._sealer = sealer
        while True:
            with contextlib.suppress(SignerUnavailableError, StoreError, OSError):  # `trouble` says it
                await self._look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        """Carry out the order that waits. What may succeed later is raised and the order stays."""
        try:
            envelope = await asyncio.to_thread(self._folder.order)
            if envelope is None:
                self.trouble = ""
                return
            async with self._sealer.paused() if self._sealer is not None else contextlib.nullcontext():
                # What an earlier try committed counts, whatever became of that try.
                self._take(await asyncio.to_thread(self._folder.history))
                if not self._is_done(envelope):
                    await self._carry_out(history.check_order(self.state, envelope), envelope)
            await asyncio.to_thread(self._folder.done_with_order)
            self.trouble = ""
        except HistoryError as error:
            await asyncio.to_thread(self._folder.refuse_order)
            self.trouble = f"the order in {self._folder.order_file} is refused and set aside: {error}"
            log.error("identity.order_refused", reason=str(error))
        except (SignerUnavailableError, StoreError, OSError) as error:
            self.trouble = f"the order in {self._folder.order_file} waits: {error}"
            raise

    def _take(self, held: Held | None) -> None:
        """A history as it is on disk is the one that counts: its key signs the next batch."""
        before, self._held = self.state, held
        if held is not None and self._sealer is not None and (before is None or before.key != held.state.key):
            epoch = held.state.epochs[-1]
            self._sealer.use(EpochSigner(self._signer_of(epoch.number, epoch.key), epoch.key))

    def _is_done(self, envelope: Cosigned) -> bool:
        """Whether the newest entry is this order's."""
        if self._held is None:
            return False
        order = decode_order(envelope.payload)
        return order == decode_order(history.order_of(self._held.entries[-1]).payload)

    async def _carry_out(self, order: Order, envelope: Cosigned) -> None:
        state = self.state
        number = 1 if state is None else state.epochs[-1].number
        takes_over = state is not None and not order.kind.keeps_key
        if not order.kind.keeps_key:
            await self._require_next(order, number + takes_over + 1)
        seal = history.seal_of(order, applied_us=self._clock.now().wall_us, closing=await self._closing(order))
        for key in history.sealers_of(state, order):
            signer = self._signer_of(number + (takes_over and key == order.key), key)
            seal = seal.with_signature(key, await signer.sign(seal.to_be_signed(key)))
        entry = history.encode_entry(envelope, seal)
        entries = (*(() if self._held is None else self._held.entries), entry)
        held = Held(entries, history.step(state, entry))
        commit = asyncio.create_task(self._commit(held))
        try:
            await asyncio.shield(commit)
        except asyncio.CancelledError:
            # The file may be there already: nothing may be sealed by the old key after that.
            await commit
            raise
        log.info("identity.entry", kind=order.kind.name, number=order.number, gateway_id=held.state.gateway_id)
        self._on_entry(order)

    async def _commit(self, held: Held) -> None:
        """Once the history is on disk its key signs the next batch. Raises OSError when it is not."""
        try:
            await asyncio.to_thread(self._folder.write_history, held.entries)
        except OSError:
            # It may be there all the same (the disk failed after the rename): then the old key has ended.
            found = await asyncio.to_thread(self._folder.history)
            if found is None or found.state.head != held.state.head:
                raise
        self._take(held)

    async def _closing(self, order: Order) -> ChainPosition | None:
        """The last batch before the entry. Raises HistoryError or StoreError when the order does not go with it."""
        last = await self._store.last_batch()
        incarnation = self._store.incarnation
        if order.kind is Kind.CREATE and (self._sealer is not None or await self._store.incarnations()):
            raise HistoryError(
                "this gateway has a name, its key's, and evidence under it, and no batch changes its name: stop the "
                "agent, and apply the order with --begin-anew"
            )
        if order.kind is Kind.RECOVER and order.believed is not None and incarnation <= order.believed.incarnation:
            raise HistoryError(
                f"its last believed batch is of incarnation {order.believed.incarnation}, and this store is "
                f"incarnation {incarnation}: stop the agent and apply the order again, then its numbers begin later"
            )
        if order.kind is not Kind.ROTATE:
            return None
        if last is None and incarnation > 1:
            raise StoreError("the old key's last batch is not known until one of this incarnation is sealed")
        return None if last is None else ChainPosition(*last)

    async def _require_next(self, order: Order, epoch: int) -> None:
        """Never rotate into a dead end: the key that the order commits to is on this token."""
        public_key_der = await self._token.signer(evidence_key(epoch)).meet()
        commitments = {commitment_of(key) for key in possible_keys(public_key_der)}
        if not commitments & set(order.next):
            raise HistoryError(
                f"the key that it commits to is not key {evidence_key(epoch).decode()} of this token; propose it anew"
            )

    def _signer_of(self, epoch: int, key: VerifyKey) -> PinnedSigner:
        return self._token.signer(evidence_key(epoch), key.public_key_der)
