"""The cars' day from plan to plan: what each still needs, what has begun; and what of it must survive a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import Final

from agent.control.day import DayState, SunPace, step_day, with_day
from agent.control.errors import NotNowError, RestoreError
from agent.control.needing import CarNeed, DefaultNeed, Wish, decode_need, encode_need, in_need, step_need
from agent.control.notes import PREFIX
from agent.control.order import Now
from agent.control.site import CarDay, DeviceView, SiteView
from agent.control.tally import Register
from drivers.device import DeviceKind, VehicleSession

NEED: Final = PREFIX + "need/"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySettings:
    """What the configuration says, by charger."""

    zone: tzinfo
    pace: SunPace
    days: Mapping[str, CarDay] = field(default_factory=dict)
    needs: Mapping[str, DefaultNeed] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayMemory:
    """What the next look goes by, for the record of decisions."""

    state: DayState
    needs: Mapping[str, CarNeed]


class DayWatch:
    """One for the gateway."""

    def __init__(self, settings: DaySettings) -> None:
        self._settings = settings
        self._state = DayState()
        self._needs: dict[str, CarNeed] = {}
        self._written: dict[str, CarNeed] = {}
        self._restored = False

    def use(self, settings: DaySettings) -> None:
        """From now on; chargers may have been added."""
        self._settings = settings

    def memory(self) -> DayMemory:
        """All that the next look goes by."""
        return DayMemory(state=self._state, needs=dict(self._needs))

    def recall(self, memory: DayMemory) -> None:
        """Go on from there."""
        self._state, self._needs = memory.state, dict(memory.needs)

    def look(self, site: SiteView, registers: Mapping[str, Register], now_s: float) -> SiteView:
        """The view with the day in it. `registers`: what the chargers' meters show."""
        devices = dict(site.devices)
        for name, view in site.devices.items():
            if view.kind is DeviceKind.CHARGER:
                car = self._in_need(view, registers.get(name), site.now)
                devices[name] = replace(view, day=self._settings.days.get(name), vehicle=car)
        site = replace(site, devices=devices)
        self._state = step_day(self._state, site, self._settings.pace, now_s)
        return with_day(site, self._state)

    def _in_need(self, view: DeviceView, register: Register | None, now: Now) -> VehicleSession | None:
        name, car = view.device_id, view.vehicle
        if car is None:
            if view.online:
                self._needs.pop(name, None)  # One whose charger is silent may still be there.
            return None
        need = step_need(self._needs.get(name, CarNeed()), car, register, self._settings.needs.get(name), now)
        self._needs[name] = need
        return in_need(car, need, register)

    def wish(self, device_id: str, wish: Wish, now_us: int) -> None:
        """The driver's word for the session at a charger. Raises WishError, or NotNowError where no car is."""
        if device_id not in self._needs:
            raise NotNowError(f"no car is plugged in at {device_id!a}")
        wish.check(now_us)
        self._needs[device_id] = replace(self._needs[device_id], wish=wish, by="")  # counted from now

    def restore(self, notes: Mapping[str, bytes]) -> list[str]:
        """Take what an earlier run has noted, unless this one knows better; sentences about what is damaged."""
        faults = []
        for key, note in sorted(notes.items()):
            if not key.startswith(NEED):
                continue
            name = key.removeprefix(NEED)
            try:
                stored = decode_need(note)
            except RestoreError as error:
                faults.append(f"{key}: {error}")
                continue
            self._written[name] = stored
            seen = self._needs.get(name)
            if seen is None or (seen.wish == Wish() and seen.transaction_id in (None, stored.transaction_id)):
                self._needs[name] = stored
        self._restored = True
        return faults

    def take_notes(self) -> dict[str, bytes | None]:
        """What has to be written since this was last asked."""
        if not self._restored:
            return {}
        notes: dict[str, bytes | None] = {}
        for name, need in self._needs.items():
            if self._written.get(name) != need:
                notes[NEED + name] = encode_need(need)
        for name in self._written.keys() - self._needs.keys():
            notes[NEED + name] = None
        self._written = dict(self._needs)
        return notes
