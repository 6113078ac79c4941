"""A line that somebody pays for: the cap holds batches back and nothing else, and compression makes them smaller."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from agent.evidence.kinds import Alarm, Severity
from agent.evidence.partial import decode_any
from agent.uplink.delivery import readings_of
from hil_tests.rig.link import Link
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, address, rig, until
from proto.energysettlement.v1.gateway_pb2 import FlexibilityBid
from tests.agent.uplink.parts import FIRST_US

__all__ = ["rig"]

READINGS = ["meter", "pv"] * 25


def alarm(subject: str) -> Alarm:
    return Alarm(timestamp_us=FIRST_US, severity=Severity.CRITICAL, code="test.code", subject=subject, text="It is so.")


def backlog(rig: Rig, batches: int) -> int:
    """That many batches wait; how many bytes they are."""
    rows = [rig.gateway.evidence.row(*READINGS) for _ in range(batches)]
    rig.gateway.outbox.rows += rows
    return sum(len(row.encoded) for row in rows)


async def test_a_backlog_takes_no_more_of_the_line_than_its_cap_and_all_of_it_arrives(rig: Rig) -> None:
    # So slow that no machine is as slow by itself.
    size, largest, kbit_s = backlog(rig, 6), len(rig.gateway.outbox.rows[0].encoded), 32
    began_s = time.monotonic()
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port), most_kbit_s=kbit_s):
        await until(rig.gateway.outbox.all_acknowledged, "all batches acknowledged")
    # A burst of a second and the last batch are beyond it. How exactly it is kept: tests/agent/uplink/test_pace.py.
    assert time.monotonic() - began_s >= ((size - largest) / (kbit_s * 125) - 1.0) / 2
    assert rig.books()["batches_verified"] == 6


async def test_devices_streams_that_carry_everything_keep_to_the_cap_too_and_receipts_do_not_wait_for_it(
    rig: Rig,
) -> None:
    backlog(rig, 400)
    async with (
        Server(rig.platform, rig.practice, link=False) as server,
        rig.uplink(address(server.port), most_kbit_s=64, stall_s=60.0) as uplink,
    ):
        await until(lambda: len(rig.platform.streams) == 2, "both streams")
        rig.gateway.seal_statements(uplink, alarm("pv"), alarm("meter"), rig.gateway.evidence.reading("pv"))
        await until(lambda: rig.books()["statements"].get("Alarm") == 2, "both alarms")  # type: ignore[attr-defined]
        assert not rig.gateway.outbox.all_acknowledged(), "the backlog is on its way for minutes"
        before = rig.books()["receipts_verified"]
        assert isinstance(before, int)
        await until(lambda: int(str(rig.books()["receipts_verified"])) > before + 10, "the backlog moves")
        assert uplink.status().connections == 1


async def test_what_is_measured_now_goes_before_a_backlog_on_devices_streams(rig: Rig) -> None:
    backlog(rig, 400)

    def newest(device_id: str) -> int:
        devices = rig.books()["devices"]
        assert isinstance(devices, dict)
        return int(devices[device_id]["sequences"][-1][2]) if device_id in devices else 0

    async with (
        Server(rig.platform, rig.practice, link=False) as server,
        rig.uplink(address(server.port), most_kbit_s=64, stall_s=60.0) as uplink,
    ):
        await until(lambda: newest("meter") > 0, "the backlog is on its way")
        rig.gateway.seal(uplink, "meter", "pv")
        await until(lambda: newest("meter") == 400 * 25 + 1, "the live reading")
        assert not rig.gateway.outbox.all_acknowledged(), "the backlog is on its way for minutes"


async def test_what_is_live_and_bids_go_while_batches_wait_for_the_line(rig: Rig) -> None:
    backlog(rig, 400)
    async with (
        Server(rig.platform, rig.practice) as server,
        rig.uplink(address(server.port), most_kbit_s=16, stall_s=60.0) as uplink,
    ):
        await until(lambda: rig.gateway.connected == 1, "connected")
        rig.gateway.seal(uplink, "meter", "pv")
        uplink.offer(FlexibilityBid(power_up_kw=1))
        await until(lambda: bool(rig.platform.bids), "a bid")
        await until(lambda: rig.books()["receipts_verified"] == 2, "both live readings")
        assert not rig.gateway.outbox.all_acknowledged(), "the backlog is on its way for minutes"
        assert uplink.status().connections == 1


async def test_compressed_batches_are_the_same_and_fewer_bytes_on_the_wire(rig: Rig) -> None:
    sizes = []
    for compression in (False, True):
        before = rig.books()["batches_verified"]
        assert isinstance(before, int)
        backlog(rig, 20)
        async with (
            Server(rig.platform, rig.practice) as server,
            Link("127.0.0.1", server.port) as link,
            rig.uplink(link.address, compression=compression),
        ):
            await until(rig.gateway.outbox.all_acknowledged, "all batches acknowledged")
            sizes.append(link.bytes_sent)
        assert rig.books()["batches_verified"] == before + 20
    assert sizes[1] < 0.7 * sizes[0]


async def test_a_backlog_on_devices_streams_takes_no_more_of_the_line_than_its_cap(rig: Rig) -> None:
    backlog(rig, 4)
    kbit_s = 256
    began_s = time.monotonic()
    async with (
        Server(rig.platform, rig.practice, link=False) as server,
        Link("127.0.0.1", server.port) as link,
        rig.uplink(link.address, most_kbit_s=kbit_s),
    ):
        await until(rig.gateway.outbox.all_acknowledged, "all of it acknowledged")
    messages = sum(each.ByteSize() for row in rig.gateway.outbox.rows for each in readings_of(decode_any(row.encoded)))
    # A burst of a second and the last message are beyond it.
    assert time.monotonic() - began_s >= (messages - 1000) / (kbit_s * 125) - 1.0
    assert messages < link.bytes_sent


@pytest.mark.parametrize("kbit_s", [0, 15, -1])
def test_a_cap_that_lets_nothing_through_is_refused(rig: Rig, kbit_s: int) -> None:
    with pytest.raises(ValidationError):
        rig.settings("127.0.0.1:1", most_kbit_s=kbit_s)
