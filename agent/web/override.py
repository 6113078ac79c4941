"""Holds by hand on the local socket: who may open it is at the box. Never on the network."""

from __future__ import annotations

import math
from typing import Final, Protocol

import orjson
import structlog
from aiohttp import web

from agent.control.errors import NotNowError

PRESS_HEADER: Final = "X-V2G-Gateway"
MOST_POWER_W: Final = 10**9

log = structlog.get_logger()


class HoldingSite(Protocol):
    """What these routes need of the gateway."""

    def override(self, device_id: str, power_w: int | None, duration_s: float, by: str) -> str:
        """Hold a device; what was done, as a sentence. Raises ValueError with what is wrong."""
        ...

    def end_override(self, device_id: str, by: str) -> str:
        """Give it back. Raises ValueError."""
        ...


def add_override_routes(app: web.Application, site: HoldingSite) -> None:
    """The route, into an application that only people at the box can reach."""

    async def override(request: web.Request) -> web.Response:
        by = request.headers.get(PRESS_HEADER, "")[:64]
        if not by:
            return _json({"error": f"a hold needs the header {PRESS_HEADER}: who holds"}, 403)
        try:
            asked = orjson.loads(await request.read())
            match asked:
                case {"device": str(name), "end": True}:
                    done = site.end_override(name, ascii(by)[1:-1])
                case {"device": str(name), "power_w": int(power_w), "duration_s": (int() | float()) as duration_s} if (
                    type(power_w) is int and abs(power_w) <= MOST_POWER_W and _is_number(duration_s)
                ):
                    done = site.override(name, power_w, float(duration_s), ascii(by)[1:-1])
                case {"device": str(name), "release": True, "duration_s": (int() | float()) as duration_s} if (
                    _is_number(duration_s)
                ):
                    done = site.override(name, None, float(duration_s), ascii(by)[1:-1])
                case _:
                    raise ValueError('a hold has "device", and "power_w" or "release" with "duration_s", or "end"')
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        except NotNowError as error:
            return _json({"error": str(error)}, 409)
        return _json({"ok": True, "done": done})

    app.router.add_post("/api/override", override)


def _is_number(value: float) -> bool:
    return not isinstance(value, bool) and math.isfinite(value)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json", status=status)
