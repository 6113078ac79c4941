"""What tests of the token room share: each kind of token that there is here, in use, taken away, and seen to change."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import pytest

from agent.token.token import Token, TokenState
from hil_tests.rig.token import ScratchToken, SoftHsm, make_softhsm, softhsm_module
from hil_tests.rig.tpm import SoftTpm, tpm_module

PATIENCE_S: Final = 30.0

needs_softhsm = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")
needs_tpm = pytest.mark.skipif(tpm_module() is None, reason="swtpm, tpm2-abrmd or tpm2-pkcs11 is not installed")


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    if softhsm_module() is None:
        pytest.skip("SoftHSM is not installed (package softhsm2)")
    token = make_softhsm(tmp_path / "softhsm")
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    return token


@pytest.fixture(params=[pytest.param("softhsm", marks=needs_softhsm), pytest.param("tpm", marks=needs_tpm)])
def scratch(request: pytest.FixtureRequest) -> ScratchToken:
    """Each kind of token that there is on this machine."""
    if request.param == "softhsm":
        softhsm = request.getfixturevalue("softhsm")
        assert isinstance(softhsm, SoftHsm)
        return softhsm
    tpm = request.getfixturevalue("at_tpm")
    assert isinstance(tpm, SoftTpm)
    return tpm


@asynccontextmanager
async def opened(
    scratch: ScratchToken, *, read_pin: Callable[[], str] | None = None, ready: bool = True, **options: float
) -> AsyncIterator[Token]:
    """The token in use; with `ready`, once it can sign."""
    token = Token(
        module=scratch.module,
        label=scratch.label,
        read_pin=read_pin or (lambda: scratch.pin),
        deadline_s=options.get("deadline_s", 15.0),
        queue_limit=int(options.get("queue_limit", 256)),
    )
    token.start()
    try:
        if ready:
            await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        yield token
    finally:
        await token.close()
        assert token.state is TokenState.CLOSED


@contextmanager
def pulled(scratch: ScratchToken) -> Iterator[None]:
    """Without the token, which is back afterwards: other tests use the same TPM."""
    scratch.take_away()
    try:
        yield
    finally:
        scratch.put_back()


async def reach(token: Token, state: TokenState) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while token.state is not state:
            await token.state_change()


def pkcs11_tool(token: ScratchToken, *arguments: str, refusal: str | None = None) -> None:
    """OpenSC's tool, logged in. `refusal`: it is to fail, and to say this."""
    if not Path("/usr/bin/pkcs11-tool").exists():
        pytest.skip("pkcs11-tool is not installed (package opensc)")
    done = subprocess.run(
        [
            "pkcs11-tool",
            "--module",
            token.module,
            "--token-label",
            token.label,
            "--login",
            "--pin",
            token.pin,
            *arguments,
        ],
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    said = done.stderr.decode(errors="replace")
    assert (done.returncode == 0) is (refusal is None), said
    assert refusal is None or refusal in said, said


def remove(token: ScratchToken, *key_ids: bytes) -> None:
    """Key pairs, by another process."""
    for key_id in key_ids:
        for kind in ("privkey", "pubkey"):
            pkcs11_tool(token, "--delete-object", "--type", kind, "--id", key_id.hex())
