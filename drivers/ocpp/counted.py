"""What the plan may count on of an EVSE, and what it cannot do, in sentences for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from drivers.device import Capabilities, DeadMan
from drivers.ocpp.session import EvseSession
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.v2x import Mode
from drivers.ocpp.wanted import Distrust


def count_on(
    session: EvseSession,
    settings: ChargerSettings,
    dead_man: DeadMan,
    *,
    extended: bool,
    online: bool,
    ordered: Mode | None,
    distrust: Distrust | None,
    obstacle: str | None,
    notes: Iterable[str],
    wall_us: int,
) -> Capabilities:
    """`settings`: with the owner's bound. `extended`: it speaks 2.1. `ordered`: the mode that we have it hold.
    `distrust`, `obstacle`: why it does not discharge now, or cannot. `notes`: what else is to be told."""
    told = list(notes)
    if settings.rated_import_w is None:
        told.append("nameplate not configured: 32 A on each phase is assumed")
    if settings.discharge == "v2x" and not extended:
        told.append("cannot discharge over OCPP 2.0.1; discharge = v2x needs OCPP 2.1")
    if distrust is not None:
        told.append(f"not told to discharge for now: it {distrust.why}")
    told += [limit.sentence() for limit in session.outside.limits]
    can_discharge = settings.discharge == "negative_limit" or (settings.discharge == "v2x" and extended)
    if can_discharge and extended and obstacle is not None:
        told.append(f"cannot discharge: {obstacle}")
        can_discharge = False
    moved = session.outside.moves(ordered)
    if moved is not None:
        told.append(f"not ours to order to a power: it is in {moved.value}; it holds our caps")
    lowest_w, highest_w = -settings.export_rating_w, settings.import_rating_w
    if online:  # else others may have let go, and nobody told us
        lowest_w, highest_w = session.outside.within(lowest_w, highest_w, wall_us)
    by_itself = can_discharge and (dead_man is DeadMan.NONE or moved is not None)
    falls_back = dead_man is DeadMan.REVERTS_TO_FALLBACK
    return Capabilities(
        rated_import_w=highest_w,
        rated_export_w=-lowest_w if can_discharge and distrust is None and moved is None else 0,
        limits_import=True,
        limits_export=True,
        follows_setpoint=moved is None,
        dead_man=dead_man,
        fallback_lowest_w=-settings.export_rating_w if by_itself else 0,
        fallback_highest_w=settings.static_share_w if falls_back else settings.import_rating_w,
        minimum_import_w=settings.minimum_import_w,
        response_s=5.0,
        phases=settings.phases,
        own_droop=Mode.LOCAL_FREQUENCY in (ordered, moved),
        notes=tuple(told),
    )
