"""What an EVSE of OCPP 2.1 is asked and told about V2X beside its profiles (Q01, Q02, K21, device model of block Q)."""

from __future__ import annotations

from typing import Final, cast

import structlog

from drivers.device import DeviceRefusedError
from drivers.ocpp import profiles
from drivers.ocpp.car import BOTH_WAYS
from drivers.ocpp.messages import GetVariablesAnswer, StatusAnswer
from drivers.ocpp.profile_calls import ProfileCalls, reason
from drivers.ocpp.profiles import Slot
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.session import EvseSession
from drivers.ocpp.v2x import Mode

_CONTROLLER: Final = "V2XChargingCtrlr"
_ASKED: Final = ("Available", "Enabled", "SupportedOperationModes")

_log = structlog.get_logger()


class Bidirectional:
    """Of one EVSE. All of it is for chargers that speak 2.1; nothing of it is asked of others."""

    def __init__(self, session: EvseSession, calls: ProfileCalls) -> None:
        self._session = session
        self._settings = session.settings
        self._calls = calls
        self._allowed: tuple[str, tuple[str, ...]] | None = None
        self._modes: frozenset[str] = frozenset()
        self.problem: str | None = None
        """Why this EVSE cannot discharge, by its own device model; None: it can, or does not say."""

    async def find_out(self) -> None:
        """After each connection: what it can do, and the profile that priority charging begins with.

        Raises DeviceUnreachableError.
        """
        self.problem, self._modes = None, frozenset()
        if self._settings.discharge != "never":
            self.problem = await self._obstacle()
        # Priority charging begins with no more than what the fuse always allows, until the plan has a lease for it.
        share = profiles.static_share_profile(self._settings, self._calls.dialect, Slot.PRIORITY_SHARE)
        try:
            await self._calls.install(share, Priority.ROUTINE)
        except DeviceRefusedError as refusal:
            _log.info("ocpp_no_priority_charging", device=self._settings.device_id, why=str(refusal))

    def knows(self, mode: Mode) -> bool:
        """Whether the charger says that it supports a mode; a silent one is told nothing that it may not know."""
        return mode in self._modes

    def forgo(self, mode: Mode) -> None:
        """It says so and refuses it: not to be tried again on this connection."""
        self._modes -= {mode}

    async def allow_energy_transfer(self) -> None:
        """NotifyAllowedEnergyTransfer: both ways only where the owner permits it. Once for each transaction and what
        its car can do. Raises DeviceUnreachableError."""
        transaction, modes = self._session.transaction, self._session.car.transfer_modes
        if transaction is None or not any(BOTH_WAYS in mode for mode in modes):
            return
        permitted = self._settings.discharge != "never"
        plain = "DC" if any(mode.startswith("DC") for mode in modes) else "AC_three_phase"
        allowed = tuple(mode for mode in modes if permitted or BOTH_WAYS not in mode) or (plain,)
        told = transaction.transaction_id, allowed
        if told == self._allowed:
            return
        payload: JsonObject = {"transactionId": transaction.transaction_id, "allowedEnergyTransfer": [*allowed]}
        try:
            answer = await self._ask("NotifyAllowedEnergyTransfer", payload, Priority.CONTROL)
            if answer["status"] != "Accepted":
                _log.info("ocpp_energy_transfer_rejected", device=self._settings.device_id, why=reason(answer))
        except DeviceRefusedError as refusal:
            _log.info("ocpp_energy_transfer_rejected", device=self._settings.device_id, why=str(refusal))
        self._allowed = told

    async def use_priority_charging(self, *, activate: bool) -> None:
        """UsePriorityCharging. Raises DeviceRefusedError or DeviceUnreachableError."""
        device_id, transaction = self._settings.device_id, self._session.transaction
        if transaction is None:
            raise DeviceRefusedError(f"{device_id}: no transaction is running")
        asked: JsonObject = {"transactionId": transaction.transaction_id, "activate": activate}
        answer = await self._ask("UsePriorityCharging", asked, Priority.URGENT)
        if answer["status"] != "Accepted":
            text = f"{device_id}: the charger refused priority charging ({answer['status']}){reason(answer)}"
            raise DeviceRefusedError(text)
        self._session.priority(transaction.transaction_id, activated=activate)

    async def _ask(self, action: str, payload: JsonObject, priority: Priority) -> StatusAnswer:
        return cast(StatusAnswer, await self._calls.order(action, payload, priority))

    async def _obstacle(self) -> str | None:
        """A charger that does not have the variables is taken at the installer's word."""
        found = await self._variables()
        if found.get("Available") == "false":
            return f"the charger says that it has no V2X here ({_CONTROLLER}.Available is false)"
        self._modes = frozenset(filter(None, map(str.strip, found.get("SupportedOperationModes", "").split(","))))
        if self._modes and Mode.CENTRAL_SETPOINT not in self._modes:
            return f"the charger supports no {Mode.CENTRAL_SETPOINT} ({_CONTROLLER}.SupportedOperationModes)"
        if found.get("Enabled") == "false" and not await self._enable():
            return f"V2X is switched off in the charger ({_CONTROLLER}.Enabled is false) and cannot be switched on"
        return None

    async def _variables(self) -> dict[str, str]:
        asked: list[Json] = [{"component": self._component(), "variable": {"name": name}} for name in _ASKED]
        try:
            answer = await self._calls.order("GetVariables", {"getVariableData": asked}, Priority.CONTROL)
        except DeviceRefusedError:
            return {}
        return {
            result["variable"]["name"]: result["attributeValue"]
            for result in cast(GetVariablesAnswer, answer)["getVariableResult"]
            if result["attributeStatus"] == "Accepted" and "attributeValue" in result
        }

    async def _enable(self) -> bool:
        setting: Json = {"component": self._component(), "variable": {"name": "Enabled"}, "attributeValue": "true"}
        try:
            answer = await self._calls.order("SetVariables", {"setVariableData": [setting]}, Priority.CONTROL)
        except DeviceRefusedError:
            return False
        results = cast("list[JsonObject]", answer["setVariableResult"])
        return bool(results) and results[0]["attributeStatus"] == "Accepted"

    def _component(self) -> JsonObject:
        return {"name": _CONTROLLER, "evse": {"id": self._settings.evse_id}}
