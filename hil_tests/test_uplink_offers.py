"""Bids go up and signed values come down over both carriers of the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from hil_tests.rig.broker import client_files, mosquitto, running_broker
from hil_tests.rig.platform.service import Server
from hil_tests.test_uplink_mqtt import platform_at
from hil_tests.uplink_parts import Rig, rig, until
from proto.energysettlement.v1.gateway_pb2 import FlexibilityBid, PlatformFrame

__all__ = ["rig"]


async def test_the_newest_bid_reaches_the_platform_and_signed_values_reach_the_gateway(rig: Rig) -> None:
    gateway_id = rig.gateway.evidence.gateway_id
    async with Server(rig.platform, rig.practice) as server, rig.uplink(f"127.0.0.1:{server.port}") as uplink:
        await until(lambda: rig.gateway.connected == 1, "connected")
        uplink.offer(FlexibilityBid(power_up_kw=1))
        uplink.offer(FlexibilityBid(power_up_kw=2))
        await until(lambda: gateway_id in rig.platform.bids, "a bid")
        assert rig.platform.bids[gateway_id].power_up_kw == 2
        rig.platform.send_signed(gateway_id, PlatformFrame(schedule=b"s"))
        rig.platform.send_signed(gateway_id, PlatformFrame(feed=b"f"))
        await until(lambda: rig.gateway.signed == [("schedule", b"s"), ("feed", b"f")], "both, in order")


@pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")
async def test_the_same_over_a_broker(rig: Rig, tmp_path: Path) -> None:
    gateway_id = rig.gateway.evidence.gateway_id
    rig.mqtt = client_files(rig.practice, tmp_path / "clients", gateway_id)
    async with (
        running_broker(rig.practice, tmp_path / "broker") as broker,
        platform_at(broker, rig),
        rig.uplink(broker.endpoint) as uplink,
    ):
        await until(lambda: rig.gateway.connected == 1, "connected")
        uplink.offer(FlexibilityBid(power_down_kw=3))
        await until(lambda: gateway_id in rig.platform.bids, "a bid")
        rig.platform.send_signed(gateway_id, PlatformFrame(schedule=b"s"))
        await until(lambda: rig.gateway.signed == [("schedule", b"s")], "a schedule")
