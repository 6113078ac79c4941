"""What a verifier may fetch, under /.well-known/v2g-gateway/: proto/IDENTITY.md section 8. Nothing can be sent here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from aiohttp import web

from agent.identity.locations import CONTENT_TYPES, WELL_KNOWN

Published: TypeAlias = Callable[[str], bytes | None]
"""The file of a name, one of CONTENT_TYPES; None: there is none at the moment."""


def is_published(request: web.Request) -> bool:
    """Whether a request is for one of the files and for nothing else."""
    return request.method in ("GET", "HEAD") and request.path.removeprefix(WELL_KNOWN) in CONTENT_TYPES


def add_published_routes(app: web.Application, published: Published) -> None:
    """One route for each file."""

    async def give(request: web.Request) -> web.Response:
        name = request.path.removeprefix(WELL_KNOWN)
        found = published(name)
        if found is None:
            return web.json_response({"error": f"there is no {name} here, or not yet"}, status=404)
        return web.Response(body=found, content_type=CONTENT_TYPES[name])

    for name in CONTENT_TYPES:
        app.router.add_get(WELL_KNOWN + name, give)
