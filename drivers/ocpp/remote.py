"""A transaction begun and ended from here: RequestStartTransaction (F01, F02, K05) and RequestStopTransaction (F03)."""

from __future__ import annotations

import uuid
from typing import Final, cast

import structlog

from drivers.device import DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp.connection import Caller
from drivers.ocpp.errors import CallError, CallRefusedError, InvalidAnswerError, NotInVersionError, OwnMistakeError
from drivers.ocpp.evse import OcppEvse
from drivers.ocpp.messages import StatusAnswer
from drivers.ocpp.profile_calls import reason
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import JsonObject

_OTHER_REASONS: Final = frozenset(
    {"CSNotAccepted", "FwUpdateInProgress", "InvalidIdToken", "NoCable", "NotEnabled", "TxInProgress", "TxStarted",
     "UnknownConnectorId", "UnknownConnectorType", "UnknownEvse"}
)  # fmt: skip
"""For which a start is refused with and without a profile."""

_log = structlog.get_logger()


class RemoteControl:
    """Of one charger. All of it raises DeviceRefusedError or DeviceUnreachableError."""

    def __init__(self, charger: Caller) -> None:
        self._charger = charger
        self._takes_profile = True

    def booted(self) -> None:
        """Perhaps with a firmware that knows more."""
        self._takes_profile = True

    async def start(self, evse: OcppEvse, token_id: str) -> None:
        """With the limit that holds now, so that its first second is within it. A charger that takes no profile with
        a start is told of it when the transaction has begun, as any other is."""
        request: JsonObject = {
            "evseId": evse.session.settings.evse_id,
            "remoteStartId": uuid.uuid4().int % 2**31,
            "idToken": {"idToken": token_id, "type": "Central"},
        }
        why = ""
        if self._takes_profile:
            why = await self._objection(evse, {**request, "chargingProfile": evse.profile_to_start_with()})
            if not why:
                evse.session.smart.start_ordered(transaction_runs=evse.session.transaction is not None)
                return
        await self._start(evse, request)
        if why:
            self._takes_profile = False
            _log.info("ocpp_no_profile_with_a_start", device=evse.device_id, why=why)

    async def stop(self, evse: OcppEvse) -> None:
        """The transaction that runs there."""
        transaction = evse.session.transaction
        if transaction is None:
            raise DeviceRefusedError(f"{evse.device_id}: no transaction is running")
        answer = await self._ask(
            evse.device_id, "RequestStopTransaction", {"transactionId": transaction.transaction_id}
        )
        if answer["status"] != "Accepted":
            raise _refused(evse, "RequestStopTransaction", answer)

    async def _objection(self, evse: OcppEvse, request: JsonObject) -> str:
        """Why the charger did not start, where that may be for the profile; empty: it did."""
        try:
            answer = await self._ask(evse.device_id, "RequestStartTransaction", request)
        except DeviceRefusedError as refusal:
            if isinstance(refusal.__cause__, CallRefusedError):
                return str(refusal)
            raise
        if answer["status"] == "Accepted":
            return ""
        if answer.get("statusInfo", {}).get("reasonCode") in _OTHER_REASONS:
            raise _refused(evse, "RequestStartTransaction", answer)
        return f"refused{reason(answer)}"

    async def _start(self, evse: OcppEvse, request: JsonObject) -> None:
        answer = await self._ask(evse.device_id, "RequestStartTransaction", request)
        if answer["status"] != "Accepted":
            raise _refused(evse, "RequestStartTransaction", answer)

    async def _ask(self, device_id: str, action: str, payload: JsonObject) -> StatusAnswer:
        try:
            return cast(StatusAnswer, await self._charger.call(action, payload, Priority.URGENT))
        except (CallRefusedError, InvalidAnswerError, NotInVersionError) as error:
            raise DeviceRefusedError(f"{device_id}: {error}") from error
        except CallError as error:
            raise DeviceUnreachableError(f"{device_id}: {error}") from error
        except OwnMistakeError as error:  # a token of more than 36 characters
            raise DeviceRefusedError(f"{device_id}: {error}") from error


def _refused(evse: OcppEvse, action: str, answer: StatusAnswer) -> DeviceRefusedError:
    return DeviceRefusedError(f"{evse.device_id}: the charger refused {action}{reason(answer)}")
