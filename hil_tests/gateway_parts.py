"""A whole site around the real agent, for tests: what they look at from the outside, and a patient `until`.

Everything is a process of its own on the stage of the demo. Power is what the simulated meters say, evidence what the
agent exported or the platform got; the agent's own words count only where the promise is that it says something.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from hil_tests.rig.demo.score import Evidence, digest_of, missing_sequences, read_evidence
from hil_tests.rig.demo.stage import Stage
from hil_tests.rig.demo.story import tell
from hil_tests.rig.token import softhsm_module

PATIENCE_S: Final = 40.0
LOOK_EVERY_S: Final = 0.05
DEVICES: Final = ("meter-1", "pv-1", "battery-1", "charger-1", "charger-2")
STORAGE: Final = ("battery-1", "charger-1")
"""What can discharge."""
TOLERANCE_W: Final = 450.0
"""5 % of the commands here, as the platform measures."""

Status = dict[str, Any]

needs_softhsm = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed")


async def until(condition: Callable[[], Awaitable[bool]], what: str, *, within_s: float = PATIENCE_S) -> None:
    """Wait for a condition; fails with `what` when it does not come."""
    deadline_s = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > deadline_s:
            pytest.fail(f"did not happen within {within_s:g} s: {what}")
        await asyncio.sleep(LOOK_EVERY_S)


class GatewaySite:
    """The stage, and eyes on it. Made by `gateway_site`."""

    def __init__(self, stage: Stage, session: aiohttp.ClientSession) -> None:
        self.stage = stage
        self.session = session
        self._ids = 0

    # -- What the agent says ----------------------------------------------------------------------------------------

    async def status(self) -> Status | None:
        """The status page's JSON; None while nobody answers."""
        return await self.stage.status(self.session)

    async def shows(self, wanted: Callable[[Status], bool], what: str, *, within_s: float = PATIENCE_S) -> Status:
        """The first status that has what is wanted. Fails with the last one when none has."""
        seen: list[Status] = []

        async def look() -> bool:
            status = await self.status()
            if status is None:
                return False
            seen[:] = [status]
            return wanted(status)

        deadline_s = time.monotonic() + within_s
        while not await look():
            if not self.stage.gateway.running:
                pytest.fail(f"the agent has ended, and this was awaited: {what}; {self.stage.gateway.words()}")
            if time.monotonic() > deadline_s:
                problems = seen[0]["problems"] if seen else "it does not answer"
                pytest.fail(f"not shown within {within_s:g} s: {what}; instead: {problems}")
            await asyncio.sleep(LOOK_EVERY_S)
        return seen[0]

    async def well(self) -> Status:
        """Waits until everything is as it should be."""
        return await self.shows(lambda status: bool(status["verdict"] == "well"), "all is well")

    async def newest_sequences(self) -> Mapping[str, int]:
        """Highest sequence of each device that the platform has."""
        devices = (await self.page())["devices"]
        return {name: max((last for _, _, last in record["sequences"]), default=0) for name, record in devices.items()}

    # -- What really is ---------------------------------------------------------------------------------------------

    async def truth(self) -> dict[str, Any]:
        """What the simulated site measures now."""
        since = len(self.stage.site.said)
        await self.stage.site.order(do="truth")
        truth = (await self.stage.site.hear("truth", since))["truth"]
        assert isinstance(truth, dict)
        return truth

    async def power_w(self, *device_ids: str) -> float:
        """Metered: + import, - export."""
        devices = (await self.truth())["devices"]
        return float(sum(devices[device_id]["power_w"] for device_id in device_ids))

    async def delivers(self, power_w: float, *device_ids: str, within_s: float = PATIENCE_S) -> None:
        """Waits until the devices together draw (+) or give (-) this power."""

        async def look() -> bool:
            return abs(await self.power_w(*device_ids) - power_w) <= TOLERANCE_W

        try:
            await until(look, f"{power_w:g} W at {', '.join(device_ids)}", within_s=within_s)
        except pytest.fail.Exception as failure:
            status = await self.status()
            pytest.fail(f"{failure}; the agent's words: {status and (status['problems'], status['devices'])}")

    async def order_site(self, **order: object) -> None:
        """One order to the simulated site, carried out when this returns."""
        since = len(self.stage.site.said)
        await self.stage.site.order(**order)
        await self.stage.site.hear("done", since)

    # -- What the platform has --------------------------------------------------------------------------------------

    async def issue(self, **command: object) -> str:
        """Have the platform send a command; its id."""
        self._ids += 1
        command_id = str(command.setdefault("id", f"command-{self._ids}"))
        since = len(self.stage.platform.said)
        await self.stage.platform.order(do="issue", command=command)
        await self.stage.platform.hear("command_id", since)
        return command_id

    async def discharge(self, power_w: int, seconds: float, *targets: str) -> str:
        """Have devices discharge, from now; the command's id."""
        return await self.issue(
            type="DISCHARGE", power_w=power_w, duration_s=seconds, point="device", targets=list(targets)
        )

    async def page(self) -> dict[str, Any]:
        """The gateway's page of the platform's books, now."""
        since = len(self.stage.platform.said)
        await self.stage.platform.order(do="books")
        await self.stage.platform.hear("file", since)
        return self.written_page()

    def written_page(self) -> dict[str, Any]:
        """The gateway's page of the books as the platform wrote them last."""
        books = json.loads(self.stage.books_file.read_text(encoding="utf-8"))
        page = books["gateways"][self.stage.gateway_id]
        assert isinstance(page, dict)
        return page

    async def receipts(self, command_id: str) -> list[dict[str, Any]]:
        """Of one command, in order of arrival."""
        return receipts_of(await self.page(), command_id)

    async def receipted(self, command_id: str, state: str, *, within_s: float = PATIENCE_S) -> dict[str, Any]:
        """Waits for a receipt of this state."""
        found: list[dict[str, Any]] = []

        async def look() -> bool:
            found[:] = [r for r in await self.receipts(command_id) if r["state"] == state]
            return bool(found)

        await until(look, f"a receipt {state} for {command_id}", within_s=within_s)
        return found[0]

    async def told(self, event: str, **fields: object) -> dict[str, Any]:
        """Waits for an event of this platform process with these fields; what came before counts too."""
        found: list[dict[str, Any]] = []

        async def look() -> bool:
            wanted = {"event": event, **fields}
            found[:] = [said for said in self.stage.platform.said if wanted.items() <= said.items()]
            return bool(found)

        await until(look, f"{event} with {fields}")
        return found[0]

    async def grows(self, *device_ids: str, beyond: Mapping[str, int], by: int = 2) -> None:
        """Waits until the platform has so many newer readings of each of these devices."""

        async def look() -> bool:
            newest = await self.newest_sequences()
            return all(newest.get(name, 0) >= beyond.get(name, 0) + by for name in device_ids)

        await until(look, f"{by} new readings of each of {', '.join(device_ids)}")

    # -- Judgement --------------------------------------------------------------------------------------------------

    async def evidence(self) -> Evidence:
        """What the agent has sealed, verified under its own name; its `verify` must hold too."""
        bundle = await self.stage.export()
        found = await self.stage.run("verify", str(bundle), "--gateway", self.stage.gateway_id)
        assert found["ok"], found
        return read_evidence(bundle, self.stage.gateway_id)

    async def nothing_lost(self) -> Evidence:
        """Both sides hold the same readings, each once, without a gap, in one chain. For an agent that has ended."""
        evidence, page = await self.evidence(), await self.page()
        assert page["conflicts"] == []
        assert (page["batches_rejected"], page["receipts_rejected"]) == (0, 0)
        assert evidence.chain_break == ""
        assert set(evidence.readings) == set(page["devices"])
        for device_id, readings in evidence.readings.items():
            assert missing_sequences(readings) == 0, device_id
            record = page["devices"][device_id]
            assert (record["readings"], record["missing"]) == (len(readings), 0), device_id
            assert record["digest"] == digest_of(readings), device_id
        assert page["batches_verified"] == evidence.batches
        return evidence


def receipts_of(page: Mapping[str, Any], command_id: str) -> list[dict[str, Any]]:
    """Of one command on a page of the books."""
    return [r for command in page["commands"] if command["command_id"] == command_id for r in command["receipts"]]


def line_of(status: Status, device_id: str) -> dict[str, Any]:
    """A device's line on the status page."""
    line: dict[str, Any] = next(line for line in status["devices"] if line["device_id"] == device_id)
    return line


def part_of(status: Status, name: str) -> dict[str, Any]:
    """The line of the token, the link or the store."""
    part: dict[str, Any] = next(part for part in status["parts"] if part["name"] == name)
    return part


def problem_of(status: Status, subject: str) -> str:
    """The sentence of a problem; empty when there is none."""
    return next((str(p["sentence"]) for p in status["problems"] if p["subject"] == subject), "")


@asynccontextmanager
async def gateway_site(folder: Path, *, state_dir: Path | None = None) -> AsyncIterator[GatewaySite]:
    """A site in a folder, prepared, with nothing running yet."""
    stage = await Stage.prepare(folder, tell(30), state_dir=state_dir)
    try:
        async with aiohttp.ClientSession() as session:
            yield GatewaySite(stage, session)
    finally:
        await stage.close()
