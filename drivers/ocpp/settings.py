"""What an installer decided about one EVSE of a charger, and the constants of the trade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from drivers.ocmf.keys import MeterKey

MINIMUM_CURRENT_A: Final = 6
"""IEC 61851-1: below 6 A the control pilot cannot offer current, so the car stops."""
ASSUMED_CURRENT_A: Final = 32
"""Nameplate of a charger whose rating nobody wrote down: the largest common AC connector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargerSettings:
    """One EVSE. Those of one charger share `charger_id` and `password`."""

    device_id: str
    charger_id: str
    """The OCPP identity: the last part of the URL that the charger connects to."""
    password: str | None = None
    """Basic-auth password. None: anybody on the network may claim to be this charger (readings say OPEN_BUS)."""
    security_profile: Literal[1, 2, 3] = 2
    """3: the TLS client certificate names the charger, a password is not asked for. 1 and 2 differ in TLS, which is the
    listener's."""
    evse_id: int = 1
    discharge: Literal["never", "negative_limit", "v2x"] = "never"
    """Over OCPP 2.1 both of the others discharge by setpoint. Over 2.0.1 only `negative_limit` does, which is for
    models known to discharge on a limit below zero."""
    local_tokens: tuple[str, ...] = ()
    """idTokens that may charge here without asking anybody else; compared without regard to case."""
    fallback_import_w: int | None = None
    """Static share of the fuse while we are silent, W. None: 0, cars wait for us."""
    rated_import_w: int | None = None
    """None: 32 A on each phase is assumed, so that the plan never counts too little."""
    rated_export_w: int | None = None
    """None: as much as the import rating where `discharge` allows it at all."""
    phases: tuple[int, ...] = (1, 2, 3)
    nominal_voltage_v: int = 230
    """Line to neutral; turns watts into amperes for chargers that take limits in amperes only."""

    meter_key: MeterKey | None = None
    """Public key of the meter at this EVSE that signs its values; never taken from a message."""

    origin: str = "the configuration"
    """Who says that this charger is one of the site: a sentence for a person."""

    @property
    def import_rating_w(self) -> int:
        """The bound that the plan may use, W."""
        if self.rated_import_w is not None:
            return self.rated_import_w
        return ASSUMED_CURRENT_A * self.volts_over_phases

    @property
    def export_rating_w(self) -> int:
        """Zero where this EVSE must never discharge, W."""
        if self.discharge == "never":
            return 0
        return self.import_rating_w if self.rated_export_w is None else self.rated_export_w

    @property
    def static_share_w(self) -> int:
        """The limit that stays in the charger for the time that we are silent, W."""
        return min(self.fallback_import_w or 0, self.import_rating_w)

    @property
    def minimum_import_w(self) -> int:
        """Smallest charging power that is not zero, W."""
        return MINIMUM_CURRENT_A * self.volts_over_phases

    @property
    def volts_over_phases(self) -> int:
        """Watts per ampere of line current on all phases."""
        return self.nominal_voltage_v * len(self.phases)
