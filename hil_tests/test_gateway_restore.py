"""The whole agent after a backup was put back: the platform sees another life, and no identity has two contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hil_tests.gateway_parts import DEVICES, GatewaySite, gateway_site, needs_softhsm, until

pytestmark = needs_softhsm


async def states(site: GatewaySite) -> dict[str, dict[str, Any]]:
    """The newest state that both signed, of each channel that has one."""
    channels = (await site.page())["channels"]
    return {name: channel["newest"] for name, channel in channels.items() if channel["newest"] is not None}


async def test_a_backup_put_back_is_seen_by_the_platform_and_contradicts_nothing(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        await stage.start_all()
        await site.well()
        await site.grows(*DEVICES, beyond={})
        done = await stage.run("backup", str(tmp_path / "backup.db"), "--config", str(stage.config))
        assert done["ok"], done
        # What comes now is at the platform, and not in the backup.
        told = await site.newest_sequences()
        await site.grows(*DEVICES, beyond=told, by=3)
        in_backup = {device_id: newest["version"] for device_id, newest in (await states(site)).items()}

        async def gone_on() -> bool:
            settled = await states(site)
            return len(settled) > 0 and all(s["version"] > in_backup.get(name, 0) for name, s in settled.items())

        await until(gone_on, "each channel has a state that is not in the backup")
        assert await stage.gateway.end() == 0
        before = await states(site)

        done = await stage.run("restore", str(tmp_path / "backup.db"), "--config", str(stage.config))
        assert (done["ok"], done["compared"], done["gateway_id"]) == (True, True, stage.gateway_id)
        await stage.start_gateway()
        status = await site.shows(lambda s: s["incarnation"] > 1, "a new life")
        lives = {1, status["incarnation"]}
        assert status["incarnation"] > 1_700_000_000

        async def arrived() -> bool:
            page = await site.page()
            told = any(alarm["code"] == "store.restored" for alarm in page["alarms"])
            sequences = [page["devices"][device_id]["sequences"] for device_id in DEVICES]
            return told and all({incarnation for incarnation, _, _ in each} == lives for each in sequences)

        await until(arrived, "the restore marker and readings of both lives of each device are at the platform")

        async def taken_over() -> bool:
            settled = await states(site)
            return all(settled[name]["incarnation"] == status["incarnation"] for name in before)

        await until(taken_over, "each channel has a state of the new life on top of the one that it took over")
        status = await site.shows(lambda s: s["settlement"]["channels_frozen"] == 0, "no channel is frozen")
        for name, state in (await states(site)).items():
            assert state["version"] > before[name]["version"]
            assert state["import_wh"] >= before[name]["import_wh"]
        page = await site.page()
        assert page["conflicts"] == []
        assert (page["batches_rejected"], page["receipts_rejected"]) == (0, 0)
        assert await stage.gateway.end() == 0
        evidence = await site.evidence()
        assert evidence.chain_break == ""
