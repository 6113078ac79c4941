"""A charger's own logic without its socket: transactions, sampling, what to tell the CSMS, what to do when told.

The site calls `before_step` and `after_step` around each step of the physics; the session takes messages out and
brings answers and requests in. OCPP part 2: blocks E (transactions), G (availability), J (meter values), and what a
charger says of smart charging (K, Q).
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

import structlog
from ocpp.v201 import call

from .car import LINE_VOLTAGE_V, Car, Evse
from .meter_values import meter_value
from .profiles import ProfileStore, rfc3339
from .schedule import Mode, Outlet, ProfileRefusedError
from .signing_meter import SigningMeter
from .smart_words import EVSE_ID, Raw, SmartWords
from .variables import Variables
from .world import GridPoint

OCPP_21: Final = "ocpp2.1"
OCPP_201: Final = "ocpp2.0.1"
CONNECTOR_ID: Final = 1
ASK_AGAIN_S: Final = 10.0
"""A driver whose card was refused, or not answered for, tries again after this long."""
CONTEXTS: Final = {"MeterValuePeriodic": "Sample.Periodic", "Trigger": "Trigger"}
"""Reading context of an Updated event's meter values, by its trigger reason."""
MOST_EVENTS: Final = 4000
"""Queued while offline; beyond it every second periodic one goes (E04.FR.07)."""

_log = structlog.get_logger()


class ChargingState(Enum):
    """OCPP ChargingStateEnumType, those that occur here."""

    EV_CONNECTED = "EVConnected"
    CHARGING = "Charging"
    SUSPENDED_EV = "SuspendedEV"
    SUSPENDED_EVSE = "SuspendedEVSE"


class Dynamic(Enum):
    """What a charger makes of dynamic profiles (K28, OCPP 2.1)."""

    NONE = "none"
    UPDATED = "updated"
    NEVER_UPDATED = "never updated"
    """It says that it takes them, takes them, and refuses each update."""
    ENDLESS = "endless"
    """Their duration means nothing to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargerSettings:
    """Who the charger is and where it connects to."""

    charger_id: str
    """OCPP identity: end of the URL, and user name."""
    csms_url: str
    """Without the identity."""
    password: str | None
    token_id: str
    """What the driver presents."""
    serial: str
    boot_on_reconnect: bool = False
    """Sends BootNotification on every connection. The specification asks for it only after a boot."""
    forgets_profiles: bool = False
    """Loses all profiles whenever its connection is lost, as some chargers do."""
    meter_key_file: Path | None = None
    """Private key with which its meter signs, PEM; None: it does not."""
    versions: tuple[str, ...] = (OCPP_201,)
    """Subprotocols that it offers, best first."""
    per_phase: bool = False
    """An AC charger whose car and schedules speak of each phase (OCPP 2.1)."""
    dynamic_profiles: Dynamic = Dynamic.NONE
    ca_file: Path | None = None
    """Whose CSMS it trusts on wss://, PEM. None: the system's."""


@dataclass(slots=True)
class Message:
    """Something to tell the CSMS: Raw or a request of the `ocpp` package's `call` module, and what to do with the
    answer."""

    request: Any
    on_answer: Callable[[Any], None] | None = None
    """Gets the answer, or None when the CSMS answered with an error."""

    @property
    def action(self) -> str:
        return self.request.action if isinstance(self.request, Raw) else type(self.request).__name__


@dataclass(slots=True)
class Transaction:
    """What runs at the outlet."""

    transaction_id: str
    token_id: str
    start_s: float
    next_sample_s: float
    state: ChargingState = ChargingState.EV_CONNECTED
    next_sequence: int = 0
    remote_start_id: int | None = None
    mode: Mode = Mode.CHARGING_ONLY
    schedule_told: bool = False
    schedule_answer: str | None = None
    """What the CSMS made of the car's plan."""


@dataclass(slots=True)
class Charger:
    """One station with one EVSE and one connector."""

    settings: ChargerSettings
    evse: Evse
    grid: GridPoint
    now_s: float
    """Unix seconds that the physics has reached."""
    wake: Callable[[], None] = lambda: None
    """Called when there is something to send."""
    online: bool = False
    """The session sets it: connected and booted."""
    reboot_wanted: bool = False
    version: str = OCPP_201
    """What it speaks, by its last connection."""
    deaf: bool = False
    """Takes and shows every profile, and charges as it likes."""
    energy_transfer: frozenset[str] | None = None
    """What the CSMS allows in this transaction (Q01); None: it did not say."""
    transaction: Transaction | None = None
    variables: Variables = field(init=False)
    words: SmartWords = field(init=False)
    profiles: ProfileStore = field(init=False)
    events: deque[Message] = field(default_factory=deque)
    """TransactionEvents, kept until answered, over lost connections."""
    messages: deque[Message] = field(default_factory=deque)
    """Everything else; goes with the connection."""
    _deferred: list[Callable[[], None]] = field(default_factory=list)
    _token_presented: bool = False
    _ask_at_s: float | None = None
    _next_aligned_s: float = 0.0
    _reboot_when_idle: bool = False

    def __post_init__(self) -> None:
        evse = self.evse
        self.variables = Variables(
            rated_w=evse.rated_w,
            bidirectional=evse.bidirectional,
            signing_meter=self.settings.meter_key_file is not None,
            dynamic_profiles=self.settings.dynamic_profiles is not Dynamic.NONE,
        )
        self.profiles = ProfileStore(Outlet(EVSE_ID, evse.rated_w, evse.rated_export_w, evse.phases, LINE_VOLTAGE_V))
        self.profiles.takes_dynamic = self.settings.dynamic_profiles is not Dynamic.NONE
        self.profiles.endless_dynamic = self.settings.dynamic_profiles is Dynamic.ENDLESS
        self.words = SmartWords(self)
        self._token_presented = evse.car is not None
        if self.settings.meter_key_file is not None:
            evse.signing_meter = SigningMeter.from_file(self.settings.meter_key_file)

    # Around each step of the physics

    def before_step(self, now_s: float) -> None:
        """Carry out what was asked for, and set the outlet's limit for the coming step. `now_s` is Unix time."""
        self.now_s = now_s
        if self.evse.signing_meter is not None:
            self.evse.signing_meter.asked = self.variables.get("SampledDataCtrlr", "SignReadings")[1] == "true"
        deferred, self._deferred = self._deferred, []
        for action in deferred:
            action()
        self.evse.contactor_closed = self.transaction is not None
        limit_w = self.profiles.limit_w(now_s, self.transaction_start_s, self.grid.frequency_hz)
        self.evse.limit_w = None if self.deaf else limit_w

    def after_step(self, now_s: float) -> None:
        """Notice what changed, sample what is due. `now_s` is the moment that the physics has reached."""
        self.now_s = now_s
        if self.online:
            self.words.pull_what_is_due()
        if self.transaction is not None:
            self._follow(self.transaction)
        else:
            self._sample_idle()
            self._ask_for_driver()

    def _follow(self, transaction: Transaction) -> None:
        step = self.profiles.step(self.now_s, transaction.start_s)
        mode = Mode.CHARGING_ONLY if step is None else step.mode
        if mode is not transaction.mode and self.extended:
            transaction.mode = mode
            self._event("Updated", "OperationModeChanged")
        state = self._charging_state()
        if state is not transaction.state:
            transaction.state = state
            self._event("Updated", "ChargingStateChanged")
        interval_s = self.variables.whole("SampledDataCtrlr", "TxUpdatedInterval")
        if interval_s > 0 and self.now_s >= transaction.next_sample_s:
            # Changed to a shorter interval: the next sample is due at once, not when the old interval would end.
            missed = (self.now_s - transaction.next_sample_s) // interval_s
            transaction.next_sample_s += (missed + 1) * interval_s
            self._event("Updated", "MeterValuePeriodic")
        transaction.next_sample_s = min(transaction.next_sample_s, self.now_s + max(1, interval_s))

    def _charging_state(self) -> ChargingState:
        if self.evse.held_back:
            return ChargingState.SUSPENDED_EVSE
        return ChargingState.CHARGING if abs(self.evse.power_w) >= 1 else ChargingState.SUSPENDED_EV

    def _sample_idle(self) -> None:
        interval_s = self.variables.whole("AlignedDataCtrlr", "Interval")
        if interval_s > 0 and self.now_s >= self._next_aligned_s:
            self._next_aligned_s = (self.now_s // interval_s + 1) * interval_s
            self.say_meter_values("Sample.Clock")

    def _ask_for_driver(self) -> None:
        if not self._token_presented or self.evse.car is None or not self.online:
            return
        if self._ask_at_s is None or self.now_s >= self._ask_at_s:
            self._ask_at_s = self.now_s + ASK_AGAIN_S
            self.say(call.Authorize(id_token=self._token(self.settings.token_id)), self._authorized)

    def _authorized(self, answer: Any) -> None:
        status = "refused" if answer is None else answer.id_token_info["status"]
        if status == "Accepted" and self.transaction is None and self.evse.car is not None:
            self.start_transaction("Authorized", self.settings.token_id)
        elif status != "Accepted":
            _log.info("token_refused", charger=self.settings.charger_id, status=status)

    # The cable

    def plug(self, car: Car) -> None:
        """A car arrives and its driver presents the token. Raises ValueError when the outlet is taken."""
        if self.evse.car is not None:
            raise ValueError(f"{self.settings.charger_id}: a car is plugged in; unplug it first")
        self.evse.car = car
        self.present_token()
        self.say_status()

    def present_token(self) -> None:
        """The driver holds the card to the reader; asked of the CSMS as soon as it can be."""
        self._token_presented = True
        self._ask_at_s = None

    def unplug(self) -> Car:
        """The cable is pulled. Returns the car; raises ValueError when there is none."""
        car = self.evse.car
        if car is None:
            raise ValueError(f"{self.settings.charger_id}: no car is plugged in")
        if self.transaction is not None:
            self.end_transaction("EVCommunicationLost", "EVDisconnected")
        self.evse.car = None
        self._token_presented = False
        self.say_status()
        return car

    # Transactions

    @property
    def transaction_id(self) -> str | None:
        return None if self.transaction is None else self.transaction.transaction_id

    @property
    def transaction_start_s(self) -> float | None:
        return None if self.transaction is None else self.transaction.start_s

    def start_transaction(
        self,
        trigger: str,
        token_id: str,
        remote_start_id: int | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> None:
        """Close the contactor and say so. `profile` came with a remote start (K05). Nothing happens without a car."""
        if self.evse.car is None or self.transaction is not None:
            return
        # Unique for ever, not drawn from the seed: a CSMS that outlives this process must not see one twice.
        transaction_id = str(uuid.uuid4())
        interval_s = max(1, self.variables.whole("SampledDataCtrlr", "TxUpdatedInterval"))
        self.transaction = Transaction(
            transaction_id, token_id, self.now_s, self.now_s + interval_s, remote_start_id=remote_start_id
        )
        self._event("Started", trigger, on_answer=self._started, id_token=self._token(token_id))
        if profile is not None:
            owned = {**profile, "transactionId": transaction_id}
            try:
                self.profiles.install(EVSE_ID, owned, transaction_id=transaction_id, now_s=self.now_s)
            except ProfileRefusedError as refusal:
                _log.info("profile_of_remote_start_refused", reason=refusal.reason, text=str(refusal))
        self.words.needs()

    def _started(self, answer: Any) -> None:
        info = None if answer is None else answer.id_token_info
        if info is not None and info["status"] != "Accepted" and self.transaction is not None:
            self._token_presented = False
            self.defer(lambda: self.end_transaction("Deauthorized", "DeAuthorized"))

    def end_transaction(self, trigger: str, reason: str) -> None:
        """Open the contactor and say so."""
        if self.transaction is None:
            return
        self._event("Ended", trigger, stopped_reason=reason)
        self.transaction = None
        self.evse.contactor_closed = False
        self.profiles.end_transaction()
        self.profiles.priority = False
        self.energy_transfer = None
        if self._reboot_when_idle:
            self._reboot_when_idle = False
            self.reboot_wanted = True

    def remote_stop(self) -> None:
        """End on the CSMS's wish: the driver would have to present the token again."""
        self._token_presented = False
        self.end_transaction("RemoteStop", "Remote")

    def reset(self, *, immediate: bool) -> None:
        """Reboot now, or when no transaction runs. A car that stays plugged is authorised again after it."""
        if immediate or self.transaction is None:
            self.end_transaction("ResetCommand", "ImmediateReset")
            self.reboot_wanted = True
            self.wake()
        else:
            self._reboot_when_idle = True

    def rebooted(self) -> None:
        """The session calls this when the reboot is over."""
        self.reboot_wanted = False
        self._token_presented = self.evse.car is not None
        self._ask_at_s = None

    # What goes out

    def defer(self, action: Callable[[], None]) -> None:
        """Do it before the next step: after the answer to the request that asked for it has left."""
        self._deferred.append(action)

    def say(self, request: Any, on_answer: Callable[[Any], None] | None = None) -> None:
        """Send while this connection lasts."""
        if self.online:
            self.messages.append(Message(request, on_answer))
            self.wake()

    def say_status(self) -> None:
        status = "Available" if self.evse.car is None else "Occupied"
        self.say(
            call.StatusNotification(
                timestamp=rfc3339(self.now_s), connector_status=status, evse_id=EVSE_ID, connector_id=CONNECTOR_ID
            )
        )

    def say_meter_values(self, context: str) -> None:
        """MeterValues outside transactions, or because the CSMS triggered them."""
        values = meter_value(
            self.evse,
            self.grid,
            self.variables.members("AlignedDataCtrlr", "Measurands"),
            context=context,
            moment_s=self.now_s,
        )
        self.say(call.MeterValues(evse_id=EVSE_ID, meter_value=[values]))

    def trigger_transaction_event(self) -> None:
        if self.transaction is not None:
            self._event("Updated", "Trigger")

    @property
    def extended(self) -> bool:
        """Whether it speaks OCPP 2.1."""
        return self.version == OCPP_21

    def connected(self, version: str) -> None:
        """The session calls this with what was agreed upon."""
        self.version = version
        self.profiles.extended = self.extended

    def booted(self) -> None:
        """The session calls this: the CSMS may be spoken to."""
        self.online = True
        self.profiles.came_online(self.now_s)
        self.say_status()

    def connection_lost(self) -> None:
        """The session calls this. What was not answered happened offline, as far as the CSMS can tell."""
        self.online = False
        self.profiles.went_offline(self.now_s)
        self.messages.clear()
        self._ask_at_s = None
        for event in self.events:
            event.request.offline = True
        if self.settings.forgets_profiles:
            self.profiles.forget_all()

    def _event(
        self,
        event_type: str,
        trigger: str,
        *,
        stopped_reason: str | None = None,
        id_token: Mapping[str, str] | None = None,
        on_answer: Callable[[Any], None] | None = None,
    ) -> None:
        transaction = self.transaction
        assert transaction is not None
        context, measurands = {
            "Started": ("Transaction.Begin", "TxStartedMeasurands"),
            "Ended": ("Transaction.End", "TxEndedMeasurands"),
            "Updated": (CONTEXTS.get(trigger, "Other"), "TxUpdatedMeasurands"),
        }[event_type]
        facts: dict[str, object] = {
            "transactionId": transaction.transaction_id,
            "chargingState": transaction.state.value,
        }
        if self.extended:
            facts["operationMode"] = transaction.mode.value
        if stopped_reason is not None:
            facts["stoppedReason"] = stopped_reason
        if event_type == "Started" and transaction.remote_start_id is not None:
            facts["remoteStartId"] = transaction.remote_start_id
        request = call.TransactionEvent(
            event_type=event_type,
            timestamp=rfc3339(self.now_s),
            trigger_reason=trigger,
            seq_no=transaction.next_sequence,
            transaction_info=facts,
            meter_value=[
                meter_value(
                    self.evse,
                    self.grid,
                    self.variables.members("SampledDataCtrlr", measurands),
                    context=context,
                    moment_s=self.now_s,
                )
            ],
            offline=not self.online,
            number_of_phases_used=self.evse.phases,
            evse={"id": EVSE_ID, "connectorId": CONNECTOR_ID},
            id_token=id_token,
        )
        transaction.next_sequence += 1
        self.events.append(Message(request, on_answer))
        if len(self.events) > MOST_EVENTS:
            self._thin_events()
        self.wake()

    def _thin_events(self) -> None:
        """Drop every second periodic event but the first, which may be on its way."""
        kept: deque[Message] = deque()
        drop_next = False
        for position, event in enumerate(self.events):
            periodic = event.request.trigger_reason == "MeterValuePeriodic" and position > 0
            if not (periodic and drop_next):
                kept.append(event)
            drop_next = periodic and not drop_next
        self.events = kept

    def _token(self, token_id: str) -> dict[str, str]:
        return {"idToken": token_id, "type": "ISO14443"}
