"""The core of control in a test's hands: no loop, no store, no devices, but the real record of what happens to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.config import BoundsSettings, ControlSettings, DeviceSettings, FrequencySettings, SiteSettings
from agent.control.audit import Audited, audit, statements_of
from agent.control.core import Core, World
from agent.control.decision_log import DecisionLog, segments
from agent.control.errors import ControlError
from agent.control.events import (
    HoldBegun,
    HoldEnded,
    HoldStored,
    Kept,
    Kind,
    Message,
    Signed,
    Stored,
    Turn,
    Wished,
    config_of,
)
from agent.control.feed_keeper import FeedKeeper
from agent.control.inputs import InputClamp
from agent.control.needing import Wish
from agent.control.onlooker import Onlooker
from agent.control.order import Now, Order
from agent.control.override import Override
from agent.control.plan import Plan
from agent.control.recorder import Recorder
from agent.control.site import Held, SiteView
from agent.control.tally import Register
from agent.control.tape import Tape
from agent.control.undecided import Waiting
from agent.control.viewing import settings_view
from agent.evidence.statements import Alarm, CommandReceipt, Severity, Statement
from agent.identity.trust import TrustList
from drivers.device import DeviceKind, DeviceStatus, LinkState, Sample, VehicleSession
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.control.support import START_US, capabilities, policy, rights, trust_list
from tests.agent.control.test_feeds import RULES

DEVICES = [
    DeviceSettings(id="grid", kind=DeviceKind.METER, driver="sunspec", address="tcp://m:502"),
    DeviceSettings(id="battery", kind=DeviceKind.BATTERY, driver="sunspec", address="tcp://b:502", parent="grid"),
    DeviceSettings(id="car", kind=DeviceKind.CHARGER, driver="ocpp", charger_id="car", parent="grid"),
]
CAR = VehicleSession(transaction_id="t", token_id="owner", battery_capacity_wh=50_000, state_of_charge_permille=300)


class _NoDesk:
    async def put(self, taken: Sequence[Statement], notes: Mapping[str, bytes | None]) -> None:
        raise AssertionError("nothing is written here")


class UnwrittenRecorder(Recorder):
    """Keeps what waits, until the test says that the store has it."""

    def __init__(self, heard: Callable[[Sequence[Statement]], None]) -> None:
        super().__init__(_NoDesk())
        self._tell = heard
        self.said: list[Statement] = []
        self.waiting: list[Callable[[], None]] = []

    @property
    def backlog(self) -> int:
        return len(self.waiting)

    def submit(
        self,
        statements: Sequence[Statement],
        notes: Mapping[str, bytes | None],
        on_committed: Callable[[], None] | None = None,
    ) -> None:
        self._tell(statements)
        self.said += statements
        if on_committed is not None:
            self.waiting.append(on_committed)

    def commit(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


@dataclass
class _Device:
    box: Box
    device_id: str
    kind: DeviceKind

    def status(self) -> DeviceStatus:
        charger = self.kind is DeviceKind.CHARGER
        if self.device_id in self.box.unseen:
            link = LinkState.STARTING
            return DeviceStatus(device_id=self.device_id, kind=self.kind, link=link, detail="is being connected to")
        return DeviceStatus(
            device_id=self.device_id,
            kind=self.kind,
            link=LinkState.SILENT if self.device_id in self.box.silent else LinkState.ONLINE,
            detail=f"seen at {self.box.now_s}",
            capabilities=None if self.kind is DeviceKind.METER else capabilities(10_000, 10_000),
            last_sample=Sample(
                device_id=self.device_id,
                monotonic_s=self.box.now_s,
                power_w=self.box.powers_w[self.device_id],
                import_register_milliwatt_hours=self.box.register,
                frequency_millihertz=self.box.millihertz,
                state_of_charge_permille=600,
                voltage_millivolts=230_000 + self.box.register % 100,
            ),
            vehicle=CAR if charger and self.box.car else None,
        )


class Box:
    """One gateway's control, recorded in a folder."""

    def __init__(self, folder: Path, *, trust: TrustList | None = None) -> None:
        self.folder, self.now_s, self.wall_us = folder, 1_000.0, START_US
        self.powers_w = {"grid": 1_000, "battery": 0, "car": 0}
        self.register, self.millihertz, self.car, self.silent = 0, 50_000, True, set[str]()
        self.unseen = set[str]()
        """Never reached since the start."""
        self.trust = trust or trust_list(rights(expires_us=2**53), expires_us=2**53)
        self.policy = replace(policy(), controllable=frozenset({"battery", "car"}))
        self.pressed_by: str | None = None
        self.clamps: tuple[InputClamp, ...] = ()
        self.alarms: list[Alarm] = []
        self.start()

    def start(self) -> None:
        """As after a restart, with an empty store."""
        site, frequency = SiteSettings(discharge_permitted=True), FrequencySettings()
        control = ControlSettings(return_delay_most_s=4, return_ramp_percent_per_minute=6_000)
        bounds, feeds = BoundsSettings(), FeedKeeper(RULES)
        config = config_of(site, control, frequency, bounds, DEVICES, feeds.rules)
        self.log = DecisionLog(self.folder, software="1", days=7, say=self.say, monotonic_s=lambda: self.now_s)
        self.tape = Tape(
            self.log,
            memory=lambda continues: self.core.memory(config, self.wall_us, continues=continues),
            before=lambda: self.core.count(),
            midway=lambda: self.core.midway,
            backlog=lambda: self.recorder.backlog,
            moment=lambda: (self.now(), self.now_s),
            monotonic_s=lambda: self.now_s,
        )
        self.recorder = UnwrittenRecorder(self.tape.heard)
        devices = {each.id: _Device(self, each.id, each.kind) for each in DEVICES}
        self.looks = Onlooker(devices)  # type: ignore[arg-type]  # all that is asked of a device here
        self.core = Core(
            World(
                looks=self.looks,
                held=self.tape.held(lambda _: Held(lowest_w=None, highest_w=None, age_s=self.now_s % 7)),
                holdable={name: devices[name].status for name in ("battery", "car")},
                look=self._look,
                note=self.tape.note,
                recorder=self.recorder,
                keep_hold=self._keep_hold,
                stored=self._stored,
                changed=lambda: None,
                policy=self.tape.policy(lambda: self.policy),
                trust=self.tape.trust(lambda: self.trust),
                restored=lambda: True,
                monotonic_s=self.tape.monotonic_s,
                draw=self.tape.draw(lambda: 0.25),
                say=self._say,
            ),
            settings_view(site, control, frequency, DEVICES),
            bounds=bounds,
            feeds=feeds,
            booted=True,
        )
        self.core.restore({})

    def now(self) -> Now:
        return Now(wall_us=self.wall_us, uptime_us=round(self.now_s * 1e6))

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds
        self.wall_us += round(seconds * 1e6)
        self.register += round(seconds * 1_000)

    # -- what comes

    def turn(self, seconds: float = 1.0) -> None:
        self.pass_(seconds)
        plan = self.decide()
        self.keep()
        for name, order in plan.orders.items():
            if order.lowest_w is not None and order.lowest_w == order.highest_w:
                self.powers_w[name] = order.lowest_w

    def decide(self) -> Plan:
        with self.tape.event(Kind.TURN, Turn()):
            return self.core.decide(self.now())[1]

    def keep(self) -> None:
        registers = {"battery": Register("", self.register)} if self.core.counts_energy else {}
        with self.tape.event(Kind.KEPT, Kept(registers=registers)):
            self.core.account(registers)

    def message(self, message: GridCommand, device_id: str | None = None) -> None:
        given = Message(message=message.SerializeToString(), device_id=device_id, since_s=self.now_s)
        with self.tape.event(Kind.MESSAGE, given):
            self.core.intake.take(Waiting(message, device_id, self.now_s), self.now())

    def schedule(self, signed: bytes) -> None:
        with self.tape.event(Kind.SCHEDULE, Signed(signed=signed)):
            self.core.intake.take_schedule(signed, self.now())

    def feed(self, signed: bytes) -> None:
        with self.tape.event(Kind.FEED, Signed(signed=signed)):
            self.tape.answer(self.core.around.feeds.receive(signed, self.wall_us))

    def hold(self, name: str, power_w: int | None, seconds: float = 60.0) -> str:
        given = HoldBegun(
            device_id=name, power_w=power_w, duration_s=seconds, by="me", capabilities=capabilities(10_000, 10_000)
        )
        try:
            with self.tape.event(Kind.HOLD, given):
                self.core.around.holds.begin(name, power_w, seconds, "me", self.now())
        except ControlError as error:
            return str(error)
        return ""

    def end_hold(self, name: str) -> str:
        try:
            with self.tape.event(Kind.HOLD_ENDED, HoldEnded(device_id=name, by="me")):
                self.core.around.holds.end(name, "me")
        except ControlError as error:
            return str(error)
        return ""

    def wish(self, wish: Wish) -> None:
        with self.tape.event(Kind.WISH, Wished(device_id="car", wish=wish)):
            self.core.around.watch.day.wish("car", wish, self.wall_us)

    def commit(self) -> None:
        self.recorder.commit()

    # -- what comes of it

    def write(self) -> None:
        self.log.write()
        self.log._tell(due=True)

    def audited(self, from_us: int = 0, to_us: int = 2**62) -> Audited:
        return audit(segments(self.folder), statements_of(self.alarms), from_us, to_us)

    @property
    def receipts(self) -> list[CommandReceipt]:
        return [said for said in self.recorder.said if isinstance(said, CommandReceipt)]

    def say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        self.alarms.append(Alarm(timestamp_us=START_US, severity=severity, code=code, subject=subject, text=text))

    # -- inside

    def _say(self, severity: Severity, code: str, subject: str, text: str) -> None:
        alarm = Alarm(timestamp_us=self.wall_us, severity=severity, code=code, subject=subject, text=text)
        self.recorder.submit((alarm,), {})

    def _look(self, now: Now, orders: tuple[Order, ...]) -> SiteView:
        view = self.core.around.look(
            now, self.tape.monotonic_s(), orders=orders, stop=self.pressed_by, clamps=self.clamps
        )
        self.tape.looked(self.looks, self.pressed_by, self.clamps)
        return view

    def _stored(self, order_hash: bytes) -> None:
        with self.tape.event(Kind.STORED, Stored(hash=order_hash)):
            self.core.stored(order_hash)

    def _keep_hold(self, notes: Mapping[str, bytes | None], hold: Override | None) -> None:
        def committed() -> None:
            if hold is not None:
                with self.tape.event(Kind.HOLD_STORED, HoldStored(hold=hold)):
                    self.core.around.holds.committed(hold)

        self.recorder.submit((), notes, committed)
