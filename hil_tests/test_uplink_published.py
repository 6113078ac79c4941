"""The uplink against a platform without GatewayLink: the devices' streams carry everything, acknowledged or not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.config import StatementsAsTelemetry
from agent.evidence.kinds import Alarm, CommandReceipt, CommandState, Severity
from agent.evidence.statements import decode
from agent.uplink import devices
from agent.uplink.status import Carrier
from hil_tests.rig.demo.child import Child
from hil_tests.rig.link import Link
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, address, rig, until
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry, GridCommand
from tests.agent.uplink.parts import FIRST_US, Evidence, row_of

__all__ = ["rig"]


def readings(rig: Rig) -> dict[str, object]:
    pages = rig.books()["devices"]
    assert isinstance(pages, dict)
    return {device_id: page["sequences"] for device_id, page in pages.items()}


def of_a_command(command_id: str, state: CommandState = CommandState.ACCEPTED) -> CommandReceipt:
    return CommandReceipt(
        command_hash=bytes(32),
        command_id=command_id,
        state=state,
        timestamp_us=FIRST_US,
        reason="",
        delivered_energy_wh=None,
    )


def alarm(subject: str) -> Alarm:
    return Alarm(timestamp_us=FIRST_US, severity=Severity.WARNING, code="test.code", subject=subject, text="It is so.")


async def test_readings_travel_on_the_devices_streams_and_their_acknowledgement_empties_the_outbox(rig: Rig) -> None:
    for _ in range(3):
        rig.gateway.outbox.rows.append(rig.gateway.evidence.row("meter", "pv", "meter"))
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)) as uplink:
        await until(rig.gateway.outbox.all_acknowledged, "backlog acknowledged")
        for _ in range(3):
            rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "what came later acknowledged")
        status = uplink.status()
        assert (status.carrier, status.acknowledged_number) == (Carrier.DEVICE_STREAMS, 6)
        assert status.unconfirmed_number is None
    assert readings(rig) == {"meter": [[1, 1, 9]], "pv": [[1, 1, 6]]}
    # Each once: what went out live was not sent a second time.
    assert rig.books()["receipts_verified"] == 15
    assert rig.books()["conflicts"] == []


async def test_readings_of_a_device_that_is_no_longer_configured_are_delivered_too(rig: Rig) -> None:
    rig.gateway.outbox.rows.append(rig.gateway.evidence.row("removed-device"))
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)):
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged")


async def test_commands_come_on_a_devices_stream_when_there_is_no_link(rig: Rig) -> None:
    await rig.platform.issue({"id": "c1", "type": "IDLE", "duration_s": 60})
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)):
        await until(lambda: len(rig.gateway.commands) == 1, "the command that was owed")
        assert rig.gateway.commands[0][1] is not None


async def test_published_contract_alone_counts_a_well_ended_stream_as_delivered_and_says_unconfirmed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "UNCONFIRMED_AFTER_S", 0.3)
    async with (
        Server(rig.platform, rig.practice, link=False, additions=False) as server,
        rig.uplink(address(server.port)) as uplink,
    ):
        rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "counted as delivered")
        assert (uplink.status().acknowledged_number, uplink.status().unconfirmed_number) == (None, 1)
        rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "the streams came back")
    assert readings(rig) == {"meter": [[1, 1, 2]], "pv": [[1, 1, 2]]}


async def test_readings_on_a_stream_that_was_cut_are_sent_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "UNCONFIRMED_AFTER_S", 0.5)
    async with (
        Server(rig.platform, rig.practice, link=False, additions=False) as server,
        Link("127.0.0.1", server.port) as link,
        rig.uplink(link.address) as uplink,
    ):
        await until(lambda: uplink.status().connected, "connected")
        link.freeze()
        rig.gateway.seal(uplink, "meter", "pv")
        link.cut()
        await until(lambda: not uplink.status().connected, "the cut is noticed")
        assert rig.gateway.outbox.acknowledged == {}
        link.restore()
        await until(rig.gateway.outbox.all_acknowledged, "sent again")
    assert readings(rig) == {"meter": [[1, 1, 1]], "pv": [[1, 1, 1]]}


async def test_two_incarnations_never_share_a_stream(rig: Rig) -> None:
    key = rig.gateway.evidence.key
    for incarnation in (1, 2):
        evidence = Evidence(incarnation=incarnation, key=key)
        rig.gateway.outbox.rows += [evidence.row("meter") for _ in range(3)]
    rig.gateway.evidence = evidence
    rig.gateway.outbox.incarnation = 2
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)):
        await until(rig.gateway.outbox.all_acknowledged, "both incarnations acknowledged")
    assert readings(rig) == {"meter": [[1, 1, 3], [2, 1, 3]]}


async def test_what_is_no_reading_travels_there_too_is_proven_and_acknowledged(rig: Rig) -> None:
    rig.gateway.outbox.rows.append(row_of(rig.gateway.evidence.seal(alarm("pv"), alarm("tpm"), of_a_command("c0"))))
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)) as uplink:
        await until(rig.gateway.outbox.all_acknowledged, "the backlog, of which no device was measured yet")
        rig.gateway.seal(uplink, "meter", "pv")
        rig.gateway.seal_statements(uplink, of_a_command("c1"), rig.gateway.evidence.reading("pv"), alarm("meter"))
        await until(rig.gateway.outbox.all_acknowledged, "what came later")
        status = uplink.status()
        assert (status.acknowledged_number, status.unconfirmed_number, status.connections) == (3, None, 1)
    assert rig.books()["statements"] == {"Alarm": 3, "CommandReceipt": 2}
    assert (rig.books()["receipts_verified"], rig.books()["receipts_rejected"]) == (8, 0)
    assert readings(rig) == {"meter": [[1, 1, 1]], "pv": [[1, 1, 2]]}
    with Book(rig.practice.folder / "book.sqlite") as book:
        again = Platform(rig.practice, book, say=lambda _: None, now_us=lambda: FIRST_US)
        assert again.audits[rig.gateway.evidence.gateway_id].statement_counts == {"Alarm": 3, "CommandReceipt": 2}


async def test_a_receipt_goes_back_on_the_stream_that_its_command_came_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[tuple[str, str]] = []
    take = Platform.take_statement

    def seen(platform: Platform, gateway_id: str, telemetry: DeviceTelemetry) -> bool:
        came.append((telemetry.device_id, str(decode(telemetry.statement))))
        return take(platform, gateway_id, telemetry)

    monkeypatch.setattr(Platform, "take_statement", seen)
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: len(rig.platform.streams) == 2, "both streams")
        await rig.platform.issue({"id": "c1", "type": "IDLE", "duration_s": 60, "targets": ["pv"], "stream": "pv"})
        await until(lambda: len(rig.gateway.commands) == 1, "the command")
        rig.gateway.seal_statements(uplink, of_a_command("c1"), of_a_command("c2"))
        await until(rig.gateway.outbox.all_acknowledged, "both receipts")
    assert sorted(came) == [("meter", str(of_a_command("c2"))), ("pv", str(of_a_command("c1")))]


async def test_receipts_made_offline_arrive_before_the_backlog(rig: Rig) -> None:
    states = (CommandState.RECEIVED, CommandState.ACCEPTED, CommandState.COMPLETED)
    evidence, rows = rig.gateway.evidence, rig.gateway.outbox.rows
    rows += [evidence.row(*["meter"] * 20) for _ in range(50)]
    rows += [row_of(evidence.seal(of_a_command("c1", state))) for state in states]
    backlog: list[object] = []

    def told() -> list[object]:
        return [event["state"] for event in rig.events if event["event"] == "command_receipt"]

    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)):
        await until(lambda: len(told()) == 3, "the receipts")
        backlog.append(rig.gateway.outbox.acknowledged.get(1, 0))
        await until(rig.gateway.outbox.all_acknowledged, "the backlog")
    assert told() == [state.name for state in states]
    assert backlog == [0], "nothing of the backlog had left before"
    assert readings(rig) == {"meter": [[1, 1, 1000]]}
    assert rig.books()["statements"] == {"CommandReceipt": 3}


async def test_a_platform_that_acknowledges_readings_alone_has_statements_by_the_end_of_a_stream(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "UNCONFIRMED_AFTER_S", 0.3)
    monkeypatch.setattr(Platform, "take_statement", lambda *_: False)
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)) as uplink:
        rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "readings acknowledged")
        rig.gateway.seal_statements(uplink, of_a_command("c1"), rig.gateway.evidence.reading("meter"))
        await until(rig.gateway.outbox.all_acknowledged, "delivered by the end of a stream")
        status = uplink.status()
        assert (status.acknowledged_number, status.unconfirmed_number, status.connections) == (1, 2, 1)
    assert readings(rig) == {"meter": [[1, 1, 2]], "pv": [[1, 1, 1]]}


async def test_a_platform_that_stops_to_acknowledge_statements_is_left_and_gets_them_again(rig: Rig) -> None:
    async with (
        Server(rig.platform, rig.practice, link=False) as server,
        rig.uplink(address(server.port), stall_s=2.0) as uplink,
    ):
        rig.gateway.seal_statements(uplink, of_a_command("c1"))
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged")
        rig.platform.acknowledging = False
        rig.gateway.seal_statements(uplink, of_a_command("c2"))
        await until(lambda: uplink.status().connections == 2, "the stall is noticed")
        assert not rig.gateway.outbox.all_acknowledged()
        rig.platform.acknowledging = True
        await until(rig.gateway.outbox.all_acknowledged, "sent again")
    assert rig.books()["statements"] == {"CommandReceipt": 2}


async def test_where_statements_stay_here_a_batch_is_delivered_by_its_readings(rig: Rig) -> None:
    async with (
        Server(rig.platform, rig.practice, link=False) as server,
        rig.uplink(address(server.port), statements_as_telemetry=StatementsAsTelemetry.NEVER) as uplink,
    ):
        rig.gateway.seal_statements(uplink, of_a_command("c1"), rig.gateway.evidence.reading("meter"))
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged")
    assert rig.books()["statements"] == {}


async def test_a_platform_that_acknowledges_is_known_to_read_statements_and_misses_none_of_before(rig: Rig) -> None:
    async with (
        Server(rig.platform, rig.practice, link=False) as server,
        rig.uplink(address(server.port), statements_as_telemetry=StatementsAsTelemetry.KNOWN) as uplink,
    ):
        rig.gateway.seal_statements(uplink, alarm("at the start"))
        rig.gateway.seal_statements(uplink, of_a_command("c1"), rig.gateway.evidence.reading("meter"))
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged")
        assert uplink.status().unconfirmed_number is None
        assert uplink.status().connections == 2
    assert rig.books()["statements"] == {"Alarm": 1, "CommandReceipt": 1}


async def test_an_acknowledgement_of_statements_that_were_not_sent_is_the_platforms_fault(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(platform: Platform, gateway_id: str, device_id: str) -> asyncio.Queue[GridCommand | None]:
        queue: asyncio.Queue[GridCommand | None] = asyncio.Queue()
        queue.put_nowait(GridCommand(acknowledged_statements=1))
        return queue

    monkeypatch.setattr(Platform, "stream_up", lie)
    async with Server(rig.platform, rig.practice, link=False) as server, rig.uplink(address(server.port)):
        await until(lambda: bool(rig.gateway.alarms), "an alarm")
    assert rig.gateway.alarms[0][0] == "uplink.platform_fault"
    assert rig.gateway.commands == []


@pytest.mark.parametrize("statements", StatementsAsTelemetry)
async def test_a_reader_that_keeps_points_by_the_second_needs_statements_to_stay_here(
    rig: Rig, tmp_path: Path, statements: StatementsAsTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the README says of such a platform, both ways. The platform is of the published contract alone."""
    monkeypatch.setattr(devices, "UNCONFIRMED_AFTER_S", 0.3)
    program = ("-m", "hil_tests.rig.published", str(rig.practice.folder), str(tmp_path / "archive"))
    platform = await Child.start("published", program, folder=tmp_path, environment={})
    try:
        endpoint = str((await platform.hear("ready"))["address"])
        async with rig.uplink(endpoint, statements_as_telemetry=statements) as uplink:
            for _ in range(3):
                rig.gateway.seal_statements(uplink, rig.gateway.evidence.reading("pv"), of_a_command("c1"), alarm("pv"))
                await until(rig.gateway.outbox.all_acknowledged, "counted as delivered")
            assert uplink.status().unconfirmed_number == 3
        await platform.order(do="books")
        books = (await platform.hear("books"))["books"]
    finally:
        await platform.end()
    assert isinstance(books, dict)
    page = books["pv"]
    assert (page["energy_wh"], page["energy_wh_by_ms"], page["overwritten"], page["charge_lost"]) == (3, 3, 0, 0)
    assert page["energy_wh_by_s"] == (0 if statements is StatementsAsTelemetry.ALWAYS else 3)


async def test_a_stand_in_of_the_published_contract_is_left_for_the_first_endpoint(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice, link=False) as second:
        async with Server(rig.platform, rig.practice) as first:
            port = first.port
        async with rig.uplink(address(port), address(second.port)) as uplink:
            await until(lambda: uplink.status().carrier is Carrier.DEVICE_STREAMS, "the stand-in")
            async with Server(rig.platform, rig.practice, port=port):
                await until(lambda: uplink.status().carrier is Carrier.GATEWAY_LINK, "the first one again")
                rig.gateway.seal(uplink, "meter")
                await until(rig.gateway.outbox.all_acknowledged, "acknowledged")


async def test_each_endpoint_that_acknowledges_is_left_once_to_begin_with_statements(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice, link=False) as second:
        async with Server(rig.platform, rig.practice, link=False) as first:
            port = first.port
        async with rig.uplink(
            address(port), address(second.port), statements_as_telemetry=StatementsAsTelemetry.KNOWN
        ) as uplink:
            rig.gateway.seal_statements(uplink, alarm("pv"), rig.gateway.evidence.reading("pv"))
            await until(rig.gateway.outbox.all_acknowledged, "acknowledged by the stand-in")
            assert uplink.status().connections == 2
            async with Server(rig.platform, rig.practice, link=False, port=port):
                await until(lambda: uplink.status().endpoint == address(port), "the first one is tried again")
                rig.gateway.seal_statements(uplink, alarm("pv"), rig.gateway.evidence.reading("pv"))
                await until(rig.gateway.outbox.all_acknowledged, "acknowledged by the first")
                assert uplink.status().connections == 4
    assert rig.books()["statements"] == {"Alarm": 2}
