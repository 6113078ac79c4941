"""What the site is like now, from plan to plan: the view, safe mode with its reason, and the grid's frequency."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from agent.control.coming_back import ComingBack, begin, step
from agent.control.day_watch import DayMemory, DayWatch
from agent.control.frequency_watch import FrequencyMemory, FrequencyWatch, Say
from agent.control.house import House, follow
from agent.control.meter_doubt import MeterDoubt, MeterShown
from agent.control.meter_doubt import step as step_doubt
from agent.control.meter_lag import MeterLag
from agent.control.meter_lag import step as step_lag
from agent.control.order import Now, Order
from agent.control.site import Held, SiteView
from agent.control.tally import Register
from agent.control.viewing import (
    SafeMode,
    SiteSettingsView,
    frequency_readings,
    is_islanded,
    register_of,
    step_safe_mode,
    view_site,
)
from agent.evidence.statements import Severity
from drivers.device import DeviceStatus

GRID_IS_BACK: Final = "the public grid is back"
METER_PATIENCE_S: Final = 10.0
"""After the start the grid meter may take so long to its first sample before that is a reason for safe mode."""


class Looks(Protocol):
    """How the devices are."""

    def statuses(self) -> Mapping[str, DeviceStatus]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchMemory:
    """What the next look goes by, for the record of decisions."""

    started_s: float
    metered: bool
    doubt: MeterDoubt
    safe_mode: SafeMode
    islanded: bool
    returns_for: str
    coming_back: ComingBack | None
    day: DayMemory
    frequency: FrequencyMemory
    lag: MeterLag = field(default_factory=MeterLag)
    house: House = field(default_factory=House)


class SiteWatch:
    """One for the gateway. `look` with each plan; what changes is said as an alarm."""

    def __init__(
        self,
        settings: SiteSettingsView,
        looks: Looks,
        *,
        held: Callable[[str], Held | None],
        say: Say,
        started_s: float,
        booted: bool,
        draw: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._looks = looks
        self._held = held
        self._say = say
        self._started_s = started_s
        self._metered = False
        """Whether the grid meter has ever spoken."""
        self._doubt = MeterDoubt()
        self._lag = MeterLag()
        self._house = House()
        self._safe_mode = SafeMode()
        self._islanded = False
        self._draw = draw
        self._returns_for = "the gateway was started with its machine" if booted else ""
        """Why a return has to begin with the next look; empty: it has not."""
        self._coming_back: ComingBack | None = None
        self.day = DayWatch(settings.day)
        self._frequency = FrequencyWatch(settings.curve, answers=settings.defaults.answers_frequency, say=say)

    def use(self, settings: SiteSettingsView) -> None:
        """From now on; devices may have been added."""
        self._settings = settings
        self.day.use(settings.day)

    def memory(self) -> WatchMemory:
        """All that the next look goes by."""
        return WatchMemory(
            started_s=self._started_s,
            metered=self._metered,
            doubt=self._doubt,
            lag=self._lag,
            house=self._house,
            safe_mode=self._safe_mode,
            islanded=self._islanded,
            returns_for=self._returns_for,
            coming_back=self._coming_back,
            day=self.day.memory(),
            frequency=self._frequency.memory(),
        )

    def recall(self, memory: WatchMemory) -> None:
        """Go on from there."""
        self._started_s, self._metered, self._doubt = memory.started_s, memory.metered, memory.doubt
        self._lag, self._house = memory.lag, memory.house
        self._safe_mode, self._islanded = memory.safe_mode, memory.islanded
        self._returns_for, self._coming_back = memory.returns_for, memory.coming_back
        self.day.recall(memory.day)
        self._frequency.recall(memory.frequency)

    @property
    def has_meter(self) -> bool:
        """Whether the site has a grid meter, heard of or not."""
        return self._settings.meter_id is not None

    @property
    def safe_mode(self) -> str | None:
        """Why the site looks after itself only; None: it does not."""
        return self._safe_mode.reason

    def look(self, now: Now, monotonic_s: float, *, orders: tuple[Order, ...], stop: str | None) -> SiteView:
        """The snapshot for one plan. `stop`: who pressed local STOP."""
        statuses = self._looks.statuses()
        view = view_site(self._settings, statuses, self._held, now, monotonic_s, orders=orders, stop=stop)
        meter = statuses.get(self._settings.meter_id) if self._settings.meter_id is not None else None
        self._metered |= meter is not None and meter.last_sample is not None
        doubted = self._doubt_meter(view, meter, monotonic_s)
        if doubted:
            view = replace(view, meter=None)
        view = self._seen_in_time(view, meter, monotonic_s)
        reason = None
        if is_islanded(statuses.values()):
            reason = "the site is not connected to the public grid"
        elif doubted:
            reason = doubted
        elif view.meter is None and self._settings.meter_id is not None and self._meter_is_due(monotonic_s):
            reason = f"the grid meter {self._settings.meter_id} gives no believable power"
        self._step_safe_mode(reason, monotonic_s)
        if self._islanded and not view.islanded:
            self._returns_for = GRID_IS_BACK
        self._islanded = view.islanded
        self._step_return(view, monotonic_s)
        frequency = self._frequency.look(
            frequency_readings(self._settings, statuses),
            {name: device.likely_w for name, device in view.devices.items()},
            view.meter.power_w if view.meter is not None else None,
            monotonic_s,
        )
        view = replace(view, safe_mode=self._safe_mode.reason, frequency=frequency, coming_back=self._coming_back)
        return self.day.look(view, _registers(statuses), monotonic_s)

    def _doubt_meter(self, view: SiteView, meter: DeviceStatus | None, monotonic_s: float) -> str:
        """Why the grid meter is not believed although it speaks; empty while it is."""
        sample = meter.last_sample if meter is not None else None
        if view.meter is None or sample is None or self._settings.meter_id is None:
            return ""
        shown = MeterShown(
            power_w=view.meter.power_w,
            registers=(sample.import_register_milliwatt_hours, sample.export_register_milliwatt_hours),
            grid=(sample.voltage_millivolts, sample.frequency_millihertz),
        )
        powers_w = {name: device.present_w for name, device in view.devices.items() if device.online}
        self._doubt = step_doubt(self._doubt, shown, powers_w, monotonic_s)
        return self._doubt.sentence(self._settings.meter_id)

    def _seen_in_time(self, view: SiteView, meter: DeviceStatus | None, monotonic_s: float) -> SiteView:
        """With the grid meter as it is once it shows what devices have done, and the house that this leaves."""
        sample = meter.last_sample if meter is not None else None
        if view.meter is None or sample is None:
            self._lag, self._house = MeterLag(), House()
            return view
        powers_w = {name: device.likely_w for name, device in view.devices.items()}
        self._lag = step_lag(self._lag, view.meter.power_w, powers_w, monotonic_s)
        self._house, known = follow(
            self._house,
            self._lag,
            view.meter,
            view.devices,
            view.limits.phases,
            read_s=sample.monotonic_s,
            now_s=monotonic_s,
        )
        return replace(view, meter=known)

    def _step_return(self, view: SiteView, monotonic_s: float) -> None:
        """SAFETY 7. Another cause while one return is under way begins a new one, which waits no shorter.

        An island is safe mode too: when that ends, half a minute after the grid is back, devices still have their own
        delay before them.
        """
        if self._returns_for:
            pace, delay_s = self._settings.pace, 0
            if self._returns_for == GRID_IS_BACK:  # Only then do devices have something to reconnect to.
                known = [d.capabilities for d in view.devices.values() if d.capabilities is not None]
                delay_s = max((capabilities.reconnect_delay_s for capabilities in known), default=0)
            returning = begin(self._returns_for, pace, delay_s, self._draw(), monotonic_s)
            if self._coming_back is not None:
                left_s = self._coming_back.left_s(monotonic_s)
                returning = replace(returning, wait_s=max(returning.wait_s, left_s))
            self._coming_back, self._returns_for = returning, ""
            text = (
                f"{returning.why}: more power is allowed after {returning.wait_s:.0f} s, "
                f"then by {pace.ramp_permille_per_minute / 10:g} % of rating a minute"
            )
            self._say(Severity.INFO, "site.coming_back", "site", text)
        if self._coming_back is not None:
            heard = {name: device.likely_w for name, device in view.devices.items() if device.online}
            self._coming_back = step(self._coming_back, self._settings.pace, heard, monotonic_s)

    def _meter_is_due(self, monotonic_s: float) -> bool:
        """Whether the meter ought to have spoken: right after the start it is only being connected to."""
        return self._metered or monotonic_s - self._started_s >= METER_PATIENCE_S

    def _step_safe_mode(self, reason: str | None, monotonic_s: float) -> None:
        before = self._safe_mode.reason
        self._safe_mode = step_safe_mode(self._safe_mode, reason, monotonic_s)
        if self._safe_mode.reason is not None and before is None:
            self._say(Severity.WARNING, "site.safe_mode", "site", f"safe mode: {self._safe_mode.reason}")
        elif self._safe_mode.reason is None and before is not None:
            self._say(Severity.INFO, "site.safe_mode_left", "site", f"safe mode has ended; it was: {before}")
            self._returns_for = "safe mode has ended"


def _registers(statuses: Mapping[str, DeviceStatus]) -> dict[str, Register]:
    """What the devices' meters show."""
    shown = {name: register_of(status.last_sample) for name, status in statuses.items() if status.last_sample}
    return {name: register for name, register in shown.items() if register is not None}
