"""Topics are what proto/MQTT.md says, so that a broker can be asked for a part of the fleet."""

from __future__ import annotations

import hashlib

import pytest

from proto.mqtt_topics import GatewayTopics, parse_up, partition_of

GATEWAY = "did:key:zExample"


def test_the_partition_is_the_first_two_hex_digits_of_the_hash_of_the_name() -> None:
    assert partition_of(GATEWAY) == hashlib.sha256(GATEWAY.encode()).hexdigest()[:2]
    topics, base = GatewayTopics(GATEWAY), f"esp1/{partition_of(GATEWAY)}/{GATEWAY}"
    assert (topics.state, topics.up("batch"), topics.live("pv-1")) == (
        f"{base}/up/state", f"{base}/up/batch", f"{base}/up/live/pv-1",
    )  # fmt: skip
    assert (topics.link, topics.device("pv-1"), topics.all_down) == (
        f"{base}/down/link", f"{base}/down/device/pv-1", f"{base}/down/#",
    )  # fmt: skip


def test_a_fleet_spreads_over_256_partitions() -> None:
    partitions = [partition_of(f"did:key:z{number}") for number in range(20_000)]
    assert len(set(partitions)) == 256
    assert max(map(partitions.count, set(partitions))) < 2 * 20_000 / 256


@pytest.mark.parametrize(
    "topic", ["esp1/00/did:key:zExample/up/batch", "esp2/{}/up/batch", "esp1/{}/down/batch", "esp1/{}/up/other"]
)
def test_a_topic_of_another_kind_or_partition_says_nothing(topic: str) -> None:
    place = f"{partition_of(GATEWAY)}/{GATEWAY}"
    assert partition_of(GATEWAY) != "00"
    assert parse_up(topic.format(place)) is None
    assert parse_up(f"esp1/{place}/up/batch") == (GATEWAY, "batch", "")
