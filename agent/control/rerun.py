"""The core of control once more, with what was recorded in place of the world: the same must come out.

Devices, clock, dice, people, store and platform are played from the record; everything else is what the gateway runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from agent.config import BoundsSettings, ControlSettings, DeviceSettings, FrequencySettings, SiteSettings
from agent.control.core import Core, World
from agent.control.decisions import Cause, plan_bytes
from agent.control.errors import ControlError, RestoreError
from agent.control.events import (
    Decided,
    Event,
    HoldBegun,
    HoldEnded,
    HoldStored,
    Kept,
    Kind,
    Look,
    Memory,
    Message,
    Rules,
    Signed,
    Stored,
    Turn,
    Wished,
    given_of,
    said_bytes,
)
from agent.control.feed_keeper import FeedKeeper
from agent.control.order import Now, Order
from agent.control.plan import Plan
from agent.control.recorder import Recorder, fault_of
from agent.control.site import Held, Sharing, SiteView
from agent.control.undecided import Waiting
from agent.control.viewing import settings_view
from agent.evidence.statements import Alarm, Severity, Statement
from drivers.device import Capabilities, DeviceKind, DeviceStatus, LinkState
from proto.energysettlement.v1 import device_pb2

_NOWHERE: Final = Look(statuses=(), held={}, stop=None, clamps=())


class _OtherwiseError(Exception):
    """It cannot go on as recorded: the world is asked for what it was not asked then."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an event."""

    decisions: tuple[Decided, ...]
    said: tuple[bytes, ...]
    answer: str
    otherwise: str = ""
    """What it asked of the world more or less often than then."""


class Rerun:
    """The core from one memory on. Raises RestoreError for what cannot be read."""

    def __init__(self, memory: Memory, sharing: Sharing = Sharing.LOSSES) -> None:
        """`sharing`: the rule of the release that recorded it."""
        config = memory.config
        try:
            control = ControlSettings.model_validate_json(config.control)
            devices = [DeviceSettings.model_validate_json(each) for each in config.devices]
            settings = settings_view(
                SiteSettings.model_validate_json(config.site),
                control,
                FrequencySettings.model_validate_json(config.frequency),
                devices,
                sharing,
            )
            bounds = BoundsSettings.model_validate_json(config.bounds)
        except ValidationError as error:
            raise RestoreError(f"its configuration is none of this release: {error}"[:400]) from error
        self._config, self._restored = config, memory.restored
        self._at: tuple[Now, float] = Now(wall_us=memory.at_us), 0.0
        self._rules: Rules | None = None
        self._looks: deque[Look] = deque()
        self._look = _NOWHERE
        self._drawn: deque[float] = deque()
        self._statuses: dict[str, DeviceStatus] = {}
        self._capabilities: dict[str, Capabilities | None] = {}
        self._said: list[Statement] = []
        self._decisions: list[Decided] = []
        self._recorder = _Unwritten(self._said.extend)
        self._core = Core(
            World(
                looks=self,
                held=self._held,
                holdable={name: _status_by(self._capabilities, name) for name in settings.controllable},
                look=self._looked,
                note=self._note,
                recorder=self._recorder,
                keep_hold=lambda *_: None,
                stored=lambda _: None,
                changed=lambda: None,
                policy=lambda: self._known_rules().policy,
                trust=lambda: self._known_rules().trust,
                restored=lambda: self._restored,
                monotonic_s=lambda: self._at[1],
                draw=self._draw,
                say=self._say,
            ),
            settings,
            bounds=bounds,
            feeds=FeedKeeper(config.feeds),
            booted=False,
        )
        self._core.recall(memory)

    def memory(self, at_us: int) -> Memory:
        """What it goes by now; what the next segment begins with must be the same."""
        return self._core.memory(self._config, at_us, continues=True)

    def rule(self, rules: Rules) -> None:
        """From now on."""
        self._rules = rules

    def step(self, event: Event) -> Outcome:
        """Let it happen again. Raises RestoreError, and whatever an altered input can make of the core."""
        self._at = event.now, event.monotonic_s
        self._looks, self._drawn = deque(event.looks), deque(event.drawn)
        self._recorder.waits = event.backlog
        self._said.clear()
        self._decisions.clear()
        answer = ""
        self._core.count()
        try:
            answer = self._happen(event)
        except ControlError as error:
            answer = str(error)
        except _OtherwiseError as error:
            return Outcome(tuple(self._decisions), said_bytes(self._said), "", str(error))
        less = "it looks at the site, or throws dice, less often" if self._looks or self._drawn else ""
        return Outcome(tuple(self._decisions), said_bytes(self._said), answer, less)

    def _happen(self, event: Event) -> str:
        now = self._at[0]
        match event.kind, given_of(event):
            case Kind.TURN, Turn():
                self._core.decide(now)
            case Kind.KEPT, Kept(registers=registers):
                self._core.account(registers)
            case Kind.MESSAGE, Message(message=message, device_id=device_id, since_s=since_s):
                read = device_pb2.GridCommand.FromString(message)
                self._core.intake.take(Waiting(read, device_id, since_s), now)
            case Kind.SCHEDULE, Signed(signed=signed):
                self._core.intake.take_schedule(signed, now)
            case Kind.FEED, Signed(signed=signed):
                return self._core.around.feeds.receive(signed, now.wall_us)
            case Kind.STORED, Stored(hash=order_hash):
                self._core.stored(order_hash)
            case Kind.HOLD_STORED, HoldStored(hold=hold):
                self._core.around.holds.committed(hold)
            case Kind.HOLD, HoldBegun() as begun:
                self._capabilities[begun.device_id] = begun.capabilities
                self._core.around.holds.begin(begun.device_id, begun.power_w, begun.duration_s, begun.by, now)
            case Kind.HOLD_ENDED, HoldEnded(device_id=device_id, by=by):
                self._core.around.holds.end(device_id, by)
            case Kind.WISH, Wished(device_id=device_id, wish=wish):
                self._core.around.watch.day.wish(device_id, wish, now.wall_us)
        return ""

    # -- the world, as recorded

    def statuses(self) -> Mapping[str, DeviceStatus]:
        """How the devices were."""
        if not self._looks:
            raise _OtherwiseError("it looks at the site, and did not then")
        self._look = self._looks.popleft()
        self._statuses.update({status.device_id: status for status in self._look.statuses})
        return self._statuses

    def _looked(self, now: Now, orders: tuple[Order, ...]) -> SiteView:
        if not self._looks:
            raise _OtherwiseError("it looks at the site, and did not then")
        look = self._looks[0]
        return self._core.around.look(now, self._at[1], orders=orders, stop=look.stop, clamps=look.clamps)

    def _held(self, name: str) -> Held | None:
        return self._look.held.get(name)

    def _draw(self) -> float:
        if not self._drawn:
            raise _OtherwiseError("it throws dice, and did not then")
        return self._drawn.popleft()

    def _known_rules(self) -> Rules:
        if self._rules is None:
            raise RestoreError("nothing says who might order what")
        return self._rules

    def _note(self, cause: Cause, plan: Plan) -> None:
        self._decisions.append(Decided(cause=cause, plan=plan_bytes(plan)))

    def _say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        self._said.append(Alarm(timestamp_us=0, severity=severity, code=code, subject=subject[:255], text=text))


class _Unwritten(Recorder):
    """Takes what is said, and writes nothing."""

    def __init__(self, heard: Callable[[Sequence[Statement]], None]) -> None:
        self.waits = 0
        self._take = heard

    @property
    def backlog(self) -> int:
        return self.waits

    def submit(
        self,
        statements: Sequence[Statement],
        notes: Mapping[str, bytes | None],
        on_committed: Callable[[], None] | None = None,
    ) -> None:
        self.waits += len(statements)
        self._take([statement for statement in statements if not fault_of(statement)])


def _status_by(capabilities: Mapping[str, Capabilities | None], name: str) -> Callable[[], DeviceStatus]:
    def status() -> DeviceStatus:
        known = capabilities.get(name)
        return DeviceStatus(
            device_id=name, kind=DeviceKind.BATTERY, link=LinkState.ONLINE, detail="", capabilities=known
        )

    return status
