"""What a device is built for: its nameplate and settings, and the capabilities that follow for the plan. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from drivers.device import Capabilities, DeadMan, DeviceKind
from drivers.sunspec.codec import Value
from drivers.sunspec.measurement import LARGEST_W
from drivers.sunspec.standing import UNKNOWN_STANDING, Standing

RATING_PATHS: Final[Mapping[int, tuple[str, ...]]] = {
    702: ("WMaxRtg", "WChaRteMaxRtg", "WDisChaRteMaxRtg", "WMax", "WChaRteMax", "WDisChaRteMax"),
    120: ("WRtg", "MaxChaRte", "MaxDisChaRte", "WHRtg"),
    121: ("WMax",),
    124: ("WChaMax",),
    713: ("WHRtg",),
    802: ("WChaRteMax", "WDisChaRteMax", "WHRtg"),
}
"""Models that say what a device is built for, and the points that do."""
LARGEST_WH: Final = 1_000_000_000
"""A gigawatt-hour behind one inverter is noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratings:
    """Watts, zero or positive; None where the device does not say."""

    generation_w: int | None
    """Nameplate of what it can feed out."""
    charge_w: int | None
    discharge_w: int | None
    reference_704_w: int | None
    """What 100 % means in model 704: the WMax setting of 702."""
    reference_123_w: int | None
    """What 100 % means in model 123: the WMax setting of 121."""
    reference_124_w: int | None
    """What 100 % means in model 124: WChaMax."""
    energy_wh: int | None = None
    """Nameplate of its battery. Ampere-hours (AhrRtg, AHRtg) are none: at which voltage, no model says."""

    def are_known(self, kind: DeviceKind) -> bool:
        """Whether the plan can count on them."""
        needed = (self.charge_w, self.discharge_w) if kind is DeviceKind.BATTERY else (self.generation_w,)
        return None not in needed

    def reference_w(self, model: int) -> int | None:
        """What 100 % of a control function of this model is."""
        return {704: self.reference_704_w, 123: self.reference_123_w, 124: self.reference_124_w}.get(model)


def ratings(values: Mapping[int, Mapping[str, Value]]) -> Ratings:
    """From the points of RATING_PATHS, by model number. Zero, and what makes no sense, is taken for "not said"."""

    def watts(model: int, path: str) -> int | None:
        value = values.get(model, {}).get(path)
        rating_w = 0 if value is None else value.in_parts(1)
        return rating_w if 0 < rating_w <= LARGEST_W else None

    def watt_hours(model: int) -> int | None:
        value = values.get(model, {}).get("WHRtg")
        rating_wh = 0 if value is None else value.in_parts(1)
        return rating_wh if 0 < rating_wh <= LARGEST_WH else None

    def first(*candidates: tuple[int, str]) -> int | None:
        return next((found for place in candidates if (found := watts(*place)) is not None), None)

    generation_w = first((702, "WMaxRtg"), (120, "WRtg"), (702, "WMax"), (121, "WMax"))
    return Ratings(
        generation_w=generation_w,
        charge_w=first((702, "WChaRteMaxRtg"), (120, "MaxChaRte"), (802, "WChaRteMax"), (124, "WChaMax")),
        discharge_w=first((702, "WDisChaRteMaxRtg"), (120, "MaxDisChaRte"), (802, "WDisChaRteMax")) or generation_w,
        reference_704_w=first((702, "WMax"), (702, "WMaxRtg"), (121, "WMax"), (120, "WRtg")),
        reference_123_w=first((121, "WMax"), (120, "WRtg"), (702, "WMax"), (702, "WMaxRtg")),
        reference_124_w=first((124, "WChaMax"), (120, "MaxChaRte"), (702, "WChaRteMax"), (702, "WChaRteMaxRtg")),
        energy_wh=next((wh for model in (713, 802, 120) if (wh := watt_hours(model)) is not None), None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the installer allows below the nameplate, watts, zero or positive; None: the nameplate."""

    rated_import_w: int | None = None
    rated_export_w: int | None = None
    fallback_import_w: int | None = None
    """Static share while the gateway is silent (SAFETY 2)."""
    fallback_export_w: int | None = None
    capacity_wh: int | None = None
    """What the installer says of a battery: goes before its own word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSurface:
    """What of a device's controls can be used, as found on it."""

    limits_export: bool = False
    follows_setpoint: bool = False
    has_timer: bool = False
    """Its order lapses in the device by a revert timer."""
    has_revert_target: bool = False
    """When it lapses, a fallback that we put there takes its place."""
    legal_cap_w: int | None = None
    """Export limit that was in force when we came: nothing of ours goes above it."""
    disconnects: bool = False
    """Has a connect switch that can be used."""
    notes: tuple[str, ...] = ()


def rated_powers(kind: DeviceKind, found: Ratings, bounds: Bounds) -> tuple[int, int, tuple[str, ...]]:
    """(import_w, export_w, notes): the nameplate, narrowed by the installer's bounds. Unknown is 0, with a note."""
    nameplate_import_w = found.charge_w if kind is DeviceKind.BATTERY else 0
    nameplate_export_w = found.discharge_w if kind is DeviceKind.BATTERY else found.generation_w
    if kind is DeviceKind.METER:
        return bounds.rated_import_w or 0, bounds.rated_export_w or 0, ()
    notes: list[str] = []

    def narrowed(nameplate_w: int | None, bound_w: int | None, key: str) -> int:
        if nameplate_w is None and bound_w is None:
            notes.append(f"does not say its rating: write {key} in the configuration, it counts as 0 W until then")
        known = [watts for watts in (nameplate_w, bound_w) if watts is not None]
        return min(known, default=0)

    import_w = narrowed(nameplate_import_w, bounds.rated_import_w, "rated_import_w")
    export_w = narrowed(nameplate_export_w, bounds.rated_export_w, "rated_export_w")
    return import_w, export_w, tuple(notes)


def energy_capacity_wh(
    kind: DeviceKind, found: Ratings, bounds: Bounds, standing: Standing = UNKNOWN_STANDING
) -> int | None:
    """What a battery holds: by the installer's word, else its nameplate, less what its state of health took (713)."""
    if kind is not DeviceKind.BATTERY:
        return None
    if bounds.capacity_wh is not None or found.energy_wh is None:
        return bounds.capacity_wh
    health = None if standing.battery is None else standing.battery.state_of_health_permille
    # 0 is what devices write that do not know, and above 1000 nothing is left to take away.
    return found.energy_wh if health is None or not 0 < health < 1000 else found.energy_wh * health // 1000


def capabilities(
    kind: DeviceKind,
    found: Ratings,
    bounds: Bounds,
    surface: ControlSurface,
    phases: tuple[int, ...],
    standing: Standing = UNKNOWN_STANDING,
) -> Capabilities:
    """What the plan may count on."""
    import_w, export_w, notes = rated_powers(kind, found, bounds)
    controllable = surface.limits_export or surface.follows_setpoint
    fallback_w = fallback_band(kind, bounds, surface, import_w, export_w)
    if not controllable or not surface.has_timer:
        dead_man = DeadMan.NONE
        if controllable:
            notes += ("no device-side dead man: without the gateway it holds the last order",)
    elif fallback_w is not None and surface.has_revert_target:
        dead_man = DeadMan.REVERTS_TO_FALLBACK
    else:
        dead_man = DeadMan.REVERTS_UNLIMITED
    lowest_w, highest_w = (-export_w, import_w)
    if dead_man is DeadMan.REVERTS_TO_FALLBACK and fallback_w is not None:
        lowest_w, highest_w = fallback_w
    return Capabilities(
        rated_import_w=import_w,
        rated_export_w=export_w,
        limits_import=surface.follows_setpoint,
        limits_export=controllable,
        follows_setpoint=surface.follows_setpoint,
        dead_man=dead_man,
        fallback_lowest_w=lowest_w,
        fallback_highest_w=highest_w,
        energy_capacity_wh=energy_capacity_wh(kind, found, bounds, standing),
        phases=phases,
        disconnects=surface.disconnects,
        own_droop=standing.own_droop,
        reconnect_delay_s=standing.reconnect_delay_s or 0,
        notes=notes + surface.notes,
    )


def fallback_band(
    kind: DeviceKind, bounds: Bounds, surface: ControlSurface, import_w: int, export_w: int
) -> tuple[int, int] | None:
    """The band that we put into the device for when we fall silent; None: it goes back to its own control.

    A PV inverter is capped at its export share, or at the legal cap that was found. A battery inverter has no register
    for a band: where it has a share at all, it is told to rest.
    """
    if kind is DeviceKind.BATTERY:
        has_share = bounds.fallback_import_w is not None or bounds.fallback_export_w is not None
        return (0, 0) if has_share else None
    shares = [watts for watts in (bounds.fallback_export_w, surface.legal_cap_w) if watts is not None]
    return (-min([*shares, export_w]), import_w) if shares else None
