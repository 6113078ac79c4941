"""One whole site for a module of tests, and each test begins with everything well. Import both fixtures by name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hil_tests.gateway_parts import GatewaySite, gateway_site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewaySite]:
    async with gateway_site(tmp_path_factory.mktemp("site")) as site:
        await site.stage.start_all()
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(running: GatewaySite) -> GatewaySite:
    """Everything runs and is well."""
    await running.well()
    return running
