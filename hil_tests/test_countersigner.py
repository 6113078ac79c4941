"""The ML-DSA key on real tokens: made once, kept encrypted under a key of the token, refused when it is not right."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.evidence import cose
from agent.evidence.countersignature import Policy
from agent.evidence.errors import SignatureError
from agent.evidence.verify import TrustedKey, Verifier
from agent.identity.countersigner import (
    ENROLMENT,
    KEY_FILE,
    PUBLIC_FILE,
    CountersignerError,
    MlDsaCountersigner,
    open_countersigner,
)
from agent.identity.keys import verify_key_from_pem
from agent.identity.purposes import COUNTERSIGN_WRAP_KEY
from agent.token.errors import KeyRefusedError
from agent.token.wrapping import encrypt_to
from hil_tests import evidence_cases as made
from hil_tests.rig.token import ScratchToken, make_softhsm
from hil_tests.token_parts import needs_softhsm, opened
from hil_tests.token_parts import scratch as scratch
from hil_tests.token_parts import softhsm as softhsm


def verifier(signer: MlDsaCountersigner) -> Verifier:
    second = cose.VerifyKey(cose.ML_DSA_65, signer.public_key_der)
    return Verifier([TrustedKey(made.GATEWAY, made.GATEWAY_KEY.verify_key, countersigner=second, policy=Policy.BOTH)])


async def test_the_key_is_made_once_and_signs_what_verifiers_accept(scratch: ScratchToken, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    async with opened(scratch) as token:
        first = await open_countersigner(token, state_dir)
        again = await open_countersigner(token, state_dir)
    assert again.public_key_der == first.public_key_der
    published = (state_dir / ENROLMENT / PUBLIC_FILE).read_bytes()
    assert verify_key_from_pem(published, what=PUBLIC_FILE) == cose.VerifyKey(cose.ML_DSA_65, first.public_key_der)
    assert stat.S_IMODE((state_dir / KEY_FILE).stat().st_mode) == 0o600
    sealed = await again.countersign(made.make_batch(made.leaves()))
    assert verifier(first).verify_batch(sealed.encode()).proven_by == (cose.ES256, cose.ML_DSA_65)
    with pytest.raises(SignatureError):
        verifier(first).verify_batch(made.make_batch(made.leaves()).encode())


async def test_the_token_opens_only_what_was_encrypted_to_its_key(scratch: ScratchToken) -> None:
    async with opened(scratch) as token:
        public = await token.wrapping_key(COUNTERSIGN_WRAP_KEY)
        assert await token.wrapping_key(COUNTERSIGN_WRAP_KEY) == public
        encrypted = encrypt_to(public, b"a secret")
        assert await token.unwrap(COUNTERSIGN_WRAP_KEY, encrypted) == b"a secret"
        with pytest.raises(KeyRefusedError):
            await token.unwrap(b"another key", encrypted)


@needs_softhsm
@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "another file", "a directory"])
async def test_a_damaged_key_file_is_refused_and_never_replaced(
    softhsm: ScratchToken, tmp_path: Path, harm: str
) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    path = state_dir / KEY_FILE
    async with opened(softhsm) as token:
        await open_countersigner(token, state_dir)
        good = path.read_bytes()
        if harm == "a directory":
            path.unlink()
            path.mkdir()
        else:
            bad = {"cut": good[:-1], "flipped": made.flip(good, len(good) - 5), "empty": b"", "another file": b"\x80"}
            path.write_bytes(bad[harm])
        before = None if path.is_dir() else path.read_bytes()
        with pytest.raises(CountersignerError, match=KEY_FILE):
            await open_countersigner(token, state_dir)
    assert before is None or path.read_bytes() == before


@needs_softhsm
async def test_another_token_cannot_open_the_file(softhsm: ScratchToken, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    async with opened(softhsm) as token:
        await open_countersigner(token, state_dir)
    other = make_softhsm(tmp_path / "softhsm", label="another")
    async with opened(other) as token:
        with pytest.raises(KeyRefusedError, match="not on the token"):
            await open_countersigner(token, state_dir)
        await token.wrapping_key(COUNTERSIGN_WRAP_KEY)
        with pytest.raises(KeyRefusedError, match="refuses"):
            await open_countersigner(token, state_dir)
