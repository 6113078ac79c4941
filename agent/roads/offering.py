"""Offers the site's flexibility to the platform each minute, and counts the windows that the platform misses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from agent.clock import Clock, ClockQuality
from agent.control.envelope import Envelope, envelope
from agent.control.errors import RestoreError
from agent.control.missed_windows import (
    WINDOW_US,
    MissedWindows,
    decode_windows,
    encode_windows,
    looked,
    step_windows,
)
from agent.control.site import SiteView
from agent.evidence.statements import Severity
from agent.store import StoreError
from proto.energysettlement.v1.gateway_pb2 import FlexibilityBid

NOTE: Final = "missed windows"
OFFER_EVERY_S: Final = 60.0
ASK_AGAIN_S: Final = 10.0
"""Where nothing takes an offer: it costs two plans."""
LOOK_EVERY_S: Final = 1.0

log = structlog.get_logger()


class Notes(Protocol):
    """Of the store."""

    async def note(self, key: str) -> bytes | None: ...

    async def set_note(self, key: str, value: bytes) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where an offer comes from, and where it goes."""

    view: Callable[[], SiteView | None]
    """The site at the newest plan."""
    acknowledged: Callable[[], int | None]
    """Number of the newest batch that the platform acknowledged."""
    offer: Callable[[FlexibilityBid], bool]
    """Whether there is a link at all that takes it, up or not."""
    say: Callable[[Severity, str, str, str], None]


class Offering:
    """`run` it in a task of its own."""

    def __init__(self, sources: Sources, *, clock: Clock, notes: Notes, aggregator_id: str) -> None:
        self._sources = sources
        self._clock = clock
        self._notes = notes
        self._aggregator_id = aggregator_id
        self._seen: int | None = None
        self.windows = MissedWindows()
        self.envelope = Envelope(why_not="nothing has been computed yet")

    async def run(self) -> None:
        """Offer until cancelled."""
        await self._restore()
        offered_s = float("-inf")
        while True:
            await self._count()
            now_s = self._clock.monotonic_s()
            if now_s - offered_s >= OFFER_EVERY_S and await asyncio.to_thread(self.compute):
                now_us = self._clock.now().wall_us
                bid = bid_of(self.envelope, self.windows, self._aggregator_id, now_us)
                taken = self._sources.offer(bid)
                offered_s = now_s if taken else now_s - OFFER_EVERY_S + ASK_AGAIN_S
            await asyncio.sleep(LOOK_EVERY_S)

    def compute(self) -> bool:
        """Take a new look at the site; False while there is none to look at."""
        view = self._sources.view()
        if view is None:
            return False
        self.envelope = envelope(view)
        return True

    async def looked(self) -> None:
        """A person has looked at why windows were missed."""
        self.windows = looked(self.windows)
        await self._keep()

    async def _restore(self) -> None:
        try:
            note = await self._notes.note(NOTE)
            if note is not None:
                self.windows = decode_windows(note)
        except (StoreError, RestoreError) as error:
            log.warning("offering.windows_not_restored", reason=str(error))

    async def _count(self) -> None:
        now, number = self._clock.now(), self._sources.acknowledged()
        heard = number is not None and self._seen is not None and number > self._seen
        self._seen = number if number is not None else self._seen
        if now.quality is ClockQuality.UNTRUSTED:
            return
        before, self.windows = self.windows, step_windows(self.windows, now.wall_us, heard=heard)
        if self.windows.removed and not before.removed:
            text = f"the platform got nothing for {self.windows.in_a_row} windows in a row: it dispatches this site "
            self._sources.say(Severity.CRITICAL, "site.windows_missed", "site", text + "no more until somebody looked")
        elif self.windows.permille < 1000 and before.permille == 1000:
            text = f"the platform got nothing for {self.windows.in_a_row} windows in a row and counts on 10 % less"
            self._sources.say(Severity.WARNING, "site.windows_missed", "site", text)
        if before != self.windows:
            await self._keep()

    async def _keep(self) -> None:
        try:
            await self._notes.set_note(NOTE, encode_windows(self.windows))
        except StoreError as error:
            log.warning("offering.windows_not_noted", reason=str(error))


def bid_of(offered: Envelope, windows: MissedWindows, aggregator_id: str, now_us: int) -> FlexibilityBid:
    """The platform's bid fields for the quarter of an hour that begins now."""

    def kilo(value: int) -> float:
        return value * windows.permille / 1_000_000

    bid = FlexibilityBid(
        aggregator_id=aggregator_id,
        fleet_capacity_kw=kilo(offered.capacity_w),
        ramp_up_rate_kw_per_min=kilo(offered.ramp_up_w_per_min),
        ramp_down_rate_kw_per_min=kilo(offered.ramp_down_w_per_min),
        # Micro-units per kWh are thousandths of a unit per MWh.
        bid_price_per_mwh=offered.least_price_micro_per_kwh / 1000,
        bid_currency=offered.currency,
        availability_window_start_us=now_us,
        availability_window_end_us=now_us + WINDOW_US,
        power_up_kw=kilo(offered.power_up_w),
        power_down_kw=kilo(offered.power_down_w),
        energy_up_kwh=kilo(offered.energy_up_wh),
        energy_down_kwh=kilo(offered.energy_down_wh),
    )
    if offered.minimum_soc_permille is not None:
        bid.min_state_of_charge = offered.minimum_soc_permille / 10
    if offered.maximum_soc_permille is not None:
        bid.max_state_of_charge = offered.maximum_soc_permille / 10
    return bid
