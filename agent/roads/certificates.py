"""Watches the certificates that others gave this gateway: says when one ends, and asks for the next one in time.

A request for a new one is written beside the others (STATE/enrolment) in the last third of a certificate's life; a
person takes it to the CA. What `enroll` installs counts from the next connection on: nothing needs a restart.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from agent.clock import Clock, ClockQuality
from agent.config import Settings
from agent.evidence.statements import Severity
from agent.identity.csr import certificate_request, server_request
from agent.identity.enrolment import Validity, validity_of
from agent.identity.errors import IdentityError
from agent.identity.purposes import UPLINK_KEY
from agent.status import PartLine, Problem, Verdict
from agent.store import Store, StoreError
from agent.store.files import write_durably
from agent.token.token import Token
from drivers.device import SignerUnavailableError

LOOK_EVERY_S: Final = 60.0
LOOK_UNTIMED_S: Final = 2.0
"""While the time is not known, as just after the start: the ends of certificates wait for it to be judged."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Watched:
    """A certificate in a file, and who asks for the next one."""

    name: str
    """For people, and the name of its request."""
    file: Path
    request: Callable[[], Awaitable[bytes]] | None
    """Makes a request for a new one, PEM. None: this gateway cannot ask for it."""
    installed_by: str
    """What a person does with the new one."""
    on_changed: Callable[[], None] | None = None
    """Told when the file has another content."""


@dataclass(slots=True)
class _Seen:
    content: bytes = b""
    asked_for: bytes = b""
    """The content for whose successor a request lies there."""


class CertificateWatch:
    """`run` it in a task of its own. `line` and `problems` are for the status page."""

    def __init__(
        self,
        watched: list[Watched],
        *,
        enrolment: Path,
        clock: Clock,
        on_alarm: Callable[[Severity, str, str, str], None],
    ) -> None:
        self._watched = watched
        self._enrolment = enrolment
        self._clock = clock
        self._on_alarm = on_alarm
        self._seen = {one.name: _Seen() for one in watched}
        self.problems: tuple[Problem, ...] = ()
        self.line: PartLine | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            trusted = await self.look()
            await asyncio.sleep(LOOK_EVERY_S if trusted else LOOK_UNTIMED_S)

    async def look(self) -> bool:
        """One look at every certificate. Whether the time was known, and their ends were judged."""
        moment = self._clock.now()
        trusted = moment.quality is not ClockQuality.UNTRUSTED
        now = datetime.fromtimestamp(moment.wall_us / 1e6, UTC) if trusted else None
        problems: list[Problem] = []
        ends: list[str] = []
        for one in self._watched:
            try:
                content = await asyncio.to_thread(one.file.read_bytes)
                validity, _ = validity_of(content, f"certificate {one.file}")
            except FileNotFoundError:
                continue  # not enrolled yet: the part that needs it says so
            except (OSError, IdentityError) as error:
                problems.append(_problem(Verdict.ATTENTION, one, str(error)))
                continue
            self._note_content(one, content)
            ends.append(f"{one.name} until {validity.ends:%Y-%m-%d}")
            if now is not None and validity.due(now):
                problems.append(await self._due(one, content, validity, now))
        self.problems = tuple(problems)
        self.line = PartLine(
            name="certificates",
            ok=not problems,
            state="in need of a look" if problems else "good" if now is not None else "not judged: the time is unknown",
            detail=", ".join(ends),
        ) if ends or problems else None  # fmt: skip
        return trusted

    def _note_content(self, one: Watched, content: bytes) -> None:
        seen = self._seen[one.name]
        before, seen.content = seen.content, content
        if before and before != content:
            log.info("certificate.renewed", name=one.name, file=str(one.file))
            if one.on_changed is not None:
                one.on_changed()

    async def _due(self, one: Watched, content: bytes, validity: Validity, now: datetime) -> Problem:
        over = validity.over(now)
        verdict = Verdict.TROUBLE if over else Verdict.ATTENTION
        when = f"{'has ended' if over else 'ends'} on {validity.ends:%Y-%m-%d}"
        target = self._enrolment / f"{one.name}.csr"
        seen = self._seen[one.name]
        if one.request is None:
            return _problem(verdict, one, f"{one.file} {when}: {one.installed_by}")
        if seen.asked_for != content:
            try:
                request = await one.request()
                await asyncio.to_thread(_write, target, request)
            except (SignerUnavailableError, StoreError, IdentityError, OSError) as error:
                return _problem(verdict, one, f"{one.file} {when}, and a new one cannot be asked for: {error}")
            seen.asked_for = content
            severity = Severity.CRITICAL if over else Severity.WARNING
            self._on_alarm(severity, "certificate.ends", one.name, f"it {when}; a request for a new one is made")
        return _problem(verdict, one, f"{one.file} {when}: give {target} to the CA, then {one.installed_by}")


def _problem(severity: Verdict, one: Watched, sentence: str) -> Problem:
    return Problem(severity=severity, subject=f"certificate {one.name}", sentence=sentence)


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(exist_ok=True)
    write_durably(target, content)


def certificates_of(
    settings: Settings,
    *,
    token: Token,
    store: Store,
    gateway_id: Callable[[], str],
    renewed_ocpp: Callable[[], None] | None,
) -> list[Watched]:
    """What a gateway with these settings watches."""
    watched = []
    platform, ocpp = settings.platform, settings.ocpp
    if platform is not None:

        async def uplink_request() -> bytes:
            signer = await token.pinned_signer(UPLINK_KEY, store.journal("token"))
            return await certificate_request(signer, common_name=settings.gateway.name, did=gateway_id())

        installed = "install what comes with `v2g-gateway enroll --certificate FILE`"
        watched.append(Watched("uplink", platform.certificate_file, uplink_request, installed))
        new_root = "ask the platform for its new root, install it with `v2g-gateway enroll --root CODE --ca FILE`"
        watched.append(Watched("platform-root", platform.ca_file, None, new_root))
        if platform.mqtt_certificate_file is not None:
            broker = "ask whoever runs the broker for a new one"
            watched.append(Watched("mqtt", platform.mqtt_certificate_file, None, broker))
    if ocpp.certificate_file is not None and ocpp.certificate_key_file is not None:
        certificate, key = ocpp.certificate_file, ocpp.certificate_key_file

        async def ocpp_request() -> bytes:
            return await asyncio.to_thread(lambda: server_request(key.read_bytes(), like=certificate.read_bytes()))

        installed = "install what comes with `v2g-gateway enroll --ocpp-certificate FILE`"
        watched.append(Watched("ocpp", certificate, ocpp_request, installed, renewed_ocpp))
    if settings.web.certificate_file is not None:
        watched.append(Watched("web", settings.web.certificate_file, None, "put a new one in its place, and restart"))
    return watched


def reload_into(server_use: Callable[[Path, Path], None], settings: Settings) -> Callable[[], None]:
    """Has the OCPP listener take its renewed certificate for the next connections."""

    def reload() -> None:
        certificate, key = settings.ocpp.certificate_file, settings.ocpp.certificate_key_file
        assert certificate is not None
        assert key is not None
        try:
            server_use(certificate, key)
        except (OSError, ssl.SSLError) as error:
            log.error("certificate.not_taken", name="ocpp", reason=str(error))

    return reload
