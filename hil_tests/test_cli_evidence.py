"""Evidence for an auditor over the real store: extracts, proofs of one reading, and every form that `verify` takes."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.cli import verifying
from agent.cli.evidence import PIN_NOTE, Findings, VerifyError, verify_file
from agent.cli.proving import Found, NotProvenError, find_proof
from agent.evidence.batch import KeyProtection
from agent.evidence.cose import verify_key_of
from agent.evidence.errors import EvidenceError
from agent.evidence.partial import decode_any, receipts
from agent.evidence.proof import decode_proof
from agent.evidence.seal import SealPolicy
from agent.identity.did import did_of
from agent.identity.purposes import device_key
from agent.ledger.errors import LedgerError
from agent.roads.sealing import Sealer
from agent.store import Store
from agent.store.files import DATABASE
from agent.store.places import PLACES_OF
from hil_tests import settling_parts
from hil_tests.roads_parts import BOOT_ID, START_US, HandClock
from hil_tests.settling_parts import PLATFORM_KEY, DeviceKey, Life, Platform, terms
from hil_tests.test_cli_commands import command, config
from hil_tests.test_roads_thinning import Box
from tests.agent.identity.software import SoftwareSigner

__all__ = ["config"]

SIGNER = SoftwareSigner()
GATEWAY = did_of(SIGNER.public_key_der)
DEVICE = "pv-1"


def pem(path: Path, key_der: bytes) -> Path:
    path.write_bytes(load_der_public_key(key_der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def sealer_over(store: Store, life: Life) -> Sealer:
    return Sealer(
        store=store,
        desk=life.desk,
        clock=life.hand.clock,
        signer=SIGNER,
        gateway_id=GATEWAY,
        boot_id=BOOT_ID,
        key_protection=KeyProtection.SOFTWARE,
        policy=SealPolicy(),
        on_sealed=lambda _: None,
    )


@dataclass
class Settled:
    """A store with three windows of two devices, settled by both sides and sealed; something more is queued."""

    state: Path
    store: Store
    life: Life
    key: DeviceKey

    async def proof(self, sequence: int | None = None, at_us: int | None = None) -> Found:
        return await find_proof(
            self.store, DEVICE, sequence, at_us, lambda _: terms(DEVICE).channel_id, (SIGNER.public_key_der,)
        )


@pytest.fixture
async def settled(config: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Settled]:
    monkeypatch.setattr(settling_parts, "GATEWAY_ID", GATEWAY)  # a channel's terms name the gateway that seals
    state, key = config.parent / "state", DeviceKey()
    async with await Store.open(state) as store:
        life = Life(store, HandClock(), Platform(), pv_1=key, pv_2=DeviceKey())
        await life.begin()
        await life.connect()
        sealer = sealer_over(store, life)
        for _ in range(3):
            await life.close_windows()
            while await sealer.seal_once():
                pass
        await life.measure(DEVICE, 5)
        await store.set_notes(
            {PIN_NOTE: SIGNER.public_key_der, f"journal/token/pin/{device_key(DEVICE).hex()}": key.public_key_der}
        )
        yield Settled(state, store, life, key)


# Proofs


async def test_a_reading_is_proven_up_to_the_channel_state_that_both_sides_signed(
    settled: Settled, tmp_path: Path
) -> None:
    found = await settled.proof(sequence=3)
    assert found.lacking == ()
    assert found.window is not None
    assert (found.window.first_sequence, found.window.last_sequence) == (3, 4)
    proof = tmp_path / "proof"
    proof.write_bytes(found.file.encode())
    device_pem, platform_pem = (
        pem(tmp_path / "d.pem", settled.key.public_key_der),
        pem(tmp_path / "p.pem", PLATFORM_KEY.public_key_der),
    )
    done = await asyncio.to_thread(
        command, "verify", proof, "--gateway", GATEWAY, "--json",
        "--device-key", device_pem, "--platform-key", platform_pem,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["not_proven"]) == (0, True, [])
    assert (answer["statement"]["sequence"], answer["window"]["first_sequence"]) == (3, 3)
    assert found.state is not None
    assert answer["channel_state"] == found.state.state.digest.hex()
    done = await asyncio.to_thread(command, "verify", proof, "--gateway", GATEWAY)
    assert done.returncode == 0
    assert "give --platform-key" in done.stdout
    assert "does not prove that a device told the truth" in done.stdout
    # Another key than the enrolled one signed nothing.
    stranger = pem(tmp_path / "s.pem", SoftwareSigner().public_key_der)
    for option in ("--device-key", "--platform-key"):
        done = await asyncio.to_thread(command, "verify", proof, "--gateway", GATEWAY, option, stranger)
        assert done.returncode == 1, option


async def test_no_bit_of_a_proof_can_be_flipped_unseen(settled: Settled, tmp_path: Path) -> None:
    encoded = (await settled.proof(sequence=4)).file.encode()
    head = encoded.index(SIGNER.public_key_der) + len(SIGNER.public_key_der)
    platform = verify_key_of(PLATFORM_KEY.public_key_der)
    keys = pem(tmp_path / "d.pem", settled.key.public_key_der), platform
    embedded = encoded.index(settled.key.public_key_der)
    chance = random.Random(5)
    for bit in [*chance.sample(range(head * 8, embedded * 8), 600), *range(8)]:
        changed = bytearray(encoded)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((EvidenceError, VerifyError, LedgerError)):
            verifying._proof(bytes(changed), verifying.Trusted(GATEWAY, [], None, *keys))


async def test_what_cannot_be_proven_is_said_with_its_reason(settled: Settled) -> None:
    with pytest.raises(NotProvenError, match="not sealed yet"):
        await settled.proof(sequence=7)
    with pytest.raises(NotProvenError, match="no reading 99"):
        await settled.proof(sequence=99)
    with pytest.raises(NotProvenError, match="within an hour"):
        await settled.proof(at_us=START_US + 10**12)
    while await sealer_over(settled.store, settled.life).seal_once():
        pass
    found = await settled.proof(sequence=7)
    assert (found.file.window, found.file.channel) == (None, None)
    assert "its window is open" in found.lacking[0]
    assert decode_proof(found.file.encode()) == found.file


async def test_the_first_reading_from_a_time_on_is_found(settled: Settled) -> None:
    first = await settled.proof(sequence=3)
    assert (await settled.proof(at_us=first.reading.timestamp_us)).reading.sequence == 3
    assert (await settled.proof(at_us=first.reading.timestamp_us + 1)).reading.sequence == 4


async def test_prove_by_its_command(settled: Settled, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    arguments = ("prove", DEVICE, "--sequence", "2", "--config", config)
    answer = json.loads((await asyncio.to_thread(command, *arguments, "--out", out, "--json")).stdout)
    assert (answer["ok"], answer["reading"]["sequence"], answer["window"]["reading_count"]) == (True, 2, 2)
    assert len(answer["window"]["path"]["siblings"]) == 1
    done = await asyncio.to_thread(command, *arguments)
    assert (done.returncode, "is one of 2 under the root" in done.stdout) == (0, True)
    assert (await asyncio.to_thread(command, "verify", out, "--gateway", GATEWAY)).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert (await asyncio.to_thread(command, "prove", DEVICE, "--config", config)).returncode == 2
    done = await asyncio.to_thread(command, "prove", DEVICE, "--at", "yesterday", "--config", config)
    assert (done.returncode, "is no time" in done.stderr) == (2, True)


async def test_a_merged_reading_cannot_be_proven_and_its_slot_is_named(tmp_path: Path) -> None:
    async with await Store.open(tmp_path) as store:
        box = Box(store, HandClock())
        await box.measure(range(1, 100))
        box.hand.advance(7_200)
        await box.full_now()
        await box.make_room()
        with pytest.raises(NotProvenError, match=r"reading 70 of d1 was merged.*have \+"):
            await find_proof(store, "d1", 70, None, lambda _: bytes(32))


# Extracts


def verified(path: Path) -> Findings:
    with path.open("rb") as file:
        return verify_file(file, GATEWAY, [])


def utc(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat()


@pytest.mark.parametrize("form", ["cbor", "json"])
async def test_an_extract_is_of_its_device_and_period_and_verifies(
    settled: Settled, config: Path, tmp_path: Path, form: str
) -> None:
    out = tmp_path / "extract"
    first = (await settled.proof(sequence=3)).reading
    done = await asyncio.to_thread(
        command, "export", out, "--device", DEVICE, "--from", utc(first.timestamp_us), "--format", form,
        "--config", config, "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["ok"], done.stdout
    found = verified(out)
    assert (found.holds, found.missing) == (True, 0)
    assert found.statements["reading"] == 4, "of three windows the readings of two"
    assert found.scope is not None
    assert found.scope.device_id == DEVICE
    assert found.thinned.absent > 0, "the other device's statements are gaps"
    assert b"pv-2" not in out.read_bytes()
    done = await asyncio.to_thread(command, "verify", out, "--gateway", GATEWAY)
    assert (done.returncode, "no gap in the sequence" in done.stdout) == (0, True)


async def test_words_of_a_json_extract_that_are_not_what_was_signed_are_refused(
    settled: Settled, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "extract.json"
    await asyncio.to_thread(command, "export", out, "--device", DEVICE, "--format", "json", "--config", config)
    value = json.loads(out.read_text())
    readings = [s for batch in value["batches"] for s in batch["statements"] if s["kind"] == "reading"]
    assert [r["sequence"] for r in readings] == [1, 2, 3, 4, 5, 6]
    readings[3]["import_register_milliwatt_hours"] += 1
    out.write_text(json.dumps(value))
    with pytest.raises(EvidenceError, match="not what is in its signed bytes"):
        verified(out)


async def test_a_reading_that_is_left_out_of_an_extract_is_missed(
    settled: Settled, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "extract.json"
    await asyncio.to_thread(command, "export", out, "--device", DEVICE, "--format", "json", "--config", config)
    value = json.loads(out.read_text())
    holding = [
        b for b in value["batches"] if any(s["kind"] == "reading" and s["sequence"] == 3 for s in b["statements"])
    ]
    value["batches"].remove(holding[0])
    out.write_text(json.dumps(value))
    assert verified(out).missing == 2
    value["batches"].reverse()
    out.write_text(json.dumps(value))
    assert not verified(out).holds


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--from", "2026-01-01"), 2, "need --device"),
        (("--device", "nobody"), 1, "nothing is kept of a device"),
        (("--device", DEVICE, "--from", "soon"), 2, "is no time"),
        (("--device", DEVICE, "--from", "2026-01-02", "--to", "2026-01-01"), 2, "not after"),
    ],
)
async def test_what_cannot_be_exported_is_said(
    settled: Settled, config: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = await asyncio.to_thread(command, "export", tmp_path / "out", *arguments, "--config", config)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr


async def test_an_extract_of_thinned_evidence_has_the_slots_and_no_gap(tmp_path: Path) -> None:
    from agent.cli.exporting import batches_of, write_cbor
    from agent.evidence.bundle import BundleHead, Scope
    from hil_tests import test_roads_thinning as thinned

    async with await Store.open(tmp_path) as store:
        box = Box(store, HandClock())
        await box.measure(range(1, 200))
        box.hand.advance(7_200)
        await box.full_now()
        await box.make_room()
        scope = Scope("d1", START_US + 60 * 1_000_000, START_US + 120 * 1_000_000)
        out = tmp_path / "extract"
        with out.open("wb") as file:
            async for _ in write_cbor(file, BundleHead(thinned.GATEWAY, (), scope), batches_of(store, scope)):
                pass
    with out.open("rb") as opened:
        found = verify_file(opened, thinned.GATEWAY, [])
    assert (found.holds, found.missing, found.statements) == (True, 0, {"thinning": 1})
    (merged,) = found.thinned.devices()
    assert (merged.device_id, merged.readings) == ("d1", 199)


# Single batches and receipts


async def test_one_batch_and_one_receipt_verify_by_themselves(settled: Settled, tmp_path: Path) -> None:
    (stored, *_) = await settled.store.batches(1, 1)
    batch = decode_any(stored.encoded)
    (tmp_path / "batch").write_bytes(stored.encoded)
    assert verified(tmp_path / "batch").batches == 1
    (tmp_path / "receipt").write_bytes(receipts(batch, [1])[0])
    leaf = dict(enumerate(getattr(batch, "leaves")))[1]  # noqa: B009  # a whole batch
    (tmp_path / "statement").write_bytes(leaf)
    arguments = ("verify", tmp_path / "receipt", "--gateway", GATEWAY, "--statement", tmp_path / "statement")
    done = await asyncio.to_thread(command, *arguments, "--json")
    assert json.loads(done.stdout)["statement"]["sequence"] == 1
    (tmp_path / "statement").write_bytes(leaf[:-1] + bytes([leaf[-1] ^ 1]))
    assert (await asyncio.to_thread(command, *arguments)).returncode == 1
    done = await asyncio.to_thread(command, *arguments[:4])
    assert (done.returncode, "--statement" in done.stderr) == (2, True)


# Finding


def plan(path: Path, sql: str, *parameters: object) -> list[str]:
    with sqlite3.connect(path) as connection:
        return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]


async def test_readings_are_found_by_device_and_time_through_indexes_alone(settled: Settled) -> None:
    database = settled.state / DATABASE
    steps = plan(database, PLACES_OF, 0, 1, DEVICE, None)
    assert not [step for step in steps if step.startswith("SCAN")], steps
    assert any("SEARCH b USING COVERING INDEX batch_by_time (last_timestamp_us>?)" in step for step in steps), steps
    assert any("SEARCH p USING INTEGER PRIMARY KEY (rowid=?)" in step for step in steps)
    assert any("series" in step and "(device_id=?)" in step for step in steps)
