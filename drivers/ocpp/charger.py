"""One charger over all its connections: provisioning, telemetry while idle, leases, and what is remembered of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import structlog
from cryptography import x509
from websockets.asyncio.server import ServerConnection

from drivers.device import DeviceError, DeviceRefusedError, DeviceUnreachableError, Journal, LinkState
from drivers.ocpp import provisioning
from drivers.ocpp.certificates import Certificates, Issued
from drivers.ocpp.connection import Connection
from drivers.ocpp.credentials import PasswordKeeper, Passwords
from drivers.ocpp.desk import ChargerDesk
from drivers.ocpp.errors import (
    CallError,
    CallRefusedError,
    InvalidAnswerError,
    NotConnectedError,
    NotInVersionError,
    OwnMistakeError,
)
from drivers.ocpp.evse import OcppEvse
from drivers.ocpp.messages import StatusAnswer
from drivers.ocpp.pace import Pace
from drivers.ocpp.profiles import RateUnit
from drivers.ocpp.rpc import Priority, RpcEngine
from drivers.ocpp.schemas import JsonObject, Version
from drivers.ocpp.session import EvseSession, Moment, Outcome
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.standing import Standing
from drivers.ocpp.station import Reaction, StationSession
from drivers.ocpp.tap import Tap
from drivers.ocpp.tokens import SiteTokens

SILENT_START_S: Final = 5.0
"""A charger that reconnects without BootNotification and has nothing to say is spoken to after this long."""
RETRY_S: Final = 15.0
"""Before provisioning is tried again on a connection that stays open and does not answer."""
PING_TIMEOUT_S: Final = 3.0
TROUBLE_AGAIN_S: Final = 300.0
"""Before the same trouble of a charger is told again: a statement each time would let it fill the store."""
NOTICES_PER_S, NOTICES_AT_ONCE = 0.1, 50.0
"""What a charger may have told to people (security events, faults); each becomes a statement."""
HANDSHAKES_PER_S, HANDSHAKES_AT_ONCE = 0.5, 20.0
"""A charger comes back within seconds at worst; one that comes faster is made to wait."""
LEASE_CHECK_S: Final = 1.0
IDLE_INTERVALS: Final = 2.5
"""Telemetry periods without a value after which an idle charger's values are carried forward."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Trouble:
    said_s: float
    since: int = 0
    """How often it came since it was told."""


class OcppCharger:
    """Owns the session of one charger and its EVSEs; is given one socket at a time."""

    def __init__(
        self,
        evses: Sequence[ChargerSettings],
        *,
        heartbeat_s: int,
        meter_interval_s: int,
        call_timeout_s: float,
        monotonic_s: Callable[[], float],
        wall_us: Callable[[], int],
        journal: Journal,
        on_event: Callable[[str, str, str], None],
        tokens: SiteTokens | None = None,
        contract_roots: Sequence[x509.Certificate] = (),
        keeper: PasswordKeeper | None = None,
        guest: bool = False,
    ) -> None:
        self.session = StationSession(evses, heartbeat_s=heartbeat_s, tokens=tokens, contract_roots=contract_roots)
        self.charger_id = self.session.charger_id
        self.settings = evses[0]
        self.guest = guest
        """Nobody configured it: it waits for an approval and has no devices."""
        self.passwords = Passwords(self.charger_id, evses[0].password, keeper)
        self.rate_unit = RateUnit.WATTS
        self.evses = {
            number: OcppEvse(evse, self, monotonic_s=monotonic_s, wall_us=wall_us, meter_interval_s=meter_interval_s)
            for number, evse in self.session.evses.items()
        }
        self._device_ids = {evse.device_id: evse for evse in self.evses.values()}
        self._meter_interval_s = meter_interval_s
        self._call_timeout_s = call_timeout_s
        self._monotonic_s = monotonic_s
        self._wall_us = wall_us
        self._journal = journal
        self._on_event = on_event
        self._connection: Connection | None = None
        self._ended = asyncio.Event()
        self._ended.set()
        self._wanted = asyncio.Event()
        self._provisioned = False
        self._troubles: dict[str, _Trouble] = {}
        self._notices = Pace(NOTICES_PER_S, NOTICES_AT_ONCE)
        self._handshakes = Pace(HANDSHAKES_PER_S, HANDSHAKES_AT_ONCE)
        self._lost = ""
        self._fault = ""
        self._log = _log.bind(charger=self.charger_id)
        self.desk = ChargerDesk(self, carry_out=self._carry_out, journal=journal, keeper=keeper, wall_us=wall_us)

        self.tap = Tap(wall_us)
        self.certificates = Certificates(
            self,
            self.charger_id,
            names=lambda: self.session.names,
            wall_us=wall_us,
            on_issued=self._certified,
            say=self._say,
        )

    # --- for EVSEs (`drivers.ocpp.evse.Charger`)

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        """Ask the charger. Raises CallError."""
        connection = self._connection
        if connection is None:
            raise NotConnectedError(f"charger {self.charger_id} is not connected")
        self.tap.say("gateway", "call", action, payload)
        try:
            answer = await connection.call(action, payload, priority)
        except (CallError, OwnMistakeError) as error:
            self.tap.say("charger", "error", action, str(error))
            raise
        self.tap.say("charger", "answer", action, answer)
        return answer

    def link(self) -> tuple[LinkState, str]:
        """Whether the charger is here, and a sentence about it."""
        if self.session.word is not Standing.ACCEPTED:
            text = f"is {self.session.word.value} until somebody says: v2g-gateway chargers approve {self.charger_id}"
            return LinkState.FAULT, text
        if self._connection is not None:
            return LinkState.ONLINE, f"connected: {self.session.identity or 'has not said what it is'}"
        if self._fault:
            return LinkState.FAULT, self._fault
        if self._lost:
            return LinkState.SILENT, self._lost
        return LinkState.STARTING, f"waiting for charger {self.charger_id} to connect"

    @property
    def version(self) -> Version | None:
        """What the charger spoke last; None before it first came."""
        return self.session.version

    def notice(self, device_id: str, code: str, text: str) -> None:
        """Something about an EVSE that a person or auditor must know of."""
        self._log.warning("ocpp_notice", code=code, subject=device_id, text=text)
        self._on_event(code, device_id, text)

    # --- for the server

    async def recall(self) -> None:
        """Go on from what was remembered before a restart."""
        await self.passwords.recall()
        await self.desk.recall_model()
        remembered = await self._journal.recall(self._journal_key)
        if remembered is None:
            return
        try:
            self.session.restore(remembered)
        except ValueError as error:
            self._say("charger.memory", str(error))
        for evse in self.evses.values():
            evse.limit(evse.session.limit_w)

    async def remember(self) -> None:
        """Keep what the session holds now."""
        await self._carry_out(Outcome(changed=True))

    async def still_connected(self) -> bool:
        """Whether an earlier socket of this charger is alive. A dead one is gone when this returns (a second socket
        appears while the first is half open)."""
        connection = self._connection
        if connection is None:
            return False
        if await connection.alive(PING_TIMEOUT_S):
            return True
        connection.drop()
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._ended.wait()
        except TimeoutError:  # something of ours still works on its last message; the charger will come again
            return True
        return False

    def may_connect(self) -> bool:
        """Whether another handshake with this identity is worth the work; many in a row are not."""
        if self._handshakes.allows(1, self._monotonic_s()):
            return True
        self.trouble("charger.flood", "opens one connection after the other; some are turned away unheard")
        return False

    def trouble(self, code: str, text: str) -> None:
        """Something that a misbehaving charger may do all the time: told at once, and then from time to time."""
        # What follows the place of a fault quotes the message, which may hold a token.
        self.tap.say("charger", "note", code, ": ".join(text.split(": ")[:2]))
        known, now_s = self._troubles.get(code), self._monotonic_s()
        if known is not None and now_s - known.said_s < TROUBLE_AGAIN_S:
            known.since += 1
            return
        more = f" ({known.since} more since the last word on it)" if known is not None and known.since else ""
        self._troubles[code] = _Trouble(now_s)
        self._say(code, text + more)

    def refused(self, text: str) -> None:
        """Somebody came with this identity and was turned away."""
        self._fault = text

    async def set_standing(self, standing: Standing) -> None:
        """The installer's word: accepted, waiting, or turned away; told to the charger when it boots next, which it is
        asked to do now."""
        self.session.standing = standing
        await self.remember()
        if self._connection is not None:
            try:
                await provisioning.trigger(self, "BootNotification")
            except CallError as error:  # it will say that it booted by itself, within the interval that it was given
                self._log.info("ocpp_not_triggered", problem=str(error))

    async def serve(self, socket: ServerConnection, version: Version, *, unproven: bool = False) -> None:
        """Talk until the socket closes. The caller has made sure that there is no other."""
        connection = Connection(
            socket,
            RpcEngine(version),
            charger_id=self.charger_id,
            react=self._react,
            on_trouble=self.trouble,
            call_timeout_s=self._call_timeout_s,
            monotonic_s=self._monotonic_s,
        )
        self._connection, self._fault = connection, ""
        self._ended.clear()
        self._wanted.clear()
        self.session.connection_began(version, unproven=unproven)
        self._log.info("ocpp_connected", version=version.value)
        self.tap.say("charger", "note", "", f"connected with {version.value}")
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(self._provision()),
                    group.create_task(self._keep_telemetry()),
                    group.create_task(self._watch_leases()),
                    group.create_task(self.certificates.run(lambda: self.session.certificate_ends_us)),
                ]
                await connection.run()
                for task in beside:
                    task.cancel()
        finally:
            self._connection = None
            self.session.unproven = False
            self._lost = f"charger {self.charger_id} has lost its connection and is expected back"
            self._ended.set()
            self._log.info("ocpp_disconnected")
            self.tap.say("charger", "note", "", "the connection ended")

    @property
    def taken(self) -> bool:
        """Whether a socket is being served."""
        return self._connection is not None

    async def remote_start(self, device_id: str, token_id: str) -> None:
        """RequestStartTransaction (F01, F02). Raises DeviceRefusedError or DeviceUnreachableError."""
        evse = self._device_ids[device_id]
        self.session.expect_token(token_id)
        await self._request(
            device_id,
            "RequestStartTransaction",
            {
                "evseId": evse.session.settings.evse_id,
                "remoteStartId": uuid.uuid4().int % 2**31,
                "idToken": {"idToken": token_id, "type": "Central"},
            },
        )

    async def remote_stop(self, device_id: str) -> None:
        """RequestStopTransaction (F03). Raises DeviceRefusedError or DeviceUnreachableError."""
        transaction = self._device_ids[device_id].session.transaction
        if transaction is None:
            raise DeviceRefusedError(f"{device_id}: no transaction is running")
        await self._request(device_id, "RequestStopTransaction", {"transactionId": transaction.transaction_id})

    async def charge_now(self, device_id: str, *, activate: bool) -> None:
        """UsePriorityCharging (K21, OCPP 2.1). Raises DeviceRefusedError or DeviceUnreachableError."""
        await self._device_ids[device_id].use_priority_charging(activate=activate)
        await self._carry_out(Outcome(changed=True))

    async def _request(self, device_id: str, action: str, payload: JsonObject) -> None:
        try:
            answer = cast(StatusAnswer, await self.call(action, payload, Priority.URGENT))
        except (CallRefusedError, InvalidAnswerError, NotInVersionError) as error:
            raise DeviceRefusedError(f"{device_id}: {error}") from error
        except CallError as error:
            raise DeviceUnreachableError(f"{device_id}: {error}") from error
        except OwnMistakeError as error:  # a token of more than 36 characters
            raise DeviceRefusedError(f"{device_id}: {error}") from error
        if answer["status"] != "Accepted":
            raise DeviceRefusedError(f"{device_id}: the charger refused {action}")

    # --- what the charger says

    async def _certified(self, issued: Issued) -> None:
        self.session.certificate = {"serial": issued.serial, "not_after_us": issued.not_after_us}
        await self.remember()
        self._say("charger.certificate", f"has a new certificate of the site, serial number {issued.serial}")

    async def _react(self, action: str, payload: JsonObject) -> Reaction:
        if not self.tap.listened:
            return await self._reaction(action, payload)
        self.tap.say("charger", "call", action, payload)
        reaction = await self._reaction(action, payload)
        if reaction.refusal is None:
            self.tap.say("gateway", "answer", action, reaction.answer or {})
        else:
            self.tap.say("gateway", "error", action, f"{reaction.refusal[0].value}: {reaction.refusal[1]}")
        return reaction

    async def _reaction(self, action: str, payload: JsonObject) -> Reaction:
        if action == "SignCertificate" and self.session.word.hears(action) and not self.guest:
            return Reaction(answer=self.certificates.request(payload))
        reaction = self.session.handle(action, payload, self._now())
        if reaction.booted:
            for evse in self.evses.values():
                evse.profiles_lost()
        await self._carry_out(Outcome(reaction.samples, reaction.notices, changed=reaction.remember))
        if reaction.model_changed:
            await self.desk.keep_model()
        if action == "NotifyCustomerInformation":
            self.desk.customer_told.set()
        if action == "ReportChargingProfiles":
            for evse in self.evses.values():
                evse.profiles_reported()
        if reaction.booted or action != "BootNotification":
            # After a boot, or with the first word of a charger that does not say that it booted.
            self._want_provisioning(again=reaction.booted)
        elif self.session.unproven:
            self._want_provisioning(again=True)
        return reaction

    def _want_provisioning(self, *, again: bool) -> None:
        if again or not self._provisioned:
            self._wanted.set()

    async def _carry_out(self, outcome: Outcome) -> None:
        for sample in outcome.samples:
            self._device_ids[sample.device_id].take(sample)
        for notice in outcome.notices:
            if self._notices.allows(1, self._monotonic_s()):
                self._say(notice.code, notice.text)
            else:
                self.trouble("charger.flood", f"has so much to tell that some is left out; first {notice.code}")
        if outcome.changed:
            try:
                await self._journal.remember(self._journal_key, self.session.encode())
            except Exception as error:  # whatever the gateway's store raises: the charger is served all the same
                self._log.error("ocpp_not_remembered", problem=str(error))

    # --- tasks of a connection

    async def _provision(self) -> None:
        """Each time it is wanted, and again after a while where the charger did not answer."""
        self._provisioned = False
        wait_s: float | None = SILENT_START_S
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            self._provisioned = True
            try:
                await self._provision_once()
                wait_s = None
            except (CallError, DeviceUnreachableError) as error:
                self._log.warning("ocpp_not_provisioned", problem=str(error), again_in_s=RETRY_S)
                wait_s = RETRY_S

    async def _provision_once(self) -> None:
        if self.session.unproven:
            await self._let_in()
        if self.session.word is not Standing.ACCEPTED:
            return
        self.rate_unit = await provisioning.read_rate_unit(self)
        for evse in self.evses.values():
            await evse.install_static_share()
            try:
                await evse.hold_again()
            except DeviceRefusedError as error:
                self._log.warning("ocpp_not_held_again", device=evse.device_id, problem=str(error))
        signed = any(session.settings.meter_key is not None for session in self.session.evses.values())
        refused = await provisioning.set_variables(self, self._meter_interval_s, signed=signed)
        if refused:
            self._log.warning("ocpp_variables_refused", variables=refused)
        if not self.session.identity:
            await provisioning.trigger(self, "BootNotification")
        for session in self.session.evses.values():
            await self._carry_out(await provisioning.ask_state(self, session))
        await self.desk.bring_up()
        await self.certificates.renew_in_time(self.session.certificate_ends_us)

    async def _let_in(self) -> None:
        """A charger that lost its password, and an installer who says that it may come in."""
        try:
            await self.desk.change_password()
        except (DeviceRefusedError, ValueError, OSError) as error:
            self._say("charger.password", f"could not be given a new password: {error}")
            return
        self._say("charger.password", "was given a new password because the installer approved it")
        if self._connection is not None:
            self._connection.drop()

    async def _keep_telemetry(self) -> None:
        """While no transaction runs chargers are silent: ask for values, and carry the last forward where none come."""
        asking = True
        began_s = self._monotonic_s()

        def age_s(evse: EvseSession) -> float:
            heard_s = began_s if evse.last_sample is None else max(began_s, evse.last_sample.monotonic_s)
            return self._monotonic_s() - heard_s

        while True:
            await asyncio.sleep(self._meter_interval_s)
            if self.session.word is not Standing.ACCEPTED:
                continue
            for number, evse in self.session.evses.items():
                if evse.transaction is not None or age_s(evse) < self._meter_interval_s / 2:
                    continue
                if asking and self._provisioned:
                    try:
                        asking = await provisioning.trigger(self, "MeterValues", {"id": number}) == "Accepted"
                    except CallError as error:
                        self._log.info("ocpp_no_values", problem=str(error))
                if not asking or age_s(evse) > IDLE_INTERVALS * self._meter_interval_s:
                    sample = evse.idle_sample(self._now())
                    if sample is not None:
                        self.evses[number].take(sample)

    async def _watch_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_CHECK_S)
            for evse in self.evses.values():
                try:
                    await evse.tend()
                except DeviceError as error:
                    self._log.warning("ocpp_not_tended", device=evse.device_id, problem=str(error))

    # --- small things

    @property
    def _journal_key(self) -> str:
        return f"charger/{self.charger_id}"

    def _now(self) -> Moment:
        return Moment(self._monotonic_s(), self._wall_us())

    def _say(self, code: str, text: str) -> None:
        self._log.warning("ocpp_notice", code=code, text=text)
        self._on_event(code, self.charger_id, text)
