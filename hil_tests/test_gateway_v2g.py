"""The whole agent and a V2G charger of OCPP 2.1: it gives, its driver comes first, and a deaf one is found out; and
an agent that is killed and started again takes over without a dip."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from hil_tests.gateway_parts import TOLERANCE_W, GatewaySite, line_of, needs_softhsm, until
from hil_tests.rig.demo import score
from hil_tests.running_site import running as running
from hil_tests.running_site import site as site

pytestmark = [needs_softhsm, pytest.mark.asyncio(loop_scope="module")]
CAR = "charger-1"


async def test_a_new_agent_takes_over_and_the_metered_power_never_leaves_the_target(site: GatewaySite) -> None:
    """kill -9 and start: the charger goes on with the lease that it has until the new agent renews it."""
    await site.discharge(4_000, 120, CAR)
    await site.delivers(-4_000, CAR)
    from_s = time.time()
    for _ in range(2):
        await site.stage.gateway.kill()
        await site.stage.start_gateway()
        await site.shows(lambda s: line_of(s, CAR)["lowest_w"] == -4_000, "it has taken over")
    to_s = time.time()
    during = [look.power_w[CAR] for look in score.read_truth(site.stage.truth_file) if from_s <= look.at_s <= to_s]
    assert len(during) > 4
    assert max(abs(power_w + 4_000) for power_w in during) <= TOLERANCE_W, during


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


async def test_k15_a_driver_s_departure_goes_before_a_rest_and_what_will_happen_is_told(site: GatewaySite) -> None:
    config = ("--config", str(site.stage.config))
    await site.issue(type="IDLE", duration_s=90, targets=[CAR])
    await site.delivers(0, CAR)
    soon = datetime.fromtimestamp(time.time() + 60, UTC).isoformat()
    foreseen = await site.stage.run("plan", "--at", soon, *config)
    assert "IDLE" in str(foreseen["orders"])
    leaves = datetime.fromtimestamp(time.time() + 900, UTC).isoformat()
    wish = await site.stage.run("chargers", "departure", CAR, "--at", leaves, "--kwh", "9", *config)
    assert wish["ok"]

    async def charges() -> bool:
        return await site.power_w(CAR) > 1_000

    await until(charges, "the departure goes before the rest")
    await site.shows(lambda s: "departure" in str(line_of(s, CAR)), "why it charges")
    await site.stage.run("chargers", "departure", CAR, "--clear", *config)
    await site.delivers(0, CAR)


async def test_flexibility_is_offered_to_the_platform_by_itself(site: GatewaySite) -> None:
    await site.told("bid", gateway_id=site.stage.gateway_id)
    offered = await site.stage.run("envelope", "--config", str(site.stage.config))
    assert {"power_up_w", "energy_down_wh", "windows_missed"} <= offered.keys()
