"""How the link stands: kept while connections come, carry and go, and told as `UplinkStatus`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from agent.config import MQTT_SCHEME
from agent.uplink.flow import Arrived
from agent.uplink.session import Acknowledged
from agent.uplink.status import Carrier, UplinkStatus

ODDITY_SHOWN_S: Final = 86_400.0
"""What cannot be right is shown for this long after it came last, also where the link goes on."""

_log = structlog.get_logger()


class Standing:
    """Of one uplink, in this run of the agent."""

    def __init__(self, endpoint: str, *, incarnation: int, monotonic_s: Callable[[], float]) -> None:
        self._incarnation = incarnation
        self._monotonic_s = monotonic_s
        self.carrier = Carrier.NONE
        self.endpoint = endpoint
        """The one in use, or tried last."""
        self._detail = "not started"
        self._since_s = monotonic_s()
        self._next_try_s: float | None = None
        self.platform_id = ""
        self.useful = False
        """Something arrived over the present connection."""
        self.connections = 0
        self._acknowledged_number: int | None = None
        self._unconfirmed_number: int | None = None
        self.device_details: dict[str, str] = {}
        self._oddity, self._oddity_s = "", float("-inf")
        self.acknowledgement = b""
        """The newest one of the present incarnation, as the platform signed it; empty: none came yet."""

    @property
    def over_grpc(self) -> bool:
        """A link over gRPC is up."""
        return self.carrier is not Carrier.NONE and not self.endpoint.startswith(MQTT_SCHEME)

    def connecting(self, endpoint: str) -> None:
        """To this one now."""
        self.endpoint = endpoint
        self.useful = False
        self._next_try_s = None
        self._detail = f"connecting to {endpoint}"

    def up(self, carrier: Carrier, detail: str) -> None:
        """This carries from now on."""
        self.carrier = carrier
        self._detail = detail
        self._since_s = self._monotonic_s()
        self.connections += 1
        _log.info("uplink.up", endpoint=self.endpoint, carrier=carrier.value, platform_id=self.platform_id)

    def down(self) -> None:
        """Nothing carries."""
        if self.carrier is not Carrier.NONE:
            self._since_s = self._monotonic_s()
        self.carrier = Carrier.NONE
        self.device_details.clear()

    def waits(self, why: str, wait_s: float) -> None:
        """For so long, before the next try."""
        self._detail = f"{self.endpoint}: {why}; next try within {wait_s:.1f} s"
        self._next_try_s = self._monotonic_s() + wait_s
        _log.warning("uplink.down", endpoint=self.endpoint, why=why, wait_s=round(wait_s, 1))

    def odd(self, text: str) -> None:
        """The platform said what cannot be right."""
        self._oddity, self._oddity_s = text, self._monotonic_s()

    def acknowledged(self, seen: Acknowledged) -> None:
        """Over the gateway's link."""
        self.useful = True
        if seen.incarnation == self._incarnation:
            self._acknowledged_number = max(self._acknowledged_number or 0, seen.up_to_number)
            self.acknowledgement = seen.signed

    def arrived(self, arrived: Arrived) -> None:
        """Over the devices' streams."""
        self.useful = True
        if arrived.confirmed:
            self._acknowledged_number = max(self._acknowledged_number or 0, arrived.up_to_number)
        else:
            self._unconfirmed_number = max(self._unconfirmed_number or 0, arrived.up_to_number)

    def status(self, batches_in_flight: int) -> UplinkStatus:
        """A snapshot."""
        return UplinkStatus(
            carrier=self.carrier,
            endpoint=self.endpoint,
            detail=self._detail,
            since_monotonic_s=self._since_s,
            next_try_monotonic_s=self._next_try_s,
            platform_id=self.platform_id,
            acknowledged_number=self._acknowledged_number,
            unconfirmed_number=self._unconfirmed_number,
            batches_in_flight=batches_in_flight,
            connections=self.connections,
            device_details=dict(self.device_details),
            oddity=self._oddity if self._monotonic_s() - self._oddity_s < ODDITY_SHOWN_S else "",
            oddity_monotonic_s=self._oddity_s,
        )
