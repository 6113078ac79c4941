"""The same harm to each kind of token: its process is killed, it is reset, it is slow, its process forks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import IO, Final

import pytest

from agent.evidence.cose import verify_key_of
from agent.token.cryptoki import Cryptoki, HeldKey
from agent.token.errors import TokenBusyError
from drivers.device import SignerUnavailableError
from hil_tests.rig.token import ScratchToken
from hil_tests.token_parts import PATIENCE_S, opened, scratch, softhsm

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
