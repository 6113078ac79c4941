"""Bids to the platform: its fields, what is derated, and that missed windows survive a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agent.clock import Clock
from agent.control.envelope import Envelope, envelope
from agent.control.missed_windows import WINDOW_US, MissedWindows
from agent.evidence.statements import Severity
from agent.roads.offering import NOTE, Offering, Sources, bid_of
from proto.energysettlement.v1.gateway_pb2 import FlexibilityBid
from tests.agent.control.support import BATTERY, START_US, site


class _Notes:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def note(self, key: str) -> bytes | None:
        return self.kept.get(key)

    async def set_note(self, key: str, value: bytes) -> None:
        self.kept[key] = value


class _Parts:
    """What an offering asks, in a test's hands."""

    def __init__(self, notes: _Notes) -> None:
        self.enrolled = True
        self.number: int | None = 5
        self.now_us = START_US
        self.bids: list[FlexibilityBid] = []
        self.said: list[tuple[Severity, str]] = []
        self.clock = Clock(realtime_us=lambda: self.now_us, kernel_error_us=lambda: 1_000)
        self.offering = Offering(
            Sources(
                view=lambda: site(BATTERY),
                acknowledged=lambda: self.number,
                offer=self._offer,
                say=lambda severity, code, subject, text: self.said.append((severity, text)),
            ),
            clock=self.clock,
            notes=notes,
            aggregator_id="agg-1",
        )

    def _offer(self, bid: FlexibilityBid) -> bool:
        self.bids.append(bid)
        return self.enrolled


def test_a_bid_has_the_platforms_fields() -> None:
    made = Envelope(
        power_up_w=12_000, power_down_w=7_000, energy_up_wh=3_000, energy_down_wh=1_750, ramp_up_w_per_min=360_000,
        ramp_down_w_per_min=210_000, minimum_soc_permille=100, maximum_soc_permille=1000,
        least_price_micro_per_kwh=250_000, currency="EUR",
    )  # fmt: skip
    bid = bid_of(made, MissedWindows(), "agg-1", START_US)
    assert (bid.aggregator_id, bid.fleet_capacity_kw, bid.power_up_kw, bid.power_down_kw) == ("agg-1", 12, 12, 7)
    assert (bid.ramp_up_rate_kw_per_min, bid.ramp_down_rate_kw_per_min) == (360, 210)
    assert (bid.energy_up_kwh, bid.energy_down_kwh) == (3, 1.75)
    assert (bid.min_state_of_charge, bid.max_state_of_charge) == (10, 100)
    assert (bid.bid_price_per_mwh, bid.bid_currency) == (250, "EUR")
    assert bid.availability_window_end_us - bid.availability_window_start_us == WINDOW_US


def test_without_storage_whose_charge_is_known_there_are_no_bounds_and_not_zero() -> None:
    bid = bid_of(Envelope(), MissedWindows(), "", START_US)
    assert not bid.HasField("min_state_of_charge")


@pytest.mark.parametrize(("in_a_row", "removed", "kilowatts"), [(1, False, 10), (2, False, 9), (4, True, 0)])
def test_after_missed_windows_a_bid_is_what_the_platform_goes_by(in_a_row: int, removed: bool, kilowatts: int) -> None:
    windows = MissedWindows(window=1, in_a_row=in_a_row, removed=removed)
    bid = bid_of(envelope(site(BATTERY)), windows, "", START_US)
    assert bid.fleet_capacity_kw == pytest.approx(kilowatts)


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)


def _last(parts: _Parts) -> Severity:
    return parts.said[-1][0]


async def test_a_bid_goes_out_and_missed_windows_are_said_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.roads.offering.LOOK_EVERY_S", 0.01)
    notes = _Notes()
    parts = _Parts(notes)
    task = asyncio.create_task(parts.offering.run())
    await _until(lambda: parts.bids)
    parts.number = 6
    await _until(lambda: parts.offering.windows.heard)
    parts.now_us += 3 * WINDOW_US
    await _until(lambda: parts.offering.windows.in_a_row == 2)
    assert _last(parts) is Severity.WARNING
    parts.now_us += 3 * WINDOW_US
    await _until(lambda: parts.offering.windows.removed)
    assert _last(parts) is Severity.CRITICAL
    assert len(parts.bids) == 1  # each minute, not each second
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    again = _Parts(notes)
    task = asyncio.create_task(again.offering.run())
    await _until(lambda: again.offering.windows.removed)
    await again.offering.looked()
    assert not again.offering.windows.removed
    assert NOTE in notes.kept
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_without_a_link_that_could_ever_take_it_a_bid_is_made_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.roads.offering.LOOK_EVERY_S", 0.01)
    parts = _Parts(_Notes())
    monkeypatch.setattr("agent.roads.offering.ASK_AGAIN_S", 0.01)
    parts.enrolled = False
    task = asyncio.create_task(parts.offering.run())
    await _until(lambda: len(parts.bids) >= 3)
    parts.enrolled = True
    before = len(parts.bids)
    await _until(lambda: len(parts.bids) > before)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
