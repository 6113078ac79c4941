"""The CSIP-AUS communications loss test, scaled: five one-minute controls sent ahead, the link cut for seven minutes.

The whole agent, gRPC with mutual TLS through a link that can be cut, SunSpec over Modbus TCP. A minute takes two
seconds here. The controls are carried out on time without a link, then the default holds, then the link comes back:
the platform gets what happened meanwhile, once, and its next control is obeyed.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from hil_tests.gateway_parts import GatewaySite, gateway_site, line_of, needs_softhsm, part_of

pytestmark = needs_softhsm

MINUTE_S: Final = 2.0
AHEAD_S: Final = 3.0
POWERS_W: Final = (-1_000, -4_000, -2_000, -5_000, -3_000)
DEVICE: Final = "battery-1"
NEAR_W: Final = 300
FINAL: Final = ("completed", "superseded", "expired", "failed")


def _in_short_minutes(config: Path) -> None:
    """Polls and plans in proportion: each second of a minute of 60 s would be 30 ms here."""
    text = config.read_text(encoding="utf-8")
    for old, new in (
        (f'id = "{DEVICE}"\n', f'id = "{DEVICE}"\nperiod_s = 0.2\n'),
        ("[control]\n", "[control]\ninterval_s = 0.2\n"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")


async def _send_ahead(site: GatewaySite) -> list[str]:
    """Five controls, back to back; their ids."""
    begins_us = time.time_ns() // 1000 + round(AHEAD_S * 1e6)
    ids = []
    for number, power_w in enumerate(POWERS_W):
        ids.append(
            await site.issue(
                type="DISCHARGE",
                power_w=-power_w,
                duration_s=MINUTE_S,
                start_us=begins_us + round(number * MINUTE_S * 1e6),
                point="device",
                targets=[DEVICE],
            )
        )
    for command_id in ids:
        await site.receipted(command_id, "ACCEPTED")
    return ids


async def _watch(site: GatewaySite, seen: list[int]) -> None:
    """The controls that the battery's own power shows, in the order in which it shows them."""
    while True:
        power_w = await site.power_w(DEVICE)
        near = [wanted for wanted in POWERS_W if abs(power_w - wanted) <= NEAR_W]
        if near and (not seen or seen[-1] != near[0]):
            seen.append(near[0])
        await asyncio.sleep(0.05)


async def test_controls_sent_ahead_outlive_the_link_then_the_default_holds_then_the_platform_catches_up(
    tmp_path: Path,
) -> None:
    async with gateway_site(tmp_path) as site:
        _in_short_minutes(site.stage.config)
        await site.stage.start_all()
        await site.well()
        ids = await _send_ahead(site)
        seen: list[int] = []
        watching = asyncio.create_task(_watch(site, seen))
        try:
            site.stage.link.cut()
            cut_s = time.monotonic()
            await site.shows(lambda s: not part_of(s, "link")["ok"], "the link as down")
            # Minutes five to seven: still no link, no control stands any more, and the owner's default holds.
            status = await site.shows(
                lambda s: (
                    all(c["state"] in FINAL for c in s["commands"])
                    and "nobody commands" in str(line_of(s, DEVICE)["reason"])
                ),
                "the default, without a link",
            )
            assert not part_of(status, "link")["ok"]
            assert line_of(status, DEVICE)["lowest_w"] is None
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        assert _in_order(seen), f"the battery showed {seen}, the controls were {POWERS_W}"
        await asyncio.sleep(max(0.0, cut_s + 7 * MINUTE_S - time.monotonic()))  # the scenario's own length
        site.stage.link.restore()
        for command_id in ids:
            await site.receipted(command_id, "COMPLETED")
            states = [receipt["state"] for receipt in await site.receipts(command_id)]
            assert states == ["RECEIVED", "ACCEPTED", "EXECUTING", "COMPLETED"], states
        after = await site.discharge(2_000, 30, DEVICE)
        await site.delivers(-2_000, DEVICE)
        await site.receipted(after, "EXECUTING")


def _in_order(seen: list[int]) -> bool:
    """Every control was seen, in the order of the controls; powers on the way from one to another do not matter."""
    rest = iter(seen)
    return all(any(power_w == wanted for power_w in rest) for wanted in POWERS_W)
