"""HTTP servers on loopback that a test brings up for what the gateway fetches or asks: responders, lists, providers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from ssl import SSLContext

from aiohttp import web


@contextlib.asynccontextmanager
async def serving(
    method: str, answer: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: SSLContext | None = None
) -> AsyncIterator[int]:
    """`answer` for each request of a method, whatever its path. Gives the port."""
    app = web.Application()
    app.router.add_route(method, "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port: int = runner.addresses[0][1]
        yield port
    finally:
        await runner.cleanup()
