"""Keeps one token signing: opens it, pins its keys, verifies every signature, climbs the ladder when it fails.

Runs on the owner thread only. Others read `status`, one immutable value that is replaced as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, TypeVar

import structlog
from cryptography.exceptions import InvalidSignature
from pkcs11.exceptions import PKCS11Error

from agent.token.cryptoki import Cryptoki, HeldKey, TokenNames
from agent.token.errors import (
    KeyMissingError,
    KeyRefusedError,
    PinLockedError,
    PinRefusedError,
    TokenAbsentError,
    TokenError,
    TokenUnavailableError,
)
from agent.token.keys import Curve, TokenKey, check_digest, name_of
from agent.token.recovery import CLIMBED_FOR, LOCKED_WAIT_S, LONGEST_WAIT_S, Rung, next_rung, wait_after

_log = structlog.get_logger()

T = TypeVar("T")

PROBE_S: Final = 15.0
"""An idle token is looked at this often, so that the status page tells of a pulled one before it is needed."""


class TokenState(Enum):
    """One look at the token."""

    STARTING = "starting"
    READY = "ready"
    ABSENT = "absent"
    WRONG_PIN = "wrong PIN"
    FAULT = "fault"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStatus:
    """For the status page and the metrics."""

    state: TokenState
    detail: str
    """One sentence for a person: what is wrong and what to do, or which token it is."""
    names: TokenNames | None = None
    """None until the token was seen."""
    mechanisms: tuple[str, ...] = ()
    """What it can do of all that is used here, as it said when it was opened last."""
    signatures: int = 0
    """Released since the start."""
    signature_s: float | None = None
    """How long the signature took by which the newest key proved itself; None: none has yet."""
    key_faults: Mapping[bytes, str] = field(default_factory=dict)
    """Keys that were asked for and must not be used, by CKA_ID, and why."""
    put_back: str = ""
    """That the token came back from its copy, as a sentence, until a person has seen to it."""


class Custodian:
    """The owner thread's mind. `pins` maps CKA_ID to the SubjectPublicKeyInfo that it must have; other threads add."""

    def __init__(self, cryptoki: Cryptoki, *, pins: dict[bytes, bytes], monotonic_s: Callable[[], float]) -> None:
        self._cryptoki = cryptoki
        self._pins = pins
        self._monotonic_s = monotonic_s
        self.wanted: frozenset[bytes] = frozenset(pins)
        """Keys that somebody wants to sign with; they are met as soon as the token is there. Replaced as a whole."""
        self.status = TokenStatus(state=TokenState.STARTING, detail="the token has not been opened yet")
        self._held: dict[bytes, HeldKey] = {}
        self._failures = 0
        self._next_try_s = monotonic_s()
        self._next_probe_s = 0.0
        self._climbed_for_key_s = dict.fromkeys(Rung, -LONGEST_WAIT_S)
        """When a rung was climbed last for what may be the fault of one key alone."""
        self._watchers: list[Future[None]] = []
        self._watchers_lock = threading.Lock()

    # Requests

    def sign_message(self, key_id: bytes, message: bytes) -> bytes:
        """Signature in COSE form over a message. Raises TokenUnavailableError or KeyRefusedError."""
        return self._sign(key_id, lambda key: key.public.payload_of(message))

    def sign_digest(self, key_id: bytes, digest: bytes) -> bytes:
        """As `sign_message`, over a digest of 32 bytes; ECDSA only."""
        check_digest(digest)

        def payload(key: HeldKey) -> bytes:
            if not key.public.signs_digests:
                raise KeyRefusedError(f"key {name_of(key_id)} is Ed25519, which does not sign digests")
            return digest

        return self._sign(key_id, payload)

    def meet(self, key_id: bytes) -> bytes:
        """The SubjectPublicKeyInfo of a key, once it has proven that it is its own. Raises as `sign_message`."""
        return self._mended(key_id, lambda key: key.public.public_key_der)

    def list_keys(self) -> tuple[TokenKey, ...]:
        """Every private key on the token. Raises TokenUnavailableError or KeyRefusedError."""
        return self._ceremony(lambda: tuple(self._cryptoki.list_keys()))

    def create_key(self, key_id: bytes, label: str, curve: Curve) -> TokenKey:
        """Make a key. Raises KeyExistsError, KeyRefusedError or TokenUnavailableError."""

        def create() -> TokenKey:
            public = self._cryptoki.generate(key_id, label, curve).public
            return TokenKey(
                key_id=key_id,
                label=label,
                algorithm=public.algorithm,
                public_key_der=public.public_key_der,
                fault=None,
            )

        made = self._ceremony(create)
        _log.info("token.key_created", key=name_of(key_id), curve=curve.name)
        return made

    def wrapping_key(self, key_id: bytes) -> bytes:
        """Raises KeyRefusedError or TokenUnavailableError."""
        return self._ceremony(lambda: self._cryptoki.wrapping_key(key_id))

    def unwrap(self, key_id: bytes, encrypted: bytes) -> bytes:
        """Raises KeyRefusedError, also for what was encrypted to another key, or TokenUnavailableError."""
        return self._ceremony(lambda: self._cryptoki.unwrap(key_id, encrypted))

    # Upkeep

    def upkeep(self) -> float:
        """Open, look after and meet keys as due. Seconds until the next call."""
        now_s = self._monotonic_s()
        if self.status.state is not TokenState.READY:
            if now_s < self._next_try_s:
                return self._next_try_s - now_s
            try:
                self._open()
            except TokenUnavailableError:
                return max(0.0, self._next_try_s - self._monotonic_s())
        if now_s >= self._next_probe_s:
            self._look()
            unmet = self.wanted - self._held.keys()
        else:
            unmet = self.wanted - self._held.keys() - self.status.key_faults.keys()
        for key_id in unmet:
            with contextlib.suppress(TokenError):  # the status says it
                self.meet(key_id)
        if self.status.state is not TokenState.READY:
            return max(0.0, self._next_try_s - self._monotonic_s())
        return max(0.0, self._next_probe_s - self._monotonic_s())

    def close(self) -> None:
        """Let the module go; the state is CLOSED afterwards."""
        self._held.clear()
        try:
            self._cryptoki.close()
        finally:
            self._become(TokenState.CLOSED, "the token has been closed")

    def watch(self) -> Future[None]:
        """Done at the next change of the state. For any thread."""
        future: Future[None] = Future()
        with self._watchers_lock:
            self._watchers = [watcher for watcher in self._watchers if not watcher.done()] + [future]
        return future

    def _look(self) -> None:
        """Notice a token that went away while nobody needed it."""
        self._next_probe_s = self._monotonic_s() + PROBE_S
        try:
            self._cryptoki.probe(self._held.values())
            self.status = replace(self.status, put_back=self._cryptoki.put_back)
        except PKCS11Error as error:
            _log.warning("token.lost", error=_say(error))
            with contextlib.suppress(TokenUnavailableError):  # the status says it
                self._open()

    # Signing

    def _sign(self, key_id: bytes, payload_for: Callable[[HeldKey], bytes]) -> bytes:
        def sign(key: HeldKey) -> bytes:
            payload = payload_for(key)
            return key.public.released(payload, self._cryptoki.sign(key, payload))

        signature = self._mended(key_id, sign)
        self.status = replace(self.status, signatures=self.status.signatures + 1)
        return signature

    def _mended(self, key_id: bytes, use: Callable[[HeldKey], T]) -> T:
        """Use a key, climbing the ladder as far as it takes. Raises TokenUnavailableError or KeyRefusedError."""
        self._require_open()
        rung: Rung | None = None
        while True:
            try:
                if rung is not None:
                    self._climb(rung, key_id)
                result = use(self._hold(key_id))
            except CLIMBED_FOR as error:
                rung = self._next_rung(error, rung)
                if rung is None:
                    raise self._given_up(key_id, error) from error
                _log.warning("token.recovering", key=name_of(key_id), error=_say(error), by=rung.name.lower())
            except KeyRefusedError as error:
                self._note_fault(key_id, str(error))
                raise
            else:
                self._note_fault(key_id, None)
                self._next_probe_s = self._monotonic_s() + PROBE_S
                return result

    def _hold(self, key_id: bytes) -> HeldKey:
        """The key's handle. A new one is compared with the pin, and must sign before anybody relies on it."""
        if key_id in self._held:
            return self._held[key_id]
        key = self._cryptoki.find(key_id)
        pinned = self._pins.get(key_id)
        if pinned is not None and pinned != key.public.public_key_der:
            raise KeyRefusedError(
                f"key {name_of(key_id)}: the token holds another key than the one that was enrolled; put the right "
                "token back, or enrol anew"
            )
        challenge = hashlib.sha256(b"v2g-gateway key check" + os.urandom(32)).digest()
        began_s = self._monotonic_s()
        signature = self._cryptoki.sign(key, challenge)
        self.status = replace(self.status, signature_s=self._monotonic_s() - began_s)
        key.public.released(challenge, signature)
        self._pins.setdefault(key_id, key.public.public_key_der)
        self._held[key_id] = key
        return key

    def _next_rung(self, error: Exception, tried: Rung | None) -> Rung | None:
        rung = next_rung(error, tried)
        # One missing or lying key may be due to stale handles or a lost login, but must not keep breaking the others'
        # sessions, nor log in for each request. One whose handle was good has been tried by finding it again first.
        one_key = not isinstance(error, PKCS11Error)
        if one_key and (rung is Rung.REINITIALISE or (rung is Rung.REOPEN_SESSION and tried is None)):
            now_s = self._monotonic_s()
            if now_s - self._climbed_for_key_s[rung] < LONGEST_WAIT_S:
                return None
            self._climbed_for_key_s[rung] = now_s
        return rung

    def _climb(self, rung: Rung, key_id: bytes) -> None:
        if rung is Rung.FIND_KEY:
            self._held.pop(key_id, None)
            return
        self._held.clear()
        if rung is Rung.REINITIALISE:
            self._open()
            return
        try:
            self._cryptoki.reopen_session()
        except TokenUnavailableError as error:
            raise self._failed(error) from error

    def _given_up(self, key_id: bytes, error: Exception) -> TokenError:
        """The ladder has ended: what that means for the one who asked, and for the token."""
        if isinstance(error, KeyMissingError):
            self._note_fault(key_id, str(error))
            return error
        if isinstance(error, InvalidSignature):
            refused = KeyRefusedError(
                f"key {name_of(key_id)}: the token's signatures do not verify under its public half"
            )
            self._note_fault(key_id, str(refused))
            return refused
        return self._failed(error)

    def _ceremony(self, work: Callable[[], T]) -> T:
        """Run what is not to be repeated blindly: one attempt, on a token that was just seen to answer."""
        self._require_open()
        try:
            self._cryptoki.probe(())
        except PKCS11Error:
            self._open()
        try:
            return work()
        except PKCS11Error as error:
            refusal = error
        try:
            self._cryptoki.probe(())
        except PKCS11Error as error:
            raise self._failed(error) from refusal
        # It is there and said no: a curve that it lacks, no room, a write protection.
        raise KeyRefusedError(f"the token refuses: {_say(refusal)}") from refusal

    # State

    def _require_open(self) -> None:
        if self.status.state is TokenState.READY:
            return
        if self._monotonic_s() < self._next_try_s:
            raise TokenUnavailableError(f"the token cannot sign now: {self.status.detail}")
        self._open()

    def _open(self) -> None:
        """Initialise the module and open the token. Raises TokenUnavailableError, with the state set."""
        self._held.clear()
        try:
            names = self._cryptoki.open()
        except (TokenUnavailableError, PKCS11Error) as error:
            raise self._failed(error) from error
        self._failures = 0
        self._next_probe_s = self._monotonic_s() + PROBE_S
        self.status = replace(self.status, names=names, mechanisms=self._cryptoki.mechanisms(), key_faults={})
        self._become(TokenState.READY, f"token {names.label!r}, serial {names.serial}, {names.model}")

    def _failed(self, error: Exception) -> TokenUnavailableError:
        """Set the state that an error means and the wait until the next try; gives the error for the one who asked."""
        self._held.clear()
        self._failures += 1
        locked = isinstance(error, PinLockedError)
        self._next_try_s = self._monotonic_s() + (LOCKED_WAIT_S if locked else wait_after(self._failures))
        state = TokenState.FAULT
        if isinstance(error, TokenAbsentError):
            state = TokenState.ABSENT
        elif isinstance(error, PinRefusedError):
            state = TokenState.WRONG_PIN
        detail = str(error) if isinstance(error, TokenError) else f"the PKCS#11 module fails: {_say(error)}"
        self._become(state, detail)
        return error if isinstance(error, TokenUnavailableError) else TokenUnavailableError(detail)

    def _become(self, state: TokenState, detail: str) -> None:
        before = self.status
        self.status = replace(before, state=state, detail=detail, put_back=self._cryptoki.put_back)
        if (before.state, before.detail) != (state, detail):
            level = _log.info if state in (TokenState.READY, TokenState.CLOSED) else _log.warning
            level("token.state", state=state.value, detail=detail)
        if before.state is not state:
            with self._watchers_lock:
                watchers, self._watchers = self._watchers, []
            for watcher in watchers:
                if watcher.set_running_or_notify_cancel():
                    watcher.set_result(None)

    def _note_fault(self, key_id: bytes, fault: str | None) -> None:
        faults = self.status.key_faults
        if faults.get(key_id) == fault:
            return
        others = {key: text for key, text in faults.items() if key != key_id}
        self.status = replace(self.status, key_faults=others if fault is None else {**others, key_id: fault})
        if fault is not None:
            _log.error("token.key_refused", key=name_of(key_id), reason=fault)


def _say(error: Exception) -> str:
    """python-pkcs11 says most of what it has to say in the names of its errors."""
    return f"{type(error).__name__}{f': {error}' if str(error) else ''}"[:200]
