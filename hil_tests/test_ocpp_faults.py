"""The CSMS and chargers that flood, stall, vanish, double or have the wrong time, over real WebSockets with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ocpp.v201 import call
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from drivers.device import LinkState
from drivers.ocpp import charger as charger_module
from drivers.ocpp import connection as connection_module
from drivers.ocpp import doorstep as doorstep_module
from drivers.ocpp import rpc as rpc_module
from drivers.ocpp import server as server_module
from hil_tests.ocpp_station import SUBPROTOCOL, MemoryJournal, Site, Tls, meter_value, ready, running, stamp, until

HEARTBEAT = '[2,"h","Heartbeat",{}]'


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REFUSAL_DELAY_S", 0.05)
    monkeypatch.setattr(charger_module, "PING_TIMEOUT_S", 0.3)


@pytest.fixture
async def site(loopback_tls: Tls) -> AsyncIterator[Site]:
    async with running(Site(MemoryJournal(), loopback_tls)) as site:
        yield site


async def answer_to(socket: ClientConnection, message_id: str) -> list[object]:
    """Reads on to the answer, past calls of the gateway."""
    while True:
        frame: list[object] = json.loads(await socket.recv())
        if frame[0] in (3, 4) and frame[1] == message_id:
            return frame


def transaction_event(kind: str, number: int, timestamp: str, *, transaction_id: str = "T1") -> str:
    event = {
        "eventType": kind,
        "timestamp": timestamp,
        "triggerReason": "MeterValuePeriodic",
        "seqNo": number,
        "transactionInfo": {"transactionId": transaction_id},
        "evse": {"id": 1},
        "meterValue": [meter_value(1_000, 10 + number, timestamp=timestamp)],
    }
    return json.dumps([2, f"{transaction_id}-{number}", "TransactionEvent", event])


async def stalls_after(socket: ClientConnection, text: str, most: int = 1_000) -> int:
    """How many messages go out before one has to wait for half a second."""
    for sent in range(most):
        try:
            async with asyncio.timeout(0.5):
                await socket.send(text)
        except TimeoutError:
            return sent
    return most


async def test_a_flood_is_read_slowly_and_costs_the_neighbour_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MESSAGES_PER_S", 20.0)
    monkeypatch.setattr(connection_module, "MESSAGES_AT_ONCE", 5.0)
    padded = json.dumps([2, "x", "DataTransfer", {"vendorId": "x", "data": "y" * 100_000}])
    async with site.open() as flooding, site.station("CP-2", "secret-2") as neighbour:
        # What is not read stays with the sender: its sends stall, long before they could fill our memory.
        sent = await stalls_after(flooding, padded)
        assert sent < 300
        assert (await neighbour.boot()).status == "Accepted"
        assert site.events.count(next(event for event in site.events if event[0] == "charger.flood")) == 1
        assert {subject for _, subject, _ in site.events} == {"CP-1"}
        flooding.transport.abort()


async def ask_without_end(socket: ClientConnection) -> None:
    while True:
        await socket.send(HEARTBEAT)


async def test_a_charger_that_does_not_read_its_answers_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MESSAGES_AT_ONCE", 1e9)
    monkeypatch.setattr(connection_module, "SEND_WITHIN_S", 0.3)
    assert site.server._server is not None
    for listening in site.server._server.sockets:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect(("127.0.0.1", site.server.port))
    opening = site.open()
    async with connect(
        opening.uri,
        sock=small,
        ssl=site.client_tls,
        server_hostname="127.0.0.1",
        subprotocols=[SUBPROTOCOL],
        additional_headers=opening.additional_headers,
        proxy=None,
        close_timeout=0.1,
    ) as deaf:
        deaf.transport.pause_reading()
        asking = asyncio.create_task(ask_without_end(deaf))
        await until(lambda: "charger.slow_reader" in site.codes(), "the word on it")
        await until(lambda: site.link() is LinkState.SILENT, "the end of the connection")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


def unsent(transport: Any) -> int:
    """Bytes that wait to be sent, encrypted or still to be."""
    below = transport._ssl_protocol._transport
    return int(transport.get_write_buffer_size()) + (0 if below is None else int(below.get_write_buffer_size()))


async def test_pings_without_end_fill_no_memory_and_end_the_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorstep_module, "STUCK_S", 1.0)
    monkeypatch.setattr(doorstep_module, "BYTES_AT_ONCE", 1e9)  # else they are not even read
    pings = (b"\x89\xfd\0\0\0\0" + b"p" * 125) * 1_000
    async with site.open() as pinging:
        await until(lambda: site.link() is LinkState.ONLINE, "the charger")
        connection = site.server._chargers["CP-1"]._connection
        assert connection is not None
        transport = connection._socket.transport
        pinging.transport.pause_reading()
        largest = 0
        for _ in range(400):  # 52 MB, whose answers nobody reads
            pinging.transport.write(pings)
            await asyncio.sleep(0)
            largest = max(largest, unsent(transport))
        await until(lambda: site.link() is LinkState.SILENT, "the end of it")
        assert largest < 1_000_000
        pinging.transport.abort()


async def test_pings_without_end_are_read_slowly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorstep_module, "BYTES_PER_S", 10_000.0)
    monkeypatch.setattr(doorstep_module, "BYTES_AT_ONCE", 100_000.0)
    pings = (b"\x89\xfd\0\0\0\0" + b"p" * 125) * 1_000
    async with site.open() as pinging, site.station("CP-2", "secret-2") as neighbour:
        for _ in range(160):
            pinging.transport.write(pings)  # 21 MB
        for _ in range(400):
            assert (await neighbour.call(call.Heartbeat())).current_time
        # At 10 kB/s all is still with the sender, but for what the sockets between hold.
        assert unsent(pinging.transport) > 8_000_000
        assert site.link() is LinkState.ONLINE
        pinging.transport.abort()


async def test_a_half_open_socket_is_noticed_without_a_second(
    monkeypatch: pytest.MonkeyPatch, loopback_tls: Tls
) -> None:
    monkeypatch.setattr(server_module, "PING_INTERVAL_S", 0.2)
    async with running(Site(MemoryJournal(), loopback_tls)) as site:
        dead = await site.open()
        await until(lambda: site.link() is LinkState.ONLINE, "the charger")
        dead.transport.pause_reading()
        await until(lambda: site.link() is LinkState.SILENT, "its silence to be noticed")
        dead.transport.abort()


async def test_a_stop_does_not_wait_for_a_report_that_nobody_answers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "URGENT_PATIENCE_S", 0.1)
    async with site.open() as charger:
        await charger.send(transaction_event("Started", 0, stamp()))
        asked: list[str] = []
        while "GetVariables" not in asked:
            frame = json.loads(await charger.recv())
            asked += [frame[2]] if frame[0] == 2 else []
        stopping = asyncio.create_task(site.server.remote_stop("car-1"))
        async with asyncio.timeout(4):  # a call has five seconds, and the one before is never answered
            frame = json.loads(await charger.recv())
        assert frame[2:] == ["RequestStopTransaction", {"transactionId": "T1"}]
        await charger.send(json.dumps([3, frame[1], {"status": "Accepted"}]))
        await stopping


async def test_a_fault_of_ours_is_an_internal_error_and_the_connection_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = site.server._chargers["CP-1"].session

    def broken(*_: object) -> None:
        raise KeyError("a mistake of ours")

    async with site.open() as charger:
        with monkeypatch.context() as patched:
            patched.setattr(session, "handle", broken)
            await charger.send(HEARTBEAT)
            assert (await answer_to(charger, "h"))[:3] == [4, "h", "InternalError"]
        await charger.send(HEARTBEAT)
        assert (await answer_to(charger, "h"))[0] == 3


async def test_wrong_credentials_are_delayed_counted_and_told_once(
    monkeypatch: pytest.MonkeyPatch, loopback_tls: Tls
) -> None:
    monkeypatch.setattr(server_module, "REFUSAL_DELAY_S", 1.0)
    monkeypatch.setattr(server_module, "MOST_REFUSING", 4)

    async def knock(identity: str) -> int:
        with pytest.raises(InvalidStatus) as refused:
            await guessed.open(identity, "guess")
        return refused.value.response.status_code

    guessed = Site(MemoryJournal(), loopback_tls)
    async with running(guessed) as site:
        guesses = [asyncio.create_task(knock(identity)) for identity in ("CP-1", "CP-1", "CP-1", "CP-9")]
        await until(lambda: site.server.refusals.total() == 4, "all to be heard")
        assert await knock("CP-1") == 503  # too many wait already
        async with site.station() as station:
            assert (await station.boot()).status == "Accepted"
            assert not any(guess.done() for guess in guesses)
        assert await asyncio.gather(*guesses) == [401] * 4
        assert site.server.refusals == {"CP-1": 4, "unknown": 1}
        assert site.codes().count("charger.refused") == 1


async def test_two_chargers_with_one_identity_are_told_once_and_the_first_goes_on(site: Site) -> None:
    async with site.station() as first:
        await ready(site, first)
        for _ in range(3):
            with pytest.raises(InvalidStatus) as refused:
                await site.open()
            assert refused.value.response.status_code == 409
        told = [text for code, subject, text in site.events if (code, subject) == ("charger.second_socket", "CP-1")]
        assert len(told) == 1
        assert "127.0.0.1" in told[0]
        assert (await first.call(call.Heartbeat())).current_time
    async with site.station() as other:
        await other.call(
            call.BootNotification(
                charging_station={"vendor_name": "Test", "model": "Bidi", "serial_number": "S2"}, reason="PowerUp"
            )
        )
        await until(lambda: "charger.replaced" in site.codes(), "the other serial number to be told")


async def test_a_charger_that_connects_without_end_is_turned_away_unheard(
    monkeypatch: pytest.MonkeyPatch, loopback_tls: Tls
) -> None:
    monkeypatch.setattr(charger_module, "HANDSHAKES_AT_ONCE", 3.0)
    monkeypatch.setattr(charger_module, "HANDSHAKES_PER_S", 0.001)
    async with running(Site(MemoryJournal(), loopback_tls)) as site:
        for _ in range(3):
            async with site.open() as socket:
                await socket.send(HEARTBEAT)
                await answer_to(socket, "h")
            await until(lambda: site.link() is not LinkState.ONLINE, "the end of it")
        for _ in range(2):
            with pytest.raises(InvalidStatus) as refused:
                await site.open()
            assert refused.value.response.status_code == 429
        assert site.codes() == ["charger.flood"]
        async with site.station("CP-2", "secret-2") as neighbour:
            assert (await neighbour.boot()).status == "Accepted"


async def test_sockets_that_say_nothing_take_no_place_from_a_charger(
    monkeypatch: pytest.MonkeyPatch, loopback_tls: Tls
) -> None:
    monkeypatch.setattr(server_module, "MOST_SILENT", 5)
    async with running(Site(MemoryJournal(), loopback_tls)) as site:
        silent = [await asyncio.open_connection("127.0.0.1", site.server.port, ssl=site.client_tls) for _ in range(40)]
        await until(lambda: sum(reader.at_eof() for reader, _ in silent) >= 33, "the oldest to be closed")
        assert len(site.server._doorstep) == 7  # five, and one for each configured EVSE
        async with site.station() as station:
            assert (await station.boot()).status == "Accepted"
            assert len(site.server._doorstep) <= 7
        for _, writer in silent:
            writer.close()
        await until(lambda: len(site.server._doorstep) == 0, "the rest to be gone")


async def test_a_socket_that_never_speaks_tls_is_closed_and_a_charger_gets_in(
    monkeypatch: pytest.MonkeyPatch, loopback_tls: Tls
) -> None:
    monkeypatch.setattr(server_module, "TLS_HANDSHAKE_S", 0.5)
    async with running(Site(MemoryJournal(), loopback_tls)) as site:
        dumb = [await asyncio.open_connection("127.0.0.1", site.server.port) for _ in range(40)]
        plain, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        writer.write(b"GET /ocpp/CP-1 HTTP/1.1\r\n\r\n")
        async with site.station() as station:
            assert (await station.boot()).status == "Accepted"
        for reader, closing in (*dumb, (plain, writer)):
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(20):
                    assert not (await reader.read()).startswith(b"HTTP")
            closing.close()


@pytest.mark.parametrize("years", [-30, 20])
async def test_a_clock_that_is_years_off_is_told_and_hides_nothing(site: Site, years: int) -> None:
    wrong = (datetime.now(UTC) + timedelta(days=365 * years)).isoformat()
    async with site.open() as charger:
        await charger.send(transaction_event("Started", 0, wrong))
        await answer_to(charger, "T1-0")
        await charger.send(HEARTBEAT)
        told = await answer_to(charger, "h")
        assert isinstance(told[2], dict)
        await charger.send(transaction_event("Started", 1, told[2]["currentTime"], transaction_id="T2"))
        await answer_to(charger, "T2-1")
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert vehicle.transaction_id == "T2"
    first, second = site.samples
    assert 0 <= second.monotonic_s - first.monotonic_s < 10
    assert site.codes() == ["charger.clock"]


async def test_a_session_goes_on_over_a_reconnect_without_boot_and_a_repeated_event_counts_once(site: Site) -> None:
    started, then = transaction_event("Started", 0, stamp(1)), stamp()
    async with site.open() as charger:
        await charger.send(started)
        await until(lambda: len(site.samples) == 1, "the first event")
        charger.transport.abort()  # before its answer was read
    async with site.open() as charger:
        for text in (started, started.replace('"T1-0"', '"again"'), transaction_event("Updated", 1, then)):
            await charger.send(text)
            await answer_to(charger, json.loads(text)[1])
        await until(lambda: len(site.samples) == 2, "the second event")
        vehicle = site.server.devices["car-1"].status().vehicle
        assert vehicle is not None
        assert vehicle.transaction_id == "T1"
    assert [sample.import_register_milliwatt_hours for sample in site.samples] == [10_000, 11_000]
    assert len({sample.meter_id for sample in site.samples}) == 1
