"""The uplink against a platform that does not take one of the devices, or goes back to not acknowledging."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from agent.uplink import devices, heard
from agent.uplink.carrying import BATCHES_LOADED
from agent.uplink.status import Carrier
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, address, rig, until

__all__ = ["rig"]

MANY = 3 * BATCHES_LOADED


def came(rig: Rig, device_id: str) -> object:
    """Sequences that the platform has of a device."""
    pages = rig.books()["devices"]
    assert isinstance(pages, dict)
    return pages[device_id]["sequences"] if device_id in pages else []


def has(rig: Rig, device_id: str, up_to: int) -> Callable[[], bool]:
    """Whether the platform has all of a device up to a sequence."""
    return lambda: came(rig, device_id) == [[1, 1, up_to]]


def alarms(rig: Rig, code: str) -> list[str]:
    """Whom alarms of a code are about."""
    return [subject for found, subject, _ in rig.gateway.alarms if found == code]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(grpc.StatusCode.PERMISSION_DENIED, id="denied"),
        pytest.param(grpc.StatusCode.INVALID_ARGUMENT, id="invalid"),
        pytest.param(grpc.StatusCode.UNAVAILABLE, id="unavailable"),
        pytest.param(grpc.StatusCode.UNIMPLEMENTED, id="unimplemented"),
        pytest.param(None, id="stalls"),
    ],
)
async def test_a_device_that_is_never_taken_stops_no_other_and_has_all_when_it_is(
    rig: Rig, code: grpc.StatusCode | None
) -> None:
    async with Server(rig.platform, rig.practice, link=False) as server:
        server.refused["pv"] = code
        async with rig.uplink(address(server.port), stall_s=2.0) as uplink:
            for number in range(1, MANY + 1):
                rig.gateway.seal(uplink, "meter", "pv")
                await until(has(rig, "meter", number), "the meter's readings go on")
            await until(lambda: alarms(rig, "uplink.device_refused") == ["pv"], "an alarm about the one")
            await until(lambda: "pv" in uplink.status().device_details, "it is shown")
            assert "does not take pv" in uplink.status().device_details["pv"]
            assert uplink.status().carrier is Carrier.DEVICE_STREAMS
            assert (came(rig, "pv"), rig.gateway.outbox.acknowledged) == ([], {})
        async with rig.uplink(address(server.port), stall_s=2.0) as uplink:
            rig.gateway.seal(uplink, "meter", "pv")
            await until(has(rig, "meter", MANY + 1), "the meter's readings go on after a restart")
            server.refused.clear()
            await until(rig.gateway.outbox.all_acknowledged, "everything of the one, too", within_s=30)
            await until(lambda: uplink.status().device_details == {}, "all is well")
        assert came(rig, "pv") == [[1, 1, MANY + 1]]
        again = rig.books()["receipts_verified"]
        assert isinstance(again, int)
        assert again <= 2 * (MANY + 1) + 2, "the meter's backlog was not sent again after the restart"
        assert rig.books()["conflicts"] == []


async def test_of_the_published_contract_alone_the_others_go_on_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "UNCONFIRMED_AFTER_S", 0.1)
    async with Server(rig.platform, rig.practice, link=False, additions=False) as server:
        server.refused["pv"] = grpc.StatusCode.PERMISSION_DENIED
        async with rig.uplink(address(server.port)) as uplink:
            for number in range(1, MANY + 1):
                rig.gateway.seal(uplink, "meter", "pv")
                await until(has(rig, "meter", number), "the meter's readings go on")
            assert uplink.status().unconfirmed_number is None
            server.refused.clear()
            await until(rig.gateway.outbox.all_acknowledged, "everything of the one, too", within_s=30)
            assert uplink.status().unconfirmed_number == MANY
        assert came(rig, "pv") == [[1, 1, MANY]]


async def test_a_platform_that_was_set_back_is_believed_after_some_stalls_and_nothing_counts_that_it_has_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "UNCONFIRMED_AFTER_S", 0.1)
    monkeypatch.setattr(heard, "LAPSE_AFTER_S", 3.0)
    async with Server(rig.platform, rig.practice, link=False) as first:
        port = first.port
        async with rig.uplink(address(port), stall_s=2.0) as uplink:
            rig.gateway.seal(uplink, "meter", "pv")
            await until(rig.gateway.outbox.all_acknowledged, "acknowledged")
            await first.__aexit__()
            async with Server(rig.platform, rig.practice, port=port, link=False, additions=False):
                rig.gateway.seal(uplink, "meter", "pv")
                code = "uplink.acknowledges_no_longer"
                await until(lambda: bool(alarms(rig, code)), "it is told", within_s=30)
                assert rig.gateway.outbox.acknowledged == {1: 1}, "until then nothing counts"
                await until(rig.gateway.outbox.all_acknowledged, "delivered, unconfirmed", within_s=30)
                status = uplink.status()
                assert (status.acknowledged_number, status.unconfirmed_number) == (1, 2)
                assert "no longer acknowledges readings" in status.oddity
                connections = status.connections
                rig.gateway.seal(uplink, "meter", "pv")
                await until(rig.gateway.outbox.all_acknowledged, "and goes on, without stalls")
                assert uplink.status().connections == connections
    assert (came(rig, "meter"), came(rig, "pv")) == ([[1, 1, 3]], [[1, 1, 3]])


async def test_a_platform_that_acknowledges_no_longer_is_known_after_a_restart_and_nothing_counts_that_it_has_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "UNCONFIRMED_AFTER_S", 0.1)
    async with Server(rig.platform, rig.practice, link=False) as first:
        port = first.port
        async with rig.uplink(address(port), stall_s=2.0) as uplink:
            rig.gateway.seal(uplink, "meter", "pv")
            await until(rig.gateway.outbox.all_acknowledged, "acknowledged")
    async with rig.uplink(address(port), stall_s=2.0) as uplink:
        async with Server(rig.platform, rig.practice, port=port, link=False, additions=False):
            rig.gateway.seal(uplink, "meter", "pv")
            await until(lambda: uplink.status().connections >= 3, "it has stalled time and again", within_s=30)
            assert rig.gateway.outbox.acknowledged == {1: 1}
            assert not alarms(rig, "uplink.acknowledges_no_longer")
        async with Server(rig.platform, rig.practice, port=port, link=False):
            await until(rig.gateway.outbox.all_acknowledged, "once it acknowledges again", within_s=30)
            assert uplink.status().unconfirmed_number is None
    assert (came(rig, "meter"), came(rig, "pv")) == ([[1, 1, 2]], [[1, 1, 2]])
