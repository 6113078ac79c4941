"""Certificates of one charger: its requests answered by the site's CA, and renewed before they expire.

OCPP 2.0.1 part 2, A02 and A03. SignCertificate is answered at once; the certificate follows as CertificateSigned, when
the token has signed it. Only the charger's own certificate: contract and V2G certificates come from their own PKI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol, cast

import structlog

from drivers.device import SignerUnavailableError
from drivers.ocpp.connection import Caller
from drivers.ocpp.credentials import charger_urn
from drivers.ocpp.errors import CallError, CallRefusedError, InvalidAnswerError, OcppError, OwnMistakeError
from drivers.ocpp.messages import StatusAnswer
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import JsonObject

RENEW_BEFORE_US: Final = 30 * 86_400_000_000
LOOK_EVERY_S: Final = 3600.0
"""Whether a certificate is to be renewed."""
ASK_AGAIN_US: Final = 86_400_000_000
"""A charger that was asked to renew its certificate and did not is asked again."""
RETRY_S: Final = 30.0
"""While the token is away."""
KIND: Final = "ChargingStationCertificate"

_log = structlog.get_logger()


class CertificateRefusedError(OcppError):
    """A request that must not be certified. Says why."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made."""

    chain_pem: str
    """Leaf first, then the root."""
    serial: str
    not_after_us: int


class CertificateAuthority(Protocol):
    """Who certifies chargers."""

    async def issue(self, csr_pem: str, *, charger_urn: str, names: Collection[str]) -> Issued:
        """Raises CertificateRefusedError, and SignerUnavailableError while the token is away."""
        ...


class Certificates:
    """What one charger asks to have signed, one request at a time: the newest counts."""

    def __init__(
        self,
        charger: Caller,
        charger_id: str,
        *,
        names: Callable[[], Collection[str]],
        wall_us: Callable[[], int],
        on_issued: Callable[[Issued], Awaitable[None]],
        say: Callable[[str, str], None],
    ) -> None:
        self.authority: CertificateAuthority | None = None
        """None until the site's CA is there; requests are refused then."""
        self._charger = charger
        self._charger_id = charger_id
        self._names = names
        self._wall_us = wall_us
        self._on_issued = on_issued
        self._say = say
        self._request = ""
        self._asked_us = 0
        self._arrived = asyncio.Event()

    def request(self, payload: JsonObject) -> JsonObject:
        """SignCertificate: the answer. What is signed follows by itself."""
        if self.authority is None or payload.get("certificateType", KIND) != KIND:
            return {"status": "Rejected"}
        self._request = str(payload["csr"])
        self._arrived.set()
        return {"status": "Accepted"}

    async def run(self, expires_us: Callable[[], int | None]) -> None:
        """While the charger is connected: sign what it asks for, and have it ask in time. `expires_us` is the end of
        the certificate that it has from us; None: it has none."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._arrived.wait()
            except TimeoutError:
                pass
            self._arrived.clear()
            try:
                if self._request:
                    await self._sign()
                else:
                    await self.renew_in_time(expires_us())
            except CallError as error:
                _log.warning("ocpp_certificate", charger=self._charger_id, problem=str(error))

    async def renew_in_time(self, expires_us: int | None) -> None:
        """Ask for a new request (A02) when the certificate ends soon. Raises CallError."""
        now_us = self._wall_us()
        if expires_us is None or self.authority is None or expires_us - now_us > RENEW_BEFORE_US:
            return
        if now_us - self._asked_us < ASK_AGAIN_US:
            return
        self._asked_us = now_us
        payload: JsonObject = {"requestedMessage": f"Sign{KIND}"}
        try:
            answer = cast(StatusAnswer, await self._charger.call("TriggerMessage", payload, Priority.ROUTINE))
        except (CallRefusedError, InvalidAnswerError) as error:
            self._say("charger.certificate", f"its certificate ends soon, and it cannot be asked to renew it: {error}")
            return
        if answer["status"] != "Accepted":
            self._say("charger.certificate", "its certificate ends soon, and it does not renew it")

    async def _sign(self) -> None:
        request, authority = self._request, self.authority
        if authority is None:
            return
        try:
            issued = await authority.issue(
                request, charger_urn=charger_urn(self._charger_id), names=frozenset(self._names())
            )
        except SignerUnavailableError as error:
            _log.info("ocpp_certificate_waits", charger=self._charger_id, reason=str(error))
            await asyncio.sleep(RETRY_S)
            self._arrived.set()
            return
        except CertificateRefusedError as error:
            self._request = ""
            self._say("charger.certificate", f"asked for a certificate that it does not get: {error}")
            return
        if self._request == request:
            self._request = ""
        payload: JsonObject = {"certificateChain": issued.chain_pem, "certificateType": KIND}
        try:
            answer = cast(StatusAnswer, await self._charger.call("CertificateSigned", payload, Priority.CONTROL))
        except (CallRefusedError, InvalidAnswerError, OwnMistakeError) as error:
            self._say("charger.certificate", f"did not take its new certificate: {error}")
            return
        if answer["status"] != "Accepted":
            self._say("charger.certificate", f"did not take its new certificate: {answer['status']}")
            return
        await self._on_issued(issued)
