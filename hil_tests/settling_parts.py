"""A life of the settling road over a real store, and the platform that it talks to: what its tests share."""

from __future__ import annotations

import pytest

from agent.evidence.batch import KeyProtection
from agent.evidence.cose import low_s
from agent.evidence.seal import SealPolicy
from agent.evidence.statements import Alarm, Kind, SettlementWindow, decode
from agent.identity.did import did_of
from agent.ledger import follower
from agent.ledger.follower import Ruling
from agent.ledger.frames import Proposal, Reestablish, from_wire, to_wire
from agent.ledger.state import ChannelTerms, SignedState
from agent.roads.offline import Counter
from agent.roads.sealing import Sealer
from agent.roads.settling import SettledDevice, Settling
from agent.roads.window_notes import WAITING_NOTE
from agent.store import Stage, Store
from agent.uplink.errors import LinkDownError
from drivers.device import SignerUnavailableError
from hil_tests.roads_parts import BOOT_ID, FailingDesk, HandClock, reading, running, until
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame
from tests.agent.identity.software import SoftwareSigner

WINDOW_S = 5
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class ChannelKey(SoftwareSigner):
    """Signs digests as contracts want them: with a low s."""

    async def sign_digest(self, digest: bytes) -> bytes:
        return low_s(await super().sign_digest(digest), P256_ORDER)


PLATFORM_KEY = ChannelKey()


GATEWAY_ID = "did:key:zExample"


def terms(device_id: str) -> ChannelTerms:
    return ChannelTerms(
        gateway_id=GATEWAY_ID,
        device_id=device_id,
        chain_id=1,
        contract=b"\x01" * 20,
        participant=b"\x02" * 20,
        counterparty=b"\x03" * 20,
        agreement_hash=b"\x04" * 32,
    )


class DeviceKey(ChannelKey):
    """A device's key. Away while told so; counts its signatures."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.signed = 0

    async def sign_digest(self, digest: bytes) -> bytes:
        if self.away:
            raise SignerUnavailableError("the token is away, says the test")
        self.signed += 1
        return await super().sign_digest(digest)


class Platform:
    """The following side, as a platform keeps it: outlives the gateway's restarts."""

    def __init__(self) -> None:
        self.held: dict[str, SignedState] = {}
        self.windows: dict[str, dict[bytes, None]] = {}
        """Of each device, from every life of the gateway, in the order in which they came."""
        self.proposals: list[Proposal] = []
        self.countersigns = True
        self.answers_lost = False

    async def answer(self, frame: ChannelFrame, key: SoftwareSigner, windows: list[bytes]) -> ChannelFrame | None:
        """What it sends back; None where its answer is lost or there is none."""
        device_id = frame.device_id
        held = self.held.get(device_id)
        known = self.windows.setdefault(device_id, {})
        known.update(dict.fromkeys(windows))
        match from_wire(frame):
            case Reestablish() as question:
                reply = follower.answer(
                    held, question, terms(device_id), key.verify_key, PLATFORM_KEY.verify_key
                ).message
                return to_wire(device_id, frame.channel_id, reply)
            case Proposal() as proposal:
                self.proposals.append(proposal)
                if not self.countersigns:
                    return None
                verdict = follower.judge(held, proposal, terms(device_id), key.verify_key, list(known))
                assert verdict.ruling in (Ruling.COUNTERSIGN, Ruling.REPEAT), verdict.reason
                if verdict.ruling is Ruling.COUNTERSIGN:
                    held = verdict.countersigned(await PLATFORM_KEY.sign_digest(verdict.digest))
                    self.held[device_id] = held
                assert held is not None
                if self.answers_lost:
                    return None
                return to_wire(device_id, frame.channel_id, follower.countersignature(held))
        raise AssertionError("the gateway sent what only a platform sends")


class Life:
    """One life of the agent over a store; ends without a word, as a crash does."""

    def __init__(
        self, store: Store, hand: HandClock, platform: Platform, *, counter: Counter | None = None, **keys: DeviceKey
    ) -> None:
        self.store, self.hand, self.platform = store, hand, platform
        self.keys = {name.replace("_", "-"): key for name, key in keys.items()}
        self.desk = FailingDesk(store, lambda: hand.monotonic_s)
        self.link = True
        self.stages_at_release: list[Stage] = []
        self._frames: list[ChannelFrame] = []
        self.settling = Settling(
            [
                SettledDevice(device_id=name, period_s=1.0, signer=key, terms=terms(name))
                for name, key in self.keys.items()
            ],
            store=store,
            desk=self.desk,
            clock=hand.clock,
            platform_key=PLATFORM_KEY.verify_key,
            window_s=WINDOW_S,
            send=self._send,
            commands_of=lambda device_id, from_us, to_us: [b"\x07" * 32],
            counter=counter,
        )

    async def _send(self, frame: ChannelFrame) -> None:
        if not self.link:
            raise LinkDownError("no link, says the test")
        if frame.HasField("proposal"):
            newest = await self.store.channel_newest(frame.channel_id)
            assert newest is not None
            self.stages_at_release.append(newest.stage)
        self._frames.append(frame)

    async def converse(self) -> None:
        """Let platform and gateway talk until neither has anything to say."""
        while self._frames:
            frame = self._frames.pop(0)
            windows = await self.store.statements(frame.device_id, Kind.SETTLEMENT_WINDOW, 0, 1 << 62)
            reply = await self.platform.answer(frame, self.keys[frame.device_id], windows)
            if reply is not None and self.link:
                await self.settling.receive(reply)

    async def connect(self) -> None:
        self.link = True
        await self.settling.connected()
        await self.converse()

    async def begin(self) -> None:
        """Restore, and open the first window where none is open."""
        await self.settling.restore()

        async with running(self.settling.run()):
            await until(lambda: len(self.settling._progress) == len(self.keys), "the first window is open")

    async def close_windows(self, count: int = 1, *, energy_wh: int = 10) -> None:
        """Let windows pass, each with its readings, and close them."""
        for _ in range(count):
            for device_id in self.keys:
                await self.measure(device_id, energy_wh)
            self.hand.advance(WINDOW_S)
        self.hand.advance(WINDOW_S / 2)
        expected = self.settling.windows_closed + count * len(self.keys)
        async with running(self.settling.run()):
            await until(
                lambda: self.settling.windows_closed >= expected and self._at_rest(), f"{expected} windows are closed"
            )
        self.hand.advance(-WINDOW_S / 2)
        await self.converse()

    def _at_rest(self) -> bool:
        """No channel is in the middle of what a closed window led to."""
        return not any(lock.locked() for lock in self.settling._locks.values())

    async def measure(self, device_id: str, energy_wh: int) -> None:
        """Two readings at the boundaries of the window that is open."""
        encoded = await self.store.statements(device_id, Kind.READING, 0, 1 << 62)
        last = 0 if not encoded else _counted_wh(encoded[-1])
        sequence = len(encoded)
        incarnation = self.store.incarnation
        await self.desk.put(
            [
                reading(
                    sequence + 1,
                    at_us=self.hand.wall_us + 1,
                    import_wh=last,
                    device_id=device_id,
                    incarnation=incarnation,
                ),
                reading(
                    sequence + 2,
                    at_us=self.hand.wall_us + WINDOW_S * 1_000_000,
                    import_wh=last + energy_wh,
                    device_id=device_id,
                    incarnation=incarnation,
                ),
            ]
        )

    async def seal(self) -> None:
        """Sign what is queued."""
        signer = SoftwareSigner()
        sealer = Sealer(
            store=self.store,
            desk=self.desk,
            clock=self.hand.clock,
            signer=signer,
            gateway_id=did_of(signer.public_key_der),
            boot_id=BOOT_ID,
            key_protection=KeyProtection.SOFTWARE,
            policy=SealPolicy(linger_s=0.0),
            on_sealed=lambda _: None,
        )
        while (await self.store.counts()).queued:
            await sealer.seal_once()

    async def stages(self, device_id: str = "pv-1") -> list[Stage]:
        return [row.stage for row in await self.store.channel_rows(terms(device_id).channel_id)]

    async def waiting_notes(self) -> int:
        return len(await self.store.notes(WAITING_NOTE))

    async def alarms(self) -> list[str]:
        found = [decode(row.encoded) for row in await self.store.queued()]
        return [alarm.code for alarm in found if isinstance(alarm, Alarm)]


def _counted_wh(encoded: bytes) -> int:
    statement = decode(encoded)
    return getattr(statement, "import_register_milliwatt_hours", 0) // 1_000


async def stored_windows(store: Store, device_id: str = "pv-1") -> list[SettlementWindow]:
    found = [decode(leaf) for leaf in await store.statements(device_id, Kind.SETTLEMENT_WINDOW, 0, 1 << 62)]
    return [window for window in found if isinstance(window, SettlementWindow)]


@pytest.fixture
def hand() -> HandClock:
    return HandClock()


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def key() -> DeviceKey:
    return DeviceKey()
