"""Only a key that was born in the token is signed with, and only the enrolled one, on the token that was meant."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.evidence.cose import verify_key_of
from agent.token.errors import KeyRefusedError
from agent.token.token import Token, TokenState
from hil_tests.rig.token import ScratchToken, SoftHsm, make_softhsm
from hil_tests.rig.tpm import LINKED_PRIMARY, SoftTpm
from hil_tests.token_parts import PATIENCE_S, needs_tpm, opened, pkcs11_tool, reach, remove, scratch, softhsm

__all__ = ["scratch", "softhsm"]


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


async def test_a_key_that_can_leave_the_token_is_not_made_or_not_signed_with(scratch: ScratchToken) -> None:
    key_id = b"extractable"
    arguments = ("--keypairgen", "--key-type", "EC:prime256v1", "--id", key_id.hex(), "--extractable")
    if isinstance(scratch, SoftTpm):
        pkcs11_tool(scratch, *arguments, refusal="CKR_ATTRIBUTE_VALUE_INVALID")  # the module itself makes none
        async with opened(scratch) as token:
            assert key_id not in [key.key_id for key in await token.keys()]
        return
    pkcs11_tool(scratch, *arguments)
    async with opened(scratch) as token:
        with pytest.raises(KeyRefusedError, match="CKA_EXTRACTABLE"):
            await token.signer(key_id).sign(b"x")
        [fault] = [key.fault for key in await token.keys() if key.key_id == key_id]
        assert fault is not None
        assert token.state is TokenState.READY


async def test_an_imported_key_is_refused(scratch: ScratchToken, tmp_path: Path) -> None:
    key_id = b"imported"
    file = tmp_path / "key"
    if isinstance(scratch, SoftTpm):
        file.write_bytes(key_from_outside(Encoding.DER))
        # Not by PKCS#11: the module takes none. By the TPM's own command for that, it does.
        pkcs11_tool(scratch, "--write-object", str(file), "--type", "privkey", "--id", key_id.hex(), refusal="CKR_")
        file.write_bytes(key_from_outside(Encoding.PEM))
        scratch.import_key(file, key_id)
    else:
        file.write_bytes(key_from_outside(Encoding.DER))
        pkcs11_tool(scratch, "--write-object", str(file), "--type", "privkey", "--id", key_id.hex())
    async with opened(scratch) as token:
        with pytest.raises(KeyRefusedError, match="CKA_"):
            await token.signer(key_id).sign(b"x")
        [fault] = [key.fault for key in await token.keys() if key.key_id == key_id]
        assert fault is not None
        assert token.state is TokenState.READY


def key_from_outside(encoding: Encoding) -> bytes:
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(encoding, PrivateFormat.TraditionalOpenSSL, NoEncryption())


@needs_tpm
async def test_of_keys_that_other_tools_have_put_into_a_tpm_only_one_born_there_is_used(
    at_tpm: SoftTpm, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(key_from_outside(Encoding.PEM))
    at_tpm.tool("tpm2_createprimary", "-Q", "-C", "o", "-G", "ecc", "-c", "primary.ctx")
    at_tpm.tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "primary.ctx", LINKED_PRIMARY)
    at_tpm.tool("tpm2_import", "-Q", "-C", LINKED_PRIMARY, "-G", "ecc", "-i", str(tmp_path / "key.pem"),
                "-u", "brought.pub", "-r", "brought.priv", "-p", "pw")  # fmt: skip
    attributes = "sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth"
    at_tpm.tool("tpm2_create", "-Q", "-C", LINKED_PRIMARY, "-G", "ecc", "-a", attributes,
                "-u", "born.pub", "-r", "born.priv", "-p", "pw")  # fmt: skip
    at_tpm.link_keys("linked", "87654321", brought="brought", born="born")
    token = Token(module=at_tpm.module, label="linked", read_pin=lambda: "87654321")
    token.start()
    try:
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        signer = token.signer(b"born")
        verify_key_of(await signer.meet()).verify(b"x", await signer.sign(b"x"))
        with pytest.raises(KeyRefusedError, match="CKA_"):
            await token.signer(b"brought").sign(b"x")
    finally:
        await token.close()


@needs_tpm
def test_a_tpm_takes_no_second_token_of_one_label(at_tpm: SoftTpm) -> None:
    with pytest.raises(RuntimeError, match="UNIQUE constraint failed: tokens"):
        at_tpm.add_token(at_tpm.label, "87654321")
    # Nor does its module, in the empty slot that it shows last.
    tool = ("pkcs11-tool", "--module", at_tpm.module)
    slots = subprocess.run([*tool, "--list-slots"], capture_output=True, check=True, timeout=PATIENCE_S).stdout
    empty = ("--slot-index", str(slots.count(b"token label")))
    made = subprocess.run(
        [*tool, "--init-token", *empty, "--label", at_tpm.label, "--so-pin", "12345678"],
        capture_output=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert made.returncode != 0
    assert b"UNIQUE constraint failed: tokens.label" in made.stderr


@needs_tpm
async def test_two_tokens_with_one_serial_number_are_a_fault_and_the_label_selects(at_tpm: SoftTpm) -> None:
    """All of one TPM have the TPM's own, which may be nothing but zeros."""
    at_tpm.add_token("second", "87654321")
    async with opened(at_tpm) as token:
        assert token.status.names is not None
        assert token.status.names.label == at_tpm.label
        serial = token.status.names.serial
    by_serial = Token(module=at_tpm.module, serial=serial, read_pin=lambda: at_tpm.pin)
    by_serial.start()
    try:
        await reach(by_serial, TokenState.FAULT)
        assert "select by token.label" in by_serial.detail
        assert repr(at_tpm.label) in by_serial.detail
        assert "'second'" in by_serial.detail
    finally:
        await by_serial.close()


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
    remove(token, key_id)
    pkcs11_tool(token, "--keypairgen", "--key-type", "EC:prime256v1", "--id", key_id.hex())
