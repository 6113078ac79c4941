"""Tests of the channel messages on the wire."""

from __future__ import annotations

import pytest

from agent.ledger.errors import ChannelError
from agent.ledger.frames import Countersignature, Message, Proposal, Reestablish, Refusal, from_wire, to_wire
from proto.energysettlement.v1 import gateway_pb2 as wire

MESSAGES: list[Message] = [
    Reestablish(nonce=b"n" * 16, is_answer=False),
    Reestablish(
        nonce=b"n" * 16,
        is_answer=True,
        incarnation=2,
        version=3,
        state=b"s",
        gateway_signature=b"g" * 64,
        platform_signature=b"p" * 64,
    ),
    Proposal(state=b"s", gateway_signature=b"g" * 64),
    Countersignature(incarnation=2, version=3, digest=b"d" * 32, platform_signature=b"p" * 64),
    Refusal(incarnation=2, version=3, digest=b"d" * 32, reason="no"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    sent = to_wire("pv-1", b"c" * 32, message).SerializeToString()
    frame = wire.ChannelFrame.FromString(sent)
    assert (frame.device_id, frame.channel_id) == ("pv-1", b"c" * 32)
    assert from_wire(frame) == message


@pytest.mark.parametrize(
    "frame",
    [
        wire.ChannelFrame(),
        wire.ChannelFrame(reestablish=wire.ChannelReestablish(nonce=b"short")),
        wire.ChannelFrame(reestablish=wire.ChannelReestablish(nonce=bytes(16), version=1)),
        wire.ChannelFrame(reestablish=wire.ChannelReestablish(nonce=bytes(16), version=1, state=b"s")),
        wire.ChannelFrame(proposal=wire.ChannelProposal(gateway_signature=bytes(64))),
        wire.ChannelFrame(proposal=wire.ChannelProposal(state=b"s", gateway_signature=bytes(63))),
        wire.ChannelFrame(proposal=wire.ChannelProposal(state=bytes(5000), gateway_signature=bytes(64))),
        wire.ChannelFrame(countersignature=wire.ChannelCountersignature(digest=bytes(32))),
        wire.ChannelFrame(refusal=wire.ChannelRefusal(digest=b"")),
    ],
)
def test_a_frame_of_an_impossible_shape_is_refused(frame: wire.ChannelFrame) -> None:
    with pytest.raises(ChannelError):
        from_wire(frame)


def test_a_reason_from_the_wire_is_cut_and_moves_no_terminal() -> None:
    refusal = wire.ChannelRefusal(digest=bytes(32), reason="\x1b[2J" + "x" * 1000)
    message = from_wire(wire.ChannelFrame(refusal=refusal))
    assert isinstance(message, Refusal)
    assert message.reason == "?[2J" + "x" * 196
