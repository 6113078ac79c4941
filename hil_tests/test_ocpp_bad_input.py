"""The CSMS under bad input and faults: clear errors, and other chargers unaffected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from drivers.ocpp import charger as charger_module
from drivers.ocpp import rpc as rpc_module
from drivers.ocpp import server as server_module
from hil_tests.ocpp_station import MemoryJournal, Site, Tls, meter_value, running, stamp, until


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
async def site(journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch, loopback_tls: Tls) -> AsyncIterator[Site]:
    monkeypatch.setattr(server_module, "REFUSAL_DELAY_S", 0.05)
    monkeypatch.setattr(charger_module, "PING_TIMEOUT_S", 0.3)
    async with running(Site(journal, loopback_tls)) as site:
        yield site


async def close_code(socket: ClientConnection) -> int | None:
    """Read to the end, and say how it was closed."""
    try:
        async with asyncio.timeout(10):
            async for _ in socket:
                pass
    except ConnectionClosed:
        pass
    return socket.close_code


@pytest.mark.parametrize(
    ("frame", "code", "reply_to"),
    [
        ("garbage", "RpcFrameworkError", "-1"),
        (b"\x00garbage", "RpcFrameworkError", "-1"),
        ("[" * 100_000, "RpcFrameworkError", "-1"),
        ('[2,"1",{},{}]', "RpcFrameworkError", "1"),
        ('[2,"1","Heartbeat",[]]', "RpcFrameworkError", "1"),
        (f'[2,"{"i" * 37}","Heartbeat",{{}}]', "RpcFrameworkError", "-1"),
        ('[2,"1","DataTransfer",{"vendorId":"x","data":NaN}]', "RpcFrameworkError", "-1"),
        ('[2,"1","DataTransfer",{"vendorId":"x","data":' + "[" * 50 + "]" * 50 + "}]", "FormatViolation", "1"),
        ('[6,"1","NotifyPeriodicEventStream",{}]', "MessageTypeNotSupported", "1"),
        ('[9,"1","Heartbeat",{}]', "MessageTypeNotSupported", "1"),
        ('[2,"1","NoSuchThing",{}]', "NotImplemented", "1"),
        ('[2,"1","Reset",{"type":"Immediate"}]', "NotSupported", "1"),
        ('[2,"1","Heartbeat",{"x":1}]', "FormatViolation", "1"),
        ('[2,"1","StatusNotification",{}]', "OccurrenceConstraintViolation", "1"),
    ],
)
async def test_bad_frames_get_a_call_error_and_the_connection_goes_on(
    site: Site, frame: str | bytes, code: str, reply_to: str
) -> None:
    async with site.open() as socket:
        await socket.send(frame)
        answer = json.loads(await socket.recv())
        assert answer[:3] == [4, reply_to, code]
        await socket.send('[2,"h","Heartbeat",{}]')
        while (answer := json.loads(await socket.recv()))[1] != "h":
            pass
        assert answer[0] == 3


async def test_in_2_1_what_nobody_answers_gets_no_answer_however_bad(site: Site) -> None:
    async with site.open(subprotocols=[Subprotocol("ocpp2.1")]) as socket:
        for frame in ('[6,"1","NotifyPeriodicEventStream",{}]', '[6,"1","Nonsense",{}]', "[6]", '[5,"1","a","b",{}]'):
            await socket.send(frame)
        await socket.send('[2,"h","Heartbeat",{}]')
        assert json.loads(await socket.recv())[:2] == [3, "h"]
        assert site.codes() == ["charger.bad_frame"]


async def question(socket: ClientConnection) -> list[Any]:
    """The next call of the gateway."""
    while (frame := json.loads(await socket.recv()))[0] != 2:
        pass
    return list(frame)


async def test_in_2_1_an_answer_that_is_none_is_refused_and_the_connection_goes_on(site: Site) -> None:
    async with site.open(subprotocols=[Subprotocol("ocpp2.1")]) as socket:
        await socket.send('[2,"h","Heartbeat",{}]')
        _, message_id, action, _ = await question(socket)
        assert action == "GetVariables"
        await socket.send(json.dumps([3, message_id, {"getVariableResult": "all of them"}]))
        frame = json.loads(await socket.recv())
        assert frame[:3] == [5, message_id, "TypeConstraintViolation"]
        assert site.codes() == ["charger.bad_frame"]
        assert (await question(socket))[2] != "", "it is asked on"


async def test_in_2_0_1_an_answer_that_is_none_is_told_to_nobody_on_the_wire(site: Site) -> None:
    async with site.open() as socket:
        await socket.send('[2,"h","Heartbeat",{}]')
        _, message_id, _, _ = await question(socket)
        await socket.send(json.dumps([3, message_id, {"getVariableResult": "all of them"}]))
        assert json.loads(await socket.recv())[0] == 2
        assert site.codes() == ["charger.bad_frame"]


async def test_in_2_1_a_charger_that_cannot_use_our_answer_is_heard(site: Site) -> None:
    async with site.open(subprotocols=[Subprotocol("ocpp2.1")]) as socket:
        await socket.send('[2,"h","Heartbeat",{}]')
        while json.loads(await socket.recv())[1] != "h":
            pass
        await socket.send('[5,"h","FormatViolation","what time is that?",{}]')
        await until(lambda: "charger.answer_refused" in site.codes(), "it is heard")
        (text,) = [text for code, _, text in site.events if code == "charger.answer_refused"]
        assert "Heartbeat" in text
        assert "FormatViolation" in text


async def test_a_late_answer_is_known_as_such_and_is_no_fault(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "URGENT_PATIENCE_S", 0.1)
    async with site.open() as socket:
        await socket.send('[2,"h","Heartbeat",{}]')
        _, message_id, _, _ = await question(socket)
        starting = asyncio.create_task(site.server.remote_start("car-1", "APP-1"))
        later = await question(socket)  # the one before was given up
        assert later[2] == "RequestStartTransaction"
        with structlog.testing.capture_logs() as logs:
            await socket.send(json.dumps([3, message_id, {"getVariableResult": []}]))
            await until(lambda: any(line["event"] == "ocpp_late_answer" for line in logs), "the late answer")
        await socket.send(json.dumps([3, later[1], {"status": "Accepted"}]))
        await starting
        assert site.codes() == []
        await socket.send(json.dumps([3, "nobody-asked", {}]))
        await until(lambda: site.codes() == ["charger.bad_frame"], "an answer to nothing is one")


async def test_nonsense_without_end_closes_that_connection_and_no_other(site: Site) -> None:
    async with site.station("CP-2", "secret-2") as neighbour:
        async with site.open() as socket:
            for _ in range(25):
                await socket.send("nonsense")
            assert await close_code(socket) == 1002
        assert (await neighbour.boot()).status == "Accepted"
        assert site.codes().count("charger.bad_frame") == 1


async def test_a_frame_beyond_all_measure_closes_that_connection(site: Site) -> None:
    async with site.open() as socket:
        await socket.send("x" * 300_000)
        assert await close_code(socket) == 1009


async def test_a_repeated_call_gets_its_answer_again(site: Site) -> None:
    event = {
        "eventType": "Updated",
        "timestamp": stamp(),
        "triggerReason": "MeterValuePeriodic",
        "seqNo": 1,
        "transactionInfo": {"transactionId": "T1"},
        "evse": {"id": 1},
        "meterValue": [meter_value(1_000, 10)],
    }
    async with site.open() as socket:
        for message_id in ("a", "a", "b"):  # sent again, then as a new call after a lost answer
            await socket.send(json.dumps([2, message_id, "TransactionEvent", event]))
            while json.loads(await socket.recv())[:2] != [3, message_id]:
                pass
        assert len(site.samples) == 1


async def test_a_journal_that_fails_does_not_keep_a_charger_from_its_answers(
    site: Site, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(key: str, value: bytes) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(journal, "remember", full)
    async with site.station() as station:
        assert (await station.boot()).status == "Accepted"


async def test_a_taken_port_is_tried_again(
    journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch, loopback_tls: Tls
) -> None:
    monkeypatch.setattr(server_module, "REBIND_LEAST_S", 0.05)
    squatter = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = squatter.sockets[0].getsockname()[1]
    site = Site(journal, loopback_tls)
    site.server._port = port
    serving = asyncio.create_task(site.server.run())
    await until(lambda: "charger.listen" in site.codes(), "the server to say that it cannot listen")
    squatter.close()
    await squatter.wait_closed()
    await until(lambda: site.server._server is not None, "the server to listen")
    async with site.station() as station:
        assert (await station.boot()).status == "Accepted"
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
