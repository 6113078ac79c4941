"""A site with wired inputs on a GPIO chip, as a process of its own: says on standard output how it is."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import structlog

from agent.config import InputSettings
from agent.evidence.statements import Alarm
from hil_tests.test_control_controller import command, running


async def main(folder: Path, chip: Path) -> None:
    """Until it is killed. A line on standard input is a word: "clear" ends STOP."""
    inputs = (
        InputSettings(name="button", chip=chip, line=17, stop=True, debounce_s=0.3),
        InputSettings(name="ripple", chip=chip, line=27, export_limit_w=2_000, bias="pull_down", debounce_s=0.3),
    )
    words = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    async with running(folder, inputs=inputs) as site:
        await site.give(await command(site.clock, "c1", 600))
        clearing = asyncio.create_task(words.readline())
        before = ""
        while True:
            if clearing.done():
                site.controller.clear_stop("me")
                clearing = asyncio.create_task(words.readline())
            meter = site.devices["grid"].status().last_sample
            assert meter is not None
            site.controller.on_sample(meter)
            shown = site.controller.snapshot()
            now = json.dumps(
                {
                    "battery_w": site.devices["battery"].power_w,
                    "stopped_by": shown.stopped_by,
                    "active": sorted(each.name for each in shown.inputs if each.active),
                    "trouble": [each.trouble for each in shown.inputs if each.trouble],
                    "alarms": [each.code for each in site.desk.taken if isinstance(each, Alarm)],
                    "descriptors": len(os.listdir("/proc/self/fd")),
                }
            )
            if now != before:
                print(now, flush=True)
                before = now
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
