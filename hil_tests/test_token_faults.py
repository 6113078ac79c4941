"""The same harm to each kind of token: its process is killed, it is reset, it is slow, its process forks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from hashlib import sha256
from typing import IO, Final

import pkcs11
import pytest

from agent.evidence.cose import verify_key_of
from agent.token.cryptoki import Cryptoki, HeldKey
from agent.token.errors import KeyMissingError, KeyRefusedError, TokenBusyError
from agent.token.token import TokenState
from drivers.device import SignerUnavailableError
from hil_tests.rig.token import ScratchToken, SoftHsm, make_softhsm
from hil_tests.rig.tpm import SoftTpm
from hil_tests.token_parts import PATIENCE_S, needs_tpm, opened, pkcs11_tool, remove, scratch, softhsm

__all__ = ["scratch", "softhsm"]

SLOW_S: Final = 0.1
"""Of one signature: 10 in a second, as of a small TPM."""


async def made(scratch: ScratchToken, key_id: bytes) -> bytes:
    """The public half of a new key."""
    async with opened(scratch) as token:
        return (await token.create_key(key_id)).public_key_der


def victim(scratch: ScratchToken, key_id: bytes, mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "hil_tests.token_victim", key_id.decode(), mode],
        env={
            **os.environ,
            **scratch.environment,
            "VICTIM_MODULE": str(scratch.module),
            "VICTIM_LABEL": scratch.label,
            "VICTIM_PIN": scratch.pin,
        },
        stdout=subprocess.PIPE,
    )


def heard(said: IO[bytes], signatures: int) -> None:
    """Read past the log until it has said so many signatures."""
    for line in said:
        signatures -= line == b"signed\n"
        if signatures == 0:
            return
    pytest.fail("it ended by itself")


async def test_a_process_that_is_killed_while_it_signs_leaves_the_token_to_the_next(scratch: ScratchToken) -> None:
    public = await made(scratch, b"killed")
    for signatures in (1, 5):
        with victim(scratch, b"killed", "sign") as process:
            assert process.stdout is not None
            try:
                await asyncio.to_thread(heard, process.stdout, signatures)
            finally:
                process.kill()
        async with opened(scratch) as token:
            verify_key_of(public).verify(b"after", await token.signer(b"killed", public).sign(b"after"))


async def test_a_fork_of_the_process_is_refused_at_once_and_disturbs_nothing(scratch: ScratchToken) -> None:
    await made(scratch, b"forked")
    with victim(scratch, b"forked", "fork") as process:
        assert await asyncio.to_thread(process.wait, 2 * PATIENCE_S) == 0


async def test_forks_in_the_midst_of_signing_are_refused_and_spoil_no_signature(scratch: ScratchToken) -> None:
    await made(scratch, b"forked-often")
    with victim(scratch, b"forked-often", "fork while signing") as process:
        assert await asyncio.to_thread(process.wait, 2 * PATIENCE_S) == 0


async def test_a_key_that_another_process_removed_is_told_and_asking_for_it_disturbs_no_other(
    scratch: ScratchToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins, log_in = 0, Cryptoki._log_in

    def counted(self: Cryptoki, token: pkcs11.Token) -> pkcs11.Session:
        nonlocal logins
        logins += 1
        return log_in(self, token)

    monkeypatch.setattr(Cryptoki, "_log_in", counted)
    async with opened(scratch) as token:
        public = {name: (await token.create_key(name)).public_key_der for name in (b"removed", b"stays")}
        removed, stays = (token.signer(name, public[name]) for name in public)
        await removed.sign(b"before")
        remove(scratch, b"removed")
        # Another key of the same label is nobody's.
        pkcs11_tool(scratch, "--keypairgen", "--key-type", "EC:prime256v1", "--id", b"twin".hex(), "--label", "stays")
        # A TPM's module goes on with what it has loaded until it is initialised again; SoftHSM notices by itself.
        module = pkcs11.lib(str(scratch.module))
        await asyncio.wrap_future(token._owner.submit(module.reinitialize, PATIENCE_S))
        before = logins
        for _ in range(10):
            with pytest.raises(KeyMissingError):
                await removed.sign(b"after")
            verify_key_of(public[b"stays"]).verify(b"after", await stays.sign(b"after"))
        assert logins - before <= 4, "a login for each request"
        assert b"removed" in token.status.key_faults
        assert token.state is TokenState.READY


@needs_tpm
async def test_a_tpm_that_stands_still_costs_its_requests_their_deadline_and_nothing_else(
    at_tpm: SoftTpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = await made(at_tpm, b"frozen")
    monkeypatch.setattr("agent.token.token.HANGS_AFTER_S", 2 * SLOW_S)
    async with opened(at_tpm, deadline_s=SLOW_S, queue_limit=4) as token:
        signer = token.signer(b"frozen", public)
        await asyncio.to_thread(token.sign_blocking, b"frozen", bytes(32), PATIENCE_S)
        well = token.detail
        with at_tpm.standing_still():
            while token.state is TokenState.READY:
                outcomes = await asyncio.gather(*(signer.sign(b"x") for _ in range(8)), return_exceptions=True)
                assert all(isinstance(outcome, TokenBusyError) for outcome in outcomes), outcomes
            assert "has not answered" in token.detail
        signature = await asyncio.to_thread(token.sign_blocking, b"frozen", sha256(b"after").digest(), PATIENCE_S)
        verify_key_of(public).verify(b"after", signature)
        assert token.detail == well


async def test_a_token_that_was_made_anew_under_its_old_label_signs_nothing_for_the_old_one(
    softhsm: SoftHsm,
) -> None:
    """Another serial number, and keys of the same ids: SoftHSM alone, as a TPM's label stays taken."""
    public, pin = await made(softhsm, b"anew"), softhsm.pin
    async with opened(softhsm, read_pin=lambda: pin) as token:
        signer = token.signer(b"anew", public)
        await signer.sign(b"before")
        assert token.status.names is not None
        serial = token.status.names.serial
        softhsm.take_away()
        (softhsm.folder / "tokens").rmdir()
        another = make_softhsm(softhsm.folder)
        pkcs11_tool(another, "--keypairgen", "--key-type", "EC:prime256v1", "--id", b"anew".hex())
        pin = another.pin
        module = pkcs11.lib(str(softhsm.module))
        await asyncio.wrap_future(token._owner.submit(module.reinitialize, PATIENCE_S))
        with pytest.raises(KeyRefusedError, match="another key than the one that was enrolled"):
            await signer.sign(b"after")
        assert token.status.names is not None
        assert token.status.names.serial == another.serial != serial


async def test_a_token_that_was_reset_between_two_signatures_signs_again_with_its_own_key(
    scratch: ScratchToken,
) -> None:
    public = await made(scratch, b"reset")
    async with opened(scratch) as token:
        signer = token.signer(b"reset", public)
        await signer.sign(b"before")
        scratch.take_away()
        scratch.put_back()

        async def signed() -> bytes:
            while True:
                try:
                    return await signer.sign(b"after")
                except SignerUnavailableError:
                    await token.wait_ready()

        verify_key_of(public).verify(b"after", await asyncio.wait_for(signed(), PATIENCE_S))


async def test_a_slow_token_serves_what_fits_into_the_deadline_and_refuses_the_rest(
    scratch: ScratchToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = await made(scratch, b"slow")
    sign = Cryptoki.sign

    def slowly(self: Cryptoki, key: HeldKey, payload: bytes) -> bytes:
        time.sleep(SLOW_S)
        return sign(self, key, payload)

    monkeypatch.setattr(Cryptoki, "sign", slowly)
    async with opened(scratch, deadline_s=10 * SLOW_S, queue_limit=64) as token:
        signer = token.signer(b"slow", public)
        outcomes = await asyncio.gather(*(signer.sign(b"x") for _ in range(40)), return_exceptions=True)
        served = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
        assert all(isinstance(outcome, bytes | TokenBusyError) for outcome in outcomes)
        assert 0 < len(served) < 40
        for signature in served:
            verify_key_of(public).verify(b"x", signature)
        assert token.status.signature_s is not None
        assert token.status.signature_s >= SLOW_S, "how slow it is was found out when the key was met"
        # Whoever gave up is not served any more: the next one waits for one signature, and not for thirty.
        began = token.status.signatures
        await asyncio.wait_for(asyncio.to_thread(token.sign_blocking, b"slow", bytes(32), PATIENCE_S), PATIENCE_S)
        assert token.status.signatures - began <= 2
