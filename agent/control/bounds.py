"""Local bounds on what commands may do here, whoever issues them (SAFETY 10): counted from plan to plan. Pure.

Energy and full cycles of a day, changes of sign and discrete events of an hour, and a ramp. Only the configuration
file sets them; no command, trust list or frame of the platform can. What is counted is kept over restarts (`encode`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from agent.control.errors import RestoreError
from agent.control.order import Now
from agent.evidence import cbor
from agent.evidence.errors import EvidenceError

HOUR_US: Final = 3_600_000_000
HOURS: Final = 24
SIGN_LEAST_W: Final = 100
"""Less power than this has no sign: a target near nothing is not one that turns."""
MOST_STEP_S: Final = 10.0
"""A longer pause between two looks counts no energy at the last power: nobody knows what flowed."""
CHARGE_STEP_PERMILLE: Final = 5
"""State of charge counts as moved from here on; less is its own noise."""
CHARGE_JUMP_PERMILLE: Final = 100
"""More between two looks is another car, or a correction."""
MOST_EVENTS: Final = 10_000
SPENT_PERCENT: Final = 90
"""Of the day's full cycles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundSettings:
    """What the installer set; None: no such bound."""

    energy_per_day_wh: int | None = None
    cycles_per_day_permille: int | None = None
    sign_changes_per_hour: int | None = None
    events_per_hour: int | None = None
    ramp_permille_per_s: int | None = None
    """Of a device's rating."""
    most_step_s: float = MOST_STEP_S
    """Between two looks; a simulation takes longer steps, and knows what flowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What is left to commands of one device."""

    energy: bool = True
    energy_left_wh: int | None = None
    """Of the day; None: any."""
    cycles: bool = True
    charge_left_permille: int | None = None
    """State of charge that may still be moved today, either way, by the bound on cycles; None: any."""
    sign: int = 0
    """The only sign that may be ordered beside nothing; 0: either."""
    from_w: int = 0
    """Where the ramp begins: what commands had of it in the last plan. What it does already no ramp takes from it."""
    ramp_permille: float | None = None
    """Of its rating, away from nothing, in this plan; None: at once."""
    ramp_permille_per_s: int | None = None
    """The same from plan to plan."""
    spent: bool = False
    """Hardly any of its full cycles of the day is left: it goes last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundsView:
    """For the plan. Without anything: nothing is bound."""

    devices: Mapping[str, Allowance] = field(default_factory=dict)
    events_left: int | None = None
    """Commands that may still begin in this hour; None: any number."""
    begun: frozenset[bytes] = frozenset()
    """Commands that are counted already: they go on."""

    def of(self, device_id: str) -> Allowance:
        return self.devices.get(device_id, FREE)

    @property
    def without_ramp(self) -> BoundsView:
        """To ask what a command could come to, and not how soon."""
        if all(allowance.ramp_permille is None for allowance in self.devices.values()):
            return self
        return replace(self, devices={n: replace(a, ramp_permille=None) for n, a in self.devices.items()})


FREE: Final = Allowance()
NO_BOUNDS: Final = BoundsView()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One device after a plan was made, as the bounds need it."""

    commanded_w: int | None
    """What a command has it do; None: no command moves it."""
    power_w: int
    """Metered."""
    charge_permille: int | None
    """State of charge of a battery, or of the car of a session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What commands have had of one device."""

    energy_milliwatt_hours: Mapping[int, int] = field(default_factory=dict)
    """By hour."""
    charge_permille: Mapping[int, int] = field(default_factory=dict)
    """State of charge moved, either way, by hour; 2000 make a full cycle."""
    anchor_permille: int | None = None
    """State of charge that was counted last."""
    turned_us: tuple[int, ...] = ()
    """Changes of sign within the last hour."""
    sign: int = 0
    """Of the last order with one."""
    commanded_w: int = 0
    moved: bool = False
    """A command moved it by the last plan: what has flowed since is that command's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the bounds remember."""

    devices: Mapping[str, Use] = field(default_factory=dict)
    events: Mapping[bytes, int] = field(default_factory=dict)
    """When each command came into force, of the last hour, and of those in force still."""
    uptime_us: int | None = None
    """Of the last look."""


def allow(settings: BoundSettings, counted: Counted, now: Now) -> BoundsView:
    """What commands may do at that moment, by what has been counted until now."""
    step_s = _step_s(counted, now, settings.most_step_s)
    devices = {name: _allowance(settings, use, step_s, now) for name, use in counted.devices.items()}
    recent = sum(1 for at_us in counted.events.values() if at_us > now.wall_us - HOUR_US)
    left = None if settings.events_per_hour is None else max(0, settings.events_per_hour - recent)
    return BoundsView(devices=devices, events_left=left, begun=frozenset(counted.events))


def _allowance(settings: BoundSettings, use: Use, step_s: float, now: Now) -> Allowance:
    hour = now.wall_us // HOUR_US
    energy_wh = sum(_recent(use.energy_milliwatt_hours, hour).values()) // 1000
    moved_permille = sum(_recent(use.charge_permille, hour).values()) // 2
    turned = sum(1 for at_us in use.turned_us if at_us > now.wall_us - HOUR_US)
    most_turns, ramp = settings.sign_changes_per_hour, settings.ramp_permille_per_s
    most_permille = settings.cycles_per_day_permille
    return Allowance(
        energy=settings.energy_per_day_wh is None or energy_wh < settings.energy_per_day_wh,
        energy_left_wh=None if settings.energy_per_day_wh is None else max(0, settings.energy_per_day_wh - energy_wh),
        cycles=most_permille is None or moved_permille < most_permille,
        charge_left_permille=None if most_permille is None else max(0, 2 * (most_permille - moved_permille)),
        sign=use.sign if most_turns is not None and turned >= most_turns else 0,
        from_w=use.commanded_w,
        ramp_permille=None if ramp is None else ramp * step_s,
        ramp_permille_per_s=ramp,
        spent=most_permille is not None and moved_permille * 100 >= most_permille * SPENT_PERCENT,
    )


def count(
    counted: Counted,
    seen: Mapping[str, Seen],
    begun: frozenset[bytes],
    now: Now,
    *,
    most_step_s: float = MOST_STEP_S,
) -> Counted:
    """The account after one plan. `begun`: commands that are in force and order power."""
    step_s = _step_s(counted, now, most_step_s)
    devices = {
        **counted.devices,
        **{name: _used(counted.devices.get(name, Use()), one, step_s, now) for name, one in seen.items()},
    }
    events = {
        order_hash: at_us
        for order_hash, at_us in counted.events.items()
        if order_hash in begun or now.wall_us - HOUR_US < at_us <= now.wall_us + HOUR_US
    }
    events |= dict.fromkeys(sorted(begun - events.keys()), now.wall_us)
    while len(events) > MOST_EVENTS:
        del events[next(iter(events))]
    return Counted(devices=devices, events=events, uptime_us=now.uptime_us)


def _used(use: Use, seen: Seen, step_s: float, now: Now) -> Use:
    hour = now.wall_us // HOUR_US
    energy, charge = _recent(use.energy_milliwatt_hours, hour), _recent(use.charge_permille, hour)
    anchor = use.anchor_permille
    if seen.charge_permille is None or anchor is None or abs(seen.charge_permille - anchor) > CHARGE_JUMP_PERMILLE:
        anchor = seen.charge_permille
    elif abs(seen.charge_permille - anchor) >= CHARGE_STEP_PERMILLE:
        charge[hour] = charge.get(hour, 0) + abs(seen.charge_permille - anchor)
        anchor = seen.charge_permille
    sign, turned = use.sign, tuple(at_us for at_us in use.turned_us if abs(now.wall_us - at_us) < HOUR_US)
    if use.moved:
        energy[hour] = energy.get(hour, 0) + round(abs(seen.power_w) * step_s / 3.6)
    if seen.commanded_w is not None:
        new_sign = _sign(seen.commanded_w)
        if new_sign and sign and new_sign != sign:
            turned = (*turned, now.wall_us)
        sign = new_sign or sign
    return Use(
        energy_milliwatt_hours=energy,
        charge_permille=charge,
        anchor_permille=anchor,
        turned_us=turned,
        sign=sign,
        commanded_w=seen.commanded_w or 0,
        moved=seen.commanded_w is not None,
    )


def _recent(hours: Mapping[int, int], hour: int) -> dict[int, int]:
    """Of a day. What claims to be of a far future is of a clock that was wrong."""
    return {at: amount for at, amount in hours.items() if hour - HOURS < at <= hour + 1}


def _sign(power_w: int) -> int:
    return 0 if abs(power_w) < SIGN_LEAST_W else 1 if power_w > 0 else -1


def _step_s(counted: Counted, now: Now, most_s: float) -> float:
    """Since the last look; 0 when it was of another boot, or too long ago."""
    if counted.uptime_us is None or not 0 <= now.uptime_us - counted.uptime_us <= most_s * 1e6:
        return 0.0
    return (now.uptime_us - counted.uptime_us) / 1e6


# -- over restarts --------------------------------------------------------------------------------------------------


def encode(counted: Counted) -> bytes:
    """For the store."""
    devices: list[cbor.Value] = [
        [
            name,
            [[hour, amount] for hour, amount in sorted(use.energy_milliwatt_hours.items())],
            [[hour, amount] for hour, amount in sorted(use.charge_permille.items())],
            use.anchor_permille,
            list(use.turned_us),
            use.sign,
        ]
        for name, use in sorted(counted.devices.items())
    ]
    events: list[cbor.Value] = [[order_hash, at_us] for order_hash, at_us in sorted(counted.events.items())]
    return cbor.encode([1, devices, events])


def decode(note: bytes) -> Counted:
    """As `encode` wrote it. Raises RestoreError."""
    try:
        value = cbor.decode(note, what="bounds note")
    except EvidenceError as error:
        raise RestoreError(str(error)) from error
    match value:
        case [1, list(devices), list(events)]:
            return Counted(devices=dict(map(_device_of, devices)), events=dict(map(_event_of, events)))
    raise RestoreError("bounds note: not laid out as version 1")


def joined(stored: Counted, since: Counted) -> Counted:
    """What an earlier run counted, and this one before the store could be read."""
    devices = dict(stored.devices)
    for name, use in since.devices.items():
        old = devices.get(name, Use())
        devices[name] = replace(
            use,
            energy_milliwatt_hours=_sum(old.energy_milliwatt_hours, use.energy_milliwatt_hours),
            charge_permille=_sum(old.charge_permille, use.charge_permille),
            turned_us=(*old.turned_us, *use.turned_us),
            sign=use.sign or old.sign,
        )
    return Counted(devices=devices, events={**since.events, **stored.events}, uptime_us=since.uptime_us)


def _sum(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {hour: one.get(hour, 0) + other.get(hour, 0) for hour in sorted(one.keys() | other.keys())}


def _device_of(value: cbor.Value) -> tuple[str, Use]:
    match value:
        case [str(name), list(energy), list(charge), (int() | None) as anchor, list(turned), int(sign)]:
            return name, Use(
                energy_milliwatt_hours=_hours_of(energy),
                charge_permille=_hours_of(charge),
                anchor_permille=anchor,
                turned_us=tuple(at_us for at_us in turned if isinstance(at_us, int)),
                sign=sign,
            )
    raise RestoreError("bounds note: a device is not laid out as version 1")


def _hours_of(values: list[cbor.Value]) -> dict[int, int]:
    hours = {}
    for value in values:
        match value:
            case [int(hour), int(amount)]:
                hours[hour] = amount
            case _:
                raise RestoreError("bounds note: an hour is not laid out as version 1")
    return hours


def _event_of(value: cbor.Value) -> tuple[bytes, int]:
    match value:
        case [bytes(order_hash), int(at_us)]:
            return order_hash, at_us
    raise RestoreError("bounds note: an event is not laid out as version 1")
