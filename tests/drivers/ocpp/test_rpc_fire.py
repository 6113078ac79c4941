"""The RPC engine under fire: any frames, in any order, with everything else that may happen between them."""

from __future__ import annotations

import contextlib
import json
from collections import Counter

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drivers.ocpp.errors import ErrorCode, OwnMistakeError, QueueFullError
from drivers.ocpp.rpc import (
    MOST_UNANSWERED,
    MOST_WAITING,
    REMEMBERED_ANSWERS,
    REMEMBERED_LATE,
    URGENT_RESERVE,
    CallAnswered,
    CallFailed,
    CallReceived,
    Event,
    Priority,
    RpcEngine,
)
from drivers.ocpp.schemas import Version

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
frames_like = st.builds(
    lambda kind, message_id, rest: json.dumps([kind, message_id, *rest]),
    st.sampled_from([2, 3, 4, 5, 6, 7, 2.0, "2", None]),
    st.sampled_from(["a", "b", "", "-1", 7, "x" * 40]),
    st.lists(
        st.sampled_from(["Heartbeat", "Reset"]) | json_values.filter(lambda v: not isinstance(v, int)), max_size=3
    ),
)


class EngineUnderFire(RuleBasedStateMachine):
    """A peer that sends anything in any order, while calls are asked for, abandoned, answered late and expire."""

    @initialize(version=st.sampled_from(Version))
    def begin(self, version: Version) -> None:
        self.rpc = RpcEngine(version)
        self.now_s = 0.0
        self.asked: list[str] = []
        self.abandoned: set[str] = set()
        self.ends: Counter[str] = Counter()
        self.on_the_wire: list[str] = []
        self.to_answer: list[str] = []
        self.taken = self.answered = 0

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, CallAnswered | CallFailed):
                self.ends[event.message_id] += 1
            if isinstance(event, CallReceived):
                self.to_answer.append(event.message_id)
                self.taken += 1
        for text in self.rpc.frames_to_send():
            frame = orjson.loads(text)
            assert frame[0] in ((2, 3, 4) if self.rpc.version is Version.V201 else (2, 3, 4, 5))
            if frame[0] == 2:
                self.on_the_wire.append(frame[1])

    @rule(message=frames_like | st.text(max_size=30) | st.binary(max_size=10))
    def peer_sends(self, message: str | bytes) -> None:
        before = len(self.on_the_wire)
        self.take(self.rpc.receive(message, self.now_s))
        assert len(self.on_the_wire) <= before + 1

    @rule(message_id=st.sampled_from("abcd"), csr=st.sampled_from(["x", "y"]))
    def peer_calls(self, message_id: str, csr: str) -> None:
        """In a hurry, with ids used again, and again."""
        self.take(self.rpc.receive(f'[2,"{message_id}","SignCertificate",{{"csr":"{csr}"}}]', self.now_s))

    @precondition(lambda self: self.to_answer)
    @rule(how=st.sampled_from(["well", "refused", "wrongly"]), which=st.integers(0, 31))
    def we_answer(self, how: str, which: int) -> None:
        message_id = self.to_answer.pop(which % len(self.to_answer))
        if how == "refused":
            self.rpc.refuse(message_id, ErrorCode.NOT_SUPPORTED, "")
        else:
            with contextlib.suppress(OwnMistakeError):
                self.rpc.answer(message_id, {"status": "Rejected"} if how == "well" else {"status": 5})
        (text,) = self.rpc.frames_to_send()
        assert orjson.loads(text)[0] in (3, 4)
        assert orjson.loads(text)[1] == message_id
        self.answered += 1

    @rule(priority=st.sampled_from(Priority), timeout_s=st.floats(0.1, 20))
    def ask(self, priority: Priority, timeout_s: float) -> None:
        message_id = f"call{len(self.asked)}"
        try:
            self.rpc.ask(
                message_id,
                "ClearChargingProfile",
                {"chargingProfileId": 1},
                now_s=self.now_s,
                timeout_s=timeout_s,
                priority=priority,
            )
        except QueueFullError:
            return
        self.asked.append(message_id)
        self.take([])

    @precondition(lambda self: self.on_the_wire)
    @rule(which=st.integers(0, 5), answer=st.sampled_from(['{"status":"Accepted"}', '{"status":1}', "{}", "[]"]))
    def peer_answers(self, which: int, answer: str) -> None:
        """The last call, or one that has ended before, well or not."""
        message_id = self.on_the_wire[-1 - which % len(self.on_the_wire)]
        self.take(self.rpc.receive(f'[3,"{message_id}",{answer}]', self.now_s))

    @rule()
    def abandon(self) -> None:
        if self.asked:
            self.abandoned.add(self.asked[-1])
            self.rpc.abandon(self.asked[-1])

    @rule(seconds=st.floats(0, 15))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.take(self.rpc.expire(self.now_s))

    @invariant()
    def nothing_ends_twice_or_is_sent_twice(self) -> None:
        assert all(count == 1 for count in self.ends.values())
        assert len(set(self.on_the_wire)) == len(self.on_the_wire)

    @invariant()
    def one_call_at_a_time_is_without_an_end(self) -> None:
        open_calls = [one for one in self.on_the_wire if not self.ends[one] and one not in self.abandoned]
        assert len(open_calls) <= 1

    @invariant()
    def every_call_of_the_peer_waits_or_is_answered(self) -> None:
        assert self.taken == self.answered + len(self.rpc._unanswered)
        assert sorted(self.to_answer) == sorted(self.rpc._unanswered)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.rpc._asked) <= MOST_WAITING + URGENT_RESERVE
        assert len(self.rpc._answered) <= REMEMBERED_ANSWERS
        assert len(self.rpc._unanswered) <= MOST_UNANSWERED
        assert len(self.rpc._late) <= REMEMBERED_LATE
        assert len(self.rpc._queue) <= 2 * (MOST_WAITING + URGENT_RESERVE)
        assert not self.rpc._outgoing

    def teardown(self) -> None:
        self.take(self.rpc.expire(self.now_s + 1000))
        for message_id in self.asked:
            assert self.ends[message_id] == 1 or message_id in self.abandoned


EngineUnderFire.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEngineUnderFire = EngineUnderFire.TestCase


@given(st.text(max_size=200) | st.binary(max_size=50) | frames_like, st.sampled_from(Version))
def test_every_frame_gets_at_most_one_answer(message: str | bytes, version: Version) -> None:
    rpc = RpcEngine(version)
    events = rpc.receive(message, 0.0)
    received = [event for event in events if isinstance(event, CallReceived)]
    assert len(rpc.frames_to_send()) + len(received) <= 1
