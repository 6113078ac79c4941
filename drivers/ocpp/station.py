"""One charger's side of the conversation, without I/O: each action that it may send to the answer that it gets.

The table at the end is the whole list; smart charging has its own (`charging_words`). What comes of a message beside
the answer (samples, notices, something to remember, a boot) is in the Reaction, for the shell to carry out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, cast

from cryptography import x509

from drivers.device import ValueSource
from drivers.ocpp import memory
from drivers.ocpp.authorisation import Authority, LocalList
from drivers.ocpp.charging_words import WORDS
from drivers.ocpp.contract_requests import no_contract
from drivers.ocpp.contracts import ContractStatus, judge_contract
from drivers.ocpp.device_model import key_of
from drivers.ocpp.errors import ErrorCode, quoted
from drivers.ocpp.messages import (
    AuthorizeRequest,
    BootNotification,
    MeterValues,
    SecurityEventNotification,
    StatusNotification,
    TransactionEvent,
)
from drivers.ocpp.ocsp import nothing_known
from drivers.ocpp.reaction import Reaction
from drivers.ocpp.reports import Reports
from drivers.ocpp.schemas import Json, JsonObject, Version
from drivers.ocpp.session import EvseSession, Moment, Notice
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.standing import Standing
from drivers.ocpp.timestamps import format_timestamp
from drivers.ocpp.tokens import SiteTokens

CONNECTOR_STATES: Final = frozenset({"Available", "Occupied", "Reserved", "Unavailable", "Faulted"})
MOST_SERIALS: Final = 8
"""Certificates of one charger that are good after a revocation: the newest."""


class StationSession:
    """One charger with all its configured EVSEs. Lives over connections, and over restarts through `encode`."""

    def __init__(
        self,
        evses: Sequence[ChargerSettings],
        *,
        heartbeat_s: int,
        tokens: SiteTokens | None = None,
        contract_roots: Sequence[x509.Certificate] = (),
    ) -> None:
        if len({settings.charger_id for settings in evses}) != 1:
            raise ValueError("the EVSEs of a station share one charger_id")
        self.charger_id = evses[0].charger_id
        proven = evses[0].password is not None or evses[0].security_profile == 3
        self.source = ValueSource.AUTHENTICATED_LINK if proven else ValueSource.OPEN_BUS
        self.identity = ""
        """Vendor, model and serial number for a person, once the charger told."""
        self.version: Version | None = None
        """Of the protocol, by the connection that began last; None before the first."""
        self.serial = ""
        """Once the charger told it: another one is another charger."""
        self.limit_w: int | None = None
        """What the owner allows all of it at most (K04), W."""
        self.generation = 1
        """How many chargers this has been, counted by their serial numbers."""
        self._heartbeat_s = heartbeat_s
        self.authority = Authority(evses, SiteTokens() if tokens is None else tokens)
        self._contract_roots = contract_roots
        self.reports = Reports({settings.evse_id: settings.device_id for settings in evses})
        self.local_list = LocalList()
        self.standing = Standing.ACCEPTED
        self.certificate: dict[str, Json] = {}
        """What the site's CA gave it last: serial, not_after_us. `only`: the serials that let it in, where others were
        revoked. Empty: nothing."""
        self.unproven = False
        """On this connection it has not proved who it is: it is here to be given a new password."""
        self._unknown_evses: set[int] = set()
        self.evses = {
            settings.evse_id: EvseSession(settings, meter_id=self._meter_id(settings.evse_id), source=self.source)
            for settings in evses
        }

    @property
    def word(self) -> Standing:
        """What it is told now."""
        return Standing.PENDING if self.unproven and self.standing is Standing.ACCEPTED else self.standing

    def connection_began(self, version: Version, *, unproven: bool = False) -> None:
        """A socket of this charger was accepted."""
        self.version = version
        self.unproven = unproven
        self._unknown_evses.clear()
        for evse in self.evses.values():
            evse.connection_began()

    def handle(self, action: str, payload: JsonObject, now: Moment) -> Reaction:
        """Answer a call. The payload fits its schema."""
        if not self.word.hears(action):
            text = f"this charger is {self.word.value}: send BootNotification until it is Accepted"
            return Reaction(refusal=(ErrorCode.SECURITY_ERROR, text))
        if action in _HANDLERS:
            return _HANDLERS[action](self, payload, now)
        report = self.reports.handle(action, payload)
        if report is not None:
            reaction = Reaction(
                answer=report.answer,
                notices=report.notices,
                remember=report.remember,
                model_changed=report.model_changed,
            )
            if action == "NotifyEvent":
                self._connector_events(payload, reaction)
            return reaction
        if action in _FIXED_ANSWERS:
            return Reaction(answer=dict(_FIXED_ANSWERS[action]))
        return Reaction(refusal=(ErrorCode.NOT_SUPPORTED, f"this CSMS does not take {action}"))

    def expect_token(self, token_id: str) -> None:
        """A remote start was ordered with this token: the charger may come back with it."""
        self.authority.expect(token_id)

    @property
    def judges_contracts(self) -> bool:
        """Whether chains of contracts that a charger does not know can be judged here."""
        return bool(self._contract_roots)

    @property
    def names(self) -> frozenset[str]:
        """What a certificate may call this charger."""
        return frozenset({self.charger_id, self.serial} - {""})

    def certified(self, serial: str, not_after_us: int) -> None:
        """The site's CA gave it a certificate."""
        told: dict[str, Json] = {"serial": serial, "not_after_us": not_after_us}
        if (only := self.certificate.get("only")) is not None:
            told["only"] = [*cast(list[Json], only)[1 - MOST_SERIALS :], serial]
        self.certificate = told

    def revoke_certificates(self, *, undo: bool = False) -> None:
        """From now on no certificate lets it in but those that it gets from the site's CA after this."""
        self.certificate = {} if undo else {"only": []}

    def admits(self, serial: str) -> bool:
        """Whether a certificate with this serial number, which names the charger, lets it in."""
        only = self.certificate.get("only")
        return only is None or serial in cast(list[Json], only)

    @property
    def certificate_ends_us(self) -> int | None:
        """Of the certificate that it has from us; None: none."""
        ends_us = self.certificate.get("not_after_us")
        return int(ends_us) if isinstance(ends_us, int) else None

    # --- over restarts

    def encode(self) -> bytes:
        """What must survive a restart."""
        return memory.encode(self)

    def restore(self, remembered: bytes, now: Moment | None = None) -> None:
        """Go on from what `encode` gave; without a time no car's state of charge counts.

        Raises ValueError when it is damaged; nothing has changed then.
        """
        kept = memory.decode(remembered, self.charger_id, self.evses, now)
        self.serial, self.identity, self.generation = kept.serial, kept.identity, kept.generation
        self.limit_w = kept.limit_w
        self.standing, self.local_list, self.certificate = kept.standing, kept.local_list, kept.certificate
        self.reports.reservations = kept.reservations
        self._name_meters()
        for evse, life in kept.evses:
            life.give_to(evse)

    # --- actions

    def _boot(self, payload: JsonObject, now: Moment) -> Reaction:
        boot = cast(BootNotification, payload)
        station = boot["chargingStation"]
        reaction = Reaction(
            answer={
                "currentTime": format_timestamp(now.wall_us),
                "interval": self.word.interval_s(self._heartbeat_s),
                "status": self.word.value,
            },
            booted=boot["reason"] != "Triggered" and self.word is Standing.ACCEPTED,
        )
        serial = station.get("serialNumber", "")
        identity = quoted(" ".join((station["vendorName"], station["model"], serial)).strip(), 100)
        if serial and self.serial and serial != self.serial:
            self.generation += 1
            self._name_meters()
            text = f"serial number is {quoted(serial)} and was {quoted(self.serial)}: another charger, another meter"
            reaction.notices.append(Notice("charger.replaced", text))
        if identity != self.identity:
            self.identity, self.serial = identity, serial or self.serial
            reaction.remember = True
        return reaction

    def _heartbeat(self, payload: JsonObject, now: Moment) -> Reaction:
        return Reaction(answer={"currentTime": format_timestamp(now.wall_us)})

    def _status(self, payload: JsonObject, now: Moment) -> Reaction:
        status = cast(StatusNotification, payload)
        reaction = Reaction(answer={})
        evse = self.evse_named(int(status["evseId"]), reaction)
        if evse is not None:
            reaction.add(evse.connector_status(int(status["connectorId"]), status["connectorStatus"]))
        return reaction

    def _connector_events(self, payload: JsonObject, reaction: Reaction) -> None:
        """Chargers that tell the state of a connector by its variable, in place of StatusNotification (G01, 2.1)."""
        for event in cast(list[JsonObject], payload["eventData"]):
            key, status = key_of(event), str(event.get("actualValue", ""))
            name = (key.component.casefold(), key.variable.casefold())
            if name == ("connector", "availabilitystate") and status in CONNECTOR_STATES and key.evse_id in self.evses:
                outcome = self.evses[key.evse_id].connector_status(key.connector_id or 1, status)
                reaction.add(outcome)

    def _authorize(self, payload: JsonObject, now: Moment) -> Reaction:
        asked = cast(AuthorizeRequest, payload)
        token = asked["idToken"]
        verdict = self.authority.judge(token, self._device_ids(self.evses.values()), now.wall_us)
        answer: JsonObject = {"idTokenInfo": self.authority.info(verdict, now.wall_us)}
        if "certificate" in asked or "iso15118CertificateHashData" in asked:
            at = datetime.fromtimestamp(now.wall_us / 1e6, UTC)
            status = judge_contract(asked, self._contract_roots, at, on_the_list=verdict.accepted)
            answer["certificateStatus"] = status.value
            if verdict.accepted and status is not ContractStatus.ACCEPTED:
                answer["idTokenInfo"] = {"status": "Invalid"}
        return Reaction(answer=answer)

    def _chain_status(self, payload: JsonObject, now: Moment) -> Reaction:
        return Reaction(answer=nothing_known(payload, now.wall_us))

    def _transaction(self, payload: JsonObject, now: Moment) -> Reaction:
        event = cast(TransactionEvent, payload)
        reaction = Reaction(answer={})
        evse = self._evse_of(event, reaction)
        token_id = None
        if "idToken" in event:
            at = self._device_ids([evse] if evse else self.evses.values())
            starts = event["eventType"] == "Started" or (
                event["eventType"] == "Updated" and event["triggerReason"] == "Authorized"
            )
            verdict = self.authority.judge(event["idToken"], at, now.wall_us, starts=starts)
            token_id = verdict.name if verdict.accepted else None
            reaction.answer = {"idTokenInfo": self.authority.info(verdict, now.wall_us)}
        if "reservationId" in payload and event["eventType"] == "Started":
            # What was reserved is used (H01).
            gone = self.reports.reservations.pop(int(cast(int, payload["reservationId"])), None)
            reaction.remember |= gone is not None
        if evse is not None:
            reaction.add(evse.transaction_event(event, token_id=token_id, now=now))
        return reaction

    def _meter_values(self, payload: JsonObject, now: Moment) -> Reaction:
        message = cast(MeterValues, payload)
        reaction = Reaction(answer={})
        evse_id = int(message["evseId"])
        # EVSE 0 is the station's own inlet meter; nothing here is metered by it.
        evse = self.evse_named(evse_id, reaction) if evse_id else None
        if evse is not None:
            reaction.add(evse.meter_values(message["meterValue"], now))
        return reaction

    def _security_event(self, payload: JsonObject, now: Moment) -> Reaction:
        event = cast(SecurityEventNotification, payload)
        text = f"security event {quoted(event['type'], 52)} {quoted(event.get('techInfo', ''), 100)}"
        return Reaction(answer={}, notices=[Notice("charger.security_event", text)])

    # --- inside

    @staticmethod
    def _device_ids(evses: Iterable[EvseSession]) -> list[str]:
        return [evse.settings.device_id for evse in evses]

    def _meter_id(self, evse_id: int) -> str:
        replaced = "" if self.generation == 1 else f"/{self.generation}"
        return f"ocpp/{self.charger_id}/{evse_id}{replaced}"

    def _name_meters(self) -> None:
        for number, evse in self.evses.items():
            meter_id = self._meter_id(number)
            if evse.meter_id != meter_id:
                evse.meter_id = meter_id
                # The new meter's registers have nothing to do with the old one's.
                evse.import_register_milliwatt_hours = evse.export_register_milliwatt_hours = None

    def evse_named(self, evse_id: int, reaction: Reaction) -> EvseSession | None:
        evse = self.evses.get(evse_id)
        if evse is None and evse_id not in self._unknown_evses and len(self._unknown_evses) < 100:
            self._unknown_evses.add(evse_id)
            text = f"speaks of EVSE {evse_id}, which no [[device]] of the configuration names; it is not metered here"
            reaction.notices.append(Notice("charger.unknown_evse", text))
        return evse

    def evses_meant(self, evse_id: int | None, reaction: Reaction) -> list[EvseSession]:
        """All of them where the message is about the station."""
        if not evse_id:
            return list(self.evses.values())
        evse = self.evse_named(int(evse_id), reaction)
        return [] if evse is None else [evse]

    def _evse_of(self, event: TransactionEvent, reaction: Reaction) -> EvseSession | None:
        """Only the first event of a transaction must name its EVSE (E01)."""
        if "evse" in event:
            return self.evse_named(int(event["evse"]["id"]), reaction)
        transaction_id = event["transactionInfo"]["transactionId"]
        for evse in self.evses.values():
            if evse.transaction is not None and evse.transaction.transaction_id == transaction_id:
                return evse
        return next(iter(self.evses.values())) if len(self.evses) == 1 else None


_Handler = Callable[[StationSession, JsonObject, Moment], Reaction]

_HANDLERS: Final[Mapping[str, _Handler]] = {
    "BootNotification": StationSession._boot,
    "Heartbeat": StationSession._heartbeat,
    "StatusNotification": StationSession._status,
    "Authorize": StationSession._authorize,
    "GetCertificateChainStatus": StationSession._chain_status,
    "TransactionEvent": StationSession._transaction,
    "MeterValues": StationSession._meter_values,
    "SecurityEventNotification": StationSession._security_event,
    **WORDS,
}

_FIXED_ANSWERS: Final[Mapping[str, JsonObject]] = {
    # A report that needs no more than to be taken.
    "NotifyDisplayMessages": {},
    # Questions with an honest no.
    # Where responders may be asked, `revocation` knows better.
    "GetCertificateStatus": {"status": "Failed"},
    # Where somebody who makes contracts may be asked, `contract_requests` knows better.
    "Get15118EVCertificate": no_contract("NotEnabled", "nobody who makes contracts is configured at this site"),
    "SignCertificate": {"status": "Rejected"},
}
