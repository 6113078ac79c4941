"""SunSpec controls that a device obeys: power limit, power setpoint, storage rates, each with its reversion timer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .habits import PointKey, Timers
from .registers import RegisterMap

ENABLED = 1
LIMIT_SCALE = -2
"""Percent in model 704: hundredths."""
WATTS = 1
"""704 WSetMod: setpoint in watts; 0 is percent of WMax."""
CHARGE_BIT, DISCHARGE_BIT = 1, 2
"""124 StorCtl_Mod."""


@dataclass(slots=True)
class ReversionTimer:
    """Runs out when nobody writes the enable register again.

    Strict, as the devices that cause trouble are: only a write of the enable register with "enabled" starts it anew;
    the value or the timer register alone does not.
    """

    deadline_s: float | None = None

    def enabled(self, seconds: int, now_s: float) -> None:
        """The function was enabled. 0 seconds: stays until it is told otherwise."""
        self.deadline_s = now_s + seconds if seconds > 0 else None

    def disabled(self) -> None:
        self.deadline_s = None

    def expired(self, now_s: float) -> bool:
        """True once, when the time is up."""
        if self.deadline_s is None or now_s < self.deadline_s:
            return False
        self.deadline_s = None
        return True

    def remaining_s(self, now_s: float) -> int:
        return 0 if self.deadline_s is None else max(0, math.ceil(self.deadline_s - now_s))


class _Control:
    """One function with an enable register and a timer."""

    def __init__(self, registers: RegisterMap, model: int, enable: str, timer: str, revert: Callable[[], None]) -> None:
        self._registers = registers
        self._model = model
        self._enable = enable
        self._seconds = timer
        self._revert = revert
        self.timer = ReversionTimer()

    def written(self, points: frozenset[PointKey], now_s: float) -> None:
        if (self._model, self._enable) not in points:
            return
        timers = self._registers.habits.timers
        if timers is Timers.FORGOTTEN:
            self._registers.put_raw((self._model, self._seconds), 0)
        if self._registers.raw(self._model, self._enable) != 0 and timers is Timers.RUN:
            self.timer.enabled(self.seconds, now_s)
        else:
            self.timer.disabled()

    @property
    def seconds(self) -> int:
        """As set; 0 where there is no timer."""
        has_timer = self._registers.implements(self._model, self._seconds)
        return self._registers.raw(self._model, self._seconds) if has_timer else 0

    def remaining_s(self, now_s: float) -> int:
        """What the device says of it."""
        stuck = self._registers.habits.timers is Timers.STUCK
        return self.seconds if stuck else self.timer.remaining_s(now_s)

    def tick(self, now_s: float) -> None:
        if self.timer.expired(now_s):
            self._revert()


class _Acting:
    """The limit that is in force, which is not always the one in the register."""

    def __init__(self, registers: RegisterMap, model: int, switch: str) -> None:
        self._registers = registers
        self._model = model
        self._switch = switch
        self._held: float | None = None
        """Percent, where a device goes by what stood when its switch was written alone."""
        self.settled()

    def written(self, points: frozenset[PointKey]) -> None:
        if (self._model, self._switch) in points and (self._model, "WMaxLimPct") not in points:
            self.settled()

    def settled(self) -> None:
        """What the registers say is in force."""
        self._held = None
        if self._registers.habits.acts_on_switch_alone:
            self._held = self.percent()

    def percent(self) -> float:
        """Infinite: no limit."""
        if self._held is not None:
            return self._held
        if not self._registers.implements(self._model, self._switch):
            return math.inf
        if self._registers.raw(self._model, self._switch) != ENABLED:
            return math.inf
        return self._registers.scaled(self._model, "WMaxLimPct")


class PowerLimit704:
    """Model 704 registers 14 to 21: active power limited to a percentage of WMax, with a reversion target."""

    def __init__(self, registers: RegisterMap) -> None:
        self._registers = registers
        registers.put(704, WMaxLimPct_SF=LIMIT_SCALE)
        registers.put(704, WMaxLimPctEna=0, WMaxLimPct=10_000, WMaxLimPctRvrt=10_000)
        registers.put(704, WMaxLimPctEnaRvrt=0, WMaxLimPctRvrtTms=0, WMaxLimPctRvrtRem=0)
        for name in ("WMaxLimPct", "WMaxLimPctRvrt"):
            registers.bound(704, name, 0, 10_000)
        self._control = _Control(registers, 704, "WMaxLimPctEna", "WMaxLimPctRvrtTms", self._revert)
        self._acting = _Acting(registers, 704, "WMaxLimPctEna")

    def _revert(self) -> None:
        self._acting.settled()
        read = self._registers.raw
        self._registers.put(704, WMaxLimPctEna=read(704, "WMaxLimPctEnaRvrt"), WMaxLimPct=read(704, "WMaxLimPctRvrt"))

    def written(self, points: frozenset[PointKey], now_s: float) -> None:
        self._control.written(points, now_s)
        self._acting.written(points)

    def tick(self, now_s: float) -> None:
        self._control.tick(now_s)
        self._registers.put(704, WMaxLimPctRvrtRem=self._control.remaining_s(now_s))

    def limit_w(self, max_w: float) -> float:
        """Most production now, W; infinite when not enabled."""
        return max_w * self._acting.percent() / 100


class PowerLimit123:
    """Model 123: the same limit in the old model. Its timer reverts to *uncurtailed*; and the connect switch."""

    def __init__(self, registers: RegisterMap) -> None:
        self._registers = registers
        registers.put(123, WMaxLimPct_SF=-1, OutPFSet_SF=-2, VArPct_SF=-1)
        registers.put(123, WMaxLimPct=1000, WMaxLimPct_RvrtTms=0, WMaxLim_Ena=0)
        registers.put(123, Conn=1, Conn_RvrtTms=0, OutPFSet=100, OutPFSet_Ena=0, VArPct_Ena=0)
        registers.bound(123, "WMaxLimPct", 0, 1000)
        registers.bound(123, "OutPFSet", -100, 100)
        self._limit = _Control(registers, 123, "WMaxLim_Ena", "WMaxLimPct_RvrtTms", self._revert)
        self._acting = _Acting(registers, 123, "WMaxLim_Ena")
        self._connection = ReversionTimer()

    def _revert(self) -> None:
        self._acting.settled()
        self._registers.put(123, WMaxLim_Ena=0)

    def written(self, points: frozenset[PointKey], now_s: float) -> None:
        self._limit.written(points, now_s)
        self._acting.written(points)
        if (123, "Conn") in points:
            if self.connected:
                self._connection.disabled()
            else:
                self._connection.enabled(self._registers.raw(123, "Conn_RvrtTms"), now_s)

    def tick(self, now_s: float) -> None:
        self._limit.tick(now_s)
        if self._connection.expired(now_s):
            self._registers.put(123, Conn=1)

    @property
    def connected(self) -> bool:
        return not self._registers.implements(123, "Conn") or self._registers.raw(123, "Conn") == 1

    def limit_w(self, max_w: float) -> float:
        """Most production now, W; infinite when not enabled."""
        return max_w * self._acting.percent() / 100


class PowerSetpoint704:
    """Model 704 registers 22 to 34: active power set in watts or percent of WMax, + is generation."""

    def __init__(self, registers: RegisterMap, *, watt_scale: int) -> None:
        self._registers = registers
        registers.put(704, WSet_SF=watt_scale, WSetPct_SF=LIMIT_SCALE)
        registers.put(704, WSetEna=0, WSetMod=WATTS, WSet=0, WSetRvrt=0, WSetPct=0, WSetPctRvrt=0)
        registers.put(704, WSetEnaRvrt=0, WSetRvrtTms=0, WSetRvrtRem=0)
        for name in ("WSetPct", "WSetPctRvrt"):
            registers.bound(704, name, -10_000, 10_000)
        self._control = _Control(registers, 704, "WSetEna", "WSetRvrtTms", self._revert)

    def _revert(self) -> None:
        read = self._registers.raw
        self._registers.put(704, WSetEna=read(704, "WSetEnaRvrt"), WSet=read(704, "WSetRvrt"))
        self._registers.put(704, WSetPct=read(704, "WSetPctRvrt"))

    def written(self, points: frozenset[PointKey], now_s: float) -> None:
        self._control.written(points, now_s)

    def tick(self, now_s: float) -> None:
        self._control.tick(now_s)
        self._registers.put(704, WSetRvrtRem=self._control.remaining_s(now_s))

    def generation_w(self, max_w: float) -> float | None:
        """The ordered generation, W, + out of the device; None when not enabled."""
        if not self._registers.implements(704, "WSetEna") or self._registers.raw(704, "WSetEna") != ENABLED:
            return None
        if self._registers.raw(704, "WSetMod") == WATTS:
            return self._registers.scaled(704, "WSet") if self._registers.implements(704, "WSet") else 0.0
        return max_w * self._registers.scaled(704, "WSetPct") / 100


class StorageRates124:
    """Model 124: bounds of charge and discharge in percent of WChaMax; a negative bound forces the other direction."""

    def __init__(self, registers: RegisterMap) -> None:
        self._registers = registers
        registers.put(124, InOutWRte_SF=-2, OutWRte=10_000, InWRte=10_000, InOutWRte_RvrtTms=0, StorCtl_Mod=0)
        for name in ("OutWRte", "InWRte"):
            registers.bound(124, name, -10_000, 10_000)
        registers.bound(124, "StorCtl_Mod", 0, CHARGE_BIT | DISCHARGE_BIT)
        self._control = _Control(
            registers, 124, "StorCtl_Mod", "InOutWRte_RvrtTms", lambda: registers.put(124, StorCtl_Mod=0)
        )

    def written(self, points: frozenset[PointKey], now_s: float) -> None:
        self._control.written(points, now_s)

    def tick(self, now_s: float) -> None:
        self._control.tick(now_s)

    def band_w(self) -> tuple[float | None, float | None]:
        """(lowest, highest) power, + charging; None where that side is not activated."""
        active = self._registers.raw(124, "StorCtl_Mod")
        most_w = self._registers.scaled(124, "WChaMax")
        discharge_w = most_w * self._registers.scaled(124, "OutWRte") / 100 if active & DISCHARGE_BIT else None
        charge_w = most_w * self._registers.scaled(124, "InWRte") / 100 if active & CHARGE_BIT else None
        return (None if discharge_w is None else -discharge_w, charge_w)
