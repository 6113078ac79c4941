"""Carries a plan out: one task for each device, the newest order wins, and nobody waits for a slow device.

What to do next is decided by `next_step`, which is pure. A permission is renewed at a third of its lease; what narrows
goes out at once, what only moves a little waits for the renewal. Lower first, then raise is in the plan: it counts a
device at what it held until the device has confirmed less and the meter shows it. What narrows overtakes an order that
is still under way; a device is believed to hold any band that was sent to it and not answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import structlog

from agent.control.onlooker import Onlooker
from agent.control.plan import DeviceOrder
from agent.control.rules.draft import Rule
from agent.control.site import Held
from drivers.device import Device, DeviceError, DeviceKind, DeviceRefusedError, LinkState, Setpoint

RENEWALS_PER_LEASE: Final = 3
SMALL_CHANGE_W: Final = 50
"""Less is not worth a write: it goes with the next renewal."""
LEAST_BETWEEN_CHANGES_S: Final = {DeviceKind.CHARGER: 5.0, DeviceKind.PV: 2.0}
"""A car's charging is not moved more often (its control loop has seconds). PV's bound goes up only when the samples of
meter and inverter, up to 1.5 s old, have shown what the last step did. Narrowing does not wait, nor does the beginning
of a command, a schedule or a hold."""
BEGINNING_S: Final = 3.0
LEAST_AT_BEGINNING_S: Final = 1.0
"""So long after somebody began to decide the plan still finds room that the first step has made."""
RETRY_LEAST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0
REFUSED_RETRY_S: Final = 30.0
"""Asking again changes nothing by itself, but a device's state may."""
LOST_S: Final = 2.0
"""A band that the device shows no more is given again after this."""
PLAN_OLD_S: Final = 10.0
"""A permission that no plan has asked for since is not renewed."""
AFTERWARDS_S: Final = 2.0
"""A lease goes on so long after its command's end: the plan itself takes the power away on time."""
LEAST_LEASE_S: Final = 1.0
"""A device's timer has whole seconds, and 0 is none."""
NO_WAIT_S: Final = 1e-6
"""Less may be no time at all to a clock of floats: whoever waits so long looks again at the same moment, for ever."""
MOST_UNDER_WAY: Final = 2
"""Orders to one device at a time: one, and the one that overtakes it; a stop overtakes both."""

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
    wanted_s: float = float("inf")
    """When a plan last wanted it."""
    wanted_until_s: float = float("inf")
    """When the authority of the wanted order ends: no lease goes much beyond it."""
    confirmed: DeviceOrder | None = None
    """What the device confirmed last; None: it was released, or never touched."""
    attempted: DeviceOrder | None = None
    """Sent and not confirmed: whether the device holds it is not known."""
    unknown: Held | None = None
    """The widest of all bands that were sent since the last answer and can still be in force."""
    unknown_until_s: float = float("-inf")
    touched: bool = False
    """It may hold something of ours."""
    confirmed_s: float = 0.0
    lease_ends_s: float = float("-inf")
    """Of the confirmed band."""
    changed_s: float = float("-inf")
    """When it was last given another band than it held."""
    begun_s: float = float("-inf")
    """When somebody began to decide about it, or nobody did any more."""
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
    if _allows(carriage.kind, wanted) and now_s > min(carriage.wanted_s + PLAN_OLD_S, carriage.wanted_until_s):
        return Deed.NOTHING, float("inf")  # Nobody stands behind it any more: it ends in the device.
    deed = Deed.RELEASE if wanted.released else Deed.APPLY
    at_s = _due_s(carriage, wanted, shown, lease_s, now_s)
    if carriage.failures:
        wait_s = min(RETRY_MOST_S, RETRY_LEAST_S * 2 ** min(carriage.failures - 1, 10))
        failed = carriage.failed_order
        if carriage.refused:
            same = failed is not None and _same_band(failed, wanted)
            wait_s = REFUSED_RETRY_S if same else RETRY_LEAST_S
        elif _stops(wanted) and failed is not None and not _stops(failed):
            wait_s = RETRY_LEAST_S
        at_s = carriage.failed_s + wait_s
    return deed, at_s - now_s if at_s - now_s > NO_WAIT_S else 0.0


def _due_s(carriage: Carriage, wanted: DeviceOrder, shown: bool, lease_s: float, now_s: float) -> float:
    held = carriage.confirmed
    if held is None or wanted.released or carriage.attempted is not None:
        return now_s
    renewal_s = carriage.confirmed_s + lease_s / RENEWALS_PER_LEASE
    if carriage.lease_ends_s >= carriage.wanted_until_s:
        renewal_s = float("inf")  # It lasts until the command ends.
    if not shown:
        renewal_s = min(renewal_s, carriage.confirmed_s + LOST_S)
    if _same_band(held, wanted):
        return renewal_s
    if _narrower(wanted, held):
        return now_s
    if _small(wanted, held):
        return renewal_s
    if _reduces(wanted, held):
        return now_s
    return min(renewal_s, carriage.confirmed_s + _least_between_s(carriage, wanted, held))


def _least_between_s(carriage: Carriage, wanted: DeviceOrder, held: DeviceOrder) -> float:
    least_s = LEAST_BETWEEN_CHANGES_S.get(carriage.kind, 0.0)
    if carriage.kind is DeviceKind.PV:
        return least_s
    if _another_authority(wanted, held):
        return 0.0
    beginning = carriage.confirmed_s - carriage.begun_s < BEGINNING_S
    return min(least_s, LEAST_AT_BEGINNING_S) if beginning else least_s


def _same_band(one: DeviceOrder, other: DeviceOrder) -> bool:
    return (one.lowest_w, one.highest_w) == (other.lowest_w, other.highest_w)


def _stops(order: DeviceOrder) -> bool:
    return order.lowest_w == order.highest_w == 0


def _allows(kind: DeviceKind, order: DeviceOrder) -> bool:
    """Whether it is a permission: PV's bands only hold it back, and 0 allows nothing."""
    return kind is not DeviceKind.PV and not order.released and not _stops(order)


def _narrower(new: DeviceOrder, old: DeviceOrder) -> bool:
    """Whether the new band lies within the old one, or stops the device."""
    if _stops(new):
        return True
    low_in = old.lowest_w is None or (new.lowest_w is not None and new.lowest_w >= old.lowest_w)
    high_in = old.highest_w is None or (new.highest_w is not None and new.highest_w <= old.highest_w)
    return low_in and high_in


def _reduces(new: DeviceOrder, old: DeviceOrder) -> bool:
    """Whether it asks for less of the same: a setpoint nearer to nothing lies in no other one, and relieves as much.

    So does each narrower band."""
    low_in = old.lowest_w is None or (new.lowest_w is not None and new.lowest_w >= min(0, old.lowest_w))
    high_in = old.highest_w is None or (new.highest_w is not None and new.highest_w <= max(0, old.highest_w))
    return low_in and high_in


def _another_authority(new: DeviceOrder, old: DeviceOrder) -> bool:
    """Whether somebody begins to decide, or nobody does any more: that is no step of one and the same control loop."""
    return (new.authority_s is None) != (old.authority_s is None)


def overtakes(new: DeviceOrder, under_way: DeviceOrder) -> bool:
    """Whether an order is sent although another one to the same device has not been answered."""
    return not _same_band(new, under_way) and _reduces(new, under_way)


def _may_overtake(wanted: DeviceOrder, under_way: Sequence[DeviceOrder]) -> bool:
    room = MOST_UNDER_WAY + (1 if _stops(wanted) else 0)
    return len(under_way) < room and overtakes(wanted, under_way[-1])


def _small(new: DeviceOrder, old: DeviceOrder) -> bool:
    pairs = ((new.lowest_w, old.lowest_w), (new.highest_w, old.highest_w))
    return all((a is None) == (b is None) and abs((a or 0) - (b or 0)) <= SMALL_CHANGE_W for a, b in pairs)


def believed(carriage: Carriage, shown: Setpoint | None, now_s: float) -> Held | None:
    """The widest band that the device can be holding now: what it shows, and all that was sent without an answer.

    A device that was never given anything, or was given back, holds nothing back: (None, None). None: its lease has
    ended, and it is at its fallback.
    """
    bands = []
    if shown is not None:
        bands.append(Held(lowest_w=shown.lowest_w, highest_w=shown.highest_w))
    if carriage.unknown is not None and now_s < carriage.unknown_until_s:
        bands.append(carriage.unknown)
    if not bands:
        return Held(lowest_w=None, highest_w=None) if carriage.confirmed is None and not carriage.touched else None
    return replace(widest(bands), age_s=now_s - carriage.changed_s)


def widest(bands: Sequence[Held]) -> Held:
    """The band that holds them all."""
    lows = [band.lowest_w for band in bands]
    highs = [band.highest_w for band in bands]
    return Held(
        lowest_w=None if None in lows else min(low for low in lows if low is not None),
        highest_w=None if None in highs else max(high for high in highs if high is not None),
    )


def lease_for(carriage: Carriage, lease_s: float, now_s: float) -> float:
    """How long the device may hold the wanted order: not beyond the end of whoever's authority it is."""
    return max(LEAST_LEASE_S, min(lease_s, carriage.wanted_until_s - now_s))


def sent(carriage: Carriage, order: DeviceOrder, lease_s: float, now_s: float) -> Carriage:
    """The carriage once an order has gone out: until it is answered, what went out before may be in force as well."""
    band = Held(lowest_w=order.lowest_w, highest_w=order.highest_w)
    still = carriage.unknown is not None and now_s < carriage.unknown_until_s
    other = carriage.confirmed is None or not _same_band(carriage.confirmed, order)
    return replace(
        carriage,
        attempted=order,
        unknown=widest([band, carriage.unknown]) if still and carriage.unknown is not None else band,
        # Without a timer of its own the device is counted at its nameplate from then on.
        unknown_until_s=max(now_s + lease_s, carriage.unknown_until_s),
        touched=True,
        changed_s=now_s if other else carriage.changed_s,
    )


def confirmed(carriage: Carriage, order: DeviceOrder, lease_ends_s: float, now_s: float) -> Carriage:
    """The carriage once the device has confirmed the newest order."""
    other = carriage.confirmed is None or not _same_band(carriage.confirmed, order)
    begins = carriage.confirmed is not None and _another_authority(order, carriage.confirmed)
    return replace(
        carriage,
        confirmed=None if order.released else order,
        attempted=None,
        unknown=None,
        unknown_until_s=float("-inf"),
        touched=not order.released,
        confirmed_s=now_s,
        lease_ends_s=lease_ends_s,
        changed_s=now_s if other else carriage.changed_s,
        begun_s=now_s if begins else carriage.begun_s,
        failures=0,
        refused=False,
        failed_order=None,
        trouble="",
    )


def failed(carriage: Carriage, before: Carriage, trouble: str, *, refused: bool, now_s: float) -> Carriage:
    """The carriage once an order was refused, or not answered. `before`: as it was when the order went out."""
    order = carriage.attempted
    if refused:
        # A refusal is an answer: the device holds what it held.
        carriage = replace(carriage, attempted=None, unknown=before.unknown, unknown_until_s=before.unknown_until_s)
    return replace(
        carriage,
        failures=carriage.failures + 1,
        failed_s=now_s,
        refused=refused,
        failed_order=order,
        trouble=trouble,
    )


class Dispatcher:
    """The shell around `next_step`."""

    def __init__(
        self, devices: Mapping[str, Device], *, looks: Onlooker, lease_s: float, monotonic_s: Callable[[], float]
    ) -> None:
        self._devices = devices
        self._looks = looks
        self._lease_s = lease_s
        self._monotonic_s = monotonic_s
        self._carriages = {
            # A band that the device shows already is ours, from before a restart of the agent.
            name: Carriage(kind=device.kind, touched=looks.status(name).setpoint is not None)
            for name, device in devices.items()
        }
        self._changed = {name: asyncio.Event() for name in devices}
        self._under_way: dict[str, list[DeviceOrder]] = {name: [] for name in devices}
        self._begun = dict.fromkeys(devices, 0)
        self._serving: asyncio.TaskGroup | None = None

    def follow(self, orders: Mapping[str, DeviceOrder]) -> bool:
        """Take a new plan's orders. Returns at once: whether a device shall do something else than before."""
        now_s, sending = self._monotonic_s(), False
        for name, order in orders.items():
            carriage = self._carriages[name]
            until_s = float("inf") if order.authority_s is None else now_s + order.authority_s + AFTERWARDS_S
            # A plan is made anew each second: the end moves by nothing but the clock's corrections.
            if abs(until_s - carriage.wanted_until_s) < AFTERWARDS_S / 2:
                until_s = carriage.wanted_until_s
            self._carriages[name] = replace(carriage, wanted=order, wanted_s=now_s, wanted_until_s=until_s)
            if carriage.wanted is None or not _same_band(carriage.wanted, order):
                self._changed[name].set()
                sending = True
        return sending

    def touch(self, names: Iterable[str]) -> None:
        """These devices may hold something of ours, from before a restart: they are given back, or given an order."""
        for name in names:
            if name in self._carriages:
                self._carriages[name] = replace(self._carriages[name], touched=True)
                self._changed[name].set()

    def touched(self) -> frozenset[str]:
        """Devices that hold something of ours, or are about to."""
        return frozenset(
            name
            for name, carriage in self._carriages.items()
            if carriage.touched or (carriage.wanted is not None and not carriage.wanted.released)
        )

    def held(self, device_id: str) -> Held | None:
        """What the device can be holding (see `believed`), as the newest look at it showed."""
        return believed(self._carriages[device_id], self._looks.seen(device_id).setpoint, self._monotonic_s())

    def carriage(self, device_id: str) -> Carriage:
        """For the snapshot."""
        return self._carriages[device_id]

    def add(self, device: Device) -> None:
        """Another device from now on. It is in the mapping that this was made with already."""
        name = device.device_id
        self._carriages[name] = Carriage(kind=device.kind)
        self._changed[name] = asyncio.Event()
        self._under_way[name], self._begun[name] = [], 0
        if self._serving is not None:
            self._serving.create_task(self._serve(name), name=f"dispatch {name}")

    async def run(self) -> None:
        """Serve all devices until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._serving = tasks
            try:
                for name in self._devices:
                    tasks.create_task(self._serve(name), name=f"dispatch {name}")
                await asyncio.Event().wait()
            finally:
                self._serving = None

    async def _serve(self, name: str) -> None:
        online = True
        self._under_way[name].clear()
        async with asyncio.TaskGroup() as orders:
            while True:
                self._changed[name].clear()
                status = self._looks.status(name)
                if status.link is LinkState.ONLINE and not online:
                    # It is back: what it shall do now does not wait for the end of a pause.
                    self._carriages[name] = replace(
                        self._carriages[name], failures=min(1, self._carriages[name].failures)
                    )
                online = status.link is LinkState.ONLINE
                deed, wait_s = next_step(
                    self._carriages[name], status.setpoint is not None, self._lease_s, self._monotonic_s()
                )
                wanted, under_way = self._carriages[name].wanted, self._under_way[name]
                if under_way:
                    free = wanted is not None and _may_overtake(wanted, under_way)
                    deed, wait_s = (deed, wait_s) if free else (Deed.NOTHING, float("inf"))
                if deed is not Deed.NOTHING and wait_s <= 0 and wanted is not None:
                    under_way.append(wanted)
                    orders.create_task(self._do(name, deed, wanted), name=f"order to {name}")
                    continue
                try:
                    # Looking again each second costs nothing and notices what a device has lost.
                    async with asyncio.timeout(min(wait_s, 1.0)):
                        await self._changed[name].wait()
                except TimeoutError:
                    pass

    async def _do(self, name: str, deed: Deed, order: DeviceOrder) -> None:
        device, before, now_s = self._devices[name], self._carriages[name], self._monotonic_s()
        self._begun[name] = number = self._begun[name] + 1
        lease_s = lease_for(before, self._lease_s, now_s)
        self._carriages[name] = sent(before, order, lease_s, now_s)
        trouble, refused = "", False
        try:
            if deed is Deed.RELEASE:
                await device.release()
            else:
                await device.apply(
                    Setpoint(
                        lowest_w=order.lowest_w,
                        highest_w=order.highest_w,
                        lease_s=lease_s,
                        reason=order.reason,
                        for_frequency=Rule.FREQUENCY in order.bound_by,
                    )
                )
        except DeviceError as error:
            trouble, refused = str(error) or repr(error), isinstance(error, DeviceRefusedError)
        except Exception as error:  # A fault in one driver must not take the others' orders with it.
            log.exception("control.driver_fault", device=name)
            trouble = f"fault in its driver: {error!r}"[:200]
        self._under_way[name].remove(order)
        self._changed[name].set()
        if number != self._begun[name]:
            return  # The one that overtook it says how things are.
        carriage = self._carriages[name]
        if trouble:
            online = self._looks.status(name).link is LinkState.ONLINE
            if not carriage.trouble and online:
                log.warning("control.order_not_carried_out", device=name, refused=refused, trouble=trouble)
            self._carriages[name] = failed(carriage, before, trouble, refused=refused, now_s=self._monotonic_s())
            return
        if carriage.trouble:
            log.info("control.device_follows_again", device=name)
        done = confirmed(carriage, order, now_s + lease_s, self._monotonic_s())
        if self._under_way[name]:
            # What it overtook has not ended yet: until the next renewal that may be in force.
            done = replace(done, unknown=carriage.unknown, unknown_until_s=carriage.unknown_until_s)
        self._carriages[name] = done
