"""Watches the certificates that others gave this gateway: says when one ends, and asks for the next one in time.

In the last third of a certificate's life it is renewed at the platform's EST server where one is named (renewal.py);
else a request for a new one is written beside the others (STATE/enrolment), and a person takes it to the CA. What is
installed by either counts from the next connection on: nothing needs a restart.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from agent.clock import Clock, ClockQuality
from agent.config import Settings
from agent.evidence.statements import Severity
from agent.identity.csr import certificate_request, server_request
from agent.identity.enrolment import LAST_STAGES, STAGES, Validity, validity_of
from agent.identity.errors import IdentityError
from agent.identity.purposes import UPLINK_KEY
from agent.roads.renewal import Renewal, write_request
from agent.status import CertificateLine, PartLine, Problem, Verdict
from agent.store import Store, StoreError
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
    renewal: Renewal | None = None
    """Who renews it without a person."""


@dataclass(slots=True)
class _Seen:
    content: bytes = b""
    asked_for: bytes = b""
    """The content for whose successor a request lies there."""
    told: tuple[bytes, int] = (b"", -1)
    """The content whose end was told of, and at which stage last."""


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
        self._looking = asyncio.Lock()
        self.problems: tuple[Problem, ...] = ()
        self.line: PartLine | None = None
        self.lines: tuple[CertificateLine, ...] = ()
        self.renewals = tuple(one.renewal for one in watched if one.renewal is not None)
        """To be run beside it."""
        for renewal in self.renewals:
            renewal.on_change = self.look

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            trusted = await self.look()
            await asyncio.sleep(LOOK_EVERY_S if trusted else LOOK_UNTIMED_S)

    async def look(self) -> bool:
        """One look at every certificate. Whether the time was known, and their ends were judged."""
        async with self._looking:
            return await self._look()

    async def _look(self) -> bool:
        moment = self._clock.now()
        trusted = moment.quality is not ClockQuality.UNTRUSTED
        now = datetime.fromtimestamp(moment.wall_us / 1e6, UTC) if trusted else None
        problems: list[Problem] = []
        lines: list[CertificateLine] = []
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
            lines.append(_line(one, validity))
            at = now if now is not None or one.renewal is None else one.renewal.time_told
            if at is not None and validity.due(at):
                problems += await self._due(one, content, validity, at)
        self.problems, self.lines = tuple(problems), tuple(lines)
        self.line = PartLine(
            name="certificates",
            ok=not problems,
            state="in need of a look" if problems else "good" if now is not None else "not judged: the time is unknown",
            detail=", ".join(_words(line) for line in lines),
        ) if lines or problems else None  # fmt: skip
        return trusted

    def _note_content(self, one: Watched, content: bytes) -> None:
        seen = self._seen[one.name]
        before, seen.content = seen.content, content
        if before and before != content:
            log.info("certificate.renewed", name=one.name, file=str(one.file))
            if one.on_changed is not None:
                one.on_changed()

    async def _due(self, one: Watched, content: bytes, validity: Validity, now: datetime) -> list[Problem]:
        over = validity.over(now)
        verdict = Verdict.TROUBLE if over else Verdict.ATTENTION
        when = f"{'has ended' if over else 'ends'} on {validity.ends:%Y-%m-%d}"
        renewal = one.renewal
        if renewal is not None and renewal.responsible:
            if not renewal.status.failures and not over:
                return []
            why = renewal.status.detail or "not tried yet"
            return [_problem(verdict, one, f"{one.file} {when} and is not renewed by {renewal.server}: {why}")]
        done, todo = await self._by_hand(one, content)
        stage = validity.stage(now)
        critical = stage >= len(STAGES) - LAST_STAGES
        seen = self._seen[one.name]
        # While there is time, it is told of together with its request, for which the token may have to come up first.
        asked = one.request is None or seen.asked_for == content
        if (asked or critical) and (seen.told[0] != content or seen.told[1] < stage):
            seen.told = (content, stage)
            severity = Severity.CRITICAL if critical else Severity.WARNING
            self._on_alarm(severity, "certificate.ends", one.name, f"it {when}; {done}")
        return [_problem(verdict, one, f"{one.file} {when}{todo}")]

    async def _by_hand(self, one: Watched, content: bytes) -> tuple[str, str]:
        """A request for a person to take to the CA, where there can be one: what was done, and what is to do."""
        if one.request is None:
            return one.installed_by, f": {one.installed_by}"
        target = self._enrolment / f"{one.name}.csr"
        seen = self._seen[one.name]
        if seen.asked_for != content:
            try:
                await asyncio.to_thread(write_request, target, await one.request())
            except (SignerUnavailableError, StoreError, IdentityError, OSError) as error:
                return f"a new one cannot be asked for: {error}", f", and a new one cannot be asked for: {error}"
            seen.asked_for = content
        return "a request for a new one is made", f": give {target} to the CA, then {one.installed_by}"


def _line(one: Watched, validity: Validity) -> CertificateLine:
    renewal = one.renewal if one.renewal is not None and one.renewal.responsible else None
    return CertificateLine(
        name=one.name,
        ends_us=int(validity.ends.timestamp() * 1e6),
        renewed_from_us=int(validity.renew_from.timestamp() * 1e6),
        renewed_by="" if renewal is None else renewal.server,
        failures=0 if renewal is None else renewal.status.failures,
        detail="" if renewal is None else renewal.status.detail,
    )


def _words(line: CertificateLine) -> str:
    until = f"{line.name} until {_day(line.ends_us)}"
    if not line.renewed_by:
        return until
    return f"{until} ({line.detail or f'renewed from {_day(line.renewed_from_us)} on'})"


def _day(moment_us: int) -> str:
    return f"{datetime.fromtimestamp(moment_us / 1e6, UTC):%Y-%m-%d}"


def _problem(severity: Verdict, one: Watched, sentence: str) -> Problem:
    return Problem(severity=severity, subject=f"certificate {one.name}", sentence=sentence)


def certificates_of(
    settings: Settings,
    *,
    token: Token,
    store: Store,
    gateway_id: Callable[[], str],
    renewals: Mapping[str, Renewal],
    renewed_uplink: Callable[[], None],
    renewed_ocpp: Callable[[], None] | None,
) -> list[Watched]:
    """What a gateway with these settings watches. `renewals`: by name, who needs no person."""
    watched = []
    platform, ocpp = settings.platform, settings.ocpp
    if platform is not None:

        async def uplink_request() -> bytes:
            signer = await token.pinned_signer(UPLINK_KEY, store.journal("token"))
            return await certificate_request(signer, common_name=settings.gateway.name, did=gateway_id())

        installed = "install what comes with `v2g-gateway enroll --certificate FILE`"
        uplink = Watched(
            "uplink", platform.certificate_file, uplink_request, installed, renewed_uplink, renewals.get("uplink")
        )
        watched.append(uplink)
        new_root = "ask the platform for its new root, install it with `v2g-gateway enroll --root CODE --ca FILE`"
        watched.append(Watched("platform-root", platform.ca_file, None, new_root))
        if platform.est_ca_file is not None:
            watched.append(Watched("est-root", platform.est_ca_file, None, "ask the platform for its new one"))
        if platform.mqtt_certificate_file is not None:
            broker = "ask whoever runs the broker for a new one"
            file = platform.mqtt_certificate_file
            watched.append(Watched("mqtt", file, None, broker, renewal=renewals.get("mqtt")))
    if ocpp.certificate_file is not None and ocpp.certificate_key_file is not None:
        certificate, key = ocpp.certificate_file, ocpp.certificate_key_file

        async def ocpp_request() -> bytes:
            return await asyncio.to_thread(lambda: server_request(key.read_bytes(), like=certificate.read_bytes()))

        installed = "install what comes with `v2g-gateway enroll --ocpp-certificate FILE`"
        watched.append(Watched("ocpp", certificate, ocpp_request, installed, renewed_ocpp, renewals.get("ocpp")))
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
