"""A PIN is tried once: the wrong one of a few tries locks a token for good, or for a quarter of an hour."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pkcs11
import pytest

from agent.token.errors import TokenUnavailableError
from agent.token.pin import read_pin
from agent.token.token import Token, TokenState
from hil_tests.rig.token import ScratchToken
from hil_tests.rig.tpm import SoftTpm
from hil_tests.token_parts import PATIENCE_S, needs_tpm, opened, reach, scratch, softhsm

__all__ = ["scratch", "softhsm"]

KEY: Final = b"pin"
_SPIES: Final = tuple(Path(f"/usr/lib/{machine}-linux-gnu/pkcs11/pkcs11-spy.so") for machine in ("x86_64", "aarch64"))


@dataclass(frozen=True, slots=True)
class Spied:
    """A token behind OpenSC's spy, which writes down each call."""

    token: ScratchToken
    module: Path
    record: Path

    def logins(self) -> int:
        """How often a login has reached the token."""
        return self.record.read_text(errors="replace").count("C_Login") if self.record.exists() else 0

    def in_use(self, read_pin: Callable[[], str], refused_pin_file: Path | None = None) -> Token:
        """Started."""
        token = Token(module=self.module, label=self.token.label, read_pin=read_pin, refused_pin_file=refused_pin_file)
        token.start()
        return token


@pytest.fixture
def spied(scratch: ScratchToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spied]:
    spy = next((path for path in _SPIES if path.exists()), None)
    if spy is None:
        pytest.skip("pkcs11-spy is not installed (package opensc)")
    # A copy: a library that is loaded already keeps to its first module and its first record.
    copy, record = Path(shutil.copy(spy, tmp_path / "spy.so")), tmp_path / "spy.log"
    monkeypatch.setenv("PKCS11SPY", str(scratch.module))
    monkeypatch.setenv("PKCS11SPY_OUTPUT", str(record))
    if isinstance(scratch, SoftTpm):
        scratch.lock_after(1000, recovery_s=10_000)  # as slow to forgive as a real one
    yield Spied(scratch, copy, record)
    if isinstance(scratch, SoftTpm):
        scratch.forgive()
        scratch.lock_after(1000, recovery_s=1)


async def test_a_wrong_pin_reaches_the_token_exactly_once(spied: Spied) -> None:
    pin = "00000000"
    token = spied.in_use(lambda: pin)
    try:
        await reach(token, TokenState.WRONG_PIN)
        signer = token.signer(KEY)
        for _ in range(5):
            token._custodian._next_try_s = 0.0  # let it try as often as it likes
            with pytest.raises(TokenUnavailableError):
                await signer.sign(b"x")
        assert spied.logins() == 1
        if isinstance(spied.token, SoftTpm):
            assert spied.token.wrong_tries() == 1
        assert pin not in token.detail

        pin = spied.token.pin  # the operator corrects the secret
        token._custodian._next_try_s = 0.0
        await token.create_key(KEY)
        await signer.sign(b"x")
    finally:
        await token.close()


async def test_a_wrong_pin_reaches_the_token_exactly_once_over_restarts_too(spied: Spied, tmp_path: Path) -> None:
    kept = tmp_path / "token-pin.refused"

    async def started(pin: str, state: TokenState) -> str:
        token = spied.in_use(lambda: pin, kept)
        try:
            await reach(token, state)
            return token.detail
        finally:
            await token.close()

    await started("00000000", TokenState.WRONG_PIN)
    assert str(kept) in await started("00000000", TokenState.WRONG_PIN)
    assert spied.logins() == 1
    assert "00000000" not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0

    await started("11111111", TokenState.WRONG_PIN)  # another one is tried, once
    assert spied.logins() == 2
    if isinstance(spied.token, SoftTpm):
        assert spied.token.wrong_tries() == 2
    await started(spied.token.pin, TokenState.READY)
    assert not kept.exists()


async def test_a_pin_that_the_token_was_given_since_is_tried_by_who_runs_once_the_mark_is_deleted(
    spied: Spied, tmp_path: Path
) -> None:
    kept = tmp_path / "token-pin.refused"
    token = spied.in_use(lambda: "00000000", kept)
    try:
        await reach(token, TokenState.WRONG_PIN)
        for tries, deleted in ((1, False), (2, True), (2, False)):
            if deleted:
                kept.unlink()
            token._custodian._next_try_s = 0.0
            with pytest.raises(TokenUnavailableError):
                await token.signer(b"key").sign(b"x")
            assert spied.logins() == tries
    finally:
        await token.close()


async def test_a_pin_file_that_is_being_written_anew_costs_no_try(spied: Spied, tmp_path: Path) -> None:
    secret = tmp_path / "pin"
    secret.touch(mode=0o600)
    token = spied.in_use(lambda: read_pin(f"file:{secret}"))
    try:
        await reach(token, TokenState.WRONG_PIN)
        assert "empty" in token.detail
        assert spied.logins() == 0
        secret.write_text(spied.token.pin)
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        assert spied.logins() == 1
    finally:
        await token.close()


async def test_a_pin_that_was_replaced_by_a_wrong_one_is_tried_once_and_the_right_one_again(spied: Spied) -> None:
    pin = spied.token.pin
    token = spied.in_use(lambda: pin)
    try:
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        await token.create_key(b"replaced-pin")
        signer = token.signer(b"replaced-pin")
        pin = "00000000"
        await signer.sign(b"nobody needs the PIN now")
        module = pkcs11.lib(str(spied.module))
        await asyncio.wrap_future(token._owner.submit(module.reinitialize, PATIENCE_S))
        before = spied.logins()
        for _ in range(3):
            token._custodian._next_try_s = 0.0
            with pytest.raises(TokenUnavailableError):
                await signer.sign(b"x")
        assert spied.logins() - before == 1
        pin = spied.token.pin
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        await signer.sign(b"x")
    finally:
        await token.close()


@needs_tpm
async def test_a_pin_that_one_token_refused_is_tried_on_another_of_the_same_serial_number(
    at_tpm: SoftTpm, tmp_path: Path
) -> None:
    """All tokens in a TPM have one serial number: a corrected label must be enough."""
    at_tpm.add_token("other", "87654321")
    kept = tmp_path / "token-pin.refused"
    for label, state in ((at_tpm.label, TokenState.WRONG_PIN), ("other", TokenState.READY)):
        token = Token(module=at_tpm.module, label=label, read_pin=lambda: "87654321", refused_pin_file=kept)
        token.start()
        try:
            await reach(token, state)
        finally:
            await token.close()
    assert not kept.exists()


@needs_tpm
async def test_a_tpm_that_locked_itself_is_used_again_once_it_forgives(at_tpm: SoftTpm) -> None:
    at_tpm.lock_after(1, recovery_s=10_000)
    try:
        async with opened(at_tpm, read_pin=lambda: "wrong", ready=False) as token:
            await reach(token, TokenState.WRONG_PIN)
        async with opened(at_tpm, ready=False) as token:
            await reach(token, TokenState.WRONG_PIN)
            assert "locked itself" in token.detail
            with pytest.raises(TokenUnavailableError):
                await token.create_key(b"locked-out")
            at_tpm.forgive()
            token._custodian._next_try_s = 0.0  # minutes later
            await token.create_key(b"locked-out")
            assert token.state is TokenState.READY
    finally:
        at_tpm.forgive()
        at_tpm.lock_after(1000, recovery_s=1)


async def test_a_pin_that_cannot_be_read_says_why(scratch: ScratchToken) -> None:
    def read_pin() -> str:
        raise OSError("credential token-pin is not there")

    async with opened(scratch, read_pin=read_pin, ready=False) as token:
        await reach(token, TokenState.WRONG_PIN)
        assert "credential token-pin is not there" in token.detail
