"""The token room on real modules: SoftHSM, and a TPM 2.0 in software behind tpm2-pkcs11."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.evidence.cose import ES256, verify_key_of
from agent.identity.csr import certificate_request
from agent.identity.did import did_of
from agent.token.errors import (
    KeyExistsError,
    KeyMissingError,
    KeyRefusedError,
    TokenBusyError,
    TokenError,
    TokenUnavailableError,
)
from agent.token.keys import Curve
from agent.token.softhsm import SoftHsmError, TokenExistsError, init_softhsm_token
from agent.token.token import Token, TokenState
from drivers.device import SignerUnavailableError
from hil_tests.rig.token import ScratchToken, make_softhsm, softhsm_module
from hil_tests.token_parts import PATIENCE_S, opened, pulled, reach, scratch, softhsm

__all__ = ["scratch", "softhsm"]

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


async def test_a_key_made_on_the_token_signs_and_cannot_leave_it(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        made = await token.create_key(b"device:pv-1")
        signer = token.signer(b"device:pv-1")
        signature = await signer.sign(b"a root")

        assert made.fault is None
        assert made.label == "device:pv-1"
        assert (signer.algorithm, signer.public_key_der) == (ES256, made.public_key_der)
        verify_key_of(made.public_key_der).verify(b"a root", signature)
        assert int.from_bytes(signature[32:]) <= P256_ORDER // 2


async def test_what_the_token_can_do_is_known_once_it_is_open(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        assert {"ECDSA", "RSA-OAEP"} <= set(token.status.mechanisms) <= {"ECDSA", "EdDSA", "RSA-OAEP"}
        try:
            await token.create_key(b"edwards", Curve.ED25519)
        except KeyRefusedError:
            return
        assert "EdDSA" in token.status.mechanisms


async def test_keys_are_never_written_over(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        made = await token.create_key(b"once")
        with pytest.raises(KeyExistsError):
            await token.create_key(b"once")
        assert await token.signer(b"once").meet() == made.public_key_der


async def test_many_signers_at_once_are_all_served(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        names = [b"many-1", b"many-2"]
        for name in names:
            await token.create_key(name)
        signers = [token.signer(name) for name in names]
        messages = [bytes([n]) for n in range(200)]
        signatures = await asyncio.gather(*(signers[n % 2].sign(message) for n, message in enumerate(messages)))
        for n, (message, signature) in enumerate(zip(messages, signatures, strict=True)):
            verify_key_of(signers[n % 2].public_key_der).verify(message, signature)


async def test_a_token_that_is_pulled_and_put_back_signs_again_by_itself(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        await token.create_key(b"pulled")
        signer = token.signer(b"pulled")
        await signer.sign(b"before")
        with pulled(scratch):
            with pytest.raises(SignerUnavailableError):
                await signer.sign(b"away")
            assert token.state in (TokenState.ABSENT, TokenState.FAULT)
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        verify_key_of(signer.public_key_der).verify(b"after", await signer.sign(b"after"))


async def test_a_session_that_is_lost_under_us_is_opened_again_within_the_request(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        await token.create_key(b"lost")
        signer = token.signer(b"lost")
        await signer.sign(b"before")
        # On the owner thread, as a module does that starts anew after its device was reset.
        module = pkcs11.lib(str(scratch.module))
        await asyncio.wrap_future(token._owner.submit(module.reinitialize, PATIENCE_S))
        verify_key_of(signer.public_key_der).verify(b"after", await signer.sign(b"after"))


async def test_a_thread_outside_the_event_loop_can_have_a_digest_signed(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        made = await token.create_key(b"uplink-tls")
        digest = sha256(b"handshake").digest()
        signature = await asyncio.to_thread(token.sign_blocking, b"uplink-tls", digest, PATIENCE_S)
        verify_key_of(made.public_key_der).verify(b"handshake", signature)


async def test_a_certificate_request_is_signed_in_the_token(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        await token.create_key(b"csr")
        signer = token.signer(b"csr")
        did = did_of(await signer.meet())
        request = x509.load_pem_x509_csr(await certificate_request(signer, common_name="gateway", did=did))
        assert request.is_signature_valid
        spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert spki == signer.public_key_der


async def test_a_curve_that_the_token_lacks_is_refused_and_the_token_stays_well(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        for curve in Curve:
            try:
                made = await token.create_key(curve.name.encode(), curve)
            except KeyRefusedError:
                continue
            message = b"any curve"
            signature = await token.signer(curve.name.encode()).sign(message)
            verify_key_of(made.public_key_der).verify(message, signature)
        assert token.state is TokenState.READY


async def test_the_pinned_key_is_known_and_required_after_a_restart(scratch: ScratchToken) -> None:
    journal = MemoryJournal()
    async with opened(scratch) as token:
        await token.create_key(b"pinned")
        await token.create_key(b"another")
        before = (await token.pinned_signer(b"pinned", journal)).public_key_der
        other = await token.signer(b"another").meet()
    async with opened(scratch, ready=False) as token:
        signer = await token.pinned_signer(b"pinned", journal)
        assert signer.public_key_der == before  # before the token was even asked
        assert await signer.meet() == before
        with pytest.raises(KeyRefusedError, match="pinned to another"):
            token.signer(b"pinned", other)
        with pytest.raises(KeyRefusedError, match="another key than the one that was enrolled"):
            await token.signer(b"another", before).sign(b"x")


class MemoryJournal:
    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    async def remember(self, key: str, value: bytes) -> None:
        self._kept[key] = value

    async def recall(self, key: str) -> bytes | None:
        return self._kept.get(key)


# Odd conditions


async def test_start_does_not_need_the_token(scratch: ScratchToken) -> None:
    async with AsyncExitStack() as stack:
        with pulled(scratch):
            token = await stack.enter_async_context(opened(scratch, ready=False))
            async with asyncio.timeout(PATIENCE_S):
                while token.state not in (TokenState.ABSENT, TokenState.FAULT):  # a TPM's module says only "general"
                    await token.state_change()
            assert token.detail
            signer = token.signer(b"at-start")
            with pytest.raises(TokenUnavailableError):
                await signer.sign(b"x")
            with pytest.raises(TokenUnavailableError, match="not been seen yet"):
                assert signer.public_key_der
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)


async def test_a_module_that_is_not_installed_is_an_absent_token(tmp_path: Path) -> None:
    token = Token(module=tmp_path / "none.so", label="x", read_pin=lambda: "")
    token.start()
    try:
        await reach(token, TokenState.ABSENT)
        assert "none.so" in token.detail
    finally:
        await token.close()


async def test_a_file_that_is_no_module_is_a_fault_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "bad.so").write_bytes(b"not a library")
    token = Token(module=tmp_path / "bad.so", label="x", read_pin=lambda: "")
    token.start()
    try:
        await reach(token, TokenState.FAULT)
    finally:
        await token.close()


async def test_a_missing_key_is_told_and_used_once_it_is_made(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        signer = token.signer(b"missing")
        with pytest.raises(KeyMissingError):
            await signer.sign(b"x")
        assert b"missing" in token.status.key_faults
        await token.create_key(b"missing")
        await signer.sign(b"x")
        assert b"missing" not in token.status.key_faults


async def test_a_full_queue_and_a_missed_deadline_are_refusals(scratch: ScratchToken) -> None:
    release, inside = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        release.wait(PATIENCE_S)

    async with opened(scratch, queue_limit=2, deadline_s=0.05) as token:
        await token.create_key(b"queued")
        signer = token.signer(b"queued")
        hanging = token._owner.submit(hang, PATIENCE_S)
        try:
            await asyncio.to_thread(inside.wait, PATIENCE_S)
            outcomes = await asyncio.gather(*(signer.sign(b"x") for _ in range(5)), return_exceptions=True)
        finally:
            release.set()
        assert all(isinstance(outcome, TokenBusyError) for outcome in outcomes)
        assert sum("requests are waiting" in str(outcome) for outcome in outcomes) == 3
        await asyncio.wrap_future(hanging)
        await asyncio.to_thread(token.sign_blocking, b"queued", bytes(32), PATIENCE_S)


async def test_a_second_owner_of_a_module_is_refused_before_it_can_crash_the_process(scratch: ScratchToken) -> None:
    async with opened(scratch) as first:
        await first.create_key(b"owned")
        second = Token(module=scratch.module, label=scratch.label, read_pin=lambda: scratch.pin)
        second.start()
        await reach(second, TokenState.FAULT)
        assert "another Token" in second.detail
        await second.close()
        await first.signer(b"owned").sign(b"the first is not disturbed")


# Making tokens


def test_a_token_is_made_once_and_no_pin_is_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = softhsm_module()
    if module is None:
        pytest.skip("SoftHSM is not installed (package softhsm2)")
    arguments: list[str] = []
    start = subprocess.Popen.__init__

    def watched(self: subprocess.Popen[bytes], args: list[str], **options: object) -> None:
        arguments.extend(args)
        start(self, args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess.Popen, "__init__", watched)
    token = make_softhsm(tmp_path / "hsm", label="made once")
    assert "--init-token" in arguments
    assert token.pin not in " ".join(arguments)
    assert token.so_pin not in " ".join(arguments)
    assert (tmp_path / "hsm").stat().st_mode & 0o077 == 0
    with pytest.raises(TokenExistsError):
        init_softhsm_token(module=module, label="made once", so_pin="12345678", user_pin="12345678", conf=token.conf)


@pytest.mark.parametrize(
    ("label", "pin"), [("", "12345678"), ("x" * 33, "12345678"), ("a\nb", "12345678"), ("ok", "123"), ("ok", "12\n45")]
)
def test_labels_and_pins_that_softhsm_cannot_hold_are_refused(tmp_path: Path, label: str, pin: str) -> None:
    with pytest.raises(SoftHsmError) as refusal:
        init_softhsm_token(module=Path("/none"), label=label, so_pin="12345678", user_pin=pin, conf=tmp_path / "conf")
    assert isinstance(refusal.value, TokenError)
    assert "12345678" not in str(refusal.value)
