"""One GatewayLink connection as a sans-I/O state machine: frames in, events out; batches in, frames out.

The order of life is a table: what it lacks is the platform's fault. Nothing here reads a clock or touches a socket;
`link.py` carries the frames. An acknowledgement counts only when the platform's key signed it, for this gateway, and
for a batch and root that are ours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeAlias

from agent.evidence.acknowledgement import Acknowledgement, verify_acknowledgement
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import EvidenceError
from agent.uplink.errors import PlatformFaultError
from agent.uplink.flow import Position
from agent.uplink.outbox import WaitingBatch
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame, GatewayFrame, GatewayHello, PlatformFrame, SealedBatch

MOST_BATCHES_IN_FLIGHT: Final = 64
MOST_BYTES_IN_FLIGHT: Final = 4 << 20
"""Enough to fill a slow mobile link with a long round trip; little enough to hold in memory and to send again."""
WITNESS_ROUND_TRIP_S: Final = 5.0
"""An acknowledgement that took longer says too little about the present time."""
LEAST_TIME_US: Final = 1_735_689_600_000_000
"""2025-01-01, before there was any gateway."""
MOST_TIME_US: Final = 2**53
"""Year 2255, the end of time of commands. Beyond int64 no reading could be stored, and the floor of time would stay."""


class State(Enum):
    """Of one connection."""

    OPENING = "hello sent, waiting for the platform's welcome"
    READY = "welcomed"


# Which frames the platform may send in which state.
MAY_COME: Final[dict[State, frozenset[str]]] = {
    State.OPENING: frozenset({"welcome"}),
    State.READY: frozenset({"acknowledgement", "channel", "command", "schedule", "feed"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkIdentity:
    """Who this gateway is, as it says in its hello."""

    gateway_id: str
    """did:key of the evidence key, or did:v2g of its history."""
    incarnation: int
    boot_id: bytes
    software_version: str
    device_ids: tuple[str, ...]
    history: Callable[[], bytes] = bytes
    """The history of its name as it is now; empty where it is named by its key."""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The platform took the hello."""

    platform_id: str
    platform_time_us: int
    """Unsigned: a hint for people, never for the clock."""
    reconnect_after_s: float
    """0: our own back-off."""
    held: Position | None = None
    """(incarnation, number) of the newest batch that the platform says it holds; None: it does not say. Unsigned, so
    it never counts as an acknowledgement: it can only have us send again what was acknowledged."""
    held_root: bytes = b""
    """The root of that batch; empty: it does not say."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Every batch of the incarnation up to this number is safe at the platform."""

    incarnation: int
    up_to_number: int
    platform_time_us: int | None
    """The platform's signed time where it is fit to witness ours: fresh, and not older than one seen before."""
    round_trip_s: float
    signed: bytes = field(default=b"", compare=False)
    """As the platform signed it."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A well-signed acknowledgement of a batch that was not sent on this connection: look it up, then `resolve`."""

    acknowledgement: Acknowledgement
    signed: bytes = field(default=b"", compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """An acknowledgement that does not count, and why. Worth an alarm."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class CommandArrived:
    command: GridCommand


@dataclass(frozen=True, slots=True)
class ChannelArrived:
    frame: ChannelFrame


@dataclass(frozen=True, slots=True)
class SignedArrived:
    """Something that carries its own signature."""

    kind: str
    """"schedule" or "feed"."""
    signed: bytes


Event: TypeAlias = Welcomed | Acknowledged | Unknown | Refused | CommandArrived | ChannelArrived | SignedArrived


@dataclass(frozen=True, slots=True)
class _InFlight:
    root: bytes
    size: int
    sent_s: float


class Session:
    """Life of one connection. Times are monotonic seconds, given by the caller.

    `latest_platform_time_us` is the newest signed time seen so far, over all connections: a platform that repeats a
    stored acknowledgement must not turn our clock back. `probed`: incarnations whose batches go one by one, until one
    of them is acknowledged.
    """

    def __init__(
        self,
        identity: UplinkIdentity,
        platform_key: VerifyKey,
        *,
        next_batch_number: int,
        now_s: float,
        stall_s: float,
        latest_platform_time_us: int = 0,
        probed: Collection[int] = (),
    ) -> None:
        self.identity = identity
        self._platform_key = platform_key
        self._next_batch_number = next_batch_number
        self._stall_s = stall_s
        self._progress_s = now_s
        self._in_flight: OrderedDict[Position, _InFlight] = OrderedDict()
        self._bytes_in_flight = 0
        self._probed = set(probed)
        self.progressed: set[int] = set()
        """Incarnations of which something was acknowledged on this connection."""
        self._last_sent: Position = (0, 0)
        self._sent: dict[int, int] = {}
        self._acknowledged = {identity.incarnation: next_batch_number - 1}
        self._again: dict[int, int] = {}
        self.latest_platform_time_us = latest_platform_time_us
        self.state = State.OPENING

    def sent_number(self, incarnation: int) -> int:
        """Batches of the incarnation up to this one need not be sent (again) on this connection."""
        return max(self._sent.get(incarnation, 0), self._acknowledged.get(incarnation, 0))

    def send_again(self, incarnation: int, after_number: int, up_to_number: int) -> None:
        """The platform has lost batches that it had acknowledged: they are to be sent on this connection."""
        self._acknowledged[incarnation] = after_number
        self._again[incarnation] = up_to_number

    def again_up_to(self, incarnation: int) -> int:
        """Batches of the incarnation up to this one are to be sent although they were acknowledged once; 0: none."""
        return self._again.get(incarnation, 0)

    @property
    def batches_in_flight(self) -> int:
        return len(self._in_flight)

    def hello(self) -> GatewayFrame:
        """The first frame of a connection."""
        return GatewayFrame(
            hello=GatewayHello(
                gateway_id=self.identity.gateway_id,
                incarnation=self.identity.incarnation,
                boot_id=self.identity.boot_id,
                software_version=self.identity.software_version,
                device_ids=self.identity.device_ids,
                next_batch_number=self._next_batch_number,
                identity_history=self.identity.history(),
            )
        )

    @property
    def owed(self) -> list[Position]:
        """The first batch of each incarnation that was sent and not acknowledged."""
        first: dict[int, int] = {}
        for incarnation, number in self._in_flight:
            first.setdefault(incarnation, number)
        return list(first.items())

    def has_room(self, incarnation: int) -> bool:
        """Whether one more batch of it may be sent now."""
        probed = incarnation in self._probed and any(each == incarnation for each, _ in self._in_flight)
        return (
            not probed
            and self.state is State.READY
            and len(self._in_flight) < MOST_BATCHES_IN_FLIGHT
            and self._bytes_in_flight < MOST_BYTES_IN_FLIGHT
        )

    def send_batch(self, batch: WaitingBatch, now_s: float) -> GatewayFrame:
        """The frame for the next batch: only with room, older incarnations first, then in order of the numbers.

        Raises ValueError, which is a fault of ours.
        """
        if not self.has_room(batch.incarnation):
            raise ValueError("no room in flight; ask has_room() first")
        position = (batch.incarnation, batch.number)
        if position <= self._last_sent or batch.number <= self.sent_number(batch.incarnation):
            raise ValueError(f"batch {position} is out of order, {self._last_sent} was sent already")
        if not self._in_flight:
            self._progress_s = now_s
        self._in_flight[position] = _InFlight(batch.root, len(batch.encoded), now_s)
        self._bytes_in_flight += len(batch.encoded)
        self._last_sent = position
        self._sent[batch.incarnation] = batch.number
        return GatewayFrame(batch=SealedBatch(sealed=batch.encoded))

    def receive(self, frame: PlatformFrame, now_s: float) -> Event | None:
        """What a frame means; None when it changes nothing. Raises PlatformFaultError: end the connection."""
        kind = frame.WhichOneof("frame")
        if kind is None:
            # A kind of frame of a later version of the contract.
            return None
        if kind not in MAY_COME[self.state]:
            raise PlatformFaultError(f"the platform sent `{kind}` while the link was {self.state.name}")
        if kind == "welcome":
            self.state = State.READY
            self._progress_s = now_s
            welcome = frame.welcome
            held = welcome.held
            return Welcomed(
                welcome.platform_id[:200],
                welcome.platform_time_us,
                min(welcome.reconnect_after_ms, 3_600_000) / 1000,
                (held.incarnation, held.batch_number) if welcome.HasField("held") else None,
                held.root,
            )
        if kind == "command":
            return CommandArrived(frame.command)
        if kind == "channel":
            return ChannelArrived(frame.channel)
        if kind in ("schedule", "feed"):
            return SignedArrived(kind, frame.schedule if kind == "schedule" else frame.feed)
        return self._acknowledgement(frame.acknowledgement, now_s)

    def _acknowledgement(self, encoded: bytes, now_s: float) -> Event | None:
        try:
            seen = verify_acknowledgement(encoded, self._platform_key)
        except EvidenceError as error:
            return Refused("uplink.acknowledgement_invalid", f"acknowledgement refused: {error}")
        if seen.gateway_id != self.identity.gateway_id:
            return Refused(
                "uplink.acknowledgement_invalid",
                f"acknowledgement refused: it is for gateway {seen.gateway_id[:80]!r}, not for this one",
            )
        if seen.batch_number <= self._acknowledged.get(seen.incarnation, 0):
            return None
        sent = self._in_flight.get((seen.incarnation, seen.batch_number))
        return Unknown(seen, encoded) if sent is None else self._judge(seen, sent.root, now_s, encoded)

    def resolve(
        self, seen: Acknowledgement, stored_root: bytes | None, now_s: float, *, signed: bytes = b""
    ) -> Acknowledged | Refused:
        """Answer to Unknown: the root that the store holds for that incarnation and number, or None for none."""
        return self._judge(seen, stored_root, now_s, signed)

    def _judge(self, seen: Acknowledgement, root: bytes | None, now_s: float, signed: bytes) -> Acknowledged | Refused:
        where = f"batch {seen.batch_number} of incarnation {seen.incarnation}"
        if root is None:
            return Refused(
                "uplink.acknowledgement_unknown",
                f"the platform acknowledges {where}, which this gateway does not hold: was an old state restored, "
                "or does a second gateway use this identity?",
            )
        if root != seen.root:
            return Refused(
                "uplink.acknowledgement_other_root",
                f"the platform acknowledges {where} with root {seen.root.hex()[:16]}, ours is {root.hex()[:16]}: "
                "it holds another batch under our identity",
            )
        sent = self._in_flight.get((seen.incarnation, seen.batch_number))
        fit = (
            sent is not None
            and now_s - sent.sent_s <= WITNESS_ROUND_TRIP_S
            and max(self.latest_platform_time_us, LEAST_TIME_US) <= seen.platform_time_us < MOST_TIME_US
        )
        if fit:
            self.latest_platform_time_us = seen.platform_time_us
        self._settle(seen.incarnation, seen.batch_number, now_s)
        return Acknowledged(
            seen.incarnation,
            seen.batch_number,
            seen.platform_time_us if fit else None,
            now_s - sent.sent_s if sent is not None else 0.0,
            signed,
        )

    def _settle(self, incarnation: int, up_to_number: int, now_s: float) -> None:
        arrived = [key for key in self._in_flight if key[0] == incarnation and key[1] <= up_to_number]
        for key in arrived:
            self._bytes_in_flight -= self._in_flight.pop(key).size
        self._acknowledged[incarnation] = up_to_number
        self._probed.discard(incarnation)
        self.progressed.add(incarnation)
        self._progress_s = now_s

    def stalls_at_s(self) -> float | None:
        """When the connection counts as dead unless the platform answers before; None while nothing is owed."""
        if self.state is State.READY and not self._in_flight:
            return None
        return self._progress_s + self._stall_s
