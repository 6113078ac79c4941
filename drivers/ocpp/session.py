"""What happens at one EVSE: connector, transaction, car and meter, from the charger's messages. No I/O, no clock.

Chargers repeat events after a lost answer, deliver queued ones in batches before or between live ones, fill gaps late,
and do not always say what they did while nobody listened. The rules here: an event with the same number, kind and time
counts once; an event moves the transaction only if it is not older than what moved it last (by the charger's own
clock); samples leave in order of their time, and one that is older than the last is not emitted, because the
cumulative registers of the next cover its energy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from drivers.device import Sample, SampleFlag, ValueSource, VehicleSession
from drivers.ocpp.car import Car as Car
from drivers.ocpp.car import read_needs
from drivers.ocpp.dynamic import DynamicLease
from drivers.ocpp.messages import ChargingNeeds, MeterValue, TransactionEvent
from drivers.ocpp.meter_values import MeterLook, read_meter_values
from drivers.ocpp.outside import Outside
from drivers.ocpp.sequence import SequenceLog
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.signed_values import Judged, SignedValues
from drivers.ocpp.smart_charging import SmartCharging
from drivers.ocpp.timestamps import parse_timestamp_us
from drivers.ocpp.v2x import Mode

REMEMBERED_ENDED: Final = 16
CLOCK_TOLERANCE_US: Final = 60_000_000
"""A charger's clock further off than this is reported; OCPP sets it with every heartbeat."""
SET_RIGHT_WITHIN_US: Final = 5_000_000
"""A clock that was set by a heartbeat is behind by the way of the answer and what was rounded off."""
LIVE_AGE_US: Final = 2_000_000
"""A value at most this much older than its message was measured now, as far as telemetry is concerned."""
KEEP_STATE_OF_CHARGE_S: Final = 30.0
"""Of a car in a transaction, so often, for a restart of ours."""
OLDEST_QUEUED_US: Final = 400 * 86_400_000_000
_ENDING: Final = frozenset({"StopAuthorized", "Deauthorized", "RemoteStop"})
"""Trigger reasons whose token, if there is one, is not who charges."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a message was received, on both clocks."""

    monotonic_s: float
    wall_us: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person or auditor must know of. `code` is stable."""

    code: str
    text: str
    device_id: str = ""
    """Of the EVSE that it is about; empty: about the charger."""


@dataclass(slots=True, kw_only=True)
class Transaction:
    """The charging session that the charger reports, as far as we know it."""

    transaction_id: str
    token_id: str | None = None
    last_event_us: int = 0
    """By the charger's clock: what is older does not move this transaction any more."""
    charging_state: str = ""


@dataclass(slots=True)
class Outcome:
    """What came of one message."""

    samples: list[Sample] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    repeated: bool = False
    changed: bool = False
    """Something that must survive a restart is different now."""


class EvseSession:
    """One EVSE. `meter_id` and `source` are set by the station, which knows who the charger is."""

    def __init__(self, settings: ChargerSettings, *, meter_id: str, source: ValueSource) -> None:
        self.settings = settings
        self.meter_id = meter_id
        self.source = source
        self.connectors: dict[int, str] = {}
        """connectorId -> Available, Occupied, Reserved, Unavailable or Faulted."""
        self.transaction: Transaction | None = None
        self._car = Car()
        self._charge: tuple[int, float, int] | None = None
        """Its newest state of charge, with both times: one comes with each value, and few are looked at."""
        self.smart = SmartCharging(settings)
        self.outside = Outside(settings)
        self.dynamic = DynamicLease()
        self.ended: deque[str] = deque(maxlen=REMEMBERED_ENDED)
        self.import_register_milliwatt_hours: int | None = None
        self.export_register_milliwatt_hours: int | None = None
        self.last_sample: Sample | None = None
        self.sequence = SequenceLog()
        self.limit_w: int | None = None
        """What the owner allows at most at this EVSE, W; below what the installer wrote."""
        self._state_of_charge_kept_s = float("-inf")
        self._clock_behind_us: int | None = None
        self._known_idle = False
        self._said: set[str] = set()
        self.latest_look: MeterLook | None = None
        """With every measurand, phase and place, for a person."""
        self._signed_values = SignedValues(settings.meter_key)

    # --- what others want to know

    @property
    def car(self) -> Car:
        """What is known of it; nothing while there is none."""
        if self._charge is not None:
            self._car, self._charge = self._car.charged_to(*self._charge), None
        return self._car

    @car.setter
    def car(self, car: Car) -> None:
        self._car, self._charge = car, None

    @property
    def occupied(self) -> bool:
        """Whether a car is plugged in, as far as the charger says."""
        return self.transaction is not None or "Occupied" in self.connectors.values()

    @property
    def trouble(self) -> str | None:
        """The connector state that keeps this EVSE from working, if any."""
        states = set(self.connectors.values())
        return next((state for state in ("Faulted", "Unavailable") if state in states), None)

    def vehicle(self, wall_us: int | None = None) -> VehicleSession | None:
        """The car as the plan sees it; None while there is none. With a time, what it offers then bounds it."""
        if not self.occupied:
            return None
        transaction = self.transaction
        return replace(
            self.car,
            transaction_id=None if transaction is None else transaction.transaction_id,
            token_id=None if transaction is None else transaction.token_id,
            max_discharge_w=self.car.gives_w(wall_us),
            declines=transaction is not None and transaction.charging_state == "SuspendedEV",
        )

    # --- what the charger says

    def connector_status(self, connector_id: int, status: str) -> Outcome:
        """StatusNotification."""
        outcome = Outcome()
        before = self.connectors.get(connector_id)
        if len(self.connectors) < 100 or before is not None:
            self.connectors[connector_id] = status
        here = self.settings.device_id
        if status != before and status == "Faulted":
            outcome.notices.append(Notice("charger.faulted", f"connector {connector_id} reports a fault", here))
        elif status != before and before == "Faulted":
            text = f"connector {connector_id} reports its fault no longer; it is {status}"
            outcome.notices.append(Notice("charger.fault_ended", text, here))
        if not self.occupied:
            self._known_idle = True
            outcome.changed = self._forget_car()
        return outcome

    def transaction_event(self, event: TransactionEvent, *, token_id: str | None, now: Moment) -> Outcome:
        """TransactionEvent. `token_id` is the authorised token that the event carries, None where it has none."""
        outcome = Outcome()
        info, number, timestamp = event["transactionInfo"], int(event["seqNo"]), event["timestamp"]
        fresh, gap = self.sequence.count(info["transactionId"], number, event["eventType"], timestamp)
        if not fresh:
            outcome.repeated = True
            return outcome
        if gap:
            self._say_once("charger.events_missing", f"{gap}; they may come late", outcome)
        timestamp_us = parse_timestamp_us(timestamp)
        offline = event.get("offline", False)
        # Of a live event in the course of things nothing is lost with us: its registers come again with the next one.
        outcome.changed |= offline or bool(gap) or event["eventType"] != "Updated"
        if not offline:
            self._compare_clocks(timestamp_us, now, outcome)
        moved_us = timestamp_us
        if timestamp_us > now.wall_us + CLOCK_TOLERANCE_US:
            # A clock that is ahead, and is set right later, must not make what comes then look older than this.
            moved_us = min(now.wall_us, timestamp_us + (self._clock_behind_us or 0)) - SET_RIGHT_WITHIN_US
        self._move(event, moved_us, token_id, outcome)
        self._take_meter_values(event.get("meterValue", []), timestamp_us, offline, now, outcome, info["transactionId"])
        if self.transaction is None:
            self._forget_car()  # after the meter values, which may hold its last state of charge
        return outcome

    def meter_values(self, values: list[MeterValue], now: Moment) -> Outcome:
        """MeterValues, which says no time of its own: its newest value is about now unless it is clearly older."""
        outcome = Outcome()
        newest_us = max(parse_timestamp_us(value["timestamp"]) for value in values)
        if any(sampled.get("context") == "Trigger" for value in values for sampled in value["sampledValue"]):
            self._compare_clocks(newest_us, now, outcome)
        age_us = now.wall_us - newest_us - (self._clock_behind_us or 0)
        transaction_id = None if self.transaction is None else self.transaction.transaction_id
        self._take_meter_values(values, newest_us, age_us > CLOCK_TOLERANCE_US, now, outcome, transaction_id)
        return outcome

    def charging_needs(self, needs: ChargingNeeds, now: Moment) -> Outcome:
        """NotifyEVChargingNeeds (K15, K18 to K20)."""
        self.car = read_needs(needs, self.car, now.monotonic_s, now.wall_us)
        return Outcome(changed=True)

    def priority(self, transaction_id: str, *, activated: bool) -> Outcome:
        """NotifyPriorityCharging (K22): the driver wants to charge now, or no longer."""
        if self.transaction is None or self.transaction.transaction_id != transaction_id:
            return Outcome()
        if self.car.charge_now is not activated:
            self.car = replace(self.car, charge_now=activated)
            self.smart.say_again = True
        return Outcome(changed=True)

    def no_transaction(self) -> Outcome:
        """The charger says, asked for it, that no transaction is going on here."""
        self._known_idle = True
        if self.transaction is None:
            return Outcome()
        self.ended.append(self.transaction.transaction_id)
        self.transaction = None
        self._forget_car()
        return Outcome(changed=True)

    def connection_began(self) -> None:
        """A new connection: the charger may have done anything meanwhile, and may be complained of anew."""
        self._known_idle = False
        self._said.clear()
        self.dynamic.connection_began()

    def idle_sample(self, now: Moment) -> Sample | None:
        """What is certain without asking while no transaction runs: no power, and the registers stand.

        None unless this connection told that none runs, or before any register was heard.
        """
        if self.transaction is not None or not self._known_idle or self.import_register_milliwatt_hours is None:
            return None
        sample = Sample(
            device_id=self.settings.device_id,
            monotonic_s=now.monotonic_s,
            power_w=0,
            import_register_milliwatt_hours=self.import_register_milliwatt_hours,
            export_register_milliwatt_hours=self.export_register_milliwatt_hours,
            meter_id=self.meter_id,
            source=self.source,
            flags=SampleFlag.ESTIMATED,
        )
        self.last_sample = sample
        return sample

    # --- inside

    def _move(self, event: TransactionEvent, timestamp_us: int, token_id: str | None, outcome: Outcome) -> None:
        transaction_id, kind = event["transactionInfo"]["transactionId"], event["eventType"]
        current = self.transaction
        if transaction_id in self.ended:
            return
        if current is not None and current.transaction_id != transaction_id:
            if timestamp_us < current.last_event_us:
                self.ended.append(transaction_id)  # a queued event of an earlier session
                outcome.changed = True
                return
            self.ended.append(current.transaction_id)  # its end was lost, or will come late
            self._forget_car()
            current = None
        if kind == "Ended":
            self.ended.append(transaction_id)
            self.transaction = None
            self._known_idle = True
            outcome.changed = True
            return
        if current is None:
            current = Transaction(transaction_id=transaction_id)
            outcome.changed = True
            self.smart.transaction_began()
        ends = event["triggerReason"] in _ENDING
        if current.token_id is None and token_id is not None and not ends:  # a later token may be the one that ends it
            current.token_id = token_id
            outcome.changed = True
        if timestamp_us >= current.last_event_us:
            current.last_event_us = timestamp_us
            current.charging_state = event["transactionInfo"].get("chargingState", current.charging_state)
            self.outside.shown(event["transactionInfo"].get("operationMode"))
        self.transaction = current

    def _compare_clocks(self, timestamp_us: int, now: Moment, outcome: Outcome) -> None:
        self._clock_behind_us = now.wall_us - timestamp_us
        if abs(self._clock_behind_us) > CLOCK_TOLERANCE_US:
            side = "behind" if self._clock_behind_us > 0 else "ahead"
            seconds = abs(self._clock_behind_us) // 1_000_000
            text = f"the charger's clock is {seconds} s {side}; limits with a start time may act late or early"
            self._say_once("charger.clock", text, outcome)
        else:
            self._said.discard("charger.clock")

    def _take_meter_values(
        self,
        values: list[MeterValue],
        message_us: int,
        queued: bool,
        now: Moment,
        outcome: Outcome,
        transaction_id: str | None,
    ) -> None:
        looks, complaints = read_meter_values(values, self.settings.phases)
        if complaints:
            self._say_once("charger.meter_values", f"meter values left out: {'; '.join(complaints[:3])}", outcome)
        for look in looks:
            judged = self._judge_signatures(look, transaction_id, now, outcome)
            if queued:
                # The charger's clock is all we have; it cannot have measured in the future.
                age_us = max(0, now.wall_us - look.timestamp_us)
                flags = SampleFlag.QUEUED | SampleFlag.DEVICE_TIME
            else:
                # Relative to its own message, so that a wrong clock does no harm.
                age_us = max(0, message_us - look.timestamp_us)
                flags = SampleFlag.DEVICE_TIME if age_us > LIVE_AGE_US else SampleFlag.NONE
                age_us = age_us if age_us > LIVE_AGE_US else 0
            if age_us > OLDEST_QUEUED_US:
                text = "queued meter values from more than a year ago were left out; check the charger's clock"
                self._say_once("charger.meter_values", text, outcome)
                self._keep_signatures(judged, now.monotonic_s, outcome)
                continue
            self._take_look(look, judged, now.monotonic_s - age_us / 1e6, flags, now, outcome)

    def _judge_signatures(self, look: MeterLook, transaction_id: str | None, now: Moment, outcome: Outcome) -> Judged:
        judged = self._signed_values.take(look, transaction_id, now.monotonic_s)
        for code, text in judged.notices:
            self._say_once(code, text, outcome)
        return judged

    def _keep_signatures(self, judged: Judged, monotonic_s: float, outcome: Outcome) -> None:
        """Signatures are kept where the values beside them come too late to be a reading."""
        if judged.values:
            outcome.samples.append(
                Sample(device_id=self.settings.device_id, monotonic_s=monotonic_s, signed=judged.values)
            )

    def _take_look(
        self,
        look: MeterLook,
        judged: Judged,
        monotonic_s: float,
        flags: SampleFlag,
        now: Moment,
        outcome: Outcome,
    ) -> None:
        if self.last_sample is not None and monotonic_s < self.last_sample.monotonic_s:
            self._keep_signatures(judged, monotonic_s, outcome)
            return
        self.latest_look = look
        self._check_register(look, outcome)
        if look.import_register_milliwatt_hours is not None:
            self.import_register_milliwatt_hours = look.import_register_milliwatt_hours
        if look.export_register_milliwatt_hours is not None:
            self.export_register_milliwatt_hours = look.export_register_milliwatt_hours
        if look.state_of_charge_permille is not None:
            wall_us = now.wall_us - round((now.monotonic_s - monotonic_s) * 1e6)
            self._charge = (look.state_of_charge_permille, monotonic_s, wall_us)
            if self.transaction is not None and monotonic_s - self._state_of_charge_kept_s >= KEEP_STATE_OF_CHARGE_S:
                # Not with every value: after a restart one of the last minute will do (SAFETY 9).
                self._state_of_charge_kept_s, outcome.changed = monotonic_s, True
        sample = Sample(
            device_id=self.settings.device_id,
            monotonic_s=monotonic_s,
            power_w=look.power_w,
            import_register_milliwatt_hours=look.import_register_milliwatt_hours,
            export_register_milliwatt_hours=look.export_register_milliwatt_hours,
            meter_id=self.meter_id,
            phase_power_w=look.phase_power_w,
            voltage_millivolts=look.voltage_millivolts,
            frequency_millihertz=look.frequency_millihertz,
            state_of_charge_permille=look.state_of_charge_permille,
            source=self.source,
            flags=flags,
            registers_signed=judged.covers_registers,
            signed=judged.values,
        )
        self.last_sample = replace(sample, signed=()) if sample.signed else sample
        outcome.samples.append(sample)

    def _check_register(self, look: MeterLook, outcome: Outcome) -> None:
        for name, held, seen in (
            ("import", self.import_register_milliwatt_hours, look.import_register_milliwatt_hours),
            ("export", self.export_register_milliwatt_hours, look.export_register_milliwatt_hours),
        ):
            if held is not None and seen is not None and seen < held:
                text = f"{name} register went back from {held} to {seen} milliwatt-hours"
                self._say_once("charger.register_back", text, outcome)

    def _say_once(self, code: str, text: str, outcome: Outcome) -> None:
        """A charger that does it once does it every few seconds: say it once per connection."""
        if code not in self._said:
            self._said.add(code)
            outcome.notices.append(Notice(code, text))

    def _forget_car(self) -> bool:
        """What a car told counts for its session only (SAFETY 9). Returns whether there was something to forget."""
        known = self.car != Car()
        self.outside.mode = Mode.CHARGING_ONLY
        self.car, self._state_of_charge_kept_s = Car(), float("-inf")
        return known
