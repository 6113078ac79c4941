"""Contracts for cars: what a car asks for is passed on to whoever makes contracts, and the answer back to the car.

OCPP 2.0.1 and 2.1 part 2, M01 and M02. Request and answer are EXI that the car and its contract's maker sign and
encrypt for each other: nobody between them reads it, and none of it is in a log. Whoever makes contracts is asked in
the words of the charger (Get15118EVCertificate), as JSON; where nobody can be asked, the charger hears so at once, in
words for a person, and the car is charged by whatever else lets it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Final, cast

import orjson
import structlog

from drivers.ocpp.errors import quoted
from drivers.ocpp.schemas import Json, JsonObject, Version

Ask = Callable[[bytes], Awaitable[bytes]]
"""POSTs a request to whoever makes contracts; the body of the answer. Raises OSError, TimeoutError or ValueError."""

DEADLINE_S: Final = 5.0
"""A car waits no longer (ISO 15118-2, V2G_EVCC_Msg_Timeout of CertificateInstallation and CertificateUpdate)."""
MOST_UNDER_WAY: Final = 4
"""Of all chargers; of each, one."""
LONGEST: Final = {Version.V201: 7500, Version.V21: 17_000}
"""Characters of `exiResponse`."""
_PASSED_ON: Final = (
    "iso15118SchemaVersion",
    "action",
    "exiRequest",
    "maximumContractCertificateChains",
    "prioritizedEMAIDs",
)

_log = structlog.get_logger()


def no_contract(reason_code: str, why: str) -> JsonObject:
    """The answer without one. `why` is for a person; `reason_code` is of the specification's appendix."""
    return {
        "status": "Failed",
        "exiResponse": "",
        "statusInfo": {"reasonCode": reason_code, "additionalInfo": why[:512]},
    }


class ContractRequests:
    """For all chargers of a site."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._under_way: set[str] = set()

    async def get(self, charger_id: str, asked: JsonObject, version: Version) -> JsonObject:
        """The answer to a Get15118EVCertificate that fits its schema; never raises."""
        try:
            base64.b64decode(str(asked["exiRequest"]), validate=True)
        except (binascii.Error, ValueError):
            return no_contract("InvalidValue", "exiRequest is not base64")
        if charger_id in self._under_way or len(self._under_way) >= MOST_UNDER_WAY:
            return no_contract("InternalError", "other requests for contracts are under way; ask again")
        self._under_way.add(charger_id)
        try:
            async with asyncio.timeout(DEADLINE_S):
                body = await self._ask(orjson.dumps({name: asked[name] for name in _PASSED_ON if name in asked}))
            return _read(body, version)
        except TimeoutError:
            problem = f"whoever makes contracts gave no answer within {DEADLINE_S:g} s"
        except (OSError, ValueError) as error:
            problem = f"whoever makes contracts gave no usable answer: {error}"
        finally:
            self._under_way.discard(charger_id)
        _log.warning("ocpp_no_contract", charger=charger_id, action=asked["action"], problem=problem[:300])
        return no_contract("InternalError", problem)


def _read(body: bytes, version: Version) -> JsonObject:
    """Raises ValueError for what is no answer."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    if not isinstance(told, dict):
        raise ValueError("it is not a JSON object")
    if told.get("status") != "Accepted":
        info = told.get("statusInfo")
        word = info.get("reasonCode", "") if isinstance(info, dict) else ""
        raise ValueError(f"it says {quoted(str(told.get('status')), 20)} {quoted(str(word), 20)}")
    exi = told.get("exiResponse")
    if not isinstance(exi, str) or not exi:
        raise ValueError("it holds no exiResponse")
    if len(exi) > LONGEST[version]:
        raise ValueError(f"its exiResponse has {len(exi)} characters, {LONGEST[version]} fit")
    try:
        base64.b64decode(exi, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its exiResponse is not base64") from None
    answer: JsonObject = {"status": "Accepted", "exiResponse": exi}
    left = told.get("remainingContracts")
    if left is not None and version is Version.V21:
        if not isinstance(left, int) or isinstance(left, bool) or left < 0:
            raise ValueError("its remainingContracts is no count")
        answer["remainingContracts"] = cast(Json, left)
    return answer
