"""A flood of commands over the real store: control goes on between them, and each gets its own receipts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path

import pytest

from agent.control import core, intake
from agent.control.entry import TRANSITIONS
from agent.control.plan import Plan, make_plan
from agent.control.site import SiteView
from agent.control.turnstile import MOST_BETWEEN_PLANS
from agent.evidence.statements import CommandState
from hil_tests.test_control_controller import running
from proto.energysettlement.v1 import device_pb2
from proto.energysettlement.v1.device_pb2 import GridCommand

STREAMS = 20
EACH = 10


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What plans were made for, in their order: "turn" of control, or "message"."""
    made: list[str] = []

    def noting(what: str) -> Callable[[SiteView], Plan]:
        def noted(view: SiteView) -> Plan:
            made.append("stop" if view.stop is not None and what == "turn" else what)
            return make_plan(view)

        return noted

    monkeypatch.setattr(core, "make_plan", noting("turn"))
    monkeypatch.setattr(intake, "make_plan", noting("message"))
    return made


async def test_control_goes_on_between_the_commands_of_a_flood(tmp_path: Path, plans: list[str]) -> None:
    async with running(tmp_path) as site:
        await site.until(lambda: site.controller.snapshot().restored)
        until_us = site.clock.now().wall_us + 60_000_000
        flood = [
            [
                GridCommand(
                    command_id=f"s{stream}-{number}",
                    type=device_pb2.IDLE,
                    valid_until_timestamp_us=until_us + number,
                )
                for number in range(EACH)
            ]
            for stream in range(STREAMS)
        ]

        async def bring(messages: list[GridCommand]) -> None:
            for message in messages:
                await site.give(message, "battery")

        plans.clear()
        bringing = asyncio.gather(*map(bring, flood))
        await site.until(lambda: plans.count("message") >= STREAMS * EACH // 2)
        before = len(plans)
        site.controller.stop("a person")
        await bringing
        assert plans.count("message") == STREAMS * EACH
        runs = [(what, len(list(same))) for what, same in groupby(plans)]
        assert max(length for what, length in runs if what == "message") <= MOST_BETWEEN_PLANS
        assert plans.index("stop") - before <= MOST_BETWEEN_PLANS, "STOP is in the very next plan"
        # Each replaces the one before.
        messages = [message for stream in flood for message in stream]
        await site.until(lambda: sum(not any(s.final for s in site.states(message)) for message in messages) == 1)
        for message in messages:
            states = site.states(message)
            assert states[0] is CommandState.RECEIVED
            assert states.count(CommandState.ACCEPTED) + states.count(CommandState.PARTIAL) >= 1
            assert all(then in TRANSITIONS[first] for first, then in pairwise(states))
            assert sum(state.final for state in states) <= 1
