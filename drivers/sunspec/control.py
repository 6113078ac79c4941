"""Carrying out a band on one device: which of its functions expresses it, and what each is told.

Nothing here is written before somebody asks for it. What was found at first contact is recorded before the first
write and is what `release` puts back; a limit that was in force then is never exceeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from drivers.device import DeviceKind, Journal
from drivers.sunspec.connection import Unit
from drivers.sunspec.controls import (
    LIMIT_123,
    LIMIT_704,
    SETPOINT_704,
    STORAGE_124,
    ControlFunction,
    FunctionState,
    Overlay,
    is_usable,
    limit_in_force_w,
    limit_overlay,
    setpoint_overlay,
    storage_overlay,
)
from drivers.sunspec.discovery import DeviceDescription
from drivers.sunspec.errors import ControlRefusedError, ModbusExceptionError
from drivers.sunspec.held import HeldFunction, read_function
from drivers.sunspec.ratings import Bounds, ControlSurface, Ratings, fallback_band, rated_powers

LONGEST_LEASE_S: Final = 86_400.0
"""Longer than any order: what a register cannot hold is cut further."""


class Controls:
    """What can be ordered of one device, and ordering it. Raises SunSpecErrors."""

    def __init__(
        self, unit: Unit, description: DeviceDescription, kind: DeviceKind, found: Ratings, bounds: Bounds
    ) -> None:
        self._unit = unit
        self._description = description
        self._kind = kind
        self._ratings = found
        self._bounds = bounds
        self._import_w, self._export_w, _ = rated_powers(kind, found, bounds)
        self._limit: HeldFunction | None = None
        self._setpoint: HeldFunction | None = None
        self._legal_cap_w: int | None = None
        self._notes: list[str] = []

    def rated(self, found: Ratings) -> None:
        """More is known of what it is built for: from the next order on that is what 100 % means."""
        self._ratings = found
        self._import_w, self._export_w, _ = rated_powers(self._kind, found, self._bounds)
        for control in (self._limit, self._setpoint):
            if control is not None:
                control.reference_w = found.reference_w(control.function.model)

    async def learn(self, journal: Journal) -> None:
        """Look at the control registers; nothing is written. May be called again to look anew."""
        self._notes = []
        self._limit = self._setpoint = None
        if self._kind is DeviceKind.METER:
            return
        self._limit = await self._usable((LIMIT_704, LIMIT_123))
        if self._kind is DeviceKind.BATTERY:
            self._setpoint = await self._usable((SETPOINT_704, STORAGE_124))
        await self.record(journal)
        if self._limit is None and self._setpoint is None:
            self._notes.append("cannot be controlled: no usable model 704, 123 or 124")

    async def _usable(self, candidates: Sequence[ControlFunction]) -> HeldFunction | None:
        for function in candidates:
            model = self._description.find(function.model)
            if model is None:
                continue
            reference_w = self._ratings.reference_w(function.model)
            if reference_w is None and function is not SETPOINT_704:
                self._notes.append(f"{function.name}: the device does not say what 100 % is")
                continue
            try:
                state = await read_function(self._unit, function, model)
            except (ControlRefusedError, ModbusExceptionError) as error:
                if isinstance(error, ModbusExceptionError) and error.is_transient:
                    raise
                self._notes.append(f"{function.name} is not readable: {error}")
                continue
            if is_usable(state):
                return HeldFunction(self._unit, function, self._description, state, reference_w)
            self._notes.append(f"{function.name} is not implemented")
        return None

    async def record(self, journal: Journal) -> None:
        """Make durable what was found, or take what an earlier contact with this device recorded.

        Never in the way: while the journal is away the settings are kept in memory, and the next call tries again.
        """
        for control in (self._limit, self._setpoint):
            if control is None:
                continue
            if not await control.record(journal, is_blind=self._is_blind(control)):
                self._limit = None
                self._notes.append(
                    f"{control.function.name} reads as a limit to 0 W that is in force: what it really holds cannot be "
                    "read, so it could not be put back; not controlled"
                )
        self._legal_cap_w = None
        if self._limit is not None:
            found = self._limit.at_contact.with_settings(self._limit.found)
            self._legal_cap_w = limit_in_force_w(found, self._limit.reference_w)

    def _is_blind(self, control: HeldFunction) -> bool:
        """A limit of nothing, in force when we came: some inverters (SMA) read so while they produce."""
        return control is self._limit and limit_in_force_w(control.at_contact, control.reference_w) == 0

    @property
    def has_controls(self) -> bool:
        return self._limit is not None or self._setpoint is not None

    @property
    def surface(self) -> ControlSurface:
        """What of it can be used, for `capabilities`."""
        acting = self._setpoint or self._limit
        if acting is None:
            return ControlSurface(notes=tuple(self._notes))
        notes = list(self._notes)
        if self._legal_cap_w is not None:
            notes.append(f"found limited to {self._legal_cap_w} W export: that stays the most")
        if self.disturbed:
            notes.append(self.disturbed)
        state = acting.at_contact
        target = {
            LIMIT_704: ("WMaxLimPctRvrt", "WMaxLimPctEnaRvrt"),
            SETPOINT_704: ("WSetEnaRvrt",),
        }.get(acting.function)
        return ControlSurface(
            limits_export=True,
            follows_setpoint=self._setpoint is not None,
            has_timer=acting.has_dead_man,
            has_revert_target=target is not None and state.implements(*target),
            legal_cap_w=self._legal_cap_w,
            notes=tuple(notes),
        )

    def order_ended(self) -> None:
        """The device's own timer may have changed its registers since: that was nobody else."""
        for control in (self._limit, self._setpoint):
            if control is not None:
                control.order_ended()

    @property
    def disturbed(self) -> str:
        """What another master did to an order of ours, as seen at its last renewal; empty: nothing."""
        return "; ".join(c.disturbed for c in (self._limit, self._setpoint) if c is not None and c.disturbed)

    @property
    def _fallback(self) -> tuple[int, int] | None:
        return fallback_band(self._kind, self._bounds, self.surface, self._import_w, self._export_w)

    async def hold(self, lowest_w: int | None, highest_w: int | None, lease_s: float) -> None:
        """Make the device stay in the band (+ import), with its revert timer at the lease; confirmed by read-back."""
        timer_s = max(1, math.ceil(min(lease_s, LONGEST_LEASE_S)))
        lowest_w, highest_w = self._within_ratings(lowest_w, highest_w)
        if self._kind is DeviceKind.BATTERY:
            await self._hold_battery(lowest_w, highest_w, timer_s)
        elif lowest_w is None:
            await _put_back(self._limit)
        elif self._limit is not None:
            await self._engage_limit(self._limit, -lowest_w, timer_s)
        elif lowest_w > -self._export_w:
            raise ControlRefusedError(f"{self._unit}: its export cannot be limited; {'; '.join(self._notes)}")

    def _within_ratings(self, lowest_w: int | None, highest_w: int | None) -> tuple[int | None, int | None]:
        """The part of the band that the device can take at all. Raises ControlRefusedError when there is none."""
        if lowest_w is not None and lowest_w > self._import_w:
            raise ControlRefusedError(f"{self._unit}: cannot import {lowest_w} W; its most is {self._import_w} W")
        can_force_export = self._kind is DeviceKind.BATTERY
        most_forced_w = self._export_w if can_force_export else 0
        if highest_w is not None and highest_w < -most_forced_w:
            raise ControlRefusedError(
                f"{self._unit}: cannot be made to export {-highest_w} W; its most is {most_forced_w} W"
            )
        if self._kind is DeviceKind.METER:
            raise ControlRefusedError(f"{self._unit}: a meter has nothing to control")
        return (
            None if lowest_w is None else max(lowest_w, -self._export_w),
            None if highest_w is None else min(highest_w, self._import_w),
        )

    async def _hold_battery(self, lowest_w: int | None, highest_w: int | None, timer_s: int) -> None:
        """A band that a function can express is left to the battery's own control within it.

        One that none can is held by its point nearest to rest. What comes is engaged before what goes is released, so
        that in between the stricter of both holds.
        """
        setpoint, limit = self._setpoint, self._limit
        if lowest_w is None and highest_w is None:
            await self.release()
            return
        if setpoint is not None and setpoint.function is STORAGE_124:
            await self._engage_storage(setpoint, lowest_w, highest_w, timer_s)
            await _put_back(limit)
            return
        # Not where a share is promised for when we fall silent: only the setpoint can revert to it.
        may_run_free = setpoint is None or self._fallback is None
        free_above = highest_w is None or (highest_w >= self._import_w and lowest_w != highest_w)
        if limit is not None and may_run_free and free_above and lowest_w is not None and lowest_w <= 0:
            await self._engage_limit(limit, -lowest_w, timer_s)
            await _put_back(setpoint)
            return
        if setpoint is None:
            raise ControlRefusedError(f"{self._unit}: does not follow a setpoint; {'; '.join(self._notes)}")
        least = -self._export_w if lowest_w is None else lowest_w
        most = self._import_w if highest_w is None else highest_w
        await self._engage_setpoint(setpoint, min(max(0, least), most), timer_s)
        await _put_back(limit)

    async def release(self) -> None:
        """Put back every setting that was found at first contact."""
        await _put_back(self._setpoint)
        await _put_back(self._limit)

    @property
    def ends_by_itself(self) -> bool:
        """Whether an order of ours should end in the device as it shall, with nothing for us to write."""
        surface = self.surface
        return surface.has_timer and (self._fallback is None or surface.has_revert_target)

    async def has_reverted(self) -> bool:
        """Whether an order whose time is up has ended by itself; a timer that did nothing is not counted on again."""
        held = [control for control in (self._setpoint, self._limit) if control is not None]
        return all([await control.has_reverted() for control in held])

    async def fall_back(self) -> None:
        """What the device shall do while nobody orders anything: its share for good, or what was found."""
        band = self._fallback
        if band is None:
            await self.release()
        elif self._setpoint is not None and self._setpoint.function is STORAGE_124:
            await self._engage_storage(self._setpoint, band[0], band[1], 0)
            await _put_back(self._limit)
        elif self._setpoint is not None:
            await self._engage_setpoint(self._setpoint, 0, 0)
            await _put_back(self._limit)
        elif self._limit is not None:
            await self._engage_limit(self._limit, -band[0], 0)

    async def _engage_limit(self, control: HeldFunction, limit_w: int, timer_s: int) -> None:
        reference_w = control.reference_w
        assert reference_w is not None  # or the control would not be usable
        if self._legal_cap_w is not None:
            limit_w = min(limit_w, self._legal_cap_w)
        band = self._fallback
        # A battery's band is for its setpoint; released, it runs by its own control, within a legal cap.
        fallback_w = self._legal_cap_w if band is None or self._kind is DeviceKind.BATTERY else -band[0]
        await control.engage(
            lambda state: limit_overlay(state, control.at_most_w(limit_w), reference_w, timer_s, fallback_w)
        )

    async def _engage_setpoint(self, control: HeldFunction, power_w: int, timer_s: int) -> None:
        reference_w = control.reference_w
        rest = self._fallback is not None
        # WSet has two registers, WSetPct one: halves of a setpoint that is in force would be a power that nobody wants.
        may_be_torn = control.is_torn_by_writing and reference_w is not None

        def overlay(state: FunctionState) -> Overlay:
            in_percent = control.in_percent or (may_be_torn and state.implements("WSetPct"))
            return setpoint_overlay(state, power_w, reference_w, timer_s, rest_on_revert=rest, in_percent=in_percent)

        try:
            await control.engage(overlay)
        except (ControlRefusedError, ModbusExceptionError) as refusal:
            if control.in_percent or (isinstance(refusal, ModbusExceptionError) and refusal.is_transient):
                raise
            # Some devices take a setpoint as a percentage only.
            control.in_percent = True
            try:
                await control.engage(overlay)
            except (ControlRefusedError, ModbusExceptionError):
                control.in_percent = False
                raise refusal from None

    async def _engage_storage(
        self, control: HeldFunction, lowest_w: int | None, highest_w: int | None, timer_s: int
    ) -> None:
        reference_w = control.reference_w
        assert reference_w is not None  # or the control would not be usable
        await control.engage(lambda state: storage_overlay(state, lowest_w, highest_w, reference_w, timer_s))


async def _put_back(control: HeldFunction | None) -> None:
    if control is not None:
        await control.put_back()
