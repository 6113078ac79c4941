"""The token room on real modules: SoftHSM, and a TPM 2.0 in software behind tpm2-pkcs11."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

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
from hil_tests.rig.token import ScratchToken, SoftHsm, make_softhsm, softhsm_module
from hil_tests.rig.tpm import SoftTpm, tpm_module

PATIENCE_S = 30.0
EVIDENCE = b"evidence"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

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


# Odd conditions; on SoftHSM alone where a TPM itself does not let them come about


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


SPY = Path("/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so")


@pytest.fixture(scope="module")
def spy_record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all that goes through the spy in this process: it keeps to the first file that it was given."""
    return tmp_path_factory.mktemp("spy") / "spy.log"


@pytest.fixture
def logins(softhsm: SoftHsm, spy_record: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a login has reached the token in this test."""
    if not SPY.exists():
        pytest.skip("pkcs11-spy is not installed (package opensc)")
    monkeypatch.setenv("PKCS11SPY", str(softhsm.module))
    monkeypatch.setenv("PKCS11SPY_OUTPUT", str(spy_record))

    def count() -> int:
        return spy_record.read_text(errors="replace").count("C_Login") if spy_record.exists() else 0

    before = count()
    return lambda: count() - before


async def test_a_wrong_pin_reaches_the_token_exactly_once(softhsm: SoftHsm, logins: Callable[[], int]) -> None:
    pin = "00000000"
    token = Token(module=SPY, label=softhsm.label, read_pin=lambda: pin)
    token.start()
    try:
        await reach(token, TokenState.WRONG_PIN)
        signer = token.signer(EVIDENCE)
        for _ in range(5):
            token._custodian._next_try_s = 0.0  # let it try as often as it likes
            with pytest.raises(TokenUnavailableError):
                await signer.sign(b"x")
        assert logins() == 1
        assert pin not in token.detail

        pin = softhsm.pin  # the operator corrects the secret
        token._custodian._next_try_s = 0.0
        await token.create_key(EVIDENCE)
        await signer.sign(b"x")
    finally:
        await token.close()


async def test_a_wrong_pin_reaches_the_token_exactly_once_over_restarts_too(
    softhsm: SoftHsm, tmp_path: Path, logins: Callable[[], int]
) -> None:
    kept = tmp_path / "token-pin.refused"

    async def started(pin: str, state: TokenState) -> str:
        token = Token(module=SPY, label=softhsm.label, read_pin=lambda: pin, refused_pin_file=kept)
        token.start()
        try:
            await reach(token, state)
            return token.detail
        finally:
            await token.close()

    await started("00000000", TokenState.WRONG_PIN)
    assert str(kept) in await started("00000000", TokenState.WRONG_PIN)
    assert logins() == 1
    assert "00000000" not in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0

    await started("11111111", TokenState.WRONG_PIN)  # another one is tried, once
    assert logins() == 2
    await started(softhsm.pin, TokenState.READY)
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


async def test_two_tokens_with_one_label_are_a_fault_and_the_serial_selects(softhsm: SoftHsm, tmp_path: Path) -> None:
    # No tool makes a second token with the same label by accident here; cards from two suppliers may well have one.
    second = make_softhsm(softhsm.folder, label="second")
    _relabel(second, softhsm.label)
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.FAULT)
        assert softhsm.serial in token.detail
        assert second.serial in token.detail
    by_serial = Token(module=softhsm.module, serial=second.serial, read_pin=lambda: second.pin)
    by_serial.start()
    try:
        await asyncio.wait_for(by_serial.wait_ready(), PATIENCE_S)
        names = by_serial.status.names
        assert names is not None
        assert (names.label, names.serial) == (softhsm.label, second.serial)
    finally:
        await by_serial.close()


def _relabel(token: SoftHsm, label: str) -> None:
    """Write another label into a token's object, in place (both are padded to the same length there)."""
    for path in (token.folder / "tokens").glob("*/token.object"):
        content = path.read_bytes()
        old = token.label.encode().ljust(32)
        if old in content:
            path.write_bytes(content.replace(old, label.encode().ljust(32)))
            return
    raise AssertionError(f"no token labelled {token.label}")


async def test_an_extractable_key_is_refused(softhsm: SoftHsm) -> None:
    pkcs11_tool(softhsm, "--keypairgen", "--key-type", "EC:prime256v1", "--id", b"extractable".hex(), "--extractable")
    async with opened(softhsm) as token:
        with pytest.raises(KeyRefusedError, match="CKA_EXTRACTABLE"):
            await token.signer(b"extractable").sign(b"x")
        [key] = await token.keys()
        assert key.fault is not None
        assert token.state is TokenState.READY


async def test_an_imported_key_is_refused(softhsm: SoftHsm, tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "key.der"
    file.write_bytes(private.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    pkcs11_tool(softhsm, "--write-object", str(file), "--type", "privkey", "--id", b"imported".hex())
    async with opened(softhsm) as token:
        with pytest.raises(KeyRefusedError, match="CKA_"):
            await token.signer(b"imported").sign(b"x")


async def test_two_keys_under_one_id_are_refused(scratch: ScratchToken) -> None:
    for _ in range(2):
        pkcs11_tool(scratch, "--keypairgen", "--key-type", "EC:prime256v1", "--id", b"doubled".hex())
    async with opened(scratch) as token:
        with pytest.raises(KeyRefusedError, match="2 keys have this id"):
            await token.signer(b"doubled").sign(b"x")


async def test_a_key_that_is_replaced_while_we_run_is_refused(softhsm: SoftHsm) -> None:
    async with opened(softhsm) as token:
        await token.create_key(b"replaced")
        signer = token.signer(b"replaced")
        await signer.sign(b"before")
        _replace_key(softhsm, b"replaced")
        with pytest.raises(KeyRefusedError, match="another key than the one that was enrolled"):
            await signer.sign(b"after")


async def test_a_key_that_was_replaced_is_refused_with_the_next_session(scratch: ScratchToken) -> None:
    # A TPM's module goes on with the key that it has loaded until then; each signature of it is verified.
    async with opened(scratch) as token:
        await token.create_key(b"replaced")
        signer = token.signer(b"replaced")
        signature = await signer.sign(b"before")
        verify_key_of(signer.public_key_der).verify(b"before", signature)
        _replace_key(scratch, b"replaced")
        module = pkcs11.lib(str(scratch.module))
        await asyncio.wrap_future(token._owner.submit(module.reinitialize, PATIENCE_S))
        with pytest.raises(KeyRefusedError, match="another key than the one that was enrolled"):
            await signer.sign(b"after")


def _replace_key(token: ScratchToken, key_id: bytes) -> None:
    for kind in ("privkey", "pubkey"):
        pkcs11_tool(token, "--delete-object", "--type", kind, "--id", key_id.hex())
    pkcs11_tool(token, "--keypairgen", "--key-type", "EC:prime256v1", "--id", key_id.hex())


def pkcs11_tool(token: ScratchToken, *arguments: str) -> None:
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
    assert done.returncode == 0, done.stderr.decode()


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
