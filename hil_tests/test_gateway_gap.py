"""A gap of seconds changes nothing: the link is cut for seconds while a command is carried out, again and again.

The whole agent, gRPC with mutual TLS through a link that can be cut, SunSpec over Modbus TCP, OCPP. The battery's own
meter, what the agent orders and how it renews, and the receipts are as if no gap were there.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from hil_tests.gateway_parts import TOLERANCE_W, GatewaySite, gateway_site, line_of, needs_softhsm, part_of

pytestmark = needs_softhsm

DEVICE: Final = "battery-1"
CHARGER: Final = "charger-1"
POWER_W: Final = 3_000
GAPS: Final = 3
GAP_S: Final = 2.0
LASTS_S: Final = 40.0


class Watch:
    """Looks at the battery, at what holds it, and at the charger's lease, many times a second."""

    def __init__(self, site: GatewaySite) -> None:
        self.site = site
        self.powers_w: list[float] = []
        self.bands: set[tuple[object, object]] = set()
        self.limits_w: set[object] = set()
        self.links: set[bool] = set()

    async def run(self) -> None:
        while True:
            devices = (await self.site.truth())["devices"]
            self.powers_w.append(float(devices[DEVICE]["power_w"]))
            self.limits_w.add(devices[CHARGER]["limit_w"])
            status = await self.site.status()
            if status is not None:
                line = line_of(status, DEVICE)
                self.bands.add((line["lowest_w"], line["highest_w"]))
                self.links.add(bool(part_of(status, "link")["ok"]))
            await asyncio.sleep(0.05)


async def test_a_gap_of_seconds_changes_no_setpoint_no_receipt_and_no_lease(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        await site.stage.start_all()
        await site.well()
        command = await site.discharge(POWER_W, LASTS_S, DEVICE)
        await site.delivers(-POWER_W, DEVICE)
        await site.receipted(command, "EXECUTING")
        watch = Watch(site)
        watching = asyncio.create_task(watch.run())
        try:
            for _ in range(GAPS):
                before = len(watch.powers_w)
                cut_s = time.monotonic()
                site.stage.link.cut()
                await site.shows(lambda s: not part_of(s, "link")["ok"], "the link as down")
                await asyncio.sleep(max(0.0, cut_s + GAP_S - time.monotonic()))  # the gap's own length
                site.stage.link.restore()
                await site.shows(lambda s: bool(part_of(s, "link")["ok"]), "the link as up again")
                assert len(watch.powers_w) > before
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        assert watch.links == {True, False}
        # A lease that lapsed for a moment would show in the device: it goes back to what it does by itself.
        assert max(abs(power_w + POWER_W) for power_w in watch.powers_w) <= TOLERANCE_W
        assert watch.bands == {(-POWER_W, -POWER_W)}
        assert len(watch.limits_w) == 1
        await site.receipted(command, "COMPLETED", within_s=LASTS_S + 30)
        states = [receipt["state"] for receipt in await site.receipts(command)]
        assert states == ["RECEIVED", "ACCEPTED", "EXECUTING", "COMPLETED"], states
