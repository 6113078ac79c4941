"""The messages about one channel, as values, and their protobuf form. Both sides of the link use these.

What comes from the wire is checked for size and shape here; nothing is verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from agent.ledger.errors import ChannelError
from agent.ledger.state import MAX_STATE_BYTES, SignedState
from proto.energysettlement.v1 import gateway_pb2 as wire

NONCE_BYTES: Final = 16
MAX_REASON_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Reestablish:
    """What is the newest state that you hold? And: this is the newest that I hold."""

    nonce: bytes
    """16 random bytes; an answer repeats the question's."""
    is_answer: bool
    incarnation: int = 0
    version: int = 0
    """0: the sender holds no state of this channel."""
    state: bytes = b""
    gateway_signature: bytes = b""
    platform_signature: bytes = b""
    """Empty where the sender has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The gateway leads: a new state with its signature."""

    state: bytes
    gateway_signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Countersignature:
    """The platform follows."""

    incarnation: int
    version: int
    digest: bytes
    platform_signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The platform will never countersign this version."""

    incarnation: int
    version: int
    digest: bytes
    reason: str


Message: TypeAlias = Reestablish | Proposal | Countersignature | Refusal


def reestablish(newest: SignedState | None, nonce: bytes, *, is_answer: bool) -> Reestablish:
    """The message that tells one's newest state, for either side."""
    if newest is None:
        return Reestablish(nonce=nonce, is_answer=is_answer)
    return Reestablish(
        nonce=nonce,
        is_answer=is_answer,
        incarnation=newest.state.incarnation,
        version=newest.state.version,
        state=newest.state.encode(),
        gateway_signature=newest.gateway_signature,
        platform_signature=newest.platform_signature,
    )


def to_wire(device_id: str, channel_id: bytes, message: Message) -> wire.ChannelFrame:
    """The frame that carries a message."""
    frame = wire.ChannelFrame(device_id=device_id, channel_id=channel_id)
    match message:
        case Reestablish() as m:
            frame.reestablish.CopyFrom(
                wire.ChannelReestablish(
                    nonce=m.nonce,
                    is_answer=m.is_answer,
                    incarnation=m.incarnation,
                    version=m.version,
                    state=m.state,
                    gateway_signature=m.gateway_signature,
                    platform_signature=m.platform_signature,
                )
            )
        case Proposal() as m:
            frame.proposal.CopyFrom(wire.ChannelProposal(state=m.state, gateway_signature=m.gateway_signature))
        case Countersignature() as m:
            frame.countersignature.CopyFrom(
                wire.ChannelCountersignature(
                    incarnation=m.incarnation,
                    version=m.version,
                    digest=m.digest,
                    platform_signature=m.platform_signature,
                )
            )
        case Refusal() as m:
            frame.refusal.CopyFrom(
                wire.ChannelRefusal(incarnation=m.incarnation, version=m.version, digest=m.digest, reason=m.reason)
            )
    return frame


def from_wire(frame: wire.ChannelFrame) -> Message:
    """The message of a frame. Raises ChannelError when it is empty or a field has an impossible size."""
    match frame.WhichOneof("content"):
        case "reestablish":
            r = frame.reestablish
            _sized(r.nonce, "nonce", NONCE_BYTES)
            _state_sized(r.state, empty=True)
            _signature_sized(r.gateway_signature, empty=not r.state)
            _signature_sized(r.platform_signature, empty=True)
            if bool(r.state) != bool(r.version):
                raise ChannelError("reestablish: a version without a state, or the reverse")
            return Reestablish(
                nonce=r.nonce,
                is_answer=r.is_answer,
                incarnation=r.incarnation,
                version=r.version,
                state=r.state,
                gateway_signature=r.gateway_signature,
                platform_signature=r.platform_signature,
            )
        case "proposal":
            p = frame.proposal
            _state_sized(p.state, empty=False)
            _signature_sized(p.gateway_signature, empty=False)
            return Proposal(state=p.state, gateway_signature=p.gateway_signature)
        case "countersignature":
            c = frame.countersignature
            _sized(c.digest, "digest", 32)
            _signature_sized(c.platform_signature, empty=False)
            return Countersignature(
                incarnation=c.incarnation,
                version=c.version,
                digest=c.digest,
                platform_signature=c.platform_signature,
            )
        case "refusal":
            f = frame.refusal
            _sized(f.digest, "digest", 32)
            # It reaches logs and people: cut, and nothing that moves a terminal.
            reason = "".join(c if c.isprintable() else "?" for c in f.reason[:MAX_REASON_CHARACTERS])
            return Refusal(incarnation=f.incarnation, version=f.version, digest=f.digest, reason=reason)
    raise ChannelError("channel frame: has no content that is known here")


def _sized(value: bytes, name: str, size: int) -> None:
    if len(value) != size:
        raise ChannelError(f"channel frame: {name} has {len(value)} bytes, {size} are right")


def _signature_sized(value: bytes, *, empty: bool) -> None:
    if not (empty and not value):
        _sized(value, "signature", 64)


def _state_sized(value: bytes, *, empty: bool) -> None:
    if len(value) > MAX_STATE_BYTES or (not value and not empty):
        raise ChannelError(f"channel frame: state has {len(value)} bytes, 1 to {MAX_STATE_BYTES} are right")
