"""The custodian against a module that fails on order: pins, the ladder, back-off, and what others see of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pkcs11.exceptions as p11
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.evidence.cose import verify_key_of
from agent.token.cryptoki import Cryptoki, HeldKey, Selection, TokenNames
from agent.token.custodian import PROBE_S, Custodian, TokenState
from agent.token.errors import (
    KeyMissingError,
    KeyRefusedError,
    PinLockedError,
    PinRefusedError,
    TokenAbsentError,
    TokenUnavailableError,
)
from agent.token.keys import PublicHalf
from agent.token.recovery import LOCKED_WAIT_S, LONGEST_WAIT_S

KEY = b"evidence"
OTHER = b"device:pv-1"


def private_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, ec.SECP256R1())


def spki(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Fake(Cryptoki):
    """Keys in memory. `faults` are raised by the coming calls of a function, in order; `calls` says what was called."""

    keys: dict[bytes, ec.EllipticCurvePrivateKey] = field(default_factory=lambda: {KEY: private_key(3)})
    faults: dict[str, list[Exception]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(Selection(module=Path("/nowhere"), label="fake", serial=None), lambda: "0000")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.faults.get(name):
            raise self.faults[name].pop(0)

    def open(self) -> TokenNames:
        self._call("open")
        return TokenNames("fake", "01", "none")

    def reopen_session(self) -> None:
        self._call("reopen")

    def probe(self, held: Iterable[HeldKey]) -> None:
        self._call("probe")

    def close(self) -> None:
        self._call("close")

    def find(self, key_id: bytes) -> HeldKey:
        self._call("find")
        if key_id not in self.keys:
            raise KeyMissingError(f"no {key_id!r}")
        return HeldKey(key_id, None, PublicHalf(spki(self.keys[key_id])))  # type: ignore[arg-type]

    def sign(self, key: HeldKey, payload: bytes) -> bytes:
        self._call("sign")
        r, s = decode_dss_signature(self.keys[key.key_id].sign(payload, ec.ECDSA(Prehashed(hashes.SHA256()))))
        return r.to_bytes(32) + s.to_bytes(32)


@dataclass
class Bench:
    token: Fake = field(default_factory=Fake)
    pins: dict[bytes, bytes] = field(default_factory=dict)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        self.custodian = Custodian(self.token, pins=self.pins, monotonic_s=lambda: self.now_s)

    @property
    def state(self) -> TokenState:
        return self.custodian.status.state

    def calls(self) -> list[str]:
        calls, self.token.calls = self.token.calls, []
        return calls


def opened() -> Bench:
    """A custodian that has met the key and signed once."""
    bench = Bench()
    bench.custodian.sign_message(KEY, b"first")
    bench.calls()
    return bench


def test_a_signature_verifies_under_the_pinned_key() -> None:
    bench = Bench()
    signature = bench.custodian.sign_message(KEY, b"root")
    verify_key_of(bench.pins[KEY]).verify(b"root", signature)
    assert bench.custodian.status.signatures == 1


def test_a_key_proves_itself_before_it_is_pinned() -> None:
    bench = Bench()
    bench.custodian.meet(KEY)
    assert bench.calls() == ["open", "find", "sign"]
    assert bench.pins[KEY] == spki(private_key(3))


def test_a_known_key_costs_one_call_per_signature() -> None:
    bench = opened()
    bench.custodian.sign_message(KEY, b"x")
    assert bench.calls() == ["sign"]


@pytest.mark.parametrize(
    ("error", "mended_by"),
    [
        (p11.ObjectHandleInvalid(), ["find"]),
        (p11.SessionHandleInvalid(), ["reopen", "find"]),
        (p11.UserNotLoggedIn(), ["reopen", "find"]),
        (p11.GeneralError(), ["open", "find"]),
    ],
)
def test_a_lost_handle_is_mended_within_the_same_request(error: Exception, mended_by: list[str]) -> None:
    bench = opened()
    bench.token.faults["sign"] = [error]
    verify_key_of(bench.pins[KEY]).verify(b"x", bench.custodian.sign_message(KEY, b"x"))
    calls = bench.calls()
    assert [call for call in calls if call != "sign"] == mended_by
    assert bench.state is TokenState.READY


def test_the_ladder_climbs_to_the_top_when_lower_rungs_do_not_help() -> None:
    bench = opened()
    bench.token.faults["sign"] = [p11.ObjectHandleInvalid()]
    bench.token.faults["find"] = [p11.ObjectHandleInvalid(), p11.SessionHandleInvalid()]
    bench.custodian.sign_message(KEY, b"x")
    assert bench.calls() == ["sign", "find", "reopen", "find", "open", "find", "sign", "sign"]


def test_after_each_rung_another_key_under_the_same_handle_is_refused() -> None:
    bench = opened()
    bench.token.keys[KEY] = private_key(4)  # the handle now names another key
    with pytest.raises(KeyRefusedError, match="another key than the one that was enrolled"):
        bench.custodian.sign_message(KEY, b"x")
    assert bench.custodian.status.signatures == 1
    assert "another key" in bench.custodian.status.key_faults[KEY]
    assert bench.state is TokenState.READY

    bench.token.keys[KEY] = private_key(3)
    bench.custodian.sign_message(KEY, b"x")
    assert bench.custodian.status.key_faults == {}


def test_a_pin_from_before_the_restart_is_held() -> None:
    bench = Bench(pins={KEY: spki(private_key(9))})
    with pytest.raises(KeyRefusedError):
        bench.custodian.meet(KEY)
    assert bench.pins[KEY] == spki(private_key(9))


def test_signatures_that_do_not_verify_are_never_released() -> None:
    bench = opened()
    honest = bench.token.keys
    bench.token.find = lambda key_id: HeldKey(key_id, None, PublicHalf(spki(private_key(3))))  # type: ignore[method-assign,arg-type]
    bench.token.keys = {KEY: private_key(4)}
    with pytest.raises(KeyRefusedError, match="do not verify"):
        bench.custodian.sign_message(KEY, b"x")
    bench.token.keys = honest
    bench.custodian.sign_message(KEY, b"x")


def test_a_key_that_cannot_prove_itself_is_neither_met_nor_pinned() -> None:
    bench = Bench()
    bench.token.find = lambda key_id: HeldKey(key_id, None, PublicHalf(spki(private_key(4))))  # type: ignore[method-assign,arg-type]
    with pytest.raises(KeyRefusedError, match="do not verify"):
        bench.custodian.meet(KEY)
    assert bench.pins == {}


def test_a_missing_key_does_not_keep_breaking_the_others() -> None:
    bench = opened()
    for _ in range(5):
        with pytest.raises(KeyMissingError):
            bench.custodian.sign_message(OTHER, b"x")
    calls = bench.calls()
    assert (calls.count("reopen"), calls.count("open")) == (1, 1), "a login for each request"
    bench.custodian.sign_message(KEY, b"x")
    assert bench.state is TokenState.READY
    bench.now_s += LONGEST_WAIT_S
    with pytest.raises(KeyMissingError):
        bench.custodian.sign_message(OTHER, b"x")
    assert bench.calls().count("open") == 1


def test_a_lost_login_is_mended_at_once_while_another_key_is_missing() -> None:
    bench = opened()
    with pytest.raises(KeyMissingError):
        bench.custodian.sign_message(OTHER, b"x")
    bench.custodian.sign_message(KEY, b"x")
    bench.calls()
    # Without a login private keys are not refused, they are simply not there.
    bench.token.faults = {"sign": [p11.ObjectHandleInvalid()], "find": [KeyMissingError("gone")]}
    bench.custodian.sign_message(KEY, b"x")
    assert "reopen" in bench.calls()


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TokenAbsentError("no token"), TokenState.ABSENT),
        (PinRefusedError("wrong"), TokenState.WRONG_PIN),
        (p11.GeneralError(), TokenState.FAULT),
    ],
)
def test_a_token_that_does_not_open_says_why_and_fails_fast_until_its_next_try(
    error: Exception, state: TokenState
) -> None:
    bench = Bench()
    bench.token.faults["open"] = [error]
    with pytest.raises(TokenUnavailableError):
        bench.custodian.sign_message(KEY, b"x")
    assert bench.state is state
    with pytest.raises(TokenUnavailableError, match="cannot sign now"):
        bench.custodian.sign_message(KEY, b"x")
    assert bench.calls() == ["open"]

    bench.now_s += 1.0
    bench.custodian.sign_message(KEY, b"x")
    assert bench.state is TokenState.READY


def test_a_token_that_locked_itself_is_asked_again_rarely_and_used_once_it_opens() -> None:
    bench = Bench()
    bench.token.faults["open"] = [PinLockedError("locked")] * 3
    waits = []
    for _ in range(3):
        waits.append(bench.custodian.upkeep())
        assert bench.state is TokenState.WRONG_PIN
        bench.now_s += waits[-1]
    assert waits == [LOCKED_WAIT_S] * 3
    bench.custodian.upkeep()
    assert bench.state is TokenState.READY


def test_an_absent_token_is_tried_by_upkeep_with_growing_bounded_waits() -> None:
    bench = Bench()
    bench.token.faults["open"] = [TokenAbsentError("no token")] * 8
    waits = []
    for _ in range(8):
        waits.append(bench.custodian.upkeep())
        bench.now_s += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    bench.custodian.upkeep()
    assert bench.state is TokenState.READY


def test_wanted_keys_are_met_as_soon_as_the_token_is_there() -> None:
    bench = Bench()
    bench.custodian.wanted |= {KEY, OTHER}
    bench.custodian.upkeep()
    assert KEY in bench.pins
    assert set(bench.custodian.status.key_faults) == {OTHER}


def test_a_key_that_was_missing_is_looked_for_again() -> None:
    bench = Bench()
    bench.custodian.wanted |= {OTHER}
    bench.custodian.upkeep()
    bench.token.keys[OTHER] = private_key(5)
    bench.now_s += PROBE_S
    bench.custodian.upkeep()
    assert bench.custodian.status.key_faults == {}
    assert OTHER in bench.pins


def test_a_token_pulled_while_idle_is_noticed() -> None:
    bench = opened()
    bench.now_s += PROBE_S
    bench.token.faults = {"probe": [p11.ObjectHandleInvalid()], "open": [TokenAbsentError("no token")]}
    changed = bench.custodian.watch()
    bench.custodian.upkeep()
    assert bench.state is TokenState.ABSENT
    assert changed.done()


def test_upkeep_of_a_busy_token_does_nothing() -> None:
    bench = opened()
    assert bench.custodian.upkeep() == PROBE_S
    assert bench.calls() == []


def test_a_digest_is_signed_as_it_is() -> None:
    bench = Bench()
    digest = hashlib.sha256(b"state").digest()
    verify_key_of(spki(private_key(3))).verify(b"state", bench.custodian.sign_digest(KEY, digest))


def test_closing_lets_the_module_go_and_says_so() -> None:
    bench = opened()
    bench.custodian.close()
    assert bench.calls() == ["close"]
    assert bench.state is TokenState.CLOSED
