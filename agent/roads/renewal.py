"""Renews one certificate at the platform's EST server in time: asked for again and again, looked at, then put in place.

It begins in the last third of the certificate's life, at a moment that differs between gateways. What is wrong with an
answer installs nothing; what is installed was durable before anybody uses it, so that a kill at any moment costs
another request and nothing else. While nothing vouches for the time here, as in a box from a drawer on a network
without NTP, the EST server's own clock says what is due (est_clock.py).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from agent.clock import Clock, ClockQuality
from agent.evidence.statements import Severity
from agent.identity import est
from agent.identity.enrolment import (
    LAST_STAGES,
    STAGES,
    EnrolmentError,
    Usage,
    Validity,
    check_chain,
    leads_to,
    roots_of,
    validity_of,
)
from agent.identity.errors import IdentityError
from agent.identity.est import EstError
from agent.roads.est import EstServer, Later, obtain
from agent.store import StoreError
from agent.store.files import write_durably
from agent.uplink.backoff import Backoff
from agent.uplink.errors import UplinkError
from drivers.device import SignerUnavailableError

LOOK_EVERY_S: Final = 60.0
LOOK_UNTIMED_S: Final = 2.0
RETRY_LEAST_S: Final = 60.0
RETRY_MOST_S: Final = 6 * 3600.0
TIME_AFTER_S: Final = 300.0
"""So long NTP and the platform have to vouch for a time before the EST server is asked for its own."""
TIME_FOR_S: Final = 6 * 3600.0
"""What it told is taken on the monotonic clock as long as this, then asked for anew."""
RETRY_MOST_OVER_S: Final = 900.0
"""Where little or nothing is left, the waits grow no longer than this."""
LEAST_RETRY_AFTER_S: Final = 1.0
BELIEVED: Final = 5
SPREAD_MOST_S: Final = 3600.0
"""Gateways that were enrolled in one week are not due in one minute."""
SPREAD_SHARE: Final = 0.05
"""Of what is left; for certificates of a short life."""

log = structlog.get_logger()

OnAlarm = Callable[[Severity, str, str, str], None]


class NotRenewedError(Exception):
    """Nothing could be asked for. Says why."""


FORESEEN: Final = (NotRenewedError, SignerUnavailableError, StoreError, IdentityError, UplinkError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewable:
    """A certificate that an EST server can renew, with the key that it is for."""

    name: str
    """As its request is named."""
    file: Path
    usage: Usage
    public_key_der: Callable[[], Awaitable[bytes]]
    """Of the key that it is for now."""
    request: Callable[[bytes], Awaitable[bytes]]
    """The present chain, PEM -> a request for its successor, PEM."""
    gateway_id: Callable[[], str] | None = None
    """Where it is the gateway's as a client: what it must name."""
    prove: Callable[[bytes], Awaitable[None]] | None = None
    """Tries the new chain where it is to be used, before it is installed. Raises UplinkError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalStatus:
    """How it stands with it. Nothing to tell: it is not due."""

    failures: int = 0
    """Tries in a row that came to nothing."""
    detail: str = ""


@dataclass(slots=True)
class _ServerClock:
    """What the EST server told of the time, while nothing else does."""

    backoff: Backoff
    since_s: float | None = None
    """Since when nothing vouches for the time here, monotonic."""
    next_s: float = 0.0
    """It is not asked before this moment, monotonic."""
    told: datetime | None = None
    told_at_s: float = 0.0

    def may_speak(self, monotonic_s: float, draw: Callable[[], float]) -> bool:
        """Whether others had time enough; all boxes of a street start at once after a power cut."""
        if self.since_s is None:
            self.since_s = monotonic_s
            self.next_s = monotonic_s + TIME_AFTER_S * (1 + draw())
        return self.told is not None or monotonic_s >= self.next_s

    def at(self, monotonic_s: float) -> datetime | None:
        """The moment by what was told, while that is fresh."""
        if self.told is None or monotonic_s - self.told_at_s > TIME_FOR_S:
            return None
        return self.told + timedelta(seconds=monotonic_s - self.told_at_s)


class Renewal:
    """`run` it in a task of its own. `place` is the folder for requests; `draw` is for tests."""

    def __init__(
        self,
        one: Renewable,
        server: EstServer,
        *,
        roots_file: Path,
        place: Path,
        clock: Clock,
        on_alarm: OnAlarm,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._one = one
        self._server = server
        self._roots_file = roots_file
        self._place = place
        self._clock = clock
        self._on_alarm = on_alarm
        self._draw = draw
        self._due_for = b""
        """The content that is to have a successor."""
        self._next_s = 0.0
        """Not before this moment, monotonic."""
        self._backoff = Backoff(RETRY_LEAST_S, RETRY_MOST_S)
        self._failures = 0
        self._told: set[tuple[int, str]] = set()
        self._server_clock = _ServerClock(Backoff(RETRY_LEAST_S, RETRY_MOST_S))
        self.on_change: Callable[[], Awaitable[object]] | None = None
        """Awaited after each try, whatever came of it."""
        self.responsible = True
        """Whether the platform's CA certified it: another one's is for a person to renew."""
        self.status = RenewalStatus()

    @property
    def name(self) -> str:
        """Of the certificate."""
        return self._one.name

    @property
    def time_told(self) -> datetime | None:
        """The present moment by the EST server, where nothing vouches for one here and it was asked."""
        return self._server_clock.at(self._clock.monotonic_s())

    @property
    def server(self) -> str:
        """Where it is renewed."""
        return self._server.url

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            wait_s = await self.step()
            await asyncio.sleep(wait_s)

    async def step(self) -> float:
        """One look, and one try if one is due. Seconds until the next look."""
        moment = self._clock.now()
        vouched = moment.quality is not ClockQuality.UNTRUSTED
        if vouched:
            self._server_clock = _ServerClock(Backoff(RETRY_LEAST_S, RETRY_MOST_S))
        elif not self._server_clock.may_speak(moment.monotonic_s, self._draw):
            return LOOK_UNTIMED_S
        try:
            content = await asyncio.to_thread(self._one.file.read_bytes)
            validity, _ = validity_of(content, f"certificate {self._one.file}")
            roots = roots_of(await asyncio.to_thread(self._roots_file.read_bytes), "the platform's root")
        except (OSError, IdentityError):
            # Not enrolled, or not readable, which the watch tells. Without a root nobody knows whose certificate it is.
            self.responsible = False
            return LOOK_EVERY_S
        self.responsible = leads_to(content, roots)
        if not self.responsible:
            self._forget(b"")
            return LOOK_EVERY_S
        if vouched:
            now = datetime.fromtimestamp(moment.wall_us / 1e6, UTC)
        elif (told := await self._ask_time(validity)) is not None:
            now = told
        else:
            return LOOK_UNTIMED_S
        if not validity.due(now):
            self._forget(b"")
            return LOOK_EVERY_S
        if self._one.gateway_id is not None and not self._one.gateway_id():
            return LOOK_UNTIMED_S  # just started: the token has not shown whose name is to be in it
        if content != self._due_for:
            self._forget(content)
            left_s = max(0.0, (validity.ends - now).total_seconds())
            wait_s = self._draw() * min(SPREAD_MOST_S, left_s * SPREAD_SHARE)
            self._next_s = moment.monotonic_s + wait_s
            self.status = RenewalStatus(detail=f"it is asked for within {_duration(wait_s)}")
        if moment.monotonic_s >= self._next_s:
            await self._try(content, roots, validity, now, vouched=vouched)
            if self.on_change is not None:
                await self.on_change()
        return min(LOOK_EVERY_S, max(0.0, self._next_s - self._clock.monotonic_s()))

    def _forget(self, content: bytes) -> None:
        self._due_for = content
        self._backoff = Backoff(RETRY_LEAST_S, RETRY_MOST_S)
        self._failures = 0
        self._told.clear()
        self.status = RenewalStatus()

    async def _ask_time(self, validity: Validity) -> datetime | None:
        """The time by the EST server, asked for where it has told none of late; None: it has to be waited for."""
        clock, monotonic_s = self._server_clock, self._clock.monotonic_s()
        if (told := clock.at(monotonic_s)) is not None or monotonic_s < clock.next_s:
            return told
        # Its own beginning was signed by the CA: it has been too.
        not_before = max(datetime.fromtimestamp(self._clock.floor_us / 1e6, UTC), validity.begins)
        try:
            told = await self._server.time(not_before)
        except Exception as error:
            if not isinstance(error, FORESEEN):
                log.exception("certificate.renewal_fault", name=self.name)
            clock.backoff = clock.backoff.failed()
            clock.next_s = self._clock.monotonic_s() + clock.backoff.wait_s(self._draw())
            log.warning("certificate.time_not_told", name=self.name, server=self.server, reason=str(error))
            self.status = replace(
                self.status,
                detail=f"nothing vouches for the time here, and {self.server} cannot be asked for it: {error}",
            )
            return None
        log.info("certificate.time_told", name=self.name, server=self.server, time=told.isoformat())
        clock.told, clock.told_at_s = told, self._clock.monotonic_s()
        clock.backoff = Backoff(RETRY_LEAST_S, RETRY_MOST_S)
        return told

    async def _try(
        self, content: bytes, roots: list[x509.Certificate], validity: Validity, now: datetime, *, vouched: bool
    ) -> None:
        try:
            came = await self._renewed(content, roots, validity, now, vouched=vouched)
        except Exception as error:
            # A fault of ours waits as long as one of the CA's: else this task is begun anew, and asks again at once.
            if not isinstance(error, FORESEEN):
                log.exception("certificate.renewal_fault", name=self.name)
            self._failed(error, validity, now)
            return
        if isinstance(came, Later):
            self._failures = 0
            said = f", and says: {came.said}" if came.said else ""
            what = f"the CA has the request and decides later{said}"
            self._wait_and_say(what, came.after_s, validity, now)
            log.info("certificate.later", name=self.name, said=came.said)
            if validity.stage(now):
                self._tell("later", what, validity, now)
            return
        fresh, _ = validity_of(came, self.name)
        log.info("certificate.installed", name=self.name, file=str(self._one.file), until=fresh.ends.isoformat())
        text = f"by {self.server}, good until {fresh.ends:%Y-%m-%d %H:%M} UTC"
        self._on_alarm(Severity.INFO, "certificate.renewed", self.name, text)
        self._forget(came)
        # One that is due again at once is not asked for again at once.
        self._next_s = self._clock.monotonic_s() + self._backoff.failed().wait_s(self._draw())

    async def _renewed(
        self, content: bytes, roots: list[x509.Certificate], validity: Validity, now: datetime, *, vouched: bool
    ) -> bytes | Later:
        """The new chain, which is in its place then."""
        one = self._one
        gateway_id = None if one.gateway_id is None else one.gateway_id()
        before = x509.load_pem_x509_certificates(content)[0]
        if gateway_id is not None and x509.UniformResourceIdentifier(gateway_id) not in est.names_of(before):
            raise NotRenewedError(
                f"it names another gateway than {gateway_id}, and a renewal keeps names: enrol this gateway anew"
            )
        if not os.access(one.file.parent, os.W_OK):
            raise NotRenewedError(
                f"{one.file.parent} cannot be written by the agent: have the configuration name a file below the state "
                "directory, and move the certificate there"
            )
        key = await one.public_key_der()
        request = await self._request_for(content)
        server = self._server if vouched else replace(self._server, vouched=False)
        came = await obtain(server, request, roots, key, now)
        if isinstance(came, Later):
            return came
        leaf = check_chain(
            came,
            roots,
            what=f"the certificate from {self.server}",
            public_key_der=key,
            gateway_id=gateway_id,
            usage=one.usage,
            now=now,
        )
        est.require_continuation(before, leaf)
        # By a system clock that is wrong the platform's own certificate may not be good yet, and the present one of
        # ours carries nothing any more.
        if one.prove is not None and (vouched or not validity.over(now)):
            await one.prove(came)
        await asyncio.to_thread(write_durably, one.file, came)
        return came

    async def _request_for(self, content: bytes) -> bytes:
        """The one that lies there, if it is for this successor (a CA that thinks about it knows it again), else a new
        one. A person can take it to the CA, too."""
        place = self._place / f"{self.name}.csr"
        present = x509.load_pem_x509_certificates(content)[0]
        try:
            there = await asyncio.to_thread(place.read_bytes)
        except OSError:
            there = b""
        if est.asks_for_successor(there, present):
            return there
        request = await self._one.request(content)
        await asyncio.to_thread(write_request, place, request)
        return request

    def _failed(self, error: Exception, validity: Validity, now: datetime) -> None:
        self._failures += 1
        after_s = error.after_s if isinstance(error, EstError) else None
        self._wait_and_say(str(error), after_s, validity, now)
        log.warning("certificate.not_renewed", name=self.name, server=self.server, reason=str(error))
        refused = isinstance(error, EstError | EnrolmentError | UplinkError)
        self._tell("refused" if refused else "unreached", str(error), validity, now)

    def _wait_and_say(self, what: str, after_s: float | None, validity: Validity, now: datetime) -> None:
        """Until the next try: as long as the server says, else longer each time, and never past what is left."""
        self._backoff = self._backoff.failed()
        left_s = (validity.ends - now) / timedelta(seconds=1)
        wait_s = min(self._backoff.wait_s(self._draw()), max(left_s / 4, RETRY_MOST_OVER_S))
        if after_s is not None:
            # Who says "at once" again and again is not believed for long.
            least_s = LEAST_RETRY_AFTER_S if self._backoff.failures <= BELIEVED else wait_s
            wait_s = max(least_s, after_s * (1 + self._draw() / 4))
        self._next_s = self._clock.monotonic_s() + wait_s
        self.status = RenewalStatus(failures=self._failures, detail=f"{what}; next try within {_duration(wait_s)}")

    def _tell(self, kind: str, what: str, validity: Validity, now: datetime) -> None:
        """An alarm, once for each kind of trouble and each stage on the way to the end."""
        stage = validity.stage(now)
        if (stage, kind) in self._told:
            return
        self._told.add((stage, kind))
        severity = Severity.CRITICAL if stage >= len(STAGES) - LAST_STAGES else Severity.WARNING
        when = "has ended" if validity.over(now) else f"ends on {validity.ends:%Y-%m-%d %H:%M} UTC"
        text = f"it {when} and is not renewed by {self.server}: {what}"
        self._on_alarm(severity, "certificate.not_renewed", self.name, text)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def write_request(target: Path, content: bytes) -> None:
    """Into the folder where people look for requests. Blocks."""
    target.parent.mkdir(exist_ok=True)
    write_durably(target, content)
