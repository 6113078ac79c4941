"""The shell of control: messages and samples in, a plan at least each second, orders and receipts out.

What decides is pure and elsewhere (`admission`, `book`, `plan`); here are the clock, the tasks and the order of things:
durable before acted on, but what only reduces power acts at once (DESIGN: law 5).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from agent.clock import Clock, ClockQuality, Instant
from agent.config import BoundsSettings, ControlSettings, DeviceSettings, FrequencySettings, InputSettings, SiteSettings
from agent.control.admission import HORIZON_US, Policy
from agent.control.core import Core, World
from agent.control.decision_log import DecisionLog
from agent.control.dispatcher import Dispatcher
from agent.control.errors import ControlError, NotNowError
from agent.control.events import (
    HoldBegun,
    HoldEnded,
    HoldStored,
    Kept,
    Kind,
    Memory,
    Message,
    Signed,
    Stored,
    Turn,
    Wished,
    config_of,
)
from agent.control.feed_keeper import FeedKeeper
from agent.control.feeds import FeedRules
from agent.control.forecast import Foreseen, foresee
from agent.control.input_watch import InputWatch
from agent.control.needing import Wish
from agent.control.notes import DEVICES_KEY, PREFIX, decode_names, encode_names
from agent.control.onlooker import Onlooker
from agent.control.order import Now, Order
from agent.control.override import Override
from agent.control.pacing import AFTER_CHANGE_S, Pacing
from agent.control.plan import METER_SUBJECT, Plan, orders_to_give, stop_order
from agent.control.recorder import UNRECORDABLE, Desk, Notes, Recorder
from agent.control.sealed_file import Sealing
from agent.control.site import SiteView
from agent.control.snapshot import ControlSnapshot, show_command, show_device
from agent.control.stop import StopButton, StopWatch
from agent.control.tally import Register
from agent.control.tape import Tape
from agent.control.turnstile import Turnstile
from agent.control.undecided import Waiting
from agent.control.viewing import register_of, settings_view, with_day_of
from agent.evidence.statements import Alarm, Severity
from agent.identity.trust import TrustList
from drivers.device import Device, DeviceKind, Sample, SampleFlag
from proto.energysettlement.v1 import device_pb2

TURNS_TO_SEND: Final = 2
"""Of the loop, until orders are on their way: a device's task wakes, and the order's own task begins."""
SENDING_S: Final = 0.01
"""New orders go so long before the books are kept, which takes the interpreter and the store from them."""
REGISTER_OLD_S: Final = 30.0
"""Energy of a command is counted from a register at most so old: an older one holds what came before the command."""

log = structlog.get_logger()


class Controller:
    """One for the gateway. `run` in a task of its own; everything else may be called from the same loop at any time."""

    def __init__(
        self,
        *,
        devices: Mapping[str, Device],
        device_settings: Sequence[DeviceSettings],
        site: SiteSettings,
        control: ControlSettings,
        frequency: FrequencySettings,
        gateway_id: Callable[[], str],
        stop_file: Path,
        clock: Clock,
        trust: Callable[[], TrustList | None],
        desk: Desk,
        notes: Notes,
        bounds: BoundsSettings | None = None,
        inputs: Sequence[InputSettings] = (),
        record_folder: Path | None = None,
        record_sealing: Sealing | None = None,
        software: str = "",
        booted: bool = False,
        feeds: FeedKeeper | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`booted`: the machine was started just now (SAFETY 7). `draw` is for tests."""
        self._devices = devices
        self._settings = settings_view(site, control, frequency, device_settings)
        self._control = control
        self._site_rating_w = max(site.import_limit_w, site.export_limit_w)
        self._gateway_id = gateway_id
        self._clock = clock
        self._notes = notes
        self._controllable = {name: devices[name] for name in self._settings.controllable if name in devices}
        self._looks = Onlooker(devices)
        self._dispatcher = Dispatcher(
            self._controllable, looks=self._looks, lease_s=control.lease_s, monotonic_s=clock.monotonic_s
        )
        self._decisions = DecisionLog(
            record_folder,
            software=software,
            days=control.record_days,
            say=self._alarm,
            monotonic_s=clock.monotonic_s,
            sealing=record_sealing,
        )
        self._tape = Tape(
            self._decisions,
            memory=self._memory,
            before=lambda: self._core.count(),  # noqa: PLW0108 - the core is made below
            midway=lambda: self._core.midway,
            backlog=lambda: self._recorder.backlog,
            moment=self._moment,
            monotonic_s=clock.monotonic_s,
        )
        self._recorder = Recorder(
            desk,
            lambda kind, text: self._alarm(Severity.CRITICAL, UNRECORDABLE, kind, text),
            heard=self._tape.heard,
        )
        self._stop = StopWatch(StopButton(stop_file), self._alarm)
        self._pacing = Pacing()
        self._turnstile = Turnstile(self._pacing.hurry)
        self._inputs = InputWatch(
            inputs, say=self._alarm, press=self._press_wired, changed=self._pacing.hurry, monotonic_s=clock.monotonic_s
        )
        self._restored = False
        self._time_known = not clock.rebooted
        self._registers: dict[str, tuple[Register, float]] = {}
        """With the monotonic time of their measurement."""
        bounds, feeds = bounds or BoundsSettings(), feeds or FeedKeeper(FeedRules())
        self._config = config_of(site, control, frequency, bounds, device_settings, feeds.rules)
        self._core = Core(
            World(
                looks=self._looks,
                held=self._tape.held(self._dispatcher.held),
                holdable={name: partial(self._looks.status, name) for name in self._controllable},
                look=self._look,
                note=self._tape.note,
                recorder=self._recorder,
                keep_hold=self._keep_hold,
                stored=self._stored,
                changed=self._pacing.hurry,
                policy=self._tape.policy(self._policy),
                trust=self._tape.trust(trust),
                restored=lambda: self._restored,
                monotonic_s=self._tape.monotonic_s,
                draw=self._tape.draw(draw),
                say=self._alarm,
            ),
            self._settings,
            bounds=bounds,
            feeds=feeds,
            booted=booted,
        )
        self._books, self._schedules, self._around = self._core.books, self._core.schedules, self._core.around
        self._trouble = ""
        """Why no plan can be made; empty while one can."""
        self._in_devices: frozenset[str] | None = None
        """Devices that hold something of ours, as noted; None: not read yet."""
        self._view: SiteView | None = None
        self._plan = Plan({}, {})
        self.progress_s = clock.monotonic_s()
        """Monotonic time of the last completed plan: the watchdog's food."""

    # -- in ---------------------------------------------------------------------------------------------------------

    async def receive(self, message: device_pb2.GridCommand, device_id: str | None, received: Instant) -> None:
        """Take a message of the platform; `device_id` is whose stream it came on, None for the gateway's own link.

        Never raises for what the peer sent. The receipts go the way of all evidence. Of many it holds back who comes
        later, until a plan has been made.
        """
        if not message.command_id and not message.authorization:
            return
        received = await self._turn_of(received)
        now, now_s = self._now(received), self._clock.monotonic_s()
        given = Message(message=message.SerializeToString(), device_id=device_id, since_s=now_s)
        with self._tape.event(Kind.MESSAGE, given, (now, now_s)):
            self._core.intake.take(Waiting(message, device_id, now_s), now)

    async def receive_signed(self, kind: str, signed: bytes, received: Instant) -> None:
        """Take a schedule or a value of a feed. Never raises for what the peer sent."""
        received = await self._turn_of(received)
        now = self._now(received)
        at = (now, self._clock.monotonic_s())
        if kind == "schedule":
            with self._tape.event(Kind.SCHEDULE, Signed(signed=signed), at):
                self._core.intake.take_schedule(signed, now)
            self._pacing.hurry()
        elif kind == "feed" and now.time_known:
            with self._tape.event(Kind.FEED, Signed(signed=signed), at):
                self._tape.answer(self._around.feeds.receive(signed, now.wall_us))

    async def _turn_of(self, received: Instant) -> Instant:
        """When a message that was received then is judged."""
        return self._clock.now() if await self._turnstile.enter() else received

    def on_sample(self, sample: Sample) -> None:
        """Every sample of every device, as it comes. Never blocks."""
        register = register_of(sample)
        if register is not None and not sample.flags & SampleFlag.QUEUED:
            self._registers[sample.device_id] = (register, sample.monotonic_s)
        if sample.device_id == self._settings.meter_id:
            if register is not None:
                self._registers[METER_SUBJECT] = (register, sample.monotonic_s)
            self._pacing.soon()

    def stop(self, by: str) -> None:
        """Local STOP, at once; needs nothing but this process (SAFETY 1)."""
        self._stop.press(by)
        self._pacing.hurry()

    def _press_wired(self, by: str) -> None:
        if self._stop.pressed_by() is None:
            self.stop(by)

    def clear_stop(self, by: str) -> None:
        """End of local STOP. Raises StopNotClearedError while its file cannot be removed."""
        self._stop.clear(by)
        self._pacing.hurry()

    def add(self, settings: DeviceSettings, device: Device) -> None:
        """Another device from now on. It is in the mapping that this was made with already."""
        self._settings = replace(
            self._settings,
            controllable={**self._settings.controllable, device.device_id: settings},
            day=with_day_of(self._settings.day, settings),
        )
        self._around.watch.use(self._settings)
        self._config = self._config.with_device(settings)
        self._tape.anew()
        self._controllable[device.device_id] = device
        self._dispatcher.add(device)
        self._around.holds.add(device.device_id, partial(self._looks.status, device.device_id))
        self._pacing.soon()

    def wish(self, device_id: str, wish: Wish) -> None:
        """What the driver of the car at a charger needs until when. Raises WishError."""
        now, now_s = self._moment()
        with self._tape.event(Kind.WISH, Wished(device_id=device_id, wish=wish), (now, now_s)):
            self._around.watch.day.wish(device_id, wish, now.wall_us)
        self._pacing.hurry()

    def override(self, device_id: str, power_w: int | None, duration_s: float, by: str) -> Override:
        """Hold a device by hand: at a power, or (None) left to itself. Raises OverrideError."""
        now, now_s = self._moment()
        known = self._looks.status(device_id).capabilities if device_id in self._controllable else None
        given = HoldBegun(device_id=device_id, power_w=power_w, duration_s=duration_s, by=by, capabilities=known)
        with self._tape.event(Kind.HOLD, given, (now, now_s)):
            hold = self._around.holds.begin(device_id, power_w, duration_s, by, now)
        self._pacing.hurry()
        return hold

    def end_override(self, device_id: str, by: str) -> None:
        """Give a device back to commands and defaults. Raises OverrideError."""
        with self._tape.event(Kind.HOLD_ENDED, HoldEnded(device_id=device_id, by=by)):
            self._around.holds.end(device_id, by)
        self._pacing.hurry()

    # -- out --------------------------------------------------------------------------------------------------------

    def snapshot(self) -> ControlSnapshot:
        """The state of control for people. Cheap."""
        entries = sorted(
            self._books.book.entries.values(),
            key=lambda e: (e.state.final, -e.order.received_us if e.state.final else e.order.command.start_us),
        )
        view = self._view
        return ControlSnapshot(
            stopped_by=self._stop.pressed_by(),
            safe_mode=self._around.watch.safe_mode,
            islanded=view.islanded if view is not None else False,
            time_known=self._time_known,
            restored=self._restored,
            connection_w=view.meter.power_w if view is not None and view.meter is not None else None,
            house_w=view.house_w if view is not None else None,
            devices=tuple(show_device(o, self._dispatcher.carriage(n)) for n, o in sorted(self._plan.orders.items())),
            commands=tuple(show_command(entry, self._plan.commands.get(entry.order.hash)) for entry in entries),
            schedules=self._schedules.lines(view, self._plan),
            deviations=self._schedules.deviations,
            feeds=self._around.feeds.lines(self._clock.now().wall_us),
            inputs=self._inputs.states(),
            refused=self._core.intake.refused,
            unrecorded=self._recorder.backlog,
            store_trouble=self._recorder.trouble,
        )

    @property
    def view(self) -> SiteView | None:
        """The site at the newest plan; None before the first one."""
        return self._view

    def foresee(self, at_us: int) -> Foreseen:
        """What will happen at a moment within the horizon. Raises ControlError."""
        wall_us = self._clock.now().wall_us
        if self._view is None:
            raise NotNowError("no plan was made yet; ask again in a moment")
        if not self._time_known:
            raise NotNowError("the time is not known since the reboot (no NTP, no platform): nothing can be foreseen")
        if at_us < wall_us:
            raise ControlError("that moment is over; what was decided then: v2g-gateway replay, commands")
        if at_us > wall_us + HORIZON_US:
            raise ControlError("that moment is more than 7 days away: so far no command reaches")
        changes = (self._books.book.next_change_us(at_us), self._schedules.next_change_us(at_us))
        change_us = min((each for each in changes if each is not None), default=None)
        return foresee(
            self._view,
            self._books.book,
            self._schedules.orders,
            at_us,
            bounds=self._around.bounds.allow,
            next_change_us=change_us,
        )

    def commands_in_force(self, device_id: str, start_us: int, end_us: int) -> tuple[bytes, ...]:
        """Hashes of the commands that were in force for a device between two moments, for its settlement window."""
        is_meter = device_id == self._settings.meter_id
        return self._books.book.in_force_between(device_id, start_us, end_us, is_meter=is_meter)

    async def run(self) -> None:
        """Control the site until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._record(), name="control recorder")
            tasks.create_task(self._dispatcher.run(), name="control dispatcher")
            tasks.create_task(self._decisions.run(), name="control decisions")
            tasks.create_task(self._inputs.run(), name="control inputs")
            tasks.create_task(self._stop.run(), name="control stop file")
            tasks.create_task(self._plan_for_ever(), name="control plan")

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _plan_for_ever(self) -> None:
        try:
            while True:
                self._pacing.begin()
                try:
                    await self._turn()
                except Exception as error:
                    # A fault of ours: what allows power is renewed no more and ends in the devices; STOP still works.
                    self._cannot_plan(error)
                else:
                    self._trouble = ""
                    self.progress_s = self._clock.monotonic_s()
                self._turnstile.open()
                await self._pacing.rest(self._until_next_s())
        finally:
            self._turnstile.stay_open()

    def _cannot_plan(self, error: Exception) -> None:
        if not self._trouble:
            self._trouble = f"no plan can be made: {error!r}"[:400]
            log.exception("control.cannot_plan")
            self._alarm(Severity.CRITICAL, "control.cannot_plan", "control", self._trouble)
        self._books.write()
        pressed_by = self._stop.pressed_by()
        if pressed_by is not None:
            self._dispatcher.follow({name: stop_order(name, pressed_by) for name in self._controllable})

    def _until_next_s(self) -> float:
        """To the next plan: at the moment at which a command starts or ends, if that is sooner than the interval."""
        wall_us = self._clock.now().wall_us
        changes = (self._books.book.next_change_us(wall_us), self._schedules.next_change_us(wall_us))
        change_us = min((each for each in changes if each is not None), default=None)
        if change_us is None or not self._time_known:
            return self._control.interval_s
        return min(self._control.interval_s, max(0.0, (change_us - self._clock.now().wall_us) / 1e6) + AFTER_CHANGE_S)

    async def _record(self) -> None:
        """Write what there is to record; but first read what an earlier run has written, so as not to write over it."""
        if not self._restored:  # A part that failed is run again; what it knows is newer than the store.
            await self._restore()
        await self._recorder.run()

    async def _restore(self) -> None:
        """Read the stored commands, as soon as the store lets us."""
        delay_s = 0.2
        while True:
            try:
                stored = await self._notes.notes(PREFIX)
                break
            except Exception as error:  # The store comes back by itself; until then what restricts is obeyed.
                log.warning("control.cannot_restore", error=str(error))
                await asyncio.sleep(delay_s)
                delay_s = min(5.0, delay_s * 2)
        commands, faults = self._core.restore(stored)
        self._restored = True
        self._in_devices = decode_names(stored.get(DEVICES_KEY))
        self._dispatcher.touch(self._in_devices)
        for fault in faults:
            self._alarm(Severity.WARNING, "command.note_damaged", fault.partition(":")[0], fault[:400])
        self._tape.anew()
        log.info("control.restored", commands=commands, damaged=len(faults))
        self._pacing.hurry()

    def _now(self, instant: Instant) -> Now:
        if instant.quality is not ClockQuality.UNTRUSTED:
            self._time_known = True
        return Now(
            wall_us=instant.wall_us, time_known=self._time_known, uptime_us=round(instant.monotonic_s * 1_000_000)
        )

    async def _turn(self) -> None:
        """One plan: its orders first, then what is to be kept about it."""
        instant = self._clock.now()
        now = self._now(instant)
        self._inputs.look()
        self._stop.look()
        with self._tape.event(Kind.TURN, Turn(), (now, self._clock.monotonic_s())):
            view, plan = self._core.decide(now)
        sending = self._dispatcher.follow(orders_to_give(view, plan))
        self._view, self._plan = view, plan
        self._note_devices()
        registers = self._fresh_registers(instant.monotonic_s) if self._core.counts_energy else {}
        for _ in range(TURNS_TO_SEND):
            await asyncio.sleep(0)
        self._core.count()
        if sending:
            await self._pacing.calm(SENDING_S)
        with self._tape.event(Kind.KEPT, Kept(registers=registers), (now, instant.monotonic_s)):
            self._core.account(registers)

    def _look(self, now: Now, orders: tuple[Order, ...]) -> SiteView:
        stop, clamps = self._stop.stopped_by, self._inputs.clamps()
        view = self._around.look(now, self._tape.monotonic_s(), orders=orders, stop=stop, clamps=clamps)
        self._tape.looked(self._looks, stop, clamps)
        return view

    def _moment(self) -> tuple[Now, float]:
        return self._now(self._clock.now()), self._clock.monotonic_s()

    def _memory(self, continues: bool) -> Memory:
        return self._core.memory(self._config, self._clock.now().wall_us, continues=continues)

    def _note_devices(self) -> None:
        """Note which devices hold something of ours: one without a timer of its own would keep it over our death."""
        touched = self._dispatcher.touched()
        if self._in_devices is not None and touched != self._in_devices:
            self._in_devices = touched
            self._recorder.submit((), {DEVICES_KEY: encode_names(touched)})

    def _fresh_registers(self, monotonic_s: float) -> dict[str, Register]:
        return {
            name: register for name, (register, at_s) in self._registers.items() if monotonic_s - at_s <= REGISTER_OLD_S
        }

    def _policy(self) -> Policy:
        return Policy(
            gateway_id=self._gateway_id(),
            zones=frozenset(self._control.zones),
            unsigned=self._control.unsigned_commands,
            controllable=frozenset(self._controllable),
            site_rating_w=self._site_rating_w,
            classes={
                kind: frozenset(name for name, device in self._controllable.items() if device.kind is kind)
                for kind in (DeviceKind.BATTERY, DeviceKind.CHARGER, DeviceKind.PV)
            },
        )

    # -- recording --------------------------------------------------------------------------------------------------

    def _stored(self, order_hash: bytes) -> None:
        with self._tape.event(Kind.STORED, Stored(hash=order_hash)):
            self._core.stored(order_hash)
        self._pacing.hurry()

    def _keep_hold(self, notes: Mapping[str, bytes | None], hold: Override | None) -> None:
        def committed() -> None:
            if hold is not None:
                with self._tape.event(Kind.HOLD_STORED, HoldStored(hold=hold)):
                    self._around.holds.committed(hold)
            self._pacing.hurry()

        self._recorder.submit((), notes, committed)

    def _alarm(self, severity: Severity, code: str, subject: str, text: str) -> None:
        alarm = Alarm(
            timestamp_us=self._clock.now().wall_us, severity=severity, code=code, subject=subject[:255], text=text
        )
        self._recorder.submit((alarm,), {})
