"""The uplink against a platform without GatewayLink: the devices' streams carry everything, acknowledged or not."""

from __future__ import annotations

import pytest

from agent.uplink import devices
from agent.uplink.status import Carrier
from hil_tests.rig.link import Link
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, address, rig, until
from tests.agent.uplink.parts import Evidence

__all__ = ["rig"]


def readings(rig: Rig) -> dict[str, object]:
    pages = rig.books()["devices"]
    assert isinstance(pages, dict)
    return {device_id: page["sequences"] for device_id, page in pages.items()}


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
