"""One charger over all its connections: provisioning, telemetry while idle, leases, and what is remembered of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

import structlog
from cryptography import x509
from websockets.asyncio.server import ServerConnection

from drivers.device import Journal, LinkState
from drivers.ocpp import provisioning
from drivers.ocpp.certificates import Certificates, Issued
from drivers.ocpp.complaints import Complaints
from drivers.ocpp.connection import Connection
from drivers.ocpp.contract_requests import ContractRequests
from drivers.ocpp.contracts import ContractStatus
from drivers.ocpp.credentials import PasswordKeeper, Passwords
from drivers.ocpp.desk import ChargerDesk
from drivers.ocpp.errands import Errands
from drivers.ocpp.errors import (
    CallError,
    NotConnectedError,
    OwnMistakeError,
)
from drivers.ocpp.evse import OcppEvse
from drivers.ocpp.messages import AuthorizeRequest
from drivers.ocpp.pace import Pace
from drivers.ocpp.profiles import RateUnit
from drivers.ocpp.reaction import Reaction
from drivers.ocpp.remote import RemoteControl
from drivers.ocpp.revocation import Revocations
from drivers.ocpp.rpc import Priority, RpcEngine
from drivers.ocpp.schemas import JsonObject, Version
from drivers.ocpp.session import Moment, Outcome
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.standing import Standing
from drivers.ocpp.station import StationSession
from drivers.ocpp.station_limit import StationLimit
from drivers.ocpp.tap import Tap
from drivers.ocpp.tokens import SiteTokens

SILENT_START_S: Final = 5.0
"""A charger that reconnects without BootNotification and has nothing to say is spoken to after this long."""
PING_TIMEOUT_S: Final = 3.0
HANDSHAKES_PER_S, HANDSHAKES_AT_ONCE = 0.5, 20.0
"""A charger comes back within seconds at worst; one that comes faster is made to wait."""

_log = structlog.get_logger()


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
        revocations: Revocations | None = None,
        contracts: ContractRequests | None = None,
    ) -> None:
        self.session = StationSession(evses, heartbeat_s=heartbeat_s, tokens=tokens, contract_roots=contract_roots)
        self.charger_id = self.session.charger_id
        self.settings = evses[0]
        self.guest = guest
        """Nobody configured it: it waits for an approval and has no devices."""
        self.greet: Callable[[], Awaitable[None]] | None = None
        """Of a guest: what is done once it has announced itself."""
        self.passwords = Passwords(self.charger_id, evses[0].password, keeper)
        self.rate_unit = RateUnit.WATTS
        self._revocations = revocations
        self._contracts = contracts
        self._contract_roots = tuple(contract_roots)
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
        self.complaints = Complaints(self.charger_id, on_event=on_event, monotonic_s=monotonic_s)
        self._connection: Connection | None = None
        self._ended = asyncio.Event()
        self._ended.set()
        self._handshakes = Pace(HANDSHAKES_PER_S, HANDSHAKES_AT_ONCE)
        self._lost = ""
        self._fault = ""
        self._log = _log.bind(charger=self.charger_id)
        self.desk = ChargerDesk(self, carry_out=self.carry_out, journal=journal, keeper=keeper, wall_us=wall_us)

        self.tap = Tap(wall_us)
        self._remote = RemoteControl(self)
        self.station_limit = StationLimit(self, self.charger_id)
        self._errands = Errands(self, self.charger_id, meter_interval_s=meter_interval_s, monotonic_s=monotonic_s)
        self.certificates = Certificates(
            self,
            self.charger_id,
            names=lambda: self.session.names,
            wall_us=wall_us,
            on_issued=self._certified,
            say=self.complaints.say,
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
        self.complaints.say(code, text, device_id)

    # --- for the server

    async def recall(self) -> None:
        """Go on from what was remembered before a restart."""
        await self.passwords.recall()
        await self.desk.recall_model()
        remembered = await self._journal.recall(self._journal_key)
        if remembered is None:
            return
        try:
            self.session.restore(remembered, self.now())
        except ValueError as error:
            self.complaints.say("charger.memory", str(error))
        for evse in self.evses.values():
            evse.limit(evse.session.limit_w)

    async def remember(self) -> None:
        """Keep what the session holds now."""
        await self.carry_out(Outcome(changed=True))

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
        self.complaints.trouble(code, text)

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

    async def revoke_certificates(self) -> None:
        """Refuse the certificates that this charger has, at once and over restarts. Kept before it is said."""
        self.session.revoke_certificates()
        await self._journal.remember(self._journal_key, self.session.encode())
        text = "its certificates are revoked: it gets in with none but a newer one of the site's CA"
        self.complaints.say("charger.certificate_revoked", text)
        if self.settings.security_profile == 3:
            self.hang_up()

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
        self._errands.begin()
        self.session.connection_began(version, unproven=unproven)
        self._log.info("ocpp_connected", version=version.value)
        self.tap.say("charger", "note", "", f"connected with {version.value}")
        try:
            async with asyncio.TaskGroup() as group:
                beside = self._errands.start(group, SILENT_START_S)
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

    def hang_up(self) -> None:
        """End its connection, if there is one: it comes again."""
        if self._connection is not None:
            self._connection.drop()

    @property
    def taken(self) -> bool:
        """Whether a socket is being served."""
        return self._connection is not None

    async def remote_start(self, device_id: str, token_id: str) -> None:
        """RequestStartTransaction (F01, F02, K05). Raises DeviceRefusedError or DeviceUnreachableError."""
        self.session.expect_token(token_id)
        await self._remote.start(self._device_ids[device_id], token_id)

    async def remote_stop(self, device_id: str) -> None:
        """RequestStopTransaction (F03). Raises DeviceRefusedError or DeviceUnreachableError."""
        await self._remote.stop(self._device_ids[device_id])

    async def charge_now(self, device_id: str, *, activate: bool) -> None:
        """UsePriorityCharging (K21, OCPP 2.1). Raises DeviceRefusedError or DeviceUnreachableError."""
        await self._device_ids[device_id].use_priority_charging(activate=activate)
        await self.carry_out(Outcome(changed=True))

    # --- what the charger says

    async def _certified(self, issued: Issued) -> None:
        self.session.certified(issued.serial, issued.not_after_us)
        await self.remember()
        self.complaints.say("charger.certificate", f"has a new certificate of the site, serial number {issued.serial}")

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
        reaction = self.session.handle(action, payload, self.now())
        if self._revocations is not None and reaction.refusal is None:
            await self._look_up(self._revocations, action, payload, reaction)
        if self._contracts is not None and reaction.refusal is None and action == "Get15118EVCertificate":
            reaction.answer = await self._contracts.get(self.charger_id, payload, self.version or Version.V201)
        if reaction.booted:
            self._remote.booted()
            for evse in self.evses.values():
                evse.profiles_lost()
        await self.carry_out(Outcome(reaction.samples, reaction.notices, changed=reaction.remember))
        if reaction.model_changed:
            await self.desk.keep_model()
        if action == "NotifyCustomerInformation":
            self.desk.customer_told.set()
        if action == "ReportChargingProfiles":
            for evse in self.evses.values():
                evse.profiles_reported()
        if reaction.booted or action != "BootNotification":
            # After a boot, or with the first word of a charger that does not say that it booted.
            self._errands.want_provisioning(again=reaction.booted)
        elif self.session.unproven or self.greet is not None:
            self._errands.want_provisioning(again=True)
        return reaction

    async def _look_up(self, revocations: Revocations, action: str, payload: JsonObject, reaction: Reaction) -> None:
        """What others know of certificates, into the answer."""
        answer = reaction.answer or {}
        if action == "GetCertificateStatus" and self.version is not None:
            reaction.answer = await revocations.certificate_status(payload, self.version)
        elif action == "GetCertificateChainStatus":
            reaction.answer = await revocations.chain_status(payload, self._contract_roots)
        elif (
            action == "Authorize"
            and answer.get("certificateStatus") == ContractStatus.ACCEPTED
            and await revocations.revoked(cast(AuthorizeRequest, payload), self._contract_roots)
        ):
            status = ContractStatus.REVOKED.value
            reaction.answer = {"idTokenInfo": {"status": "Invalid"}, "certificateStatus": status}

    async def carry_out(self, outcome: Outcome) -> None:
        """Pass on what came of a message or an answer."""
        for sample in outcome.samples:
            self._device_ids[sample.device_id].take(sample)
        for notice in outcome.notices:
            self.complaints.pass_on(notice)
        if outcome.changed:
            try:
                await self._journal.remember(self._journal_key, self.session.encode())
            except Exception as error:  # whatever the gateway's store raises: the charger is served all the same
                self._log.error("ocpp_not_remembered", problem=str(error))

    # --- small things

    @property
    def _journal_key(self) -> str:
        return f"charger/{self.charger_id}"

    def now(self) -> Moment:
        return Moment(self._monotonic_s(), self._wall_us())
