"""The RPC engine: what it promises whatever the peer sends."""

from __future__ import annotations

import orjson
import pytest

from drivers.ocpp.errors import ErrorCode, NotInVersionError, OwnMistakeError, QueueFullError
from drivers.ocpp.rpc import (
    HOPELESS_FAULTS,
    MOST_UNANSWERED,
    MOST_WAITING,
    URGENT_PATIENCE_S,
    URGENT_RESERVE,
    AnswerRefused,
    CallAnswered,
    CallFailed,
    CallReceived,
    Failure,
    LateAnswer,
    PeerFault,
    Priority,
    RepeatedCall,
    RpcEngine,
    SendReceived,
)
from drivers.ocpp.schemas import Json, JsonObject, Version

NOW = "2026-01-01T00:00:00.000Z"
HEARTBEAT = '[2,"h1","Heartbeat",{}]'
SIGN = '[2,"s1","SignCertificate",{"csr":"csr"}]'
CLEAR: JsonObject = {"chargingProfileId": 1}


STREAM: JsonObject = {"id": 1, "pending": 0, "basetime": NOW, "data": [{"t": 0, "v": "7"}]}


def engine(version: Version = Version.V201) -> RpcEngine:
    return RpcEngine(version)


def ask(
    rpc: RpcEngine,
    message_id: str,
    *,
    now_s: float = 0.0,
    timeout_s: float = 10.0,
    priority: Priority = Priority.ROUTINE,
) -> None:
    rpc.ask(message_id, "ClearChargingProfile", CLEAR, priority=priority, timeout_s=timeout_s, now_s=now_s)


def sent(rpc: RpcEngine) -> list[list[Json]]:
    return [orjson.loads(text) for text in rpc.frames_to_send()]


def sent_ids(rpc: RpcEngine) -> list[Json]:
    return [frame[1] for frame in sent(rpc)]


def test_a_call_of_the_peer_is_given_out_and_answered() -> None:
    rpc = engine()
    assert rpc.receive(HEARTBEAT, 0.0) == [CallReceived("h1", "Heartbeat", {})]
    rpc.answer("h1", {"currentTime": NOW})
    assert sent(rpc) == [[3, "h1", {"currentTime": NOW}]]


@pytest.mark.parametrize(
    ("action", "payload", "code"),
    [
        ("Nonsense", "{}", ErrorCode.NOT_IMPLEMENTED),
        ("Heartbeat", '{"evil":1}', ErrorCode.FORMAT_VIOLATION),
        ("StatusNotification", "{}", ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION),
        ("MeterValues", '{"evseId":1,"meterValue":[]}', ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION),
        ("MeterValues", '{"evseId":"1","meterValue":[]}', ErrorCode.TYPE_CONSTRAINT_VIOLATION),
        (
            "StatusNotification",
            f'{{"timestamp":"{NOW}","connectorStatus":"Melted","evseId":1,"connectorId":1}}',
            ErrorCode.PROPERTY_CONSTRAINT_VIOLATION,
        ),
        (
            "StatusNotification",
            '{"timestamp":"yesterday","connectorStatus":"Available","evseId":1,"connectorId":1}',
            ErrorCode.FORMAT_VIOLATION,
        ),
    ],
)
def test_a_payload_that_its_schema_forbids_is_refused_with_the_right_code(
    action: str, payload: str, code: ErrorCode
) -> None:
    rpc = engine()
    (event,) = rpc.receive(f'[2,"1","{action}",{payload}]', 0.0)
    assert isinstance(event, PeerFault)
    assert event.code is code
    assert sent(rpc)[0][:3] == [4, "1", code.value]


def test_a_repeated_call_gets_the_same_answer_and_is_given_out_once() -> None:
    rpc = engine()
    assert isinstance(rpc.receive(SIGN, 0.0)[0], CallReceived)
    assert rpc.receive(SIGN, 0.0) == [RepeatedCall("s1", "SignCertificate")]  # not answered yet
    rpc.answer("s1", {"status": "Rejected"})
    first = sent(rpc)
    assert rpc.receive(SIGN, 1.0) == [RepeatedCall("s1", "SignCertificate")]
    assert sent(rpc) == first


def test_an_old_message_id_with_another_content_is_a_new_call() -> None:
    rpc = engine()
    rpc.receive(SIGN, 0.0)
    rpc.answer("s1", {"status": "Rejected"})
    events = rpc.receive(SIGN.replace(':"csr"', ':"other"'), 0.0)
    assert events == [CallReceived("s1", "SignCertificate", {"csr": "other"})]


def test_the_time_is_never_told_from_memory() -> None:
    rpc = engine()
    for moment in (NOW, NOW.replace("00:00", "00:01")):  # a charger that numbers all its heartbeats alike
        assert rpc.receive(HEARTBEAT, 0.0) == [CallReceived("h1", "Heartbeat", {})]
        rpc.answer("h1", {"currentTime": moment})
        assert sent(rpc) == [[3, "h1", {"currentTime": moment}]]


def test_one_call_of_ours_is_under_way_at_a_time() -> None:
    rpc = engine()
    ask(rpc, "a")
    ask(rpc, "b")
    assert sent_ids(rpc) == ["a"]
    assert rpc.receive('[3,"a",{"status":"Accepted"}]', 1.0) == [
        CallAnswered("a", "ClearChargingProfile", {"status": "Accepted"})
    ]
    assert sent_ids(rpc) == ["b"]


def test_an_urgent_call_overtakes_those_that_wait() -> None:
    rpc = engine()
    for message_id, priority in (("a", 2), ("routine", 2), ("control", 1), ("urgent", 0), ("routine2", 2)):
        ask(rpc, message_id, priority=Priority(priority))
    order = []
    while batch := sent_ids(rpc):
        order += batch
        rpc.receive(f'[3,"{batch[0]}",{{"status":"Accepted"}}]', 0.0)
    assert order == ["a", "urgent", "control", "routine", "routine2"]


def test_an_urgent_call_does_not_wait_long_for_a_report_that_nobody_answers() -> None:
    rpc = engine()
    ask(rpc, "dead", timeout_s=30.0)
    ask(rpc, "stop", timeout_s=30.0, priority=Priority.URGENT, now_s=1.0)
    assert rpc.next_deadline_s() == 1.0 + URGENT_PATIENCE_S
    (event,) = rpc.expire(1.0 + URGENT_PATIENCE_S)
    assert isinstance(event, CallFailed)
    assert (event.message_id, event.failure) == ("dead", Failure.TIMED_OUT)
    assert sent_ids(rpc) == ["dead", "stop"]
    ask(rpc, "stop 2", timeout_s=30.0, priority=Priority.URGENT, now_s=4.0)
    assert rpc.next_deadline_s() == 31.0  # a stop that is under way keeps its time
    assert rpc.receive('[3,"dead",{"status":"Accepted"}]', 5.0) == [LateAnswer("dead", "ClearChargingProfile")]


def test_a_deadline_counts_from_when_a_call_was_asked_for() -> None:
    rpc = engine()
    ask(rpc, "dead", timeout_s=10.0)
    ask(rpc, "waits", timeout_s=5.0)
    assert rpc.next_deadline_s() == 5.0
    (event,) = rpc.expire(5.0)
    assert isinstance(event, CallFailed)
    assert (event.message_id, event.failure) == ("waits", Failure.NEVER_SENT)
    (event,) = rpc.expire(10.0)
    assert isinstance(event, CallFailed)
    assert (event.message_id, event.failure) == ("dead", Failure.TIMED_OUT)
    assert sent_ids(rpc) == ["dead"]
    assert rpc.next_deadline_s() is None


def test_after_a_time_out_the_line_is_free_and_the_late_answer_is_known_as_such() -> None:
    rpc = engine()
    ask(rpc, "a", timeout_s=1.0)
    ask(rpc, "b", timeout_s=9.0)
    rpc.expire(1.0)
    assert sent_ids(rpc) == ["a", "b"]
    assert rpc.receive('[3,"a",{"status":"Accepted"}]', 2.0) == [LateAnswer("a", "ClearChargingProfile")]
    (event,) = rpc.receive('[3,"b",{"status":"Unknown"}]', 2.0)
    assert isinstance(event, CallAnswered)


def test_an_answer_to_nothing_is_a_fault_and_gets_no_answer() -> None:
    rpc = engine()
    ask(rpc, "a")
    ask(rpc, "b")
    sent(rpc)
    (event,) = rpc.receive('[3,"b",{"status":"Accepted"}]', 0.0)  # not sent yet: it cannot be known
    assert isinstance(event, PeerFault)
    assert sent(rpc) == []


def test_an_answer_that_its_schema_forbids_ends_the_call() -> None:
    rpc = engine()
    ask(rpc, "a")
    failed, fault = rpc.receive('[3,"a",{"status":"Perhaps"}]', 0.0)
    assert isinstance(failed, CallFailed)
    assert failed.failure is Failure.INVALID_ANSWER
    assert isinstance(fault, PeerFault)


def test_a_call_error_ends_the_call_with_its_code() -> None:
    rpc = engine()
    ask(rpc, "a")
    (event,) = rpc.receive('[4,"a","NotSupported","no\\u0000pe",{}]', 0.0)
    assert isinstance(event, CallFailed)
    assert (event.failure, event.code) == (Failure.REFUSED, "NotSupported")
    assert "\0" not in event.description


def test_an_abandoned_call_that_waits_is_never_sent() -> None:
    rpc = engine()
    ask(rpc, "a")
    ask(rpc, "b")
    rpc.abandon("b")
    rpc.receive('[3,"a",{"status":"Accepted"}]', 0.0)
    assert sent_ids(rpc) == ["a"]


def test_an_abandoned_call_under_way_keeps_the_line_until_its_end() -> None:
    rpc = engine()
    ask(rpc, "a", timeout_s=3.0)
    ask(rpc, "b")
    rpc.abandon("a")
    assert sent_ids(rpc) == ["a"]
    assert rpc.expire(3.0) == []
    assert sent_ids(rpc) == ["b"]
    rpc.abandon("b")
    assert rpc.receive('[3,"b",{"status":"Accepted"}]', 4.0) == [LateAnswer("b", "ClearChargingProfile")]


def test_a_full_queue_still_takes_an_urgent_call() -> None:
    rpc = engine()
    for number in range(MOST_WAITING):
        ask(rpc, f"r{number}")
    with pytest.raises(QueueFullError):
        ask(rpc, "one too many")
    for number in range(URGENT_RESERVE):
        ask(rpc, f"u{number}", priority=Priority.URGENT)
    with pytest.raises(QueueFullError):
        ask(rpc, "even so", priority=Priority.URGENT)


def test_asking_and_abandoning_for_ever_takes_no_more_room() -> None:
    rpc = engine()
    ask(rpc, "under way")
    for number in range(1000):
        ask(rpc, f"a{number}")
        rpc.abandon(f"a{number}")
    assert len(rpc._queue) <= 2 * (MOST_WAITING + URGENT_RESERVE)


def test_we_never_send_what_the_schemas_forbid() -> None:
    rpc = engine()
    for message_id, action, payload in (
        ("a", "ClearChargingProfile", {"evil": 1}),
        ("a", "Nonsense", {}),
        ("x" * 37, "ClearChargingProfile", {}),
    ):
        with pytest.raises(OwnMistakeError):
            rpc.ask(message_id, action, payload, priority=Priority.ROUTINE, timeout_s=1, now_s=0)  # type: ignore[arg-type]
    rpc.receive(HEARTBEAT, 0.0)
    with pytest.raises(OwnMistakeError):
        rpc.answer("h1", {"currentTime": 5})
    assert sent(rpc)[0][:3] == [4, "h1", "InternalError"]  # the charger is not left waiting


@pytest.mark.parametrize("unwritable", [10**30, "\ud800"])
def test_what_has_no_json_is_our_own_mistake_and_the_charger_is_not_left_waiting(unwritable: Json) -> None:
    rpc = engine()
    with pytest.raises(OwnMistakeError):
        rpc.ask(
            "a",
            "DataTransfer",
            {"vendorId": "x", "data": {"evseId": unwritable}},
            priority=Priority.ROUTINE,
            timeout_s=1,
            now_s=0,
        )
    rpc.receive('[2,"d","DataTransfer",{"vendorId":"x"}]', 0.0)
    with pytest.raises(OwnMistakeError):
        rpc.answer("d", {"status": "Accepted", "data": unwritable})
    assert sent(rpc)[0][:3] == [4, "d", "InternalError"]


def test_integers_are_integers_however_they_are_written_and_nothing_else_changes() -> None:
    sampled = '{"value":2.0,"unitOfMeasure":{"multiplier":3.0}}'
    meter = f'[{{"timestamp":"{NOW}","sampledValue":[{sampled},{sampled}]}}]'
    own = '{"vendorId":"x","seqNo":1.0}'
    text = (
        f'[2,"1.0","TransactionEvent",{{"eventType":"Started","timestamp":"{NOW}","triggerReason":"RemoteStart",'
        f'"seqNo":1.0,"transactionInfo":{{"transactionId":"1.0","remoteStartId":1e3,"timeSpentCharging":1e300}},'
        f'"meterValue":{meter},"customData":{own}}}]'
    )
    (received,) = engine().receive(text, 0.0)
    assert isinstance(received, CallReceived)
    payload = received.payload
    assert repr(payload["seqNo"]) == "1"
    assert repr(payload["transactionInfo"]) == (
        "{'transactionId': '1.0', 'remoteStartId': 1000, 'timeSpentCharging': 1e+300}"
    )
    assert repr(payload["meterValue"]).count("{'value': 2.0, 'unitOfMeasure': {'multiplier': 3}}") == 2
    assert repr(payload["customData"]) == "{'vendorId': 'x', 'seqNo': 1.0}"


def test_integers_of_answers_are_integers_too() -> None:
    rpc = engine()
    asked: JsonObject = {"evseId": 1, "duration": 60}
    rpc.ask("a", "GetCompositeSchedule", asked, priority=Priority.ROUTINE, timeout_s=1, now_s=0)
    period = '{"startPeriod":0.0,"limit":7.0,"numberPhases":3.0}'
    schedule = (
        f'{{"evseId":1.0,"duration":60.0,"scheduleStart":"{NOW}","chargingRateUnit":"W",'
        f'"chargingSchedulePeriod":[{period}]}}'
    )
    (event,) = rpc.receive(f'[3,"a",{{"status":"Accepted","schedule":{schedule}}}]', 0.0)
    assert isinstance(event, CallAnswered)
    assert "[{'startPeriod': 0, 'limit': 7.0, 'numberPhases': 3}]" in repr(event.payload)


def test_a_message_of_the_other_version_is_neither_sent_nor_taken() -> None:
    old, new = engine(Version.V201), engine(Version.V21)
    needless: JsonObject = {"transactionId": "T1", "activate": True}
    with pytest.raises(NotInVersionError, match=r"UsePriorityCharging is of ocpp2\.1"):
        old.ask("a", "UsePriorityCharging", needless, priority=Priority.CONTROL, timeout_s=1, now_s=0)
    new.ask("a", "UsePriorityCharging", needless, priority=Priority.CONTROL, timeout_s=1, now_s=0)
    assert sent_ids(new) == ["a"]
    swap = '[2,"1","PullDynamicScheduleUpdate",{"chargingProfileId":1}]'
    old.receive(swap, 0.0)
    assert sent(old)[0][:3] == [4, "1", "NotImplemented"]
    assert isinstance(new.receive(swap, 0.0)[0], CallReceived)


def test_a_payload_is_judged_by_the_version_of_its_connection() -> None:
    discharge = orjson.dumps([2, "1", "NotifyChargingLimit", {"chargingLimit": {"chargingLimitSource": "Grid"}}])
    only_old = discharge.decode().replace("Grid", "EMS")
    named_by_the_site = only_old.replace("EMS", "site")  # an enumeration in 2.0.1, any text in 2.1
    assert isinstance(engine(Version.V201).receive(only_old, 0.0)[0], CallReceived)
    assert isinstance(engine(Version.V201).receive(named_by_the_site, 0.0)[0], PeerFault)
    assert isinstance(engine(Version.V21).receive(named_by_the_site, 0.0)[0], CallReceived)


def test_a_send_is_given_out_and_never_answered() -> None:
    rpc = engine(Version.V21)
    good = orjson.dumps([6, "1", "NotifyPeriodicEventStream", STREAM]).decode()
    assert rpc.receive(good, 0.0) == [SendReceived("1", "NotifyPeriodicEventStream", STREAM)]
    for bad in ('[6,"1","NotifyPeriodicEventStream",{}]', '[6,"1","Heartbeat",{}]', '[6,"1","HeartbeatRequest",{}]'):
        assert isinstance(rpc.receive(bad, 0.0)[0], PeerFault)
    assert sent(rpc) == []


def test_a_send_of_ours_goes_out_where_the_version_has_it() -> None:
    rpc = engine(Version.V21)
    rpc.send("1", "NotifyPeriodicEventStream", STREAM)
    assert sent(rpc) == [[6, "1", "NotifyPeriodicEventStream", STREAM]]
    for action in ("Heartbeat", "NotifyPeriodicEventStream"):
        with pytest.raises(OwnMistakeError):
            rpc.send("1", action, {})
    with pytest.raises(OwnMistakeError):
        engine(Version.V201).send("1", "NotifyPeriodicEventStream", STREAM)


def test_in_2_1_a_charger_is_told_that_its_answer_was_no_good() -> None:
    rpc = engine(Version.V21)
    ask(rpc, "a")
    sent(rpc)
    rpc.receive('[3,"a",{"status":"Perhaps"}]', 0.0)
    assert sent(rpc)[0][:3] == [5, "a", "PropertyConstraintViolation"]


def test_in_2_1_an_answer_of_ours_may_be_refused() -> None:
    rpc = engine(Version.V21)
    rpc.receive(HEARTBEAT, 0.0)
    rpc.answer("h1", {"currentTime": NOW})
    assert rpc.receive('[5,"h1","FormatViolation","what?",{}]', 0.0) == [
        AnswerRefused("h1", "Heartbeat", "FormatViolation", "'what?'")
    ]
    assert isinstance(rpc.receive('[5,"h2","FormatViolation","",{}]', 0.0)[0], PeerFault)
    assert sent(rpc)[1:] == []


def test_a_peer_that_does_not_wait_for_answers_is_bounded() -> None:
    rpc = engine()
    for number in range(MOST_UNANSWERED):
        rpc.receive(f'[2,"{number}","Heartbeat",{{}}]', 0.0)
    (event,) = rpc.receive('[2,"more","Heartbeat",{}]', 0.0)
    assert isinstance(event, PeerFault)
    assert sent(rpc)[0][:3] == [4, "more", "GenericError"]


def test_nonsense_without_end_makes_the_connection_hopeless_and_one_good_frame_forgives() -> None:
    rpc = engine()
    for _ in range(HOPELESS_FAULTS - 1):
        assert not any(event.hopeless for event in rpc.receive("nonsense", 0.0) if isinstance(event, PeerFault))
    rpc.receive(HEARTBEAT, 0.0)
    events = [rpc.receive("nonsense", 0.0)[0] for _ in range(HOPELESS_FAULTS)]
    assert [event.hopeless for event in events if isinstance(event, PeerFault)] == [False] * 19 + [True]
