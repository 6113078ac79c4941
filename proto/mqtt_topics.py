"""Topics of the contract on MQTT 5: proto/MQTT.md. One place for both ends."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

ROOT: Final = "esp1"
"""Energy settlement platform, version 1 of this layout."""
ALL_UP: Final = f"{ROOT}/+/+/up/#"
"""What a platform subscribes to; a part of a fleet: the partition in place of the first +."""
UP: Final = frozenset({"state", "hello", "batch", "channel", "bid", "urgent"})
"""What a gateway publishes on a topic of one word. Any other is of a later version, and is passed over."""
ACCEPT_ENCODING: Final = "accept-encoding"
"""User property of a hello and of its welcome: the codings of payloads that its sender takes, commas between them."""
CONTENT_ENCODING: Final = "content-encoding"
"""User property of a message whose payload is coded: the one coding. A payload without it is plain."""
GZIP: Final = "gzip"
"""RFC 1952, one member: the one coding of this version."""
ONLINE: Final = b"online"
OFFLINE: Final = b"offline"


def partition_of(gateway_id: str) -> str:
    """Two hex digits: 256 partitions that any two sides compute alike."""
    return hashlib.sha256(gateway_id.encode()).hexdigest()[:2]


@dataclass(frozen=True, slots=True)
class GatewayTopics:
    """Of one gateway."""

    gateway_id: str

    @property
    def base(self) -> str:
        return f"{ROOT}/{partition_of(self.gateway_id)}/{self.gateway_id}"

    @property
    def state(self) -> str:
        """Retained, and the gateway's will."""
        return f"{self.base}/up/state"

    def up(self, frame: str) -> str:
        """A GatewayFrame, by the name of what is in it: "hello", "batch", "channel", "bid", "urgent"."""
        return f"{self.base}/up/{frame}"

    def live(self, device_id: str) -> str:
        """A DeviceTelemetry as soon as there is one."""
        return f"{self.base}/up/live/{device_id}"

    @property
    def all_down(self) -> str:
        return f"{self.base}/down/#"

    @property
    def link(self) -> str:
        """PlatformFrames."""
        return f"{self.base}/down/link"

    def device(self, device_id: str) -> str:
        """A GridCommand for one device, as on its own stream."""
        return f"{self.base}/down/device/{device_id}"


def parse_up(topic: str) -> tuple[str, str, str] | None:
    """(gateway id, kind, device id or "") of a topic that a gateway publishes on; None for any other."""
    match topic.split("/"):
        case [root, partition, gateway_id, "up", kind] if kind in UP:
            device_id = ""
        case [root, partition, gateway_id, "up", "live" as kind, device_id] if device_id:
            pass
        case _:
            return None
    return (gateway_id, kind, device_id) if root == ROOT and partition == partition_of(gateway_id) else None
