"""Chargers on the local socket: who is here, what they are made of, and orders to them. Never on the network.

Whoever may open the socket (its mode says who) may order; the header says who it was, for the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import orjson
import structlog
from aiohttp import web

from agent.control.errors import NotNowError
from drivers.device import DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp.reception import Reception
from drivers.ocpp.schemas import JsonObject

PRESS_HEADER: Final = "X-V2G-Gateway"
STAY_EVERY_S: Final = 10.0

log = structlog.get_logger()


class ChargerSite(Protocol):
    """What these routes need of the gateway."""

    @property
    def reception(self) -> Reception | None: ...

    def reload_tokens(self) -> int: ...


def add_charger_routes(
    app: web.Application, site: ChargerSite, *, stay: Callable[[asyncio.BaseTransport | None], None]
) -> None:
    """The routes, into an application that only people at the box can reach. `stay` lets a connection live on that
    would else be ended as a silent one: a charger may take its time to answer."""

    def reception() -> Reception:
        found = site.reception
        if found is None:
            raise NotNowError("no charger can connect: the configuration has none, or its TLS files cannot be used")
        return found

    async def listed(_: web.Request) -> object:
        return reception().list()

    async def shown(request: web.Request) -> object:
        return reception().look(request.query.get("name", ""))

    async def variables(request: web.Request) -> object:
        return reception().variables(request.query.get("name", ""), request.query.get("text", "")[:200])

    async def order(request: web.Request) -> object:
        by = by_whom(request)
        asked = await json_body(request)
        name, what, arguments = asked.get("name"), asked.get("order"), asked.get("arguments", {})
        if not isinstance(name, str) or not isinstance(what, str) or not isinstance(arguments, dict):
            raise ValueError("name, order and arguments are needed")
        log.info("charger.ordered", by=by, charger=name, order=what)
        ordered = asyncio.ensure_future(reception().order(name, what, arguments))
        try:
            while not ordered.done():
                stay(request.transport)
                await asyncio.wait([ordered], timeout=STAY_EVERY_S)
        finally:
            ordered.cancel()
        return ordered.result()

    async def tap(request: web.Request) -> web.StreamResponse:
        try:
            charger, _ = reception().find(request.query.get("name", ""))
            seconds = float(request.query.get("seconds", "inf"))
            end_s = asyncio.get_running_loop().time() + seconds
            with charger.tap.listen() as ear:
                response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
                await response.prepare(request)
                while request.transport is not None and not request.transport.is_closing():
                    lines = ear.take()
                    # An empty line shows the other end that this one lives.
                    await response.write(b"".join(orjson.dumps(line) + b"\n" for line in lines) or b"\n")
                    stay(request.transport)
                    left_s = end_s - asyncio.get_running_loop().time()
                    if not left_s > 0:
                        break
                    try:
                        async with asyncio.timeout(min(left_s, STAY_EVERY_S)):
                            await ear.arrived.wait()
                    except TimeoutError:
                        pass
                return response
        except ConnectionError:  # the listener has gone
            return web.Response()
        except ValueError as error:
            return _json({"ok": False, "error": str(error)}, 400)

    async def tokens(request: web.Request) -> object:
        by = by_whom(request)
        count = site.reload_tokens()
        log.info("charger.tokens_reloaded", by=by, count=count)
        return {"ok": True, "tokens": count}

    app.router.add_get("/api/chargers", told(listed))
    app.router.add_get("/api/chargers/show", told(shown))
    app.router.add_get("/api/chargers/variables", told(variables))
    app.router.add_get("/api/chargers/tap", tap)
    app.router.add_post("/api/chargers/order", told(order))
    app.router.add_post("/api/chargers/reload-tokens", told(tokens))


def told(work: Callable[[web.Request], Awaitable[object]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """What went wrong, as JSON: 400 asked wrongly, 403 nobody's order, 409 no (now), 504 no answer."""

    async def handler(request: web.Request) -> web.Response:
        try:
            return _json(await work(request))
        except PermissionError as error:
            return _json({"ok": False, "error": str(error)}, 403)
        except ValueError as error:
            return _json({"ok": False, "error": str(error)}, 400)
        except (DeviceRefusedError, NotNowError) as error:
            return _json({"ok": False, "error": str(error)}, 409)
        except DeviceUnreachableError as error:
            return _json({"ok": False, "error": str(error)}, 504)
        except OSError as error:
            return _json({"ok": False, "error": f"could not be kept: {error.strerror or error}"}, 500)

    return handler


def by_whom(request: web.Request) -> str:
    """Who orders, for the log. Raises PermissionError."""
    by = request.headers.get(PRESS_HEADER, "")[:64]
    if not by:
        raise PermissionError(f"an order needs the header {PRESS_HEADER}: who orders")
    return ascii(by)


async def json_body(request: web.Request) -> JsonObject:
    """Raises ValueError."""
    try:
        asked = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the order is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise ValueError("the order is not a JSON object")
    return asked


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json", status=status)
