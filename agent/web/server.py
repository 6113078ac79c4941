"""HTTP: the status page and its JSON, /healthz, /metrics, and local STOP; on TCP as configured and on a Unix socket.

Beyond loopback every request needs the password, over TLS (config refuses anything less). On loopback a web page from
elsewhere must not press STOP through the owner's browser: the Host must be ours and a press carries our own header.
What a client sends is never trusted to be text, and how many clients there are is bounded (`connections.py`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Final, Protocol

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry, generate_latest

from agent.config import SecretError, WebSettings, is_loopback, read_secret, split_address
from agent.status import Snapshot
from agent.web.chargers import ChargerSite, add_charger_routes
from agent.web.connections import Connections
from agent.web.control import ControlSite, add_control_routes
from agent.web.history import PERIOD_S, PowerHistory
from agent.web.metrics import SnapshotCollector
from agent.web.override import HoldingSite, add_override_routes
from agent.web.published import Published, add_published_routes, is_published

CONTROL_STALE_S: Final = 10.0
"""A control loop without progress for this long is not healthy."""
PRESS_HEADER: Final = "X-V2G-Gateway"
LOCAL_BYTES: Final = 65_536
"""Of a request on the local socket: an order to a charger may bring a certificate."""
MOST_NAME: Final = 64
"""Characters of who presses."""
USER_NAME: Final = "installer"
TLS_HANDSHAKE_S: Final = 5.0
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")
_ASSETS: Final = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site(Protocol):
    """What the faces need of the gateway."""

    def snapshot(self) -> Snapshot: ...

    async def stop(self, by: str) -> None: ...

    async def clear_stop(self, by: str) -> None: ...


def make_app(
    site: Site,
    *,
    guard: Callable[[web.Request], web.Response | None],
    connections: Connections,
    most_bytes: int = 4096,
) -> web.Application:
    """The application; `guard` gives the refusal of a request, or None when it may pass."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        connections.asked(request.transport)
        refused = guard(request)
        response = refused if refused is not None else await handler(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        return response

    registry = CollectorRegistry()
    registry.register(SnapshotCollector(site.snapshot))
    app = web.Application(middlewares=[guarded], client_max_size=most_bytes)

    past = PowerHistory()

    async def keep(_: web.Application) -> AsyncIterator[None]:
        noting = asyncio.create_task(_note_every_second(site, past), name="power history")
        yield
        noting.cancel()
        with suppress(asyncio.CancelledError):
            await noting

    async def history(_: web.Request) -> web.Response:
        return _json(past.as_json())

    async def status(_: web.Request) -> web.Response:
        return _json(asdict(site.snapshot()))

    async def health(_: web.Request) -> web.Response:
        snapshot = site.snapshot()
        moving = snapshot.control_age_s < CONTROL_STALE_S
        store_well = all(part.ok for part in snapshot.parts if part.name == "store")
        body = {
            "healthy": moving and store_well,
            "verdict": snapshot.verdict,
            "sentence": snapshot.sentence
            if moving
            else f"control loop stands still since {snapshot.control_age_s:.0f} s",
            "control_age_s": round(snapshot.control_age_s, 3),
        }
        return _json(body, status=200 if moving and store_well else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), content_type="text/plain", charset="utf-8")

    async def press(request: web.Request) -> web.Response:
        by = _words(request.headers.get(PRESS_HEADER, ""))
        if not by:
            return _json({"error": f"a press needs the header {PRESS_HEADER}: who presses"}, status=403)
        if request.path == "/api/stop":
            await site.stop(by)
        else:
            await site.clear_stop(by)
        return _json({"stopped_by": site.snapshot().stopped_by})

    for path, (name, content_type) in _ASSETS.items():
        app.router.add_get(path, _asset(name, content_type))
    app.router.add_get("/api/status", status)
    app.router.add_get("/api/history", history)
    app.cleanup_ctx.append(keep)
    app.router.add_get("/healthz", health)
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/api/stop", press)
    app.router.add_post("/api/clear-stop", press)
    return app


async def _note_every_second(site: Site, past: PowerHistory) -> None:
    while True:
        try:
            past.note(site.snapshot())
        except Exception as error:  # A point that is missing from a picture stops nothing.
            log.warning("web.no_history", error=repr(error))
        await asyncio.sleep(PERIOD_S)


def network_guard(settings: WebSettings) -> Callable[[web.Request], web.Response | None]:
    """The guard of the TCP listener. Raises SecretError when the password cannot be read.

    What the owner publishes (`public_url`) everybody may have, under whatever host's name a proxy asks.
    """
    guard = _guard_of_the_site(settings)
    if settings.public_url is None:
        return guard
    return lambda request: None if is_published(request) else guard(request)


def _guard_of_the_site(settings: WebSettings) -> Callable[[web.Request], web.Response | None]:
    host, _ = split_address(settings.listen)
    if is_loopback(settings.listen):
        ours = {"localhost", "127.0.0.1", "::1", host.lower()}

        def by_host(request: web.Request) -> web.Response | None:
            # A page elsewhere whose name was made to resolve to 127.0.0.1 still carries its own Host.
            named = _HOST.fullmatch(request.host)
            if named is not None and named[1].strip("[]").lower() in ours:
                return None
            return _json({"error": "this listener answers to localhost only"}, status=403)

        return by_host
    assert settings.password_secret is not None
    password = read_secret(settings.password_secret)
    if not password:
        raise SecretError(f"{settings.password_secret}: is empty, and an empty password would let everybody in")
    expected = f"{USER_NAME}:{password}".encode()

    def by_password(request: web.Request) -> web.Response | None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        with suppress(binascii.Error, ValueError):
            if scheme.lower() == "basic" and hmac.compare_digest(base64.b64decode(given, validate=True), expected):
                return None
        refusal = _json({"error": "user and password are needed"}, status=401)
        refusal.headers["WWW-Authenticate"] = 'Basic realm="v2g-gateway", charset="UTF-8"'
        return refusal

    return by_password


@asynccontextmanager
async def serve(site: Site, settings: WebSettings, *, published: Published | None = None) -> AsyncIterator[int]:
    """Listen as configured while the context is open; gives the port. `published`: what a verifier may fetch.

    Raises OSError when the address is taken or the certificate cannot be read, SecretError for the password.
    """
    host, port = split_address(settings.listen)
    tls = None
    if settings.certificate_file is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(settings.certificate_file, settings.certificate_key_file)
    connections = Connections()
    app = make_app(site, guard=network_guard(settings), connections=connections)
    if published is not None:
        add_published_routes(app, published)
    async with _running(app, connections):
        listener = await asyncio.get_running_loop().create_server(
            connections, host, port, ssl=tls, ssl_handshake_timeout=None if tls is None else TLS_HANDSHAKE_S
        )
        try:
            yield int(listener.sockets[0].getsockname()[1])
        finally:
            listener.close()


@asynccontextmanager
async def serve_locally(
    site: Site,
    path: Path,
    *,
    chargers: ChargerSite | None = None,
    control: ControlSite | None = None,
    holds: HoldingSite | None = None,
    published: Published | None = None,
) -> AsyncIterator[None]:
    """Listen on a Unix socket (mode 0600) while the context is open. Raises OSError."""
    connections = Connections()
    app = make_app(site, guard=lambda _: None, connections=connections, most_bytes=LOCAL_BYTES)
    if chargers is not None:
        add_charger_routes(app, chargers, stay=connections.asked)
    if control is not None:
        add_control_routes(app, control)
    if holds is not None:
        add_override_routes(app, holds)
    if published is not None:
        add_published_routes(app, published)
    async with _running(app, connections):
        await asyncio.to_thread(path.unlink, missing_ok=True)
        listener = await asyncio.get_running_loop().create_unix_server(connections, sock=_bound(path))
        try:
            yield
        finally:
            listener.close()
            await asyncio.to_thread(path.unlink, missing_ok=True)


def _bound(path: Path) -> socket.socket:
    """A Unix socket that is nobody else's from its first moment: chmod after bind would leave a gap to slip through."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The umask is the process's: for this moment what another thread makes is its owner's alone, too.
    before = os.umask(0o077)
    try:
        made.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


@asynccontextmanager
async def _running(app: web.Application, connections: Connections) -> AsyncIterator[None]:
    logger = logging.getLogger(__name__)
    logger.addFilter(_is_ours)
    runner = web.AppRunner(app, access_log=None, logger=logger, shutdown_timeout=1)
    try:
        await runner.setup()
        connections.server = runner.server
        yield
    finally:
        await runner.cleanup()


def _is_ours(record: logging.LogRecord) -> bool:
    """A request that is no HTTP is its sender's fault: eight kilobytes of trace for each would fill the journal."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


def _words(header: str) -> str:
    """A header as text that can be signed, stored and shown: bytes beyond ASCII come as half characters."""
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in header[:MOST_NAME])


def _asset(name: str, content_type: str) -> Handler:
    body = resources.files(__package__).joinpath(name).read_bytes()

    async def give(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return give


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json", status=status)
