"""Carries a plan out: one task for each device, the newest order wins, and nobody waits for a slow device.

What to do next is decided by `next_step`, which is pure. A permission is renewed at a third of its lease; what narrows
goes out at once, what only moves a little waits for the renewal. Lower first, then raise is in the plan: it counts a
device at what it held until the device has confirmed less and the meter shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import structlog

from agent.control.plan import DeviceOrder
from agent.control.site import Held
from drivers.device import Device, DeviceError, DeviceKind, DeviceRefusedError, LinkState, Setpoint

RENEWALS_PER_LEASE: Final = 3
SMALL_CHANGE_W: Final = 50
"""Less is not worth a write: it goes with the next renewal."""
LEAST_BETWEEN_CHANGES_S: Final = {DeviceKind.CHARGER: 5.0}
"""A car's charging is not moved more often (its control loop has seconds); narrowing does not wait."""
RETRY_LEAST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0
REFUSED_RETRY_S: Final = 30.0
"""Asking again changes nothing by itself, but a device's state may."""
LOST_S: Final = 2.0
"""A band that the device shows no more is given again after this."""

log = structlog.get_logger()


class Deed(Enum):
    """What to do with a device."""

    NOTHING = 0
    APPLY = 1
    RELEASE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Carriage:
    """How far one device's order has come."""

    kind: DeviceKind
    wanted: DeviceOrder | None = None
    confirmed: DeviceOrder | None = None
    """What the device confirmed last; None: it was released, or never touched."""
    attempted: DeviceOrder | None = None
    """Sent and not confirmed: whether the device holds it is not known."""
    touched: bool = False
    """It may hold something of ours."""
    confirmed_s: float = 0.0
    failures: int = 0
    failed_s: float = 0.0
    refused: bool = False
    failed_order: DeviceOrder | None = None
    trouble: str = ""
    """Why the order is not carried out; empty while it is."""


def next_step(carriage: Carriage, shown: bool, lease_s: float, now_s: float) -> tuple[Deed, float]:
    """What to do, and in how many seconds (0: now). `shown`: the device still shows the band that it confirmed."""
    wanted = carriage.wanted
    if wanted is None or (wanted.released and not carriage.touched):
        return Deed.NOTHING, float("inf")
    deed = Deed.RELEASE if wanted.released else Deed.APPLY
    at_s = _due_s(carriage, wanted, shown, lease_s, now_s)
    if carriage.failures:
        wait_s = min(RETRY_MOST_S, RETRY_LEAST_S * 2 ** min(carriage.failures - 1, 10))
        if carriage.refused:
            same = carriage.failed_order is not None and _same_band(carriage.failed_order, wanted)
            wait_s = REFUSED_RETRY_S if same else RETRY_LEAST_S
        at_s = carriage.failed_s + wait_s
    return deed, max(0.0, at_s - now_s)


def _due_s(carriage: Carriage, wanted: DeviceOrder, shown: bool, lease_s: float, now_s: float) -> float:
    held = carriage.confirmed
    if held is None or wanted.released or carriage.attempted is not None:
        return now_s
    renewal_s = carriage.confirmed_s + lease_s / RENEWALS_PER_LEASE
    if not shown:
        renewal_s = min(renewal_s, carriage.confirmed_s + LOST_S)
    if _same_band(held, wanted):
        return renewal_s
    if _narrower(wanted, held):
        return now_s
    if _small(wanted, held):
        return renewal_s
    return min(renewal_s, carriage.confirmed_s + LEAST_BETWEEN_CHANGES_S.get(carriage.kind, 0.0))


def _same_band(one: DeviceOrder, other: DeviceOrder) -> bool:
    return (one.lowest_w, one.highest_w) == (other.lowest_w, other.highest_w)


def _narrower(new: DeviceOrder, old: DeviceOrder) -> bool:
    """Whether the new band lies within the old one, or stops the device."""
    if new.lowest_w == new.highest_w == 0:
        return True
    low_in = old.lowest_w is None or (new.lowest_w is not None and new.lowest_w >= old.lowest_w)
    high_in = old.highest_w is None or (new.highest_w is not None and new.highest_w <= old.highest_w)
    return low_in and high_in


def _small(new: DeviceOrder, old: DeviceOrder) -> bool:
    pairs = ((new.lowest_w, old.lowest_w), (new.highest_w, old.highest_w))
    return all((a is None) == (b is None) and abs((a or 0) - (b or 0)) <= SMALL_CHANGE_W for a, b in pairs)


def believed(carriage: Carriage, shown: Setpoint | None) -> Held | None:
    """The widest band that the device can be holding now: what it shows, and what was sent without an answer."""
    bands = []
    if shown is not None:
        bands.append(Held(lowest_w=shown.lowest_w, highest_w=shown.highest_w))
    if carriage.attempted is not None:
        bands.append(Held(lowest_w=carriage.attempted.lowest_w, highest_w=carriage.attempted.highest_w))
    if not bands:
        return None
    lows = [band.lowest_w for band in bands]
    highs = [band.highest_w for band in bands]
    return Held(
        lowest_w=None if None in lows else min(low for low in lows if low is not None),
        highest_w=None if None in highs else max(high for high in highs if high is not None),
    )


class Dispatcher:
    """The shell around `next_step`."""

    def __init__(self, devices: Mapping[str, Device], *, lease_s: float, monotonic_s: Callable[[], float]) -> None:
        self._devices = devices
        self._lease_s = lease_s
        self._monotonic_s = monotonic_s
        self._carriages = {
            # A band that the device shows already is ours, from before a restart of the agent.
            name: Carriage(kind=device.kind, touched=device.status().setpoint is not None)
            for name, device in devices.items()
        }
        self._changed = {name: asyncio.Event() for name in devices}

    def follow(self, orders: Mapping[str, DeviceOrder]) -> None:
        """Take a new plan's orders. Returns at once."""
        for name, order in orders.items():
            carriage = self._carriages[name]
            self._carriages[name] = replace(carriage, wanted=order)
            if carriage.wanted is None or not _same_band(carriage.wanted, order):
                self._changed[name].set()

    def held(self, device_id: str) -> Held | None:
        """What the device can be holding (see `believed`)."""
        return believed(self._carriages[device_id], self._devices[device_id].status().setpoint)

    def carriage(self, device_id: str) -> Carriage:
        """For the snapshot."""
        return self._carriages[device_id]

    async def run(self) -> None:
        """Serve all devices until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for name in self._devices:
                tasks.create_task(self._serve(name), name=f"dispatch {name}")

    async def _serve(self, name: str) -> None:
        while True:
            shown = self._devices[name].status().setpoint is not None
            deed, wait_s = next_step(self._carriages[name], shown, self._lease_s, self._monotonic_s())
            if deed is not Deed.NOTHING and wait_s <= 0:
                await self._do(name, deed)
                continue
            self._changed[name].clear()
            try:
                # Looking again each second costs nothing and notices what a device has lost.
                async with asyncio.timeout(min(wait_s, 1.0)):
                    await self._changed[name].wait()
            except TimeoutError:
                pass

    async def _do(self, name: str, deed: Deed) -> None:
        device, carriage = self._devices[name], self._carriages[name]
        order = carriage.wanted
        assert order is not None
        self._carriages[name] = replace(carriage, attempted=order, touched=True)
        try:
            if deed is Deed.RELEASE:
                await device.release()
            else:
                await device.apply(
                    Setpoint(
                        lowest_w=order.lowest_w, highest_w=order.highest_w, lease_s=self._lease_s, reason=order.reason
                    )
                )
        except DeviceError as error:
            self._failed(name, order, str(error), refused=isinstance(error, DeviceRefusedError))
        except Exception as error:  # A fault in one driver must not take the others' orders with it.
            log.exception("control.driver_fault", device=name)
            self._failed(name, order, f"fault in its driver: {error!r}"[:200], refused=False)
        else:
            carriage = self._carriages[name]
            if carriage.trouble:
                log.info("control.device_follows_again", device=name)
            self._carriages[name] = replace(
                carriage,
                confirmed=None if order.released else order,
                attempted=None,
                touched=not order.released,
                confirmed_s=self._monotonic_s(),
                failures=0,
                refused=False,
                failed_order=None,
                trouble="",
            )

    def _failed(self, name: str, order: DeviceOrder, trouble: str, *, refused: bool) -> None:
        carriage = self._carriages[name]
        online = self._devices[name].status().link is LinkState.ONLINE
        if not carriage.trouble and online:
            log.warning("control.order_not_carried_out", device=name, refused=refused, trouble=trouble)
        self._carriages[name] = replace(
            carriage,
            # A refusal is an answer: the device holds what it held.
            attempted=None if refused else order,
            failures=carriage.failures + 1,
            failed_s=self._monotonic_s(),
            refused=refused,
            failed_order=order,
            trouble=trouble,
        )
