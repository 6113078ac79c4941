"""SoftHSM cuts its files before it writes them: killed there, or on a full disk, nothing is lost or brought back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from agent.cli import init
from agent.config import TokenSettings
from agent.evidence.cose import verify_key_of
from agent.roads.overview import token_problems
from agent.status import Verdict
from agent.token import custodian, remains, softhsm_files, wrapping
from agent.token.errors import KeyExistsError, KeyMissingError
from agent.token.softhsm import UTILITY, SoftHsmError, token_labels
from agent.token.token import TokenState
from hil_tests.faults.disk import Disk, build, compiler
from hil_tests.rig.token import SoftHsm, make_softhsm
from hil_tests.small_disk import fill, small_disk
from hil_tests.token_parts import PATIENCE_S, opened, pkcs11_tool, reach, remove, softhsm

__all__ = ["small_disk", "softhsm"]

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler (package gcc)")
KEY = b"evidence"


@pytest.fixture(autouse=True)
def nobody_else_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a cut file need not be given time to be whole again."""
    monkeypatch.setattr(softhsm_files, "SETTLES_S", 0.1)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "none").mkdir()
    return Disk(build(tmp_path), tmp_path / "none", tmp_path)


def folder_of(token: SoftHsm) -> Path:
    [folder] = (token.folder / "tokens").iterdir()
    return folder


async def used(token: SoftHsm, disk: Disk, mode: str, *, kill_at_cut: int) -> int:
    """Exit code of a process that logs in, and dies when SoftHSM empties one of its files for the n-th time.

    Negative: it dies before that.
    """
    disk.fresh()
    disk.kill_at_cut(abs(kill_at_cut), after=kill_at_cut > 0)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hil_tests.token_victim", KEY.decode(), mode,
        env={
            **os.environ, **token.environment, **disk.environment,
            "VICTIM_MODULE": str(token.module), "VICTIM_LABEL": token.label, "VICTIM_PIN": token.pin,
        },
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return await asyncio.wait_for(process.wait(), PATIENCE_S)


@needs_compiler
async def test_a_process_that_is_killed_in_its_login_leaves_the_token_and_its_keys(
    softhsm: SoftHsm, disk: Disk
) -> None:
    async with opened(softhsm) as token:
        public = (await token.create_key(KEY)).public_key_der
    for _ in range(2):
        assert await used(softhsm, disk, "sign", kill_at_cut=1) < 0
        assert (folder_of(softhsm) / "token.object").read_bytes() == b"", "SoftHSM has changed its ways: look again"
        async with opened(softhsm) as token:
            verify_key_of(public).verify(b"after", await token.signer(KEY, public).sign(b"after"))


@needs_compiler
async def test_a_process_that_is_killed_while_it_makes_keys_leaves_nothing_in_the_way_of_the_next(
    softhsm: SoftHsm, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remains, "SETTLES_S", 0.0)  # nobody else makes keys here
    assert await used(softhsm, disk, "make", kill_at_cut=0) == 0
    ids, writes = (KEY, b"wrapping " + KEY), disk["cuts"]
    assert writes > CURVE_WRITTEN[-1] + len(CURVE_WRITTEN), "a login, a pair on a curve and an RSA pair are written"
    for write in (*CURVE_WRITTEN, *(CURVE_WRITTEN[-1] + write for write in CURVE_WRITTEN[:-1]), writes):
        remove(softhsm, *ids)
        assert await used(softhsm, disk, "make", kill_at_cut=-write) < 0
        async with opened(softhsm) as token:
            with contextlib.suppress(KeyExistsError):
                await token.create_key(KEY)
            signer = token.signer(KEY)
            verify_key_of(await signer.meet()).verify(b"x", await signer.sign(b"x"))
            opens = await token.wrapping_key(ids[1])
            assert await token.unwrap(ids[1], wrapping.encrypt_to(opens, b"secret")) == b"secret"


CURVE_WRITTEN = (29, 30, 62)
"""Before these writes of SoftHSM 2.6 there is a public half without its point, one alone, and a hollow private key."""


async def test_a_key_is_durable_before_anybody_is_told_of_it(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))

    async with opened(softhsm) as token:
        monkeypatch.setattr(os, "fsync", watched)
        for make in (token.create_key, token.wrapping_key):
            before = set(folder_of(softhsm).glob("*.object"))
            synced.clear()
            await make(make.__name__.encode())
            made = set(folder_of(softhsm).glob("*.object")) - before
            assert len(made) == 2
            assert {str(path.resolve()) for path in (*made, folder_of(softhsm))} <= synced


async def test_a_login_on_a_full_disk_costs_no_token(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    softhsm = make_softhsm(small_disk / "softhsm")
    monkeypatch.setenv("SOFTHSM2_CONF", str(softhsm.conf))
    async with opened(softhsm) as token:
        public = (await token.create_key(KEY)).public_key_der
    # What the cut has set free somebody else has taken, before SoftHSM could write.
    cut(softhsm)
    fill(small_disk / "filler")
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.FAULT)
        assert "No space left" in token.detail
        (small_disk / "filler").unlink()
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        verify_key_of(public).verify(b"room", await token.signer(KEY, public).sign(b"room"))


async def test_on_a_disk_that_only_reads_a_token_signs_and_a_cut_one_says_what_it_lacks(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mounted(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    softhsm = make_softhsm(small_disk / "softhsm")
    monkeypatch.setenv("SOFTHSM2_CONF", str(softhsm.conf))
    async with opened(softhsm) as token:
        public = (await token.create_key(KEY)).public_key_der
    mounted("ro")
    async with opened(softhsm) as token:
        verify_key_of(public).verify(b"x", await token.signer(KEY, public).sign(b"x"))
    mounted("rw")
    cut(softhsm)
    mounted("ro")
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.ABSENT)
        assert "cannot be put back from its copy token.kept: Read-only file system" in token.detail
        mounted("rw")
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        verify_key_of(public).verify(b"x", await token.signer(KEY, public).sign(b"x"))


async def test_without_room_for_a_copy_nobody_logs_in(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    softhsm = make_softhsm(small_disk / "softhsm")
    monkeypatch.setenv("SOFTHSM2_CONF", str(softhsm.conf))
    (folder_of(softhsm) / "token.kept").unlink()
    before = (folder_of(softhsm) / "token.object").read_bytes()
    fill(small_disk / "filler")
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.FAULT)
        assert "No space left" in token.detail
    assert (folder_of(softhsm) / "token.object").read_bytes() == before


def cut(token: SoftHsm) -> None:
    """As a kill in a login leaves it."""
    (folder_of(token) / "token.object").write_bytes(b"")


async def test_a_pin_that_was_changed_stays_changed(softhsm: SoftHsm) -> None:
    async with opened(softhsm) as token:
        await token.create_key(KEY)
    pkcs11_tool(softhsm, "--change-pin", "--new-pin", "87654321")
    new = replace(softhsm, pin="87654321")
    async with opened(new) as token:
        await token.signer(KEY).sign(b"x")
    cut(softhsm)
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.WRONG_PIN)
    async with opened(new) as token:
        await token.signer(KEY).sign(b"x")


async def test_a_key_that_was_destroyed_stays_destroyed(softhsm: SoftHsm) -> None:
    async with opened(softhsm) as token:
        await token.create_key(KEY)
        await token.create_key(b"other")
    remove(softhsm, KEY)
    cut(softhsm)
    async with opened(softhsm) as token:
        assert [key.key_id for key in await token.keys()] == [b"other"]
        with pytest.raises(KeyMissingError):
            await token.signer(KEY).sign(b"x")


async def test_a_token_that_was_destroyed_stays_destroyed(softhsm: SoftHsm) -> None:
    async with opened(softhsm) as token:
        await token.create_key(KEY)
    delete_token(softhsm)
    assert list((softhsm.folder / "tokens").iterdir()) == [], "the copy has outlived the token"
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.ABSENT)


def delete_token(token: SoftHsm) -> None:
    subprocess.run(
        [UTILITY, "--module", token.module, "--delete-token", "--serial", token.serial],
        capture_output=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip


async def test_a_token_whose_file_was_removed_is_not_put_back_and_says_so(softhsm: SoftHsm) -> None:
    async with opened(softhsm) as token:
        await token.create_key(KEY)
    (folder_of(softhsm) / "token.object").unlink()
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.ABSENT)
        assert f"{folder_of(softhsm)}/token.object is gone" in token.detail
    assert not (folder_of(softhsm) / "token.object").exists()


async def test_a_lost_token_without_a_copy_says_what_to_do_and_is_not_replaced_by_a_new_one(softhsm: SoftHsm) -> None:
    async with opened(softhsm) as token:
        await token.create_key(KEY)
    (folder_of(softhsm) / "token.kept").unlink()
    cut(softhsm)
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.ABSENT)
        assert "is cut, and there is no copy" in token.detail
        assert "from a backup" in token.detail
    settings = TokenSettings(module=softhsm.module, label=softhsm.label, pin_secret="file:/none")
    with pytest.raises(SoftHsmError, match="no token is made here"):
        init.make_softhsm_token(settings, softhsm.pin, softhsm.conf)


async def test_init_finds_a_cut_token_again_and_makes_no_second_one(softhsm: SoftHsm) -> None:
    async with opened(softhsm) as token:
        await token.create_key(KEY)
    cut(softhsm)
    settings = TokenSettings(module=softhsm.module, label=softhsm.label, pin_secret="file:/none")
    assert not init.make_softhsm_token(settings, softhsm.pin, softhsm.conf)
    assert token_labels(module=softhsm.module, conf=softhsm.conf) == [softhsm.label]


def test_a_token_is_known_while_another_process_writes_it(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_after = softhsm_files.look_after

    def and_then_cut(conf: Path) -> str | None:
        lost = looked_after(conf)
        cut(softhsm)
        return lost

    monkeypatch.setattr(softhsm_files, "look_after", and_then_cut)
    assert token_labels(module=softhsm.module, conf=softhsm.conf) == [softhsm.label]


async def test_a_token_that_is_being_written_is_waited_for(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(softhsm) as token:
        await token.create_key(KEY)
    file = folder_of(softhsm) / "token.object"
    written = file.read_bytes()
    cut(softhsm)

    def the_other_writes(seconds: float) -> None:
        assert seconds < softhsm_files.SETTLES_S
        # Another generation of it, so that the copy can be told from it.
        file.write_bytes((int.from_bytes(written[:8]) + 1).to_bytes(8) + written[8:])

    monkeypatch.setattr(time, "sleep", the_other_writes)
    softhsm_files.look_after(softhsm.conf)
    assert int.from_bytes(file.read_bytes()[:8]) == int.from_bytes(written[:8]) + 1


async def test_a_pin_that_another_program_changed_while_we_run_stays_changed_without_a_login_of_ours(
    softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custodian, "PROBE_S", 0.1)
    copy = folder_of(softhsm) / "token.kept"
    async with opened(softhsm) as token:
        await token.create_key(KEY)
        before = copy.read_bytes()[8:]
        pkcs11_tool(softhsm, "--change-pin", "--new-pin", "87654321")
        deadline_s = time.monotonic() + PATIENCE_S
        while copy.read_bytes()[8:] == before:
            assert time.monotonic() < deadline_s, "the copy has the PIN of before"
            await asyncio.sleep(0.02)
    cut(softhsm)
    async with opened(softhsm, ready=False) as token:
        await reach(token, TokenState.WRONG_PIN)
    async with opened(replace(softhsm, pin="87654321")) as token:
        await token.signer(KEY).sign(b"x")


async def test_that_a_token_was_put_back_is_told_until_a_person_has_seen_to_it(
    softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custodian, "PROBE_S", 0.1)
    async with opened(softhsm) as token:
        await token.create_key(KEY)
        assert token.status.put_back == ""
    cut(softhsm)
    for _ in range(2):
        async with opened(softhsm) as token:
            [problem] = token_problems(token.status)
            assert (problem.severity, problem.subject) == (Verdict.ATTENTION, "token file")
            assert f"{folder_of(softhsm)}/token.object was cut" in problem.sentence
            assert f"then remove {folder_of(softhsm)}/token.put_back" in problem.sentence
    async with opened(softhsm) as token:
        (folder_of(softhsm) / "token.put_back").unlink()
        deadline_s = time.monotonic() + PATIENCE_S
        while token.status.put_back:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.02)
    cut(softhsm)
    softhsm_files.look_after(softhsm.conf)
    delete_token(softhsm)
    assert list((softhsm.folder / "tokens").iterdir()) == [], "what was told has outlived the token"


@pytest.mark.parametrize("name", ["token.object", "token.kept"])
@pytest.mark.parametrize("writes", [True, False], ids=["read", "read or written"])
async def test_a_bad_sector_under_one_of_the_two_files_costs_nothing(
    softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch, name: str, writes: bool
) -> None:
    async with opened(softhsm) as token:
        public = (await token.create_key(KEY)).public_key_der
    bad = (folder_of(softhsm) / name).stat().st_ino

    def on_a_bad_disk(descriptor: int, mode: str) -> IO[bytes]:
        if os.fstat(descriptor).st_ino == bad and (mode == "rb" or not writes):
            os.close(descriptor)
            return Unreadable()
        return os.fdopen(descriptor, mode)

    monkeypatch.setattr(softhsm_files, "open", on_a_bad_disk, raising=False)
    replaced = Path.replace

    def seen(path: Path, target: Path) -> Path:
        assert (folder_of(softhsm) / "token.object").exists(), "killed here, the token would count as destroyed"
        return replaced(path, target)

    monkeypatch.setattr(Path, "replace", seen)
    async with opened(softhsm) as token:
        verify_key_of(public).verify(b"x", await token.signer(KEY, public).sign(b"x"))


class Unreadable(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def write(self, _: object, /) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_of_the_key_that_opens_secrets_it_is_said_what_it_is_for(softhsm: SoftHsm) -> None:
    async with opened(softhsm) as token:
        await token.wrapping_key(b"wrapping")
        [key] = await token.keys()
    assert key.fault is not None
    assert "opens secrets here and signs nothing" in key.fault
