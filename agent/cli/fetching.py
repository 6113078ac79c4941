"""What `verify` fetches: bounded in time and size, over HTTPS, sent nowhere else, and no web page taken for a file."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.evidence import acknowledgement
from agent.evidence.batch import MAX_BATCH_BYTES
from agent.identity.history import MOST_HISTORY_BYTES
from agent.identity.locations import ACKNOWLEDGEMENT, CONTENT_TYPES, HISTORY, NEWEST_BATCH, TRUST_LIST
from agent.identity.trust import MOST_BYTES as MOST_TRUST_LIST_BYTES
from agent.roads.asking import ask

TIMEOUT_S: Final = 10.0
LARGEST: Final = {
    HISTORY: MOST_HISTORY_BYTES,
    NEWEST_BATCH: MAX_BATCH_BYTES,
    ACKNOWLEDGEMENT: acknowledgement.MAX_BYTES,
    TRUST_LIST: MOST_TRUST_LIST_BYTES,
}
_UNNAMED: Final = "application/octet-stream"
"""What a plain web server calls a file that it does not know; also one that says nothing."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file to fetch."""

    name: str
    """Of agent/identity/locations.py: what it is."""
    url: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it."""

    wanted: Wanted
    content: bytes | None
    """None: nothing."""
    why: str
    """Why nothing came; empty otherwise."""
    at_us: int
    """When, by this machine's clock."""


def fetch(wanted: Sequence[Wanted], tls: ssl.SSLContext | None) -> list[Answer]:
    """All at once, none of them longer than TIMEOUT_S. Never raises for what is out there."""

    async def all_of_them() -> list[Answer]:
        return await asyncio.gather(*(_one(each, tls) for each in wanted))

    return asyncio.run(all_of_them()) if wanted else []


async def _one(wanted: Wanted, tls: ssl.SSLContext | None) -> Answer:
    types = (CONTENT_TYPES[wanted.name], _UNNAMED)
    content, why = None, ""
    try:
        content = await ask(
            "GET",
            wanted.url,
            headers={"Accept": ", ".join(types)},
            timeout_s=TIMEOUT_S,
            largest=LARGEST[wanted.name],
            tls=tls,
            types=types,
        )
    except (OSError, ValueError) as error:  # a TimeoutError is an OSError
        why = str(error)
    return Answer(wanted, content, why, time.time_ns() // 1000)
