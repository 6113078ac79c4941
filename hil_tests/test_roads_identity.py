"""The evidence key is rotated between two batches, on a real SoftHSM and store, wherever the power goes meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from agent.cli import identity_orders as work
from agent.config import Settings
from agent.evidence.batch import KeyProtection
from agent.evidence.cose import ED25519, ES256, ES256K, ESP256, key_id_of
from agent.evidence.errors import SignatureError
from agent.evidence.seal import SealPolicy
from agent.evidence.verify import ChainPosition, TrustedKey, VerifiedBatch, Verifier, first_break
from agent.identity import folder as folder_module
from agent.identity import orders
from agent.identity.did import did_of
from agent.identity.errors import HistoryError
from agent.identity.folder import REFUSED, IdentityFolder
from agent.identity.history import IdentityState, replay
from agent.identity.orders import Kind
from agent.roads import identity as module
from agent.roads.desk import Desk
from agent.roads.identity import IdentityKeeper
from agent.roads.sealing import Sealer
from agent.store import Store, StoreInUseError
from agent.store.files import write_durably
from agent.token.token import Token
from drivers.device import SignerUnavailableError
from hil_tests.identity_cases import OPERATOR, OWNER, SUBJECT, THIEF, rotated, sign
from hil_tests.rig.token import ScratchToken, make_softhsm, softhsm_module
from hil_tests.rig.tpm import SoftTpm, tpm_module
from hil_tests.roads_parts import BOOT_ID, PATIENCE_S, START_US, HandClock, reading, running, until

pytestmark = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")


class Box:
    """A gateway of a token, a state directory, and what would run on them."""

    def __init__(self, folder: Path, softhsm: ScratchToken) -> None:
        self.state_dir = folder / "state"
        self.softhsm = softhsm
        self.hand = HandClock()
        (folder / "pin").write_text(softhsm.pin)
        (folder / "pin").chmod(0o600)
        self.settings = Settings.model_validate(
            {
                "gateway": {"state_dir": str(self.state_dir)},
                "token": {
                    "module": str(softhsm.module),
                    "label": softhsm.label,
                    "pin_secret": f"file:{folder / 'pin'}",
                },
            }
        )
        self.sequence = 0

    @property
    def files(self) -> IdentityFolder:
        return IdentityFolder(self.state_dir)

    @property
    def state(self) -> IdentityState:
        held = self.files.history()
        assert held is not None
        return held.state

    async def propose(
        self,
        kind: Kind,
        algorithm: str = "es256",
        *,
        believed: ChainPosition | None = None,
        subject_file: Path | None = None,
    ) -> orders.Order:
        held = self.files.history()
        proposal = work.Proposal(
            kind=kind, subject_file=subject_file, believed=believed, algorithm=algorithm, now_us=START_US
        )
        return await work.propose(self.settings, None if held is None else held.state, proposal)

    async def created(self, tmp_path: Path, algorithm: str = "es256") -> IdentityState:
        order = await self.propose(Kind.CREATE, algorithm, subject_file=subject_file(tmp_path))
        state, done = await work.carry_out(self.settings, sign(orders.draft(order), OWNER, OPERATOR))
        assert done
        return state

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[Life]:
        async with await Store.open(self.state_dir) as store:
            token = Token(module=self.softhsm.module, label=self.softhsm.label, read_pin=lambda: self.softhsm.pin)
            token.start()
            try:
                await asyncio.wait_for(token.wait_ready(), PATIENCE_S)
                keeper = IdentityKeeper(self.state_dir, token=token, store=store, clock=self.hand.clock)
                yield Life(self, store, token, keeper)
            finally:
                await token.close()

    async def batches(self, trusted: list[TrustedKey] | None = None) -> list[VerifiedBatch]:
        """Everything in the store, verified by the history alone."""
        verifier = Verifier(self.state.trusted_keys() if trusted is None else trusted)
        async with Store.beside(self.state_dir) as store:
            return [
                verifier.verify_batch(row.encoded)
                for incarnation in await store.incarnations()
                for row in await store.batches(1, 1000, incarnation=incarnation)
            ]


class Life:
    """From a start of the agent to its end."""

    def __init__(self, box: Box, store: Store, token: Token, keeper: IdentityKeeper) -> None:
        self.box = box
        self.store = store
        self.token = token
        self.keeper = keeper
        self.desk = Desk(store, lambda: box.hand.monotonic_s)

    async def start(self) -> Sealer:
        gateway_id, signer = await self.keeper.bring_up()
        return Sealer(
            store=self.store,
            desk=self.desk,
            clock=self.box.hand.clock,
            signer=signer,
            gateway_id=gateway_id,
            boot_id=BOOT_ID,
            key_protection=KeyProtection.SOFTWARE,
            policy=SealPolicy(linger_s=0.0),
            on_sealed=lambda _: None,
        )

    async def seal(self, sealer: Sealer, batches: int = 1) -> None:
        for _ in range(batches):
            self.box.sequence += 1
            await self.desk.put([reading(self.box.sequence, at_us=START_US + self.box.sequence)])
            assert await sealer.seal_once()


def subject_file(folder: Path) -> Path:
    """As a person writes it; the same parties as in the vectors."""
    for key, name in ((OWNER, "owner"), (OPERATOR, "operator")):
        public = load_der_public_key(key.public_key_der)
        (folder / f"{name}.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    file = folder / "subject.toml"
    file.write_text(
        'location = "52.5201,-13.4099"\n'
        '[owner]\nname = "A. Owner"\nkey_file = "owner.pem"\n'
        '[operator]\nname = "Grid Operator Ltd"\nkey_file = "operator.pem"\n'
    )
    return file


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    softhsm = make_softhsm(tmp_path / "softhsm")
    for name, value in softhsm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    return Box(tmp_path, softhsm)


@pytest.mark.skipif(tpm_module() is None, reason="swtpm, tpm2-abrmd or tpm2-pkcs11 is not installed")
async def test_a_key_in_a_tpm_is_rotated_under_a_running_sealer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tpm = SoftTpm(tmp_path / "tpm")
    try:
        for name, value in tpm.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
        box = Box(tmp_path, tpm)
        await box.created(tmp_path)
        rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
        async with box.alive() as life:
            sealer = await life.start()
            await life.seal(sealer)
            async with running(life.keeper.run(sealer)):
                box.files.write_order(rotate)
                await until(lambda: not box.files.order_file.exists(), f"the order is done; {life.keeper.trouble}")
            await life.seal(sealer)
        first, second = await box.batches()
        assert (box.state.number, first_break([first, second])) == (1, None)
        assert first.sealed.header.key_id != second.sealed.header.key_id
    finally:
        tpm.close()


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (("es256", "esp256", "es256k"), [ES256, ESP256, ES256K]),
        (("ed25519", "es256", "es256"), [ED25519, ES256, ES256]),
        (("es256k", "es256", "es256"), [ES256K, ES256, ES256]),
    ],
)
async def test_a_verifier_with_the_history_alone_verifies_across_rotations_and_algorithms(
    box: Box, tmp_path: Path, names: tuple[str, ...], numbers: list[int]
) -> None:
    # The first key and the commitment to the second are made together, with one algorithm.
    order = await box.propose(Kind.CREATE, names[0], subject_file=subject_file(tmp_path))
    first, _ = await work.carry_out(box.settings, sign(orders.draft(order), OWNER, OPERATOR))
    for algorithm in (names[1], names[2]):
        async with box.alive() as life:
            await life.seal(await life.start(), 2)
        rotate = await box.propose(Kind.ROTATE, algorithm)
        state, done = await work.carry_out(box.settings, sign(orders.draft(rotate), OWNER, OPERATOR))
        assert done
        assert state.gateway_id == first.gateway_id
    async with box.alive() as life:
        await life.seal(await life.start(), 2)
    batches = await box.batches()
    assert [batch.sealed.header.algorithm for batch in batches] == [numbers[0]] * 4 + [numbers[1]] * 2
    assert first_break(batches) is None
    assert len({batch.sealed.header.key_id for batch in batches}) == 3
    assert {batch.identity.gateway_id for batch in batches} == {first.gateway_id}


async def test_while_it_seals_without_pause_no_batch_falls_between_the_keys(box: Box, tmp_path: Path) -> None:
    await box.created(tmp_path)
    rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
    async with box.alive() as life:
        sealer = await life.start()

        async def measure() -> None:
            while True:
                box.sequence += 1
                await life.desk.put([reading(box.sequence, at_us=START_US + box.sequence)])
                await asyncio.sleep(0)

        async with running(measure()), running(sealer.run()), running(life.keeper.run(sealer)):
            await until(lambda: box.sequence > 20, "readings flow")
            box.files.write_order(rotate)
            await until(lambda: box.state.number == 1, f"the order is carried out; {life.keeper.trouble}")
            enough = box.sequence + 20
            await until(lambda: box.sequence > enough, "readings flow on")
        while await sealer.seal_once():
            pass
    batches = await box.batches()
    assert first_break(batches) is None
    keys = [batch.sealed.header.key_id for batch in batches]
    assert keys == sorted(keys, key=[epoch.key.key_id for epoch in box.state.epochs].index)
    assert len(set(keys)) == 2


async def test_killed_before_the_commit_the_order_is_carried_out_at_the_next_start(box: Box, tmp_path: Path) -> None:
    await box.created(tmp_path)
    async with box.alive() as life:
        await life.seal(await life.start())
    rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
    box.files.write_order(rotate)  # and then the power went
    async with box.alive() as life:
        await life.seal(await life.start())
    assert box.state.number == 1
    assert not box.files.order_file.exists()
    first, second = await box.batches()
    assert first.sealed.header.key_id != second.sealed.header.key_id


async def test_killed_after_the_commit_the_new_key_signs_and_nothing_is_done_twice(box: Box, tmp_path: Path) -> None:
    await box.created(tmp_path)
    async with box.alive() as life:
        await life.seal(await life.start())
    rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
    await work.carry_out(box.settings, rotate)
    committed = box.files.history_file.read_bytes()
    box.files.write_order(rotate)  # the power went before the order was removed
    async with box.alive() as life:
        await life.seal(await life.start())
        assert life.keeper.trouble == ""
    assert box.files.history_file.read_bytes() == committed
    assert not box.files.order_file.exists()
    assert len(await box.batches()) == 2


async def test_a_commit_that_fails_leaves_the_old_key_and_is_tried_again(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.created(tmp_path)
    rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
    real = write_durably
    full = True

    def failing(path: Path, content: bytes) -> None:
        if full and path == box.files.history_file:
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(folder_module, "write_durably", failing)
    async with box.alive() as life:
        sealer = await life.start()
        async with running(life.keeper.run(sealer)):
            box.files.write_order(rotate)
            await until(lambda: "No space left" in life.keeper.trouble, "the failure is shown")
            await life.seal(sealer, 2)
            assert {batch.sealed.header.key_id for batch in await box.batches()} == {box.state.key.key_id}
            full = False
            await until(lambda: box.state.number == 1, "the order is carried out")
            await life.seal(sealer)
    assert len({batch.sealed.header.key_id for batch in await box.batches()}) == 2


async def test_a_commit_that_was_made_although_the_disk_failed_after_it_counts(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.created(tmp_path)
    rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
    real = write_durably

    def failing(path: Path, content: bytes) -> None:
        real(path, content)
        if path == box.files.history_file:
            raise OSError(5, "Input/output error")

    async with box.alive() as life:
        sealer = await life.start()
        await life.seal(sealer)
        monkeypatch.setattr(folder_module, "write_durably", failing)
        box.files.order_file.write_bytes(rotate.encode())
        async with running(life.keeper.run(sealer)):
            await until(lambda: not box.files.order_file.exists(), "the order is done with")
        await life.seal(sealer)
    assert len(await box.batches()) == 2


async def test_told_to_stop_between_commit_and_key_change_the_old_key_seals_nothing_more(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.created(tmp_path)
    rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
    committed, go_on = threading.Event(), threading.Event()

    def slow(path: Path, content: bytes) -> None:
        write_durably(path, content)
        if path == box.files.history_file:
            committed.set()
            assert go_on.wait(PATIENCE_S)

    async with box.alive() as life:
        sealer = await life.start()
        await life.seal(sealer)
        box.files.write_order(rotate)
        monkeypatch.setattr(folder_module, "write_durably", slow)
        keeping = asyncio.create_task(life.keeper.run(sealer))
        await until(committed.is_set, "the history is on disk")
        keeping.cancel()
        sealing = asyncio.create_task(life.seal(sealer))
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        await sealing
    assert len({batch.sealed.header.key_id for batch in await box.batches()}) == 2


async def test_while_the_token_is_away_the_order_waits_and_is_carried_out_when_it_is_back(
    box: Box, tmp_path: Path
) -> None:
    await box.created(tmp_path)
    rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
    async with box.alive() as life:
        sealer = await life.start()
        await life.seal(sealer)
        box.softhsm.take_away()
        async with running(life.keeper.run(sealer)):
            box.files.write_order(rotate)
            await until(lambda: "waits" in life.keeper.trouble, "it is shown that the order waits")
            assert box.state.number == 0
            box.softhsm.put_back()
            await until(lambda: box.state.number == 1, f"the order is carried out; {life.keeper.trouble}")
        await life.seal(sealer)
    assert len(await box.batches()) == 2


async def test_an_order_that_one_of_two_signed_is_refused_and_set_aside_and_sealing_goes_on(
    box: Box, tmp_path: Path
) -> None:
    await box.created(tmp_path)
    draft = orders.draft(await box.propose(Kind.ROTATE))
    with pytest.raises(HistoryError, match="not signed by Grid Operator Ltd"):
        await work.carry_out(box.settings, sign(draft, OWNER))
    async with box.alive() as life:
        sealer = await life.start()
        async with running(life.keeper.run(sealer)):
            box.files.write_order(sign(draft, OWNER))  # whoever puts it there past the command line
            await until(lambda: "refused" in life.keeper.trouble, "the refusal is shown")
        await life.seal(sealer)
    assert (box.files.path / REFUSED).exists()
    assert box.state.number == 0
    assert len(await box.batches()) == 1


async def test_noise_in_place_of_an_order_is_set_aside(box: Box, tmp_path: Path) -> None:
    await box.created(tmp_path)
    box.files.order_file.write_bytes(b"noise")
    async with box.alive() as life:
        await life.seal(await life.start())
        assert "refused" in life.keeper.trouble
    assert not box.files.order_file.exists()


async def test_a_damaged_history_lets_nothing_sign_under_another_name(box: Box, tmp_path: Path) -> None:
    await box.created(tmp_path)
    kept = box.files.history_file.read_bytes()
    box.files.history_file.write_bytes(kept[:-1])
    async with box.alive() as life:
        with pytest.raises(HistoryError, match="put back a copy"):
            await life.start()
        box.files.history_file.write_bytes(kept)
        await life.seal(await life.start())


async def test_a_gateway_that_sealed_under_its_keys_name_keeps_it_unless_it_begins_anew(
    box: Box, tmp_path: Path
) -> None:
    async with box.alive() as life:
        await life.token.create_key(b"evidence")
        sealer = await life.start()
        await life.seal(sealer)
        name = did_of(await life.token.signer(b"evidence").meet())
    order = await box.propose(Kind.CREATE, subject_file=subject_file(tmp_path))
    signed = sign(orders.draft(order), OWNER, OPERATOR)
    with pytest.raises(work.OrderError, match="no batch changes its name"):
        await work.carry_out(box.settings, signed)
    assert box.files.history() is None
    async with box.alive() as life:
        assert (await life.keeper.bring_up())[0] == name
        with pytest.raises(StoreInUseError):
            await work.carry_out(box.settings, signed, anew=True)

    state, _ = await work.carry_out(box.settings, signed, anew=True)
    async with box.alive() as life:
        await life.seal(await life.start())
    (batch,) = await box.batches()
    assert batch.identity.gateway_id == state.gateway_id
    assert batch.identity.incarnation == 2, "numbers of the former store may have been seen by somebody"
    assert len(list(box.state_dir.glob("evidence.db.former-1-1"))) == 1
    rotate = sign(orders.draft(await box.propose(Kind.ROTATE)), OWNER, OPERATOR)
    with pytest.raises(work.OrderError, match="for the first order only"):
        await work.carry_out(box.settings, rotate, anew=True)


async def test_a_rotation_never_leads_into_a_dead_end(box: Box, tmp_path: Path) -> None:
    """The order commits to a key that this token does not have: after it nothing could be rotated any more."""
    await box.created(tmp_path)
    order = await box.propose(Kind.ROTATE)
    strange = orders.Order(**{
        **{name: getattr(order, name) for name in order.__slots__}, "next": (orders.commitment_of(THIEF.verify_key),)
    })  # fmt: skip
    with pytest.raises(work.OrderError, match="not key evidence-3 of this token"):
        await work.carry_out(box.settings, sign(orders.draft(strange), OWNER, OPERATOR))
    assert box.state.number == 0


async def test_a_replacement_gateway_takes_the_name_over_and_the_lost_key_is_believed_no_further(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.created(tmp_path)
    async with box.alive() as life:
        sealer = await life.start()
        await life.seal(sealer, 3)
    old_history = box.files.history_file.read_bytes()
    old = await box.batches()
    last_acknowledged = old[1].position

    (tmp_path / "new").mkdir()
    softhsm = make_softhsm(tmp_path / "new" / "softhsm")
    for name, value in softhsm.environment.items():
        monkeypatch.setenv(name, value)
    new = Box(tmp_path / "new", softhsm)
    new.state_dir.mkdir()
    await work.adopt(new.state_dir, old_history)
    async with new.alive() as life:
        with pytest.raises(SignerUnavailableError, match="not on the token"):
            await life.start()
    order = await new.propose(Kind.RECOVER, believed=last_acknowledged)
    state, done = await work.carry_out(new.settings, sign(orders.draft(order), OWNER, OPERATOR))
    assert (done, state.gateway_id, state.epochs[-1].number) == (True, box.state.gateway_id, 2)
    async with new.alive() as life:
        new.sequence = 100
        sealer = await life.start()
        await life.seal(sealer, 2)

    held = new.files.history()
    assert held is not None
    trusted = replay(held.entries).trusted_keys()
    later = await new.batches()
    assert all(batch.identity.incarnation > last_acknowledged.incarnation for batch in later)
    assert first_break([*(await box.batches())[:2], *later]) is None
    with pytest.raises(SignatureError, match="ended"):
        Verifier(trusted).verify_batch(old[2].sealed.encode())


async def test_a_history_of_another_gateway_is_not_adopted_over_ones_own(box: Box, tmp_path: Path) -> None:
    await box.created(tmp_path)
    entries, _ = rotated()
    other = IdentityFolder(tmp_path)
    other.write_history(entries)
    with pytest.raises(work.OrderError, match="does not continue"):
        await work.adopt(box.state_dir, other.history_file.read_bytes())


async def test_a_change_of_place_keeps_key_and_commitment(box: Box, tmp_path: Path) -> None:
    before = await box.created(tmp_path)
    file = subject_file(tmp_path)
    file.write_text(file.read_text().replace("52.5201", "48.1401"))
    order = await box.propose(Kind.CHANGE, subject_file=file)
    state, _ = await work.carry_out(box.settings, sign(orders.draft(order), OWNER, OPERATOR))
    assert (state.key, state.next, state.gateway_id) == (before.key, before.next, before.gateway_id)
    assert state.subject.location is not None
    assert state.subject.location.latitude == 48_140_000
    assert state.subject.owner == SUBJECT.owner


async def test_a_proposal_that_nobody_signed_is_proposed_again_with_the_same_keys(box: Box, tmp_path: Path) -> None:
    await box.created(tmp_path)
    first, second = await box.propose(Kind.ROTATE), await box.propose(Kind.ROTATE)
    assert (first.key, first.next) == (second.key, second.next)
    assert key_id_of(first.key.public_key_der) != box.state.key.key_id
    with pytest.raises(work.OrderError, match="evidence-3 is on the token already"):
        await box.propose(Kind.ROTATE, "ed25519")
