"""One device in the making of a plan: what it may do, what is wanted of it, and which rules have bound it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.control.site import DeviceView
from drivers.device import DeviceKind

STEP_W: Final = 100
"""Bounds that follow the meter move in such steps, downwards: not every watt of the house is an order to a device."""


class Rule(StrEnum):
    """Names of the rules, as they stand in reasons, receipts, snapshots and the page: words for people."""

    STOP = "local stop"  # SAFETY 1
    WIRED = "hard-wired input"  # SAFETY 13
    HELD = "held locally by hand"
    GRID_CODE = "never against the grid's frequency"  # SAFETY 5
    FREQUENCY = "frequency response"  # SAFETY 11
    SILENT = "budget for the silent"  # SAFETY 3
    DISOBEYS = "does not follow: counted at what it does"  # SAFETY 3
    ISLANDED = "islanded"  # SAFETY 6
    EXPORT_COMMAND = "export limit by command"
    IMPORT_COMMAND = "import limit by command"
    COMING_BACK = "comes back slowly"  # SAFETY 7
    CONNECTION_EXPORT = "export at the connection"  # SAFETY 8
    CONNECTION_IMPORT = "import at the connection"  # SAFETY 8
    PHASE = "fuse per phase"  # SAFETY 8
    DIFFERENCE = "difference between phases"  # SAFETY 8
    METER_LOST = "meter lost: static shares"  # SAFETY 8
    STORAGE_EXPORT = "no export from storage"  # SAFETY 12
    RAISE_LATER = "others come down first"  # SAFETY 3
    CAR_STATE = "state of charge of the car is not known"  # SAFETY 9
    CAR_MANDATE = "no mandate to discharge this car"  # SAFETY 9
    CAR_ISSUER = "the owner's mandate is not for this issuer"  # SAFETY 9
    CAR_MINIMUM = "the car's minimum state of charge"  # SAFETY 9
    CAR_DEPARTURE = "the car's need at departure"  # SAFETY 9
    CAR_PRICE = "the owner's least price"  # SAFETY 9
    CAR_NOW = "charge now, by the driver"  # SAFETY 9
    SUN = "what the sun leaves over"
    NO_CAR = "no car"
    SITE_DISCHARGE = "site has no permission to discharge"  # SAFETY 9
    BATTERY_MINIMUM = "the battery's minimum state of charge"
    BATTERY_RESERVE = "room in the battery is kept for the grid's frequency"  # SAFETY 11
    BATTERY_FULL = "the battery is full"
    BATTERY_STATE = "state of charge of the battery is not known"
    ENERGY_DAY = "local bound: energy per day"  # SAFETY 10
    CYCLES_DAY = "local bound: full cycles per day"  # SAFETY 10
    SIGN_CHANGES = "local bound: sign changes per hour"  # SAFETY 10
    EVENTS = "local bound: discrete events per hour"  # SAFETY 10
    RAMP = "local bound: ramp"  # SAFETY 10
    RATING = "rating"
    CAPABILITY = "the device cannot be ordered so"


@dataclass(slots=True)
class Draft:
    """Mutable while a plan is being made; `plan.py` freezes it into an order."""

    view: DeviceView
    low: int | None = None
    """The band so far; None on both sides gives the device back to itself."""
    high: int | None = None
    until_us: int | None = None
    """When the command ends that allows the power; None where none does."""
    cause: str = ""
    """Where the target comes from: a sentence."""
    bound: list[Rule] = field(default_factory=list)
    """In the order in which they bound."""
    room_low: int = 0
    """Lowest power that its state allows (zero or negative); `needs.py`."""
    room_high: int = 0
    why_low: Rule | None = None
    """What holds `room_low` above the rating."""
    why_high: Rule | None = None
    must_charge: bool = False
    """The driver or the departure needs it: no command below the room's top."""
    slack_s: float = float("inf")
    """Of the car, until it must charge for its departure."""
    # What the view says of it, which a plan asks again and again.
    is_pv: bool = field(init=False)
    minimum_w: int = field(init=False)
    """Smallest import that is not zero."""
    taking_w: int = field(init=False)
    """Metered import, zero or positive; 0 of the silent: it may have ended."""
    giving_w: int = field(init=False)
    """As `taking_w`, of export."""

    def __post_init__(self) -> None:
        power_w, capabilities = self.view.present_w if self.view.online else 0, self.view.capabilities
        self.is_pv = self.view.kind is DeviceKind.PV
        self.minimum_w = 0 if capabilities is None else capabilities.minimum_import_w
        self.taking_w, self.giving_w = (power_w, 0) if power_w > 0 else (0, -power_w)

    @property
    def released(self) -> bool:
        return self.low is None and self.high is None

    @property
    def point_w(self) -> int | None:
        """The power, where the band is one value."""
        return self.low if self.low is not None and self.low == self.high else None

    @property
    def dispatchable(self) -> bool:
        """Can be brought to a power now."""
        capabilities = self.view.capabilities
        if not self.view.online or capabilities is None:
            return False
        return capabilities.follows_setpoint or (self.view.kind is DeviceKind.CHARGER and capabilities.limits_import)

    def stepped(self, power_w: int) -> int:
        """An import in whole steps, downwards; nothing where it is less than the device can take."""
        stepped_w = power_w // STEP_W * STEP_W
        return stepped_w if stepped_w >= self.minimum_w else 0

    def bind(self, rule: Rule) -> None:
        """Notes that a rule changed the band."""
        if rule not in self.bound:
            self.bound.append(rule)

    def cap_high(self, high: int, rule: Rule) -> None:
        """No more than `high`, which is not below 0; a band below it stays."""
        if self.high is None or self.high > high:
            self.high = high
            if self.low is not None and self.low > high:
                self.low = high
            self.bind(rule)

    def cap_low(self, low: int, rule: Rule) -> None:
        """No less than `low`, which is not above 0."""
        if self.low is None or self.low < low:
            self.low = low
            if self.high is not None and self.high < low:
                self.high = low
            self.bind(rule)

    def set_power(self, power_w: int) -> None:
        """To this power; where a device only takes limits, to the band between it and 0."""
        capabilities = self.view.capabilities
        exactly = capabilities is None or capabilities.follows_setpoint
        self.low = power_w if exactly else min(0, power_w)
        self.high = power_w if exactly else max(0, power_w)
