"""The whole agent on a copied card, when the copy is to be the one: refused, told of, and then a new life."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hil_tests.gateway_parts import DEVICES, GatewaySite, gateway_site, needs_softhsm, until

pytestmark = needs_softhsm


async def first_numbers(site: GatewaySite, incarnation: int) -> dict[str, list[list[int]]]:
    """Sequences of an incarnation at the platform, by device."""
    page = await site.page()
    return {
        device_id: [run for run in page["devices"][device_id]["sequences"] if run[0] == incarnation]
        for device_id in DEVICES
    }


def _says(words: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a problem that is shown says so."""
    return lambda status: any(words in problem["sentence"] for problem in status["problems"])


async def versions(site: GatewaySite) -> dict[str, int]:
    """Of the newest state that both signed, of each channel that has one."""
    channels = (await site.page())["channels"]
    return {name: channel["newest"]["version"] for name, channel in channels.items() if channel["newest"] is not None}


async def test_the_copy_leaves_what_is_refused_by_a_signed_word_and_goes_on_in_another_life(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        state_dir = stage.folder / "state"
        await stage.start_all()
        await site.well()
        await site.grows(*DEVICES, beyond={})
        assert await stage.gateway.end() == 0
        copy = tmp_path / "copy"
        shutil.copytree(state_dir, copy)
        # The original goes on: what it seals has the numbers that the copy's will have.
        await stage.start_gateway()
        await site.grows(*DEVICES, beyond=await site.newest_sequences(), by=3)
        in_copy = await versions(site)

        async def gone_on() -> bool:
            settled = await versions(site)
            return len(settled) > 0 and all(version > in_copy.get(name, 0) for name, version in settled.items())

        await until(gone_on, "each channel has a state that the copy does not know")
        assert await stage.gateway.end() == 0
        at_platform = await first_numbers(site, 1)

        shutil.rmtree(state_dir)
        copy.rename(state_dir)
        await stage.start_gateway()
        await site.shows(_says("find out"), "it is told that the card was copied")
        await site.shows(_says("was sent on 3 links"), "the batch that is refused is told of")
        await site.shows(lambda s: s["incarnation"] == 1, "still the same life")
        assert await stage.gateway.end() == 0

        done = await stage.run("new-life", "--because", "cloned", "--config", str(stage.config))
        assert done == {"ok": True, "incarnation_before": 1}
        await stage.start_gateway()
        status = await site.shows(lambda s: s["incarnation"] > 1, "a new life")

        async def arrived() -> bool:
            return all((await first_numbers(site, status["incarnation"])).values())

        await until(arrived, "readings of the new life of each device are at the platform")
        page = await site.page()
        [marker] = [alarm for alarm in page["alarms"] if alarm["code"] == "store.restored"]
        assert "its card was copied" in marker["text"]
        assert "incarnation 1 behind batch" in marker["text"]
        assert await first_numbers(site, 1) == at_platform, "nothing of what was left came"

        before = {name: channel["newest"] for name, channel in page["channels"].items()}

        async def settled() -> bool:
            channels = (await site.page())["channels"]
            return all(
                channels[name]["newest"]["incarnation"] == status["incarnation"] for name in before if before[name]
            )

        await until(settled, "each channel goes on in the new life")
        assert await stage.gateway.end() == 0
        evidence = await site.evidence()
        assert evidence.chain_break == "", "what was left is in the export, in order"
