"""Steps that need the token, the store or a person's files: tried until they are there, while everything else runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from agent.store import StoreError
from drivers.device import SignerUnavailableError

COME_UP_RETRY_S: Final = 1.0

T = TypeVar("T")

log = structlog.get_logger()


async def patiently(step: Callable[[], Awaitable[T]]) -> T:
    """The result of a step, tried until neither the token nor the store stands in its way: both show why."""
    waits = False
    while True:
        try:
            return await step()
        except (SignerUnavailableError, StoreError) as error:
            if not waits:
                log.info("gateway.waits", reason=str(error))
            waits = True
            await asyncio.sleep(COME_UP_RETRY_S)
