"""The whole agent and a V2G charger of OCPP 2.1: it gives, its driver comes first, and a deaf one is found out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hil_tests.gateway_parts import GatewaySite, gateway_site, line_of, needs_softhsm, until

pytestmark = [needs_softhsm, pytest.mark.asyncio(loop_scope="module")]
CAR = "charger-1"


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


async def test_q03_a_command_has_the_car_discharge_over_2_1_and_the_driver_s_word_ends_it(site: GatewaySite) -> None:
    await site.discharge(4_000, 60, CAR)
    await site.delivers(-4_000, CAR)
    await site.order_site(do="hurry", device=CAR)

    async def charges() -> bool:
        return await site.power_w(CAR) > 1_000

    await until(charges, "the driver's wish goes before the command")
    await site.shows(lambda s: "charge now" in str(line_of(s, CAR)), "why it charges")
    await site.order_site(do="hurry", device=CAR, on=False)
    await site.delivers(-4_000, CAR)


async def test_q03_a_charger_that_obeys_nothing_is_found_out_and_in_the_evidence(site: GatewaySite) -> None:
    await site.order_site(do="deaf", device=CAR)
    await site.discharge(3_000, 60, CAR)
    await site.told("alarm", code="charger.disobeys", subject=CAR)
    await site.order_site(do="deaf", device=CAR, on=False)

    async def gives_nothing() -> bool:
        return await site.power_w(CAR) >= 0

    await until(gives_nothing, "it is not told to discharge again")
    alarms = [alarm for alarm in (await site.page())["alarms"] if alarm["code"] == "charger.disobeys"]
    assert any("goes back to 0 W" in alarm["text"] for alarm in alarms)
