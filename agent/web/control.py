"""Control on the local socket: what will happen, drivers' wishes, who has looked. Never on the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import structlog
from aiohttp import web

from agent.web.chargers import by_whom, json_body, told

log = structlog.get_logger()


class ControlSite(Protocol):
    """What these routes need of the gateway."""

    def wish(self, device_id: str, energy_wh: int | None, departure_us: int | None) -> None:
        """What the driver of the car at a charger needs until when. Raises ValueError."""
        ...

    def foresee(self, at_us: int) -> dict[str, object]:
        """What will happen then. Raises ValueError."""
        ...

    async def windows_looked_at(self) -> None:
        """A person has looked at why the platform missed windows."""
        ...


def add_control_routes(app: web.Application, site: ControlSite) -> None:
    """The routes, into an application that only people at the box can reach."""

    async def wish(request: web.Request) -> object:
        by = by_whom(request)
        asked = await json_body(request)
        device_id = asked.get("device")
        if not isinstance(device_id, str):
            raise ValueError("device is needed: the id of a charger")
        energy_wh, departure_us = _number(asked, "energy_wh"), _number(asked, "departure_us")
        site.wish(device_id, energy_wh, departure_us)
        log.info("control.wish", by=by, device=device_id, energy_wh=energy_wh, departure_us=departure_us)
        return {"ok": True, "device": device_id, "energy_wh": energy_wh, "departure_us": departure_us}

    async def plan(request: web.Request) -> object:
        return site.foresee(int(request.query.get("at_us", "")))

    async def looked(request: web.Request) -> object:
        by = by_whom(request)
        await site.windows_looked_at()
        log.info("control.windows_looked_at", by=by)
        return {"ok": True}

    app.router.add_get("/api/plan", told(plan))
    app.router.add_post("/api/looked", told(looked))
    app.router.add_post("/api/wish", told(wish))


def _number(asked: Mapping[str, object], key: str) -> int | None:
    value = asked.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{key} is a whole number or null, not {value!a}"[:200])
