"""The holds of owner and installer from plan to plan: kept over restarts, stated when they begin and end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agent.control.errors import NotNowError, RestoreError, quoted
from agent.control.frequency_watch import Say
from agent.control.notes import HOLD_PREFIX
from agent.control.order import Now
from agent.control.override import Override, OverrideError, decode, encode, override_for
from agent.evidence.statements import Severity
from drivers.device import DeviceStatus

Keep = Callable[[Mapping[str, bytes | None], Override | None], None]
"""(notes, the hold that `committed` is to be called for once they are in the store)."""
Look = Callable[[], DeviceStatus]
SUBJECT_MOST: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldsMemory:
    """What the next look goes by, for the record of decisions."""

    holds: tuple[Override, ...]
    waiting: tuple[Override, ...]


class Holds:
    """One for the gateway."""

    def __init__(self, looks: Mapping[str, Look], *, say: Say, keep: Keep) -> None:
        """`looks`: how each device is that can be held."""
        self._looks = looks
        self._say = say
        self._keep = keep
        self._holds: dict[str, Override] = {}
        self._waiting: dict[str, Override] = {}
        """Those that allow power and are not in the store yet: the one before stands meanwhile."""

    def memory(self) -> HoldsMemory:
        """All that the next look goes by."""
        return HoldsMemory(holds=tuple(self._holds.values()), waiting=tuple(self._waiting.values()))

    def recall(self, memory: HoldsMemory) -> None:
        """Go on from there."""
        self._holds = {hold.device_id: hold for hold in memory.holds}
        self._waiting = {hold.device_id: hold for hold in memory.waiting}

    def add(self, name: str, look: Look) -> None:
        """Another device that can be held from now on."""
        self._looks = {**self._looks, name: look}

    def begin(self, name: str, power_w: int | None, duration_s: float, by: str, now: Now) -> Override:
        """Hold a device from now on. What allows power acts once the store has it; 0 W at once (DESIGN: law 5).

        Raises OverrideError.
        """
        if name not in self._looks:
            can = ", ".join(sorted(self._looks)) or "nothing"
            raise OverrideError(f"{quoted(name)} cannot be controlled here; {can} can")
        capabilities = self._looks[name]().capabilities
        if power_w is not None and capabilities is not None:
            lowest_w, highest_w = -capabilities.rated_export_w, capabilities.rated_import_w
            if not lowest_w <= power_w <= highest_w:
                raise OverrideError(f"{name} can do {lowest_w} to {highest_w} W, not {power_w} W")
        hold = override_for(name, power_w, duration_s, by, now)
        self._waiting.pop(name, None)
        (self._holds if hold.restrictive else self._waiting)[name] = hold
        self._keep({HOLD_PREFIX + name: encode(hold)}, hold)
        self._say(Severity.INFO, "device.override", name[:SUBJECT_MOST], f"{name} is {hold.sentence}")
        return hold

    def committed(self, hold: Override) -> None:
        """The store has it; unless another one came meanwhile, it holds now."""
        if self._waiting.get(hold.device_id) == hold:
            self._holds[hold.device_id] = self._waiting.pop(hold.device_id)

    def end(self, device_id: str, by: str) -> None:
        """Give a device back to commands and defaults. Raises NotNowError."""
        hold = self._waiting.pop(device_id, None) or self._holds.get(device_id)
        if hold is None:
            raise NotNowError(f"{quoted(device_id)} is not held")
        self._drop(hold, f"ended by {by}")

    def standing(self, now: Now) -> dict[str, Override]:
        """What holds now, by device; says which have ended."""
        for name, hold in self._holds.items():
            self._holds[name] = hold.counted(now)
        for hold in [hold for hold in self._holds.values() if hold.over(now)]:
            self._drop(hold, "its time is over")
        return {name: hold for name, hold in sorted(self._holds.items()) if hold.stands(now)}

    def restore(self, notes: Mapping[str, bytes]) -> list[str]:
        """Go on with what an earlier run held; a sentence for each note that cannot be read."""
        faults = []
        for key, note in notes.items():
            if not key.startswith(HOLD_PREFIX):
                continue
            try:
                hold = decode(note)
                if key != HOLD_PREFIX + hold.device_id:
                    raise RestoreError(f"is about {quoted(hold.device_id)}")
            except RestoreError as error:
                faults.append(f"{key}: {error}")
                continue
            if hold.device_id not in {*self._holds, *self._waiting}:  # what was said since is newer
                self._holds[hold.device_id] = hold
        return faults

    def _drop(self, hold: Override, why: str) -> None:
        self._holds.pop(hold.device_id, None)
        if hold.device_id not in self._waiting:  # else the note is that one's already
            self._keep({HOLD_PREFIX + hold.device_id: None}, None)
        text = f"{hold.device_id} is held no more, {why}; it was {hold.sentence}"
        self._say(Severity.INFO, "device.override_ended", hold.device_id[:SUBJECT_MOST], text)
