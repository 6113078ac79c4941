"""The token as the rest of the agent sees it: start, close, state, and signers whose keys never leave it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import structlog

from agent.evidence.errors import EvidenceError
from agent.token.cryptoki import Cryptoki, Selection
from agent.token.custodian import Custodian, TokenState, TokenStatus
from agent.token.errors import KeyRefusedError, TokenBusyError, TokenUnavailableError
from agent.token.keys import Curve, PublicHalf, TokenKey, name_of
from agent.token.owner import Owner
from agent.token.refused_pin import RefusedPin
from drivers.device import Journal

# Everything that the rest of the agent needs of this room.
__all__ = ["Curve", "PinnedSigner", "Token", "TokenKey", "TokenState", "TokenStatus"]

_log = structlog.get_logger()

T = TypeVar("T")

DEADLINE_S: Final = 15.0
"""Of one signature, waiting included. A busy TPM makes three a second: some dozens may wait."""
CEREMONY_DEADLINE_S: Final = 120.0
"""Of making a key: a TPM takes seconds, a certified module may take a minute."""
QUEUE_LIMIT: Final = 256
HANGS_AFTER_S: Final = 30.0
"""A call that has not come back for this long is a fault that a person should hear of."""
CLOSE_S: Final = 5.0


class Token:
    """One PKCS#11 token. Start it whatever its condition is: it comes, goes and comes back by itself.

    Select it by exactly one of `label` and `serial`. `read_pin` gives the user PIN each time that a login is needed,
    and may raise. A PIN that was refused is kept, hashed, in `refused_pin_file`, so that it is not tried again after a
    restart. One Token per module and process.
    """

    def __init__(
        self,
        *,
        module: Path,
        label: str | None = None,
        serial: str | None = None,
        read_pin: Callable[[], str],
        refused_pin_file: Path | None = None,
        deadline_s: float = DEADLINE_S,
        queue_limit: int = QUEUE_LIMIT,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        if (label is None) == (serial is None):
            raise ValueError("select the token by exactly one of label and serial")
        self._deadline_s = deadline_s
        self._pins: dict[bytes, bytes] = {}
        cryptoki = Cryptoki(
            Selection(module=module, label=label, serial=serial), read_pin, RefusedPin(refused_pin_file)
        )
        self._custodian = Custodian(cryptoki, pins=self._pins, monotonic_s=monotonic_s)
        self._owner = Owner(
            idle=self._custodian.upkeep,
            end=self._custodian.close,
            queue_limit=queue_limit,
            monotonic_s=monotonic_s,
        )

    # Life

    def start(self) -> None:
        """Start the owner thread, which opens the token. Returns at once and raises nothing about the token."""
        self._owner.start()

    async def close(self) -> None:
        """Log out and end the thread. What still waits fails with TokenUnavailableError."""
        self._owner.stop()
        if not await asyncio.to_thread(self._owner.join, CLOSE_S):
            _log.error("token.hangs", detail="the module did not come back from a call; left behind")

    @property
    def status(self) -> TokenStatus:
        """A snapshot. Cheap, never blocks."""
        status = self._custodian.status
        busy_s = self._owner.busy_for_s()
        if busy_s > HANGS_AFTER_S:
            return replace(
                status,
                state=TokenState.FAULT,
                detail=f"the token has not answered for {busy_s:.0f} s; unplug it and plug it in again",
            )
        return status

    @property
    def state(self) -> TokenState:
        return self.status.state

    @property
    def detail(self) -> str:
        """One sentence for a person: what is wrong and what to do, or which token it is."""
        return self.status.detail

    async def state_change(self) -> TokenStatus:
        """Waits for the next change of the state; gives the status after it."""
        await asyncio.wrap_future(self._custodian.watch())
        return self.status

    async def wait_ready(self) -> None:
        """Returns once the token can sign. Waits for ever: put a time-out around it."""
        while True:
            changed = self._custodian.watch()  # before looking, or a change in between would be missed
            if self.state is TokenState.READY:
                changed.cancel()
                return
            await asyncio.wrap_future(changed)

    # Signing

    def signer(self, key_id: bytes, pinned_spki: bytes | None = None) -> PinnedSigner:
        """A signer for the key with this CKA_ID. Never blocks; the token may be absent.

        pinned_spki: SubjectPublicKeyInfo that the key must have. Without it the first key that is seen is pinned for
        the life of this object; `pinned_signer` keeps the pin over restarts.
        Raises KeyRefusedError when the pin is no key, or not the one that this key is pinned to already.
        """
        if pinned_spki is not None:
            try:
                PublicHalf(pinned_spki)
            except EvidenceError as error:
                raise KeyRefusedError(f"key {name_of(key_id)}: its pin is damaged: {error}") from error
            if self._pins.setdefault(key_id, pinned_spki) != pinned_spki:
                raise KeyRefusedError(f"key {name_of(key_id)}: is pinned to another public key already")
        self._custodian.wanted |= {key_id}
        self._owner.nudge()
        return PinnedSigner(self, key_id)

    async def pinned_signer(self, key_id: bytes, journal: Journal) -> PinnedSigner:
        """A signer whose public key is known: from the journal, or from the first contact and then in the journal.

        Raises TokenUnavailableError when there is neither a pin nor a token, KeyRefusedError for a key that must not
        be used.
        """
        place = f"pin/{key_id.hex()}"
        pinned = await journal.recall(place)
        signer = self.signer(key_id, pinned)
        if pinned is None:
            await journal.remember(place, await signer.meet())
        return signer

    def sign_blocking(self, key_id: bytes, digest: bytes, timeout_s: float) -> bytes:
        """ECDSA signature r || s over a digest of 32 bytes, for a thread that is not the event loop's (gRPC's signer).

        Raises TokenUnavailableError or KeyRefusedError.
        """
        future = self._owner.submit(lambda: self._custodian.sign_digest(key_id, digest), timeout_s)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise TokenBusyError(f"the token did not sign within {timeout_s:g} s") from None

    # Ceremony

    async def keys(self) -> tuple[TokenKey, ...]:
        """Every private key on the token, also those that must not be used. Raises TokenUnavailableError."""
        return await self._ask(self._custodian.list_keys, CEREMONY_DEADLINE_S)

    async def create_key(self, key_id: bytes, curve: Curve = Curve.P256, *, label: str | None = None) -> TokenKey:
        """Make a signing key that cannot leave the token. `label` is the id as text unless given.

        Raises KeyExistsError, KeyRefusedError (the token cannot make such a key) or TokenUnavailableError.
        """
        name = key_id.decode("utf-8") if label is None else label
        return await self._ask(lambda: self._custodian.create_key(key_id, name, curve), CEREMONY_DEADLINE_S)

    # Secrets that the token guards

    async def wrapping_key(self, key_id: bytes) -> bytes:
        """SubjectPublicKeyInfo (RSA) of a key that opens secrets (`wrapping.encrypt_to`), made now when there is none.

        Raises KeyRefusedError or TokenUnavailableError.
        """
        return await self._ask(lambda: self._custodian.wrapping_key(key_id), CEREMONY_DEADLINE_S)

    async def unwrap(self, key_id: bytes, encrypted: bytes) -> bytes:
        """The secret. Raises KeyRefusedError, also for what was encrypted to another key, or TokenUnavailableError."""
        return await self._ask(lambda: self._custodian.unwrap(key_id, encrypted), CEREMONY_DEADLINE_S)

    # For PinnedSigner

    def pin_of(self, key_id: bytes) -> bytes | None:
        """SubjectPublicKeyInfo that a key is pinned to; None before the first contact."""
        return self._pins.get(key_id)

    async def sign_message(self, key_id: bytes, message: bytes) -> bytes:
        return await self._ask(lambda: self._custodian.sign_message(key_id, message), self._deadline_s)

    async def sign_digest(self, key_id: bytes, digest: bytes) -> bytes:
        return await self._ask(lambda: self._custodian.sign_digest(key_id, digest), self._deadline_s)

    async def meet(self, key_id: bytes) -> bytes:
        return await self._ask(lambda: self._custodian.meet(key_id), self._deadline_s)

    async def _ask(self, work: Callable[[], T], within_s: float) -> T:
        future: Future[T] = self._owner.submit(work, within_s)
        try:
            async with asyncio.timeout(within_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise TokenBusyError(f"the token did not answer within {within_s:g} s") from None


class PinnedSigner:
    """drivers.device.Signer for one key of a token. Every signature has been verified under the pinned public key."""

    def __init__(self, token: Token, key_id: bytes) -> None:
        self._token = token
        self._public: PublicHalf | None = None
        self.key_id = key_id

    @property
    def algorithm(self) -> int:
        """COSE number. Raises TokenUnavailableError before the first contact with a key that was not pinned."""
        return self._half().algorithm

    @property
    def public_key_der(self) -> bytes:
        """SubjectPublicKeyInfo. Raises as `algorithm`."""
        return self._half().public_key_der

    async def meet(self) -> bytes:
        """The public key, after the key has proven on the token that it is there and signs. Raises as `sign`."""
        return await self._token.meet(self.key_id)

    async def sign(self, message: bytes) -> bytes:
        """Signature in COSE form over a message (hashed with SHA-256 here for ECDSA; low s).

        Raises TokenUnavailableError or KeyRefusedError, both SignerUnavailableError.
        """
        return await self._token.sign_message(self.key_id, message)

    async def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA signature r || s, low s, over a digest of 32 bytes. Raises as `sign`."""
        return await self._token.sign_digest(self.key_id, digest)

    def _half(self) -> PublicHalf:
        if self._public is None:
            pinned = self._token.pin_of(self.key_id)
            if pinned is None:
                raise TokenUnavailableError(
                    f"key {name_of(self.key_id)} has not been seen yet; the token: {self._token.detail}"
                )
            self._public = PublicHalf(pinned)
        return self._public
