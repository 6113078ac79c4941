"""[bounds]: what commands may do here at most, whoever issues them (SAFETY 10). Nothing remote changes it."""

from __future__ import annotations

from pydantic import Field

from agent.config.values import Section


class BoundsSettings(Section):
    """[bounds]: local bounds on any issuer; 0 is no bound."""

    energy_per_day_wh: int = Field(
        0, ge=0, le=10**9, description="Most energy that commands move in a device in 24 h, either way, Wh; 0: no bound"
    )
    cycles_per_day: float = Field(
        3.0, ge=0, le=100, description="Full cycles of a battery in 24 h; then commands leave it alone; 0: no bound"
    )
    sign_changes_per_hour: int = Field(
        60, ge=0, le=3600, description="Most times in an hour that commands turn a device's power round; 0: no bound"
    )
    events_per_hour: int = Field(
        240,
        ge=0,
        le=3600,
        description="Most commands that come into force in an hour (IDLE, CURTAIL: all); 0: no bound",
    )
    ramp_percent_per_s: float = Field(
        0.0, ge=0, le=100, description="Most of its rating by which commands raise a device's power, %/s; 0: no bound"
    )
