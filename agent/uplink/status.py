"""What the uplink shows of itself: for the status page, the metrics and `v2g-gateway status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Carrier(Enum):
    """What carries the evidence now."""

    NONE = "not connected"
    GATEWAY_LINK = "gateway link"
    """Batches with signed acknowledgements; the devices' streams carry live readings."""
    DEVICE_STREAMS = "device streams"
    """The platform has the published contract only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkStatus:
    """A snapshot. Cheap to take."""

    carrier: Carrier
    endpoint: str
    """The one in use, or tried last."""
    detail: str
    """One sentence for a person: what is wrong and what is done about it, or what the link is."""
    since_monotonic_s: float
    """When the carrier last changed."""
    next_try_monotonic_s: float | None = None
    """While waiting for the next try."""
    platform_id: str = ""
    acknowledged_number: int | None = None
    """Newest batch that the platform acknowledged, in this run of the agent."""
    unconfirmed_number: int | None = None
    """Newest batch that counts as delivered only because a finished stream ended with OK."""
    batches_in_flight: int = 0
    connections: int = 0
    """Links that came up, in this run of the agent."""
    device_details: Mapping[str, str] = field(default_factory=dict)
    """One sentence for each device whose own stream is not well."""
    oddity: str = ""
    """What the platform said last that cannot be right; empty: nothing within a day."""
    oddity_monotonic_s: float = 0.0
    """When that was."""

    @property
    def connected(self) -> bool:
        return self.carrier is not Carrier.NONE
