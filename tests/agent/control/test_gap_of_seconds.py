"""A gap of seconds changes nothing: what comes late, or twice, after it leaves orders and receipts alone."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.authorization import authorize
from agent.control.command import CommandType, grid_command
from agent.control.decisions import plan_bytes
from agent.evidence.statements import CommandState
from proto.energysettlement.v1.device_pb2 import GridCommand
from tests.agent.control.boxes import Box
from tests.agent.control.support import OPERATOR, SOME_COMMAND, START_US

SECOND_US = 1_000_000
SETTLED_S = 12
SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A command, when the platform sends it and when it starts, in seconds."""

    at_s: int
    ahead_s: int
    lasts_s: int
    power_w: int
    charges: bool


def messages(sent: list[Sent]) -> list[tuple[int, GridCommand]]:
    made = []
    for number, each in enumerate(sent):
        start_us = START_US + (SETTLED_S + each.at_s + each.ahead_s) * SECOND_US
        command = replace(
            SOME_COMMAND,
            type=CommandType.CHARGE if each.charges else CommandType.DISCHARGE,
            power_w=each.power_w,
            start_us=start_us,
            end_us=start_us + each.lasts_s * SECOND_US,
            sequence=number + 1,
        )
        made.append((each.at_s, grid_command(f"c{number}", command, asyncio.run(authorize(command, OPERATOR)))))
    return made


def life(sent: list[tuple[int, GridCommand]], gap: tuple[int, int]) -> tuple[list[bytes], Counter[tuple[str, str]]]:
    """Plans second by second, and receipts. In the gap nothing comes; all of it comes after it, and what came just
    before it a second time, for the platform does not know that it arrived."""
    begins_s, ends_s = gap
    with tempfile.TemporaryDirectory() as folder:
        box, plans = Box(Path(folder)), []
        for _ in range(SETTLED_S):
            box.turn()
        for second in range(SECONDS):
            cut = begins_s <= second < ends_s
            due = [message for at_s, message in sent if at_s == second and not cut]
            if second == ends_s:
                late = [message for at_s, message in sent if begins_s <= at_s < ends_s]
                again = [message for at_s, message in sent if begins_s - 3 <= at_s < begins_s]
                due = [*again, *late, *due]
            for message in due:
                box.message(message)
            box.commit()
            box.pass_(1.0)
            plan = box.decide()
            box.keep()
            plans.append(plan_bytes(plan))
            for name, order in plan.orders.items():
                if order.lowest_w is not None and order.lowest_w == order.highest_w:
                    box.powers_w[name] = order.lowest_w
        return plans, Counter((receipt.command_id, receipt.state.name) for receipt in box.receipts)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.builds(
            Sent,
            at_s=st.integers(0, 25),
            ahead_s=st.integers(9, 20),
            lasts_s=st.integers(5, 20),
            power_w=st.integers(500, 9_000),
            charges=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ).map(lambda sent: sorted(sent, key=lambda each: each.at_s)),
    st.integers(1, 20),
    st.integers(1, 8),
)
def test_a_gap_of_seconds_changes_nothing(sent: list[Sent], begins_s: int, lasts_s: int) -> None:
    """Every order of every second, and every receipt, once, are as if no gap were there."""
    made = messages(sent)
    without, receipts = life(made, (SECONDS, SECONDS))
    behind, same = life(made, (begins_s, begins_s + lasts_s))
    assert behind == without
    assert same == receipts
    finals = {state.name for state in CommandState if state.final}
    assert all(sum(receipts[f"c{n}", final] for final in finals) <= 1 for n in range(len(sent)))
