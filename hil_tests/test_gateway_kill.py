"""The agent under kill -9 at random moments: nothing lost, doubled or reused, and the command in force goes on."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from hil_tests.gateway_parts import STORAGE, GatewaySite, gateway_site, needs_softhsm, receipts_of
from hil_tests.rig.demo import score
from hil_tests.rig.demo.story import LEAST_RAMP_S

pytestmark = needs_softhsm
KILLS = 5
SEED = 20
POWER_W = 9_000
LEAST_W = 4_000
"""That the battery gives at least while the car is only coming back: an agent that died takes no power from it."""
COMMAND_S = 40.0
"""Long enough for five starts on a slow machine, and for a judgement after them."""
FINAL = {"COMPLETED", "SUPERSEDED", "EXPIRED", "FAILED", "REJECTED"}


async def test_killed_at_any_moment_it_loses_doubles_and_reuses_nothing_and_goes_on_obeying(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        await site.stage.start_all()
        await site.well()
        command_id = await site.discharge(POWER_W, COMMAND_S, *STORAGE)
        await site.delivers(-POWER_W, *STORAGE)
        obeyed_from_s = time.time()
        shown = await kill_and_restart(site, random.Random(SEED))
        await site.well()
        await site.delivers(-POWER_W, *STORAGE)
        settled_s = time.time()
        await site.receipted(command_id, "COMPLETED")
        assert await site.stage.gateway.end() == 0

        evidence = await site.nothing_lost()
        sealed = sum(len(readings) for readings in evidence.readings.values())
        assert sealed >= shown, "readings that the agent had shown as stored are gone"
        runs = {reading.boot_id for readings in evidence.readings.values() for reading, _ in readings}
        assert len(runs) > 1, "no killed run has left a reading: the kills came too early to test anything"
        states = [r["state"] for r in receipts_of(await site.page(), command_id)]
        assert [state for state in states if state in FINAL] == ["COMPLETED"]
        assert len(states) == len(set(states)), "a receipt was given twice"

        truth = score.read_truth(site.stage.truth_file)
        [command] = score.ordered((await site.page())["commands"])
        during = [look for look in truth if obeyed_from_s <= look.at_s <= command.end_s - score.END_MARGIN_S]
        assert max(look.power_w["battery-1"] for look in during) < -LEAST_W, "a kill has interrupted the discharge"
        after = score.judge(command, truth, ramp_s=settled_s + LEAST_RAMP_S - command.start_s, cuts=())
        assert after.obeyed, after


async def kill_and_restart(site: GatewaySite, chance: random.Random) -> int:
    """Kill the agent KILLS times and start it again; the most readings that it ever showed as stored."""
    shown = 0
    for _ in range(KILLS):
        # A moment of no meaning: sometimes the agent only opens its store, sometimes everything flows.
        await asyncio.sleep(chance.uniform(0.3, 2.5))
        status = await site.status()
        if status is not None:
            shown = max(shown, status["evidence"]["readings"])
        await site.stage.gateway.kill()
        await site.stage.start_gateway()
    return shown
