"""Queued statements become signed batches over the real store and a real SoftHSM, whatever goes away meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

from agent.evidence.batch import MAX_BATCH_BYTES, MAX_LEAVES, KeyProtection, SealedBatch
from agent.evidence.cose import ES256, ML_DSA_65, VerifyKey, verify_key_of
from agent.evidence.countersignature import Policy
from agent.evidence.seal import SealPolicy
from agent.evidence.statements import Alarm, Severity, Statement
from agent.evidence.verify import TrustedKey, Verifier
from agent.identity.countersigner import CountersignerError, MlDsaCountersigner
from agent.identity.did import did_of
from agent.measure.reading import Reading
from agent.roads import sealing as module
from agent.roads.desk import Desk
from agent.roads.sealing import Countersigner, Sealer
from agent.store import Store, StoredBatch
from agent.store.files import DATABASE
from agent.token.token import Token
from drivers.device import Signer, SignerUnavailableError
from hil_tests.rig.token import SoftHsm, make_softhsm, softhsm_module
from hil_tests.roads_parts import (
    BOOT_ID,
    OTHER_BOOT_ID,
    PATIENCE_S,
    START_US,
    HandClock,
    reading,
    running,
    settle_down,
    until,
    verified,
)
from tests.agent.identity.software import SoftwareSigner

AT_ONCE = SealPolicy(linger_s=0.0)
PATIENT = SealPolicy(linger_s=10.0, linger_leaves=2)
"""The clock stands still, so only a second statement, or an urgent one, ends the wait."""


def alarm(text: str = "something") -> Alarm:
    return Alarm(timestamp_us=START_US, severity=Severity.WARNING, code="a.code", subject="pv-1", text=text)


class GatedSigner(SoftwareSigner):
    """Signs when the gate is open; away while told so. Counts what it was asked to sign."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def sign(self, message: bytes) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if self.away:
            raise SignerUnavailableError("the token is away, says the test")
        return await super().sign(message)


class Bench:
    """One sealer over one store."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        *,
        policy: SealPolicy = AT_ONCE,
        boot_id: bytes = BOOT_ID,
        on_sealed: Callable[[SealedBatch], None] = lambda _: None,
        countersigner: Countersigner | None = None,
    ) -> None:
        self.hand = HandClock()
        self.store = store
        self.desk = Desk(store, lambda: self.hand.monotonic_s)
        self.gateway_id = did_of(signer.public_key_der)
        self.signer = signer
        self.sealer = Sealer(
            store=store,
            desk=self.desk,
            clock=self.hand.clock,
            signer=signer,
            gateway_id=self.gateway_id,
            boot_id=boot_id,
            key_protection=KeyProtection.SOFTWARE,
            policy=policy,
            on_sealed=on_sealed,
            countersigner=countersigner,
        )

    async def put(self, *sequences: int) -> None:
        await self.desk.put([reading(sequence, at_us=START_US + sequence) for sequence in sequences])

    async def batches(self) -> list[list[Statement]]:
        """The statements of each batch, all verified, without the sealings."""
        batches = await verified(self.store, self.gateway_id, verify_key_of(self.signer.public_key_der))
        return [[s.statement for s in batch.statements[1:]] for batch in batches]

    async def sequences(self) -> list[list[int]]:
        return [[s.sequence for s in batch if isinstance(s, Reading)] for batch in await self.batches()]

    async def sealed(self, statements: int) -> None:
        """Wait until so many statements are sealed."""

        async def enough() -> bool:
            return (await self.store.counts()).sealed_statements >= statements

        await until(enough, f"{statements} statements are sealed; {self.sealer.trouble or 'no trouble'}")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.open(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    if softhsm_module() is None:
        pytest.skip("SoftHSM is not installed (package softhsm2)")
    token = make_softhsm(tmp_path / "softhsm")
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    return token


async def test_statements_wait_in_the_store_while_the_token_is_away_and_are_sealed_by_themselves_when_it_is_back(
    store: Store, softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_MOST_S", 0.05)
    token = Token(module=softhsm.module, label=softhsm.label, read_pin=lambda: softhsm.pin)
    token.start()
    try:
        await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
        await token.create_key(b"evidence")
        signer = await token.pinned_signer(b"evidence", store.journal("token"))
        bench = Bench(store, signer)
        async with running(bench.sealer.run()):
            await bench.put(1)
            await bench.sealed(1)
            softhsm.take_away()
            try:
                await bench.put(2)
                await until(lambda: bench.sealer.trouble != "", "the trouble is named")
                await bench.put(3)
                assert (await store.counts()).queued == 2
            finally:
                softhsm.put_back()
            await bench.sealed(3)
            await until(lambda: bench.sealer.trouble == "", "the trouble has passed")
        assert [n for batch in await bench.sequences() for n in batch] == [1, 2, 3]
    finally:
        await token.close()


async def test_what_an_earlier_run_queued_is_sealed_at_the_start_and_the_chain_goes_on(tmp_path: Path) -> None:
    signer = SoftwareSigner()
    async with await Store.open(tmp_path) as store:
        bench = Bench(store, signer)
        await bench.put(1)
        await bench.sealer.seal_once()
        await bench.put(2, 3)
    async with await Store.open(tmp_path) as store:
        bench = Bench(store, signer, boot_id=OTHER_BOOT_ID)
        async with running(bench.sealer.run()):
            await bench.sealed(3)
        assert await bench.sequences() == [[1], [2, 3]]
        batches = await verified(store, bench.gateway_id, signer.verify_key)
    assert [b.identity.boot_id for b in batches] == [BOOT_ID, OTHER_BOOT_ID]
    assert [b.identity.number for b in batches] == [1, 2]


async def test_an_urgent_statement_takes_those_that_linger_with_it(store: Store) -> None:
    bench = Bench(store, SoftwareSigner(), policy=SealPolicy(linger_s=10.0))
    async with running(bench.sealer.run()):
        await bench.put(1)
        await settle_down(store)
        assert (await store.counts()).sealed_batches == 0
        await bench.desk.put([alarm()])
        await bench.sealed(2)
    [statements] = await bench.batches()
    assert [type(s) for s in statements] == [Reading, Alarm]


async def test_the_linger_ends_a_wait_without_company(store: Store) -> None:
    bench = Bench(store, SoftwareSigner(), policy=SealPolicy(linger_s=0.01))
    async with running(bench.sealer.run()):
        await bench.put(1)
        await until(lambda: not bench.desk.arrived.is_set(), "the sealer waits")
        bench.hand.advance(0.02)
        await bench.sealed(1)


async def test_the_first_statement_after_a_quiet_time_waits_for_company_too(store: Store) -> None:
    bench = Bench(store, SoftwareSigner(), policy=PATIENT)
    async with running(bench.sealer.run()):
        await until(lambda: not bench.desk.arrived.is_set(), "the sealer waits for the first statement")
        bench.hand.advance(3_600.0)
        await bench.put(1)
        await settle_down(store)
        await bench.put(2)
        await bench.sealed(2)
    assert await bench.sequences() == [[1, 2]]


async def test_what_comes_while_the_token_signs_waits_for_company_of_its_own(store: Store) -> None:
    signer = GatedSigner()
    bench = Bench(store, signer, policy=PATIENT)
    async with running(bench.sealer.run()):
        signer.gate.clear()
        await bench.put(1)
        await settle_down(store)
        bench.hand.advance(9.0)
        await bench.put(2)
        await until(lambda: signer.asked == 1, "the token signs the first batch")
        await bench.put(3)
        bench.hand.advance(2.0)  # beyond the linger of the first batch, not of its own
        signer.gate.set()
        await bench.sealed(2)
        await settle_down(store)
        await bench.put(4)
        await bench.sealed(4)
    assert await bench.sequences() == [[1, 2], [3, 4]]


async def test_one_signature_covers_all_that_queued_while_the_token_was_busy(store: Store) -> None:
    signer = GatedSigner()
    bench = Bench(store, signer)
    async with running(bench.sealer.run()):
        signer.gate.clear()
        await bench.put(1)
        await until(lambda: signer.asked == 1, "the token is busy")
        for sequence in range(2, 50):
            await bench.put(sequence)
        signer.gate.set()
        await bench.sealed(49)
    assert await bench.sequences() == [[1], list(range(2, 50))]
    assert signer.asked == 2


async def test_no_batch_exceeds_its_leaves(store: Store) -> None:
    bench = Bench(store, SoftwareSigner())
    await bench.put(*range(1, 2 * MAX_LEAVES + 1))
    async with running(bench.sealer.run()):
        await bench.sealed(2 * MAX_LEAVES)
    stored = await store.batches(1, 10)
    assert [b.leaf_count for b in stored] == [MAX_LEAVES, MAX_LEAVES, 3]
    assert max(len(b.encoded) for b in stored) <= MAX_BATCH_BYTES
    assert [n for batch in await bench.sequences() for n in batch] == list(range(1, 2 * MAX_LEAVES + 1))


async def test_no_batch_exceeds_its_bytes(store: Store) -> None:
    bench = Bench(store, SoftwareSigner())
    await bench.desk.put([alarm("x" * 4_000) for _ in range(600)])
    async with running(bench.sealer.run()):
        await bench.sealed(600)
    stored = await store.batches(1, 10)
    assert len(stored) == 3
    assert max(len(b.encoded) for b in stored) <= MAX_BATCH_BYTES
    assert sum(map(len, await bench.batches())) == 600


async def test_two_sealings_at_once_never_sign_one_number_twice(store: Store) -> None:
    signer = GatedSigner()
    bench = Bench(store, signer)
    await bench.put(1, 2)
    assert sorted(await asyncio.gather(bench.sealer.seal_once(), bench.sealer.seal_once())) == [False, True]
    assert signer.asked == 1
    assert await bench.sequences() == [[1, 2]]


async def test_the_key_is_changed_between_two_batches_only(store: Store) -> None:
    before, after = GatedSigner(), GatedSigner()
    bench = Bench(store, before)
    with pytest.raises(RuntimeError, match="on its way"):
        bench.sealer.use(after)
    await bench.put(1)
    assert await bench.sealer.seal_once()
    async with bench.sealer.paused():
        bench.sealer.use(after)
    await bench.put(2)
    assert await bench.sealer.seal_once()
    assert (before.asked, after.asked) == (1, 1)


async def test_a_sealing_that_is_cancelled_in_its_commit_leaves_its_number_to_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    seal = store.seal

    async def slowly(batch: StoredBatch, last_rowid: int) -> None:
        begun.set()
        await gate.wait()
        await seal(batch, last_rowid)

    monkeypatch.setattr(store, "seal", slowly)
    signer = SoftwareSigner()
    bench = Bench(store, signer)
    await bench.put(1)
    first = asyncio.create_task(bench.sealer.seal_once())
    await begun.wait()
    first.cancel()
    await bench.put(2)
    second = asyncio.create_task(bench.sealer.seal_once())
    await settle_down(store)
    gate.set()
    assert await second
    assert first.cancelled()
    assert await bench.sequences() == [[1], [2]]


async def test_nobody_is_told_of_a_batch_that_is_not_committed(store: Store, tmp_path: Path) -> None:
    committed: list[int] = []

    def on_sealed(batch: SealedBatch) -> None:
        with sqlite3.connect(tmp_path / "state" / DATABASE) as beside:
            rows = beside.execute("SELECT root FROM batch WHERE number = ?", (batch.identity.number,)).fetchall()
        assert rows == [(batch.root,)]
        committed.append(batch.identity.number)

    bench = Bench(store, SoftwareSigner(), on_sealed=on_sealed)
    for sequence in (1, 2):
        await bench.put(sequence)
        assert await bench.sealer.seal_once()
    assert committed == [1, 2]
    assert not await bench.sealer.seal_once()


async def test_a_token_that_refuses_costs_no_statement_and_no_number(store: Store) -> None:
    signer = GatedSigner()
    bench = Bench(store, signer)
    signer.away = True
    await bench.put(1)
    for _ in range(3):
        with pytest.raises(SignerUnavailableError):
            await bench.sealer.seal_once()
    signer.away = False
    await bench.put(2)
    assert await bench.sealer.seal_once()
    assert await bench.sequences() == [[1, 2]]


async def test_a_sealing_is_never_queued(store: Store) -> None:
    bench = Bench(store, SoftwareSigner())
    await bench.put(1)
    await bench.sealer.seal_once()
    [batch] = await verified(store, bench.gateway_id, verify_key_of(bench.signer.public_key_der))
    assert batch.sealing is not None
    with pytest.raises(ValueError, match="made with its batch"):
        await bench.desk.put([batch.sealing])


async def test_with_a_countersigner_a_batch_is_kept_and_shown_with_both_signatures(store: Store) -> None:
    shown: list[SealedBatch] = []
    second = MlDsaCountersigner(mldsa.MLDSA65PrivateKey.generate())
    bench = Bench(store, SoftwareSigner(), on_sealed=shown.append, countersigner=second)
    await bench.put(1, 2)
    assert await bench.sealer.seal_once()
    epoch = TrustedKey(
        bench.gateway_id,
        verify_key_of(bench.signer.public_key_der),
        countersigner=VerifyKey(ML_DSA_65, second.public_key_der),
        policy=Policy.BOTH,
    )
    (kept,) = await store.batches(1, 2)
    assert Verifier([epoch]).verify_batch(kept.encoded).proven_by == (ES256, ML_DSA_65)
    assert [batch.encode() for batch in shown] == [kept.encoded]


async def test_without_its_countersignature_no_batch_is_kept(store: Store) -> None:
    class Broken:
        async def countersign(self, sealed: SealedBatch) -> SealedBatch:
            raise CountersignerError("broken, says the test")

    bench = Bench(store, SoftwareSigner(), countersigner=Broken())
    await bench.put(1)
    with pytest.raises(SignerUnavailableError):
        await bench.sealer.seal_once()
    assert await store.batches(1, 2) == []
    assert (await store.counts()).queued == 1
