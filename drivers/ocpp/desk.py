"""Where people's orders to one charger are carried out and where it is looked at; beside the plan, never in its place.

Also what is put into a charger each time it comes, after what safety needs (`provisioning`): who may charge while it
does not hear us, and once per boot the question what it is made of.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, cast

import structlog

from drivers.device import DeviceRefusedError, DeviceUnreachableError, Journal
from drivers.ocpp import local_list, orders
from drivers.ocpp.credentials import PasswordKeeper, Passwords
from drivers.ocpp.device_model import key_of, parse_key
from drivers.ocpp.errors import (
    CallError,
    CallRefusedError,
    CallTimeoutError,
    InvalidAnswerError,
    NotInVersionError,
    OwnMistakeError,
    quoted,
)
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.session import Notice, Outcome
from drivers.ocpp.station import StationSession
from drivers.ocpp.tokens import masked

GOOD: Final = frozenset({"Accepted", "AcceptedCanceled", "NoTransaction", "Scheduled", "Unlocked", "RebootRequired"})
"""Words of a charger that mean yes."""
CUSTOMER_S: Final = 20.0
"""Within so long a charger has told what it knows about a customer."""

_log = structlog.get_logger()


class _Charger(Protocol):
    """What the desk needs of the charger that it is part of."""

    charger_id: str
    session: StationSession

    async def call(self, action: str, payload: JsonObject, priority: Priority) -> JsonObject:
        """Raises CallError."""
        ...

    @property
    def guest(self) -> bool: ...

    @property
    def passwords(self) -> Passwords: ...

    async def remote_start(self, device_id: str, token_id: str) -> None: ...

    async def remote_stop(self, device_id: str) -> None: ...

    async def charge_now(self, device_id: str, *, activate: bool) -> None: ...


class ChargerDesk:
    """The desk of one charger."""

    def __init__(
        self,
        charger: _Charger,
        *,
        carry_out: Callable[[Outcome], Awaitable[None]],
        journal: Journal,
        keeper: PasswordKeeper | None,
        wall_us: Callable[[], int],
    ) -> None:
        self._charger = charger
        self._carry_out = carry_out
        self._journal = journal
        self._keeper = keeper
        self._wall_us = wall_us
        self._request_id = 0
        self._busy = asyncio.Lock()
        self._said: set[str] = set()
        self.list_given_up = False
        """The charger did not answer for its local list: it is not asked again while we run."""
        self.customer_told = asyncio.Event()
        """Set after each NotifyCustomerInformation."""
        self._log = _log.bind(charger=charger.charger_id)

    # --- what people order

    async def order(self, name: str, arguments: JsonObject) -> JsonObject:
        """Carry out one order; the charger's answer, with `ok`. Raises DeviceError, and ValueError for what was
        asked wrongly. One order at a time: a charger answers one question after the other anyway."""
        told = await self._order(name, arguments)
        if name == "customer" and told["ok"] and arguments.get("report", True) is True:
            told["data"] = await self._customer_report()  # others may order meanwhile
        return told

    async def _order(self, name: str, arguments: JsonObject) -> JsonObject:
        async with self._busy:
            if name == "start":
                device, token = self._device(arguments), orders.text(arguments, "token")
                await self._charger.remote_start(device, token)
                return {"ok": True, "status": "Accepted"}
            if name == "stop":
                await self._charger.remote_stop(self._device(arguments))
                return {"ok": True, "status": "Accepted"}
            if name == "charge-now":
                on = arguments.get("on", True)
                if not isinstance(on, bool):
                    raise ValueError(f'"on" is true or false, not {on!a}')
                await self._charger.charge_now(self._device(arguments), activate=on)
                return {"ok": True, "status": "Accepted"}
            if name == "password":
                return await self.change_password()
            if name == "local-list":
                return await self._send_local_list()
            action, payload = orders.build(name, arguments, self._context())
            if name == "report":
                number = int(cast(int, payload["requestId"]))
                full = payload["reportBase"] == "FullInventory"
                self._charger.session.reports.model.expect(number, full=full)
            if name == "customer":
                self._charger.session.reports.customer.expect(int(cast(int, payload["requestId"])))
            answer = await self.ask(action, payload)
            return await self._note(name, arguments, payload, answer)

    async def _customer_report(self) -> str:
        """What the charger tells about the customer that was asked for; it is kept nowhere."""
        report = self._charger.session.reports.customer
        try:
            async with asyncio.timeout(CUSTOMER_S):
                while (found := report.hand_over()) is None:
                    self.customer_told.clear()
                    await self.customer_told.wait()
        except TimeoutError:
            report.forget()
            text = f"{self._charger.charger_id} did not tell about the customer within {CUSTOMER_S:.0f} s"
            raise DeviceUnreachableError(text) from None
        return found

    async def ask(self, action: str, payload: JsonObject, priority: Priority = Priority.ROUTINE) -> JsonObject:
        """One call. Raises DeviceRefusedError, DeviceUnreachableError, and ValueError for a payload that cannot be."""
        name = self._charger.charger_id
        try:
            return await self._charger.call(action, payload, priority)
        except (CallRefusedError, InvalidAnswerError, NotInVersionError) as error:
            raise DeviceRefusedError(f"{name}: {error}") from error
        except CallError as error:
            raise DeviceUnreachableError(f"{name}: {error}") from error
        except OwnMistakeError as error:
            raise ValueError(f"{action} cannot be sent so: {error}") from error

    async def change_password(self) -> JsonObject:
        """Give the charger a new password (A01). It is kept before it is sent, and never told to anybody else. Raises
        DeviceError; ValueError where there is no place to keep it."""
        new = secrets.token_hex(16)
        told: JsonObject = {}
        if self._charger.guest:
            if self._keeper is None:
                raise ValueError("no place is configured to keep a new password")
            new, told["password_secret"] = await self._keeper.hand_over(self._charger.charger_id, new)
        else:
            await self._charger.passwords.offer(new)
        key = parse_key("SecurityCtrlr/BasicAuthPassword")
        entry: JsonObject = {**key.on_wire(), "attributeValue": new}
        answer = await self.ask("SetVariables", {"setVariableData": [entry]}, Priority.CONTROL)
        status = str(cast(list[JsonObject], answer["setVariableResult"])[0]["attributeStatus"])
        if status not in GOOD:
            if not self._charger.guest:
                await self._charger.passwords.withdraw(new)
            raise DeviceRefusedError(f"{self._charger.charger_id} does not take a new password: {status}")
        return {"ok": True, "status": status, **told}

    # --- what is put into it each time it comes

    async def bring_up(self) -> None:
        """After safety: tokens for the time without us, and its device model. What the charger refuses or does not
        answer, it is taken without: it has its limits already."""
        try:
            if await self._authorise_offline():
                await self._bring_list_up()
            await self._ask_model()
        except CallError as error:
            self._log.warning("ocpp_not_brought_up", problem=str(error))

    async def _bring_list_up(self) -> None:
        session = self._charger.session
        try:
            changed, problem = await local_list.bring_up_to_date(self._charger, session.local_list, self._wanted_list())
        except CallTimeoutError:
            # Some chargers answer nothing to what they do not know, and hold up the line with it: once is enough.
            self.list_given_up = True
            raise
        notices = [Notice("charger.local_list", problem)] if problem and self._first(problem) else []
        await self._carry_out(Outcome(notices=notices, changed=changed))

    async def _ask_model(self) -> None:
        """Have it list what it is made of (B07), where that is not known."""
        model = self._charger.session.reports.model
        if len(model) and model.generated_at:
            return
        number = self._context().request_id
        model.expect(number, full=True)
        payload: JsonObject = {"requestId": number, "reportBase": "FullInventory"}
        try:
            await self._charger.call("GetBaseReport", payload, Priority.ROUTINE)
        except (CallRefusedError, InvalidAnswerError) as error:
            self._log.info("ocpp_no_report", problem=str(error))

    # --- keeping the device model

    async def recall_model(self) -> None:
        """Go on from the device model that was kept."""
        kept = await self._journal.recall(self._model_key)
        if kept is not None:
            try:
                self._charger.session.reports.model.restore(kept)
            except ValueError as error:
                self._log.warning("ocpp_model_lost", problem=str(error))

    async def keep_model(self) -> None:
        """Keep the device model. A store that fails costs the model, and nothing else."""
        try:
            await self._journal.remember(self._model_key, self._charger.session.reports.model.encode())
        except Exception as error:  # whatever the gateway's store raises
            self._log.error("ocpp_model_not_kept", problem=str(error))

    # --- inside

    @property
    def _model_key(self) -> str:
        return f"charger/{self._charger.charger_id}/model"

    def _device(self, arguments: JsonObject) -> str:
        ids = {evse.settings.evse_id: evse.settings.device_id for evse in self._charger.session.evses.values()}
        return ids[cast(int, self._context().evse(arguments, needed=True))]

    def _context(self) -> orders.Context:
        self._request_id += 1
        evses = self._charger.session.evses.items()
        return orders.Context(
            {evse.settings.device_id: number for number, evse in evses},
            self._wall_us(),
            # From the time, so that a number does not come back with a restart of ours.
            self._wall_us() // 1_000_000 % 2**30 + self._request_id,
        )

    def _wanted_list(self) -> Sequence[JsonObject]:
        return self._charger.session.authority.local_list(self._wall_us())

    async def _send_local_list(self) -> JsonObject:
        known = self._charger.session.local_list
        try:
            changed, problem = await local_list.bring_up_to_date(self._charger, known, self._wanted_list())
        except CallError as error:
            raise DeviceUnreachableError(f"{self._charger.charger_id}: {error}") from error
        await self._carry_out(Outcome(changed=changed))
        return {"ok": not problem, "status": problem or "Accepted", "version": known.version, "sent": changed}

    async def _authorise_offline(self) -> bool:
        """Which switches of the charger the owner's tokens need (C13, C16). What it refuses, it is taken without.
        Whether it may have a local list."""
        session = self._charger.session
        wishes: list[tuple[str, str, str]] = []
        if self._wanted_list():
            wishes += [("LocalAuthListCtrlr", "Enabled", "true"), ("AuthCtrlr", "LocalAuthorizeOffline", "true")]
        if session.authority.master_group:
            wishes.append(("AuthCtrlr", "MasterPassGroupId", session.authority.master_group))
        if session.authority.knows_contracts:
            wishes.append(("ISO15118Ctrlr", "ContractValidationOffline", "true"))  # C07
            if session.judges_contracts:
                wishes.append(("ISO15118Ctrlr", "CentralContractValidationAllowed", "true"))
        has_list = not self.list_given_up
        for component, variable, value in wishes:
            entry: JsonObject = {
                "component": {"name": component}, "variable": {"name": variable}, "attributeValue": value,
            }  # fmt: skip
            try:
                answer = await self._charger.call("SetVariables", {"setVariableData": [entry]}, Priority.ROUTINE)
            except (CallRefusedError, InvalidAnswerError) as error:
                self._log.info("ocpp_variable_refused", variable=variable, problem=str(error))
                continue
            status = cast(list[JsonObject], answer["setVariableResult"])[0]["attributeStatus"]
            if component == "LocalAuthListCtrlr" and status == "UnknownComponent":
                has_list = False
        return has_list

    async def _note(self, name: str, arguments: JsonObject, payload: JsonObject, answer: JsonObject) -> JsonObject:
        """What an answer changes here, and how it is told."""
        reports = self._charger.session.reports
        told: JsonObject = {"ok": answer.get("status", "Accepted") in GOOD, **answer}
        if name == "get":
            results = cast(list[JsonObject], answer["getVariableResult"])
            for result in results:
                if result["attributeStatus"] == "Accepted" and "attributeValue" in result:
                    key = key_of(result)
                    reports.model.take_value(
                        key, str(result["attributeValue"]), str(result.get("attributeType", "Actual"))
                    )
            told = {
                "ok": all(result["attributeStatus"] == "Accepted" for result in results),
                "variables": [
                    {
                        "name": str(key_of(result)),
                        "status": result["attributeStatus"],
                        "value": result.get("attributeValue"),
                    }
                    for result in results
                ],
            }
        elif name == "set":
            results = cast(list[JsonObject], answer["setVariableResult"])
            told = {"ok": results[0]["attributeStatus"] in GOOD, "status": results[0]["attributeStatus"]}
            if results[0]["attributeStatus"] == "Accepted":
                key = key_of(results[0])
                reports.model.take_value(key, str(arguments["value"]), str(arguments.get("attribute", "Actual")))
        elif name == "monitor":
            results = cast(list[JsonObject], answer["setMonitoringResult"])
            told = {
                "ok": results[0]["status"] == "Accepted",
                "status": results[0]["status"],
                "id": results[0].get("id"),
            }
            if told["ok"] and "id" in results[0]:
                data = cast(list[JsonObject], payload["setMonitoringData"])[0]
                kept = {key: data[key] for key in ("type", "value", "severity")}
                reports.model.take_monitor(int(cast(int, results[0]["id"])), {**kept, "name": str(key_of(data))})
        elif name == "unmonitor":
            results = cast(list[JsonObject], answer["clearMonitoringResult"])
            told = {"ok": results[0]["status"] == "Accepted", "status": results[0]["status"]}
            if results[0]["status"] in ("Accepted", "NotFound"):
                reports.model.monitors.pop(int(cast(int, results[0]["id"])), None)
        elif name == "reserve" and told["ok"]:
            number = int(cast(int, payload["id"]))
            entry: JsonObject = {
                "device": arguments.get("device"),
                "token": masked(str(arguments["token"])),
                "until": payload["expiryDateTime"],
            }
            reports.reserve(number, entry)
            told["reservation"] = number
            await self._carry_out(Outcome(changed=True))
        elif name == "cancel-reservation" and told["ok"]:
            reports.reservations.pop(int(cast(int, payload["reservationId"])), None)
            await self._carry_out(Outcome(changed=True))
        elif name == "log":
            reports.logs.setdefault(int(cast(int, payload["requestId"])), "asked for")
        if "requestId" in payload:
            told["request"] = payload["requestId"]
        return told

    def _first(self, sentence: str) -> bool:
        new = sentence not in self._said
        if len(self._said) < 20:
            self._said.add(sentence)
        return new

    def look(self) -> JsonObject:
        """The charger at this moment, for a person; no secrets, tokens masked."""
        session = self._charger.session
        reports = session.reports
        return {
            "charger": self._charger.charger_id,
            "identity": session.identity,
            "standing": session.word.value,
            "evses": [
                {
                    "device": evse.settings.device_id,
                    "evse": number,
                    "connectors": {str(connector): status for connector, status in evse.connectors.items()},
                    "transaction": None if evse.transaction is None else evse.transaction.transaction_id,
                    "token": None
                    if evse.transaction is None or evse.transaction.token_id is None
                    else masked(evse.transaction.token_id),
                    "mode": evse.outside.mode.value,
                    "limited_by": [limit.sentence() for limit in evse.outside.limits],
                    "missing_events": sum(len(evse.sequence.missing(each)) for each in evse.sequence.with_gaps()),
                }
                for number, evse in session.evses.items()
            ],
            "variables": len(reports.model),
            "monitors": [{"id": number, **monitor} for number, monitor in reports.model.monitors.items()],
            "events": cast(Json, list(reports.model.events)[-20:]),
            "reservations": [{"id": number, **entry} for number, entry in reports.reservations.items()],
            "logs": {str(number): quoted(status, 40) for number, status in reports.logs.items()},
            "local_list": session.local_list.version,
        }
