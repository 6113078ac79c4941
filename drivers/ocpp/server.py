"""The CSMS that chargers connect to: listens, lets in who proves who it is, and hands the socket to its charger."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from ssl import CERT_OPTIONAL, SSLContext
from types import TracebackType
from typing import Final, Self
from weakref import WeakKeyDictionary

import structlog
from cryptography import x509
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from drivers.device import Device, Journal
from drivers.ocpp.certificates import CertificateAuthority
from drivers.ocpp.charger import OcppCharger
from drivers.ocpp.contract_requests import ContractRequests
from drivers.ocpp.credentials import Claim, PasswordKeeper, read_claim
from drivers.ocpp.doorstep import Doorstep
from drivers.ocpp.entrance import Admission, Adopt, Entrance, NoJournal
from drivers.ocpp.errors import quoted
from drivers.ocpp.frames import LONGEST_FRAME
from drivers.ocpp.reception import Reception
from drivers.ocpp.revocation import Revocations
from drivers.ocpp.schemas import Version, schemas
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.standing import Standing
from drivers.ocpp.tokens import SiteTokens

REFUSAL_DELAY_S: Final = 2.0
"""Before a 401: makes guessing slow."""
MOST_REFUSING: Final = 64
"""Strangers that are kept waiting at a time; more are turned away at once."""
MOST_SILENT: Final = 64
"""Sockets that were opened and said nothing yet, beside one for each charger."""
REFUSALS_SAID_EVERY_S: Final = 60.0
PING_INTERVAL_S: Final = 10.0
TLS_HANDSHAKE_S: Final = 20.0
"""Small chargers over slow lines take seconds; who takes longer holds a file descriptor for nothing."""
TLS_SHUTDOWN_S: Final = 2.0
"""A half-open socket is noticed after at most twice this."""
REBIND_LEAST_S, REBIND_MOST_S = 1.0, 30.0
"""Back-off while the address cannot be listened on."""

_log = structlog.get_logger()


class OcppServer:
    """The chargers of a site. `.devices` exist from the start; chargers come and go.

    Use `run()` as a task, or the object as an async context (then a taken port raises OSError).
    `on_event(code, subject, text)` must not block; the subject is a device id or an OCPP identity. Codes:
    charger.refused, charger.second_socket, charger.bad_frame, charger.flood, charger.slow_reader,
    charger.answer_refused, charger.replaced, charger.unknown_evse, charger.faulted, charger.fault_ended,
    charger.event, charger.event_cleared, charger.certificate, charger.certificate_revoked, charger.clock,
    charger.meter_values, charger.register_back, charger.dead_man, charger.disobeys, charger.external_limit,
    charger.security_event, charger.memory, charger.listen, charger.meter_key, charger.signed_value_wrong,
    charger.signed_value_unverifiable, charger.signed_value_differs, charger.signed_values_left_out,
    charger.signed_session, charger.meter_status, charger.dynamic_profile, charger.firmware.
    """

    def __init__(
        self,
        listen_host: str,
        listen_port: int,
        chargers: Sequence[ChargerSettings],
        *,
        heartbeat_s: int,
        meter_interval_s: int,
        call_timeout_s: float,
        monotonic_s: Callable[[], float],
        wall_us: Callable[[], int],
        journal: Journal,
        on_event: Callable[[str, str, str], None],
        ssl: SSLContext | None = None,
        tokens: SiteTokens | None = None,
        contract_roots: Sequence[x509.Certificate] = (),
        keeper: PasswordKeeper | None = None,
        guests: bool = False,
        adopt: Adopt | None = None,
        revocations: Revocations | None = None,
        contracts: ContractRequests | None = None,
    ) -> None:
        """`guests`: identities that nobody configured are let in as far as to wait for an approval. `adopt`: makes one
        that was approved a charger of the site (`add`); None: it has to be configured.

        Raises ValueError for settings that contradict each other."""
        self._host, self._port, self._ssl = listen_host, listen_port, ssl
        self._on_event = on_event
        self.tokens = SiteTokens() if tokens is None else tokens
        self._monotonic_s = monotonic_s
        self._server: Server | None = None
        self._authority: CertificateAuthority | None = None
        self._recalled = False
        self._refusing = 0
        self._refusals = 0
        self._refusals_said_s = float("-inf")
        self._doorstep = Doorstep(MOST_SILENT + len(chargers))
        self._chargers: dict[str, OcppCharger] = {}
        self._of_device: dict[str, OcppCharger] = {}
        self.devices: dict[str, Device] = {}
        """By device id; one per configured EVSE."""
        self.refusals: Counter[str] = Counter()
        """Handshakes with wrong credentials, by charger; "unknown" for identities that nobody configured."""
        for version in Version:
            schemas(version)  # compiled here, not in the first charger's handshake
        make = functools.partial(
            OcppCharger,
            heartbeat_s=heartbeat_s,
            meter_interval_s=meter_interval_s,
            call_timeout_s=call_timeout_s,
            monotonic_s=monotonic_s,
            wall_us=wall_us,
            keeper=keeper,
        )
        self._make = functools.partial(
            make,
            journal=journal,
            on_event=on_event,
            tokens=self.tokens,
            contract_roots=contract_roots,
            revocations=revocations,
            contracts=contracts,
        )
        self._revocations = revocations
        for evses in _by_charger(chargers).values():
            self._take_on(self._make(evses))

        def make_guest(charger_id: str) -> OcppCharger:
            guest = make(
                [ChargerSettings(device_id=charger_id, charger_id=charger_id)],
                journal=NoJournal(),
                on_event=lambda *_: None,  # what a stranger says is no statement of the site
                guest=True,
            )
            guest.session.standing = Standing.PENDING
            return guest

        self.entrance = Entrance(
            self._chargers,
            make_guest=make_guest if guests else None,
            adopt=adopt,
            journal=journal,
            monotonic_s=monotonic_s,
            wall_us=wall_us,
        )
        self.reception = Reception(self._chargers, self.entrance)
        self._admitted: WeakKeyDictionary[ServerConnection, Admission] = WeakKeyDictionary()

    @property
    def port(self) -> int:
        """The port that is listened on; what port 0 became."""
        if self._server is None:
            raise RuntimeError("the OCPP server does not listen yet")
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def run(self) -> None:
        """Serve until cancelled; a port that is taken is tried again."""
        wait_s = REBIND_LEAST_S
        while True:
            try:
                await self.__aenter__()
                break
            except OSError as error:
                text = f"cannot listen on {self._host}:{self._port}: {error.strerror or error}; trying again"
                _log.error("ocpp_listen", problem=text, again_in_s=wait_s)
                if wait_s == REBIND_LEAST_S:
                    self._on_event("charger.listen", self._host, text)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, REBIND_MOST_S)
        try:
            await asyncio.Event().wait()
        finally:
            await self.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        if not self._recalled:
            for charger in self._chargers.values():
                await charger.recall()
            await self.entrance.recall()
            if self._revocations is not None:
                await self._revocations.recall()
            self._recalled = True
        self._server = await serve(
            self._serve,
            self._host,
            self._port,
            ssl=self._ssl,
            process_request=self._admit,
            select_subprotocol=_select_subprotocol,
            create_connection=self._doorstep.connection,
            max_size=LONGEST_FRAME,
            max_queue=4,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_INTERVAL_S,
            close_timeout=2.0,
            compression=None,  # costs 300 kB for each charger, and its messages are small
            server_header=None,
            # Of TLS; asyncio's own are a minute and half a minute.
            ssl_handshake_timeout=None if self._ssl is None else TLS_HANDSHAKE_S,
            ssl_shutdown_timeout=None if self._ssl is None else TLS_SHUTDOWN_S,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    @property
    def chargers(self) -> Mapping[str, OcppCharger]:
        """The configured chargers, by identity."""
        return self._chargers

    async def add(self, evses: Sequence[ChargerSettings]) -> list[Device]:
        """A charger of the site from now on; its devices. Raises ValueError for settings that contradict those here."""
        present = [evse.session.settings for charger in self._chargers.values() for evse in charger.evses.values()]
        grouped = _by_charger([*present, *evses])
        [charger_id] = {settings.charger_id for settings in evses}
        if charger_id in self._chargers:
            raise ValueError(f"charger {charger_id} is here already")
        charger = self._make(grouped[charger_id])
        charger.certificates.authority = self._authority
        await charger.recall()
        self._take_on(charger)
        return list(charger.evses.values())

    def _take_on(self, charger: OcppCharger) -> None:
        self._chargers[charger.charger_id] = charger
        for evse in charger.evses.values():
            self.devices[evse.device_id] = evse
            self._of_device[evse.device_id] = charger

    def use_authority(self, authority: CertificateAuthority, root_pem: str) -> None:
        """From now on chargers are certified by it, and its certificates let them in. Raises ssl.SSLError for a root
        that TLS cannot use."""
        if self._ssl is not None:
            self._ssl.load_verify_locations(cadata=root_pem)
            # Chargers with a password show none; those with profile 3 get in with nothing but a good one.
            self._ssl.verify_mode = CERT_OPTIONAL
        self._authority = authority
        for charger in self._chargers.values():
            charger.certificates.authority = authority

    def use_certificate(self, certificate: Path, key: Path | None = None) -> None:
        """Show this certificate from the next handshake on; without `key` its file holds that too. Raises OSError
        (ssl.SSLError among them); the old one stays then. Nothing happens where the listener has no TLS."""
        if self._ssl is not None:
            self._ssl.load_cert_chain(certificate, key)

    async def remote_start(self, device_id: str, token_id: str) -> None:
        """Start charging at an EVSE as if this token had been shown. Raises DeviceError; KeyError: no such device."""
        await self._of_device[device_id].remote_start(device_id, token_id)

    async def remote_stop(self, device_id: str) -> None:
        """End the transaction at an EVSE. Raises DeviceError; KeyError: no such device."""
        await self._of_device[device_id].remote_stop(device_id)

    # --- handshake

    async def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        """None lets the handshake go on."""
        self._doorstep.enter(socket)
        claim = read_claim(request.path, request.headers.get("Authorization"))
        admission = await self.entrance.admit(socket, claim)
        if admission is None:
            return await self._refuse(socket, claim, self._chargers.get(claim.charger_id))
        charger = admission.charger
        if not charger.may_connect():
            return socket.respond(HTTPStatus.TOO_MANY_REQUESTS, "too many connections; wait a minute\n")
        if await charger.still_connected():
            address = socket.remote_address[0] if socket.remote_address else "?"
            text = f"a second socket came from {address} while the first answers; it was turned away. "
            charger.trouble("charger.second_socket", text + "Two chargers with one identity?")
            return socket.respond(HTTPStatus.CONFLICT, "already connected\n")
        self._admitted[socket] = admission
        return None

    async def _refuse(self, socket: ServerConnection, claim: Claim, charger: OcppCharger | None) -> Response:
        self._refusals += 1
        self.refusals["unknown" if charger is None else charger.charger_id] += 1
        address = socket.remote_address[0] if socket.remote_address else "?"
        who = quoted(claim.charger_id, 52)
        what = "is no charger of the configuration" if charger is None else "came without the right password"
        if charger is not None:
            charger.refused(f"somebody at {address} came as {who} without the right password; compare both ends")
        if self._monotonic_s() - self._refusals_said_s >= REFUSALS_SAID_EVERY_S:
            text = f"{who} at {address} {what}; {self._refusals} refused since the last word on it"
            self._refusals, self._refusals_said_s = 0, self._monotonic_s()
            _log.warning("ocpp_refused", text=text)
            subject = claim.charger_id if charger is not None else "unknown"
            self._on_event("charger.refused", subject, text)
        if self._refusing >= MOST_REFUSING:
            return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "busy\n")
        self._refusing += 1
        try:
            await asyncio.sleep(REFUSAL_DELAY_S)
        finally:
            self._refusing -= 1
        response = socket.respond(HTTPStatus.UNAUTHORIZED, "who are you?\n")
        response.headers["WWW-Authenticate"] = 'Basic realm="v2g-gateway"'
        return response

    async def _serve(self, socket: ServerConnection) -> None:
        admission = self._admitted[socket]
        charger = admission.charger
        if socket.subprotocol is None:
            # OCPP-J section 3.2: finish the handshake without a subprotocol, then close.
            await socket.close(CloseCode.NORMAL_CLOSURE, f"no common subprotocol; offer {' or '.join(Version)}")
            return
        if charger.taken:  # two came at once and both were let in
            await socket.close(CloseCode.POLICY_VIOLATION, "already connected")
            return
        try:
            await charger.serve(socket, Version(socket.subprotocol), unproven=admission.unproven)
        except Exception:  # a fault of ours: this connection ends, the others and the server go on
            _log.exception("ocpp_connection_failed", charger=charger.charger_id)
        finally:
            await self.entrance.left(admission)


def _by_charger(chargers: Sequence[ChargerSettings]) -> dict[str, list[ChargerSettings]]:
    """The EVSEs of each charger. Raises ValueError for settings that contradict each other."""
    found: dict[str, list[ChargerSettings]] = {}
    for settings in chargers:
        found.setdefault(settings.charger_id, []).append(settings)
    device_ids = [settings.device_id for settings in chargers]
    if len(set(device_ids)) != len(device_ids):
        raise ValueError("device ids must differ")
    for charger_id, evses in found.items():
        if len({settings.evse_id for settings in evses}) != len(evses):
            raise ValueError(f"charger {charger_id} has one EVSE twice")
        if len({settings.password for settings in evses}) != 1:
            raise ValueError(f"charger {charger_id} has different passwords for its EVSEs; it has one identity")
    return found


def _select_subprotocol(socket: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return next((Subprotocol(version.value) for version in Version if version.value in offered), None)
