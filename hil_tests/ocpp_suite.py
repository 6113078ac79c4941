"""What the blocks of the OCPP suite share: a charger that is ready, and the cards that a site knows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Final

import pytest

from drivers.ocpp.tokens import SiteToken, token_digest
from hil_tests.ocpp_raw import RawCharger, TlsSite

NOW_US: Final = time.time_ns() // 1000
HOUR_US: Final = 3_600_000_000
TOKENS: Final = [
    SiteToken(name="04AABBCC", kind="ISO14443", group="FAMILY"),
    SiteToken(name="04EEEEEE", kind="ISO14443", expires_us=NOW_US - HOUR_US),
    SiteToken(name="04BBBBBB", blocked=True),
    SiteToken(name="ONLY-2", device_ids=frozenset({"car-2"})),
    SiteToken(sha256=token_digest("HASHED-1")),
    SiteToken(name="MASTER-1", group="MASTERS"),
    SiteToken(name="DE-ABC-C12345678-9", kind="eMAID"),
    SiteToken(name="DEXYZC00000001", kind="eMAID", blocked=True),
]


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    """Booted and told what a charger tells at its start. `site` is the block's own."""
    async with site.charger() as charger:
        await charger.ready()
        yield charger
