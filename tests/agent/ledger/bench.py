"""Both ends of a channel on a bench: a store that keeps what is committed, a token, a link that loses, a platform.

Everything that leaves the gateway is recorded, so that a test can say what never happened.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agent.ledger import channel as ch
from agent.ledger import follower
from agent.ledger.channel import Channel
from agent.ledger.events import (
    Alert,
    Commit,
    Committed,
    Input,
    Keep,
    LinkDown,
    LinkUp,
    Output,
    Retry,
    Send,
    Sign,
    Signed,
    WindowClosed,
)
from agent.ledger.follower import Ruling
from agent.ledger.frames import Message, Proposal, Reestablish, from_wire, to_wire
from agent.ledger.state import SignedState, decode_state
from agent.store import ChannelRow, Stage
from tests.agent.ledger.examples import DEVICE_KEY, PLATFORM_KEY, TERMS


@dataclass
class Kept:
    """What the gateway's disk holds."""

    rows: list[ChannelRow] = field(default_factory=list)
    waiting: list[bytes] = field(default_factory=list)
    conflicts: list[bytes] = field(default_factory=list)

    def copy(self) -> Kept:
        return Kept(list(self.rows), list(self.waiting), list(self.conflicts))

    def newest(self, stage: Stage | None = None) -> ChannelRow | None:
        rows = [row for row in self.rows if stage is None or row.stage == stage]
        return max(rows, key=lambda row: (row.incarnation, row.version, row.stage), default=None)

    def append(self, row: ChannelRow) -> None:
        name = (row.incarnation, row.version, row.stage)
        same = [held for held in self.rows if (held.incarnation, held.version, held.stage) == name]
        assert all(held == row for held in same), "two different rows for one stage of one state"
        if not same:
            self.rows.append(row)


class Platform:
    """The rules of proto/CHANNELS.md, over `agent.ledger.follower`."""

    def __init__(self) -> None:
        self.held: SignedState | None = None
        self.windows: list[bytes] = []
        self.proposed: Proposal | None = None
        self.rulings: list[Ruling] = []

    def receive(self, message: Message) -> list[Message]:
        match message:
            case Reestablish(is_answer=False):
                answered = follower.answer(self.held, message, TERMS, DEVICE_KEY.public, PLATFORM_KEY.public)
                self.held = answered.adopt or self.held
                return [answered.message]
            case Proposal():
                self.proposed = message
                return self.judge()
        return []

    def prove(self, window: bytes) -> list[Message]:
        self.windows.append(window)
        return self.judge()

    def judge(self) -> list[Message]:
        if self.proposed is None:
            return []
        verdict = follower.judge(self.held, self.proposed, TERMS, DEVICE_KEY.public, self.windows)
        self.rulings.append(verdict.ruling)
        if verdict.ruling is Ruling.WAIT:
            return []
        self.proposed = None
        if verdict.ruling in (Ruling.REFUSE, Ruling.FORK):
            return [verdict.refused()]
        if verdict.ruling is Ruling.COUNTERSIGN:
            self.held = verdict.countersigned(PLATFORM_KEY.sign(verdict.digest))
        assert self.held is not None
        return [follower.countersignature(self.held)]


class Bench:
    """Carries the gateway's outputs out, one at a time, so that a test can stop between any two."""

    def __init__(self, platform: Platform | None = None, kept: Kept | None = None, incarnation: int = 1) -> None:
        self.platform = platform or Platform()
        self.kept = kept or Kept()
        self.todo: deque[Output] = deque()
        self.link: deque[tuple[bool, Message]] = deque()
        """(to the platform, message), under way."""
        self.released: dict[tuple[int, int], set[bytes]] = {}
        """Digests of every state that left with our signature."""
        self.signed: dict[tuple[int, int], set[bytes]] = {}
        self.alerts: list[str] = []
        self.conflicts: list[str] = []
        self.adopted: list[SignedState] = []
        self.nonces = 0
        self.channel: Channel
        self.start(incarnation)

    def start(self, incarnation: int = 1, *, restored: bool = False) -> None:
        """The agent starts, with nothing but what the disk holds; `restored`: and the marker of a restore."""
        self.todo.clear()
        self.link.clear()
        self.channel = ch.start(
            TERMS,
            incarnation=incarnation,
            device_key=DEVICE_KEY.public,
            platform_key=PLATFORM_KEY.public,
            newest=self.kept.newest(),
            countersigned=self.kept.newest(Stage.COUNTERSIGNED),
            waiting=self.kept.waiting,
            conflicts=self.kept.conflicts,
            restored=restored,
        )

    def feed(self, happened: Input) -> None:
        self.channel, outputs = ch.step(self.channel, happened)
        self.todo.extend(outputs)

    def close_window(self, encoded: bytes) -> None:
        self.kept.waiting.append(encoded)
        self.feed(WindowClosed(encoded))

    def connect(self) -> None:
        self.nonces += 1
        self.link.clear()
        self.feed(LinkUp(self.nonces.to_bytes(16)))

    def disconnect(self) -> None:
        self.link.clear()
        self.feed(LinkDown())

    def do_one(self) -> None:
        """Carry out the oldest output."""
        if not self.todo:
            return
        output = self.todo.popleft()
        match output:
            case Commit(row, settled, adopted):
                self.kept.append(row)
                if adopted is not None:
                    self.adopted.append(adopted)
                self.kept.waiting = [w for w in self.kept.waiting if w not in settled]
                self.feed(Committed(row.version, row.stage))
            case Sign(version, digest):
                intended = {row.version for row in self.kept.rows if row.stage == Stage.INTENT}
                assert version in intended, "signed before the intent was committed"
                self.signed.setdefault((self.channel.incarnation, version), set()).add(digest)
                self.feed(Signed(version, DEVICE_KEY.sign(digest)))
            case Send(message):
                if isinstance(message, Proposal):
                    state = decode_state(message.state)
                    stored = [r for r in self.kept.rows if (r.version, r.stage) == (state.version, Stage.SIGNED)]
                    assert stored, "released before the signature was committed"
                    self.released.setdefault(state.order, set()).add(state.digest)
                self.link.append((True, message))
            case Keep(name, encoded):
                self.conflicts.append(name)
                self.kept.conflicts.append(encoded)
            case Alert(code=code):
                self.alerts.append(code)

    def deliver_one(self) -> None:
        """The oldest message arrives, through its wire form."""
        if not self.link:
            return
        to_platform, sent = self.link.popleft()
        message = from_wire(to_wire(TERMS.device_id, TERMS.channel_id, sent))
        if to_platform:
            self.answer(self.platform.receive(message))
        else:
            assert not isinstance(message, Proposal)
            self.feed(message)

    def answer(self, messages: list[Message]) -> None:
        self.link.extend((False, message) for message in messages)

    def prove(self, window: bytes) -> None:
        """The window's batch reaches the platform."""
        self.answer(self.platform.prove(window))

    def settle(self) -> None:
        """Until nothing moves."""
        while self.todo or self.link:
            while self.todo:
                self.do_one()
            self.deliver_one()

    def retry(self) -> None:
        self.feed(Retry())
