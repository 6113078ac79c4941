"""The uplink against the rig's platform over real gRPC and mutual TLS: batches, live readings, faults of the link."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import Clock, Instant
from agent.evidence.partial import cut, decode_any
from agent.store import StoreFullError
from agent.uplink.errors import LinkDownError
from agent.uplink.status import Carrier
from hil_tests.rig.link import Link
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.keys import SoftwareKey
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, address, rig, until
from proto.energysettlement.v1.device_pb2 import GridCommand
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame, ChannelReestablish, GatewayHello, Welcome
from tests.agent.uplink.parts import FIRST_US, Evidence, Row, acknowledgement

__all__ = ["rig"]


async def test_batches_arrive_and_only_signed_acknowledgements_empty_the_outbox(rig: Rig) -> None:
    for _ in range(5):
        rig.gateway.outbox.rows.append(rig.gateway.evidence.row("meter", "pv"))
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        await until(rig.gateway.outbox.all_acknowledged, "all batches acknowledged")
        rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "a batch that was sealed later is acknowledged")
        await until(lambda: rig.books()["receipts_verified"] == 2, "both live readings verified")
        status = uplink.status()
        assert (status.carrier, status.acknowledged_number, status.batches_in_flight) == (Carrier.GATEWAY_LINK, 6, 0)
        assert status.platform_id == "practice-platform"
    assert rig.books()["batches_verified"] == 6
    assert rig.books()["receipts_rejected"] == 0
    assert rig.gateway.platform_times[0][0] == FIRST_US
    assert rig.gateway.alarms == []


async def test_batches_that_were_thinned_before_they_arrived_are_taken_as_the_ones_they_are(rig: Rig) -> None:
    rows = [rig.gateway.evidence.row("meter", "pv") for _ in range(4)]
    keeps: tuple[set[int], ...] = (set(), {0}, {0, 2})
    for row, keep in zip(rows[:3], keeps, strict=True):
        rig.gateway.outbox.rows.append(replace(row, encoded=cut(decode_any(row.encoded), keep).encode()))
    rig.gateway.outbox.rows.append(rows[3])
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)):
        await until(rig.gateway.outbox.all_acknowledged, "all batches acknowledged")
    assert rig.books()["batches_verified"] == 4
    assert rig.books()["conflicts"] == []
    assert rig.gateway.alarms == []


async def test_nothing_leaves_the_outbox_while_the_platform_withholds_acknowledgements(rig: Rig) -> None:
    rig.platform.acknowledging = False
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port), stall_s=2.0) as uplink:
        rig.gateway.seal(uplink, "meter")
        await until(lambda: "not acknowledged" in uplink.status().detail, "the stall is noticed and said")
        assert rig.gateway.outbox.acknowledged == {}
        rig.platform.acknowledging = True
        await until(rig.gateway.outbox.all_acknowledged, "sent again after the stall")
    assert rig.books()["batches_verified"] == 1
    assert rig.books()["conflicts"] == []


async def test_commands_come_over_the_link_and_over_a_devices_stream(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)):
        await until(lambda: rig.gateway.connected == 1, "connected")
        await rig.platform.issue({"id": "c1", "type": "DISCHARGE", "power_w": 5000, "duration_s": 60})
        await until(lambda: len(rig.gateway.commands) == 1, "command over the link")
        await until(lambda: len(rig.platform.streams) == 2, "device streams are up")
        await rig.platform.issue({"id": "c2", "type": "IDLE", "duration_s": 60, "targets": ["pv"], "stream": "pv"})
        await until(lambda: len(rig.gateway.commands) == 2, "command over the device's stream")
    (first, first_device), (second, second_device) = rig.gateway.commands
    assert (first.command_id, first_device, first.power_limit_kw) == ("c1", None, 5.0)
    assert (second.command_id, second_device) == ("c2", "pv")


async def test_command_issued_while_the_link_is_down_arrives_after_it(rig: Rig) -> None:
    await rig.platform.issue({"id": "c1", "type": "CURTAIL", "power_w": 1000, "duration_s": 60})
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)):
        await until(lambda: len(rig.gateway.commands) == 1, "the command that was owed")


async def test_fault_behind_a_command_does_not_end_the_link(rig: Rig) -> None:
    async def refuse(command: GridCommand, device_id: str | None, received: Instant) -> None:
        raise RuntimeError("the store is full")

    rig.gateway.on_command = refuse  # type: ignore[method-assign]
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: rig.gateway.connected == 1, "connected")
        await rig.platform.issue({"id": "c1", "type": "IDLE", "duration_s": 60})
        rig.gateway.seal(uplink, "meter")
        await until(rig.gateway.outbox.all_acknowledged, "the link goes on")
        assert uplink.status().connections == 1


async def test_channel_frames_go_both_ways_and_need_the_link(rig: Rig) -> None:
    frame = ChannelFrame(device_id="pv", channel_id=bytes(32), reestablish=ChannelReestablish(nonce=bytes(16)))
    async with Server(rig.platform, rig.practice) as server:
        async with rig.uplink("127.0.0.1:9") as uplink:
            with pytest.raises(LinkDownError):
                await uplink.send_channel(frame)
        async with rig.uplink(address(server.port)) as uplink:
            await until(lambda: rig.gateway.connected == 1, "connected")
            await uplink.send_channel(frame)
            # No settled device is enrolled here: the platform refuses the frame and says why.
            await until(lambda: "no channel" in uplink.status().detail, "the refusal is shown")


async def test_cut_link_comes_back_and_the_backlog_drains_without_loss_or_doubles(rig: Rig) -> None:
    async with (
        Server(rig.platform, rig.practice) as server,
        Link("127.0.0.1", server.port) as link,
        rig.uplink(link.address) as uplink,
    ):
        rig.gateway.seal(uplink, "meter", "pv")
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged before the cut")
        link.cut()
        await until(lambda: not uplink.status().connected, "the cut is noticed")
        for _ in range(20):
            rig.gateway.seal(uplink, "meter", "pv")
        assert "next try" in uplink.status().detail or "connecting" in uplink.status().detail
        link.restore()
        await until(rig.gateway.outbox.all_acknowledged, "backlog acknowledged")
        assert rig.gateway.connected == 2
    devices = rig.books()["devices"]
    assert isinstance(devices, dict)
    assert devices["meter"]["sequences"] == [[1, 1, 21]]
    assert rig.books()["conflicts"] == []


async def test_frozen_link_is_noticed_by_the_missing_acknowledgement(rig: Rig) -> None:
    async with (
        Server(rig.platform, rig.practice) as server,
        Link("127.0.0.1", server.port) as link,
        rig.uplink(link.address, stall_s=2.0) as uplink,
    ):
        await until(lambda: rig.gateway.connected == 1, "connected")
        link.freeze()
        rig.gateway.seal(uplink, "meter")
        await until(lambda: not uplink.status().connected, "half-open link noticed")
        link.restore()
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged over a new connection")


async def test_frozen_link_is_noticed_when_nothing_waits(rig: Rig) -> None:
    async with (
        Server(rig.platform, rig.practice) as server,
        Link("127.0.0.1", server.port) as link,
        rig.uplink(link.address, stall_s=2.0) as uplink,
    ):
        await until(lambda: rig.gateway.connected == 1, "connected")
        link.freeze()
        await until(lambda: not uplink.status().connected, "half-open link noticed by keepalive", within_s=12)


async def test_a_platform_that_asks_to_come_back_later_is_not_dialled_before(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    welcome = rig.platform.welcome

    def later(hello: GatewayHello) -> Welcome:
        said = welcome(hello)
        said.reconnect_after_ms = 3_600_000
        return said

    monkeypatch.setattr(rig.platform, "welcome", later)
    async with (
        Server(rig.platform, rig.practice) as server,
        Link("127.0.0.1", server.port) as link,
        rig.uplink(link.address) as uplink,
    ):
        await until(lambda: rig.gateway.connected == 1, "connected")
        link.cut()
        await until(lambda: uplink.status().next_try_monotonic_s is not None, "the link is down")
        at_s = uplink.status().next_try_monotonic_s
        assert at_s is not None
        assert at_s - Clock().monotonic_s() > 3_000


async def test_second_endpoint_serves_while_the_first_is_away(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice) as server, rig.uplink("127.0.0.1:9", address(server.port)) as uplink:
        await until(lambda: uplink.status().connected, "connected to the second endpoint")
        assert uplink.status().endpoint == address(server.port)


async def test_platform_that_appears_later_is_found(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice) as server:
        port = server.port
    async with rig.uplink(address(port)) as uplink:
        await until(lambda: "UNAVAILABLE" in uplink.status().detail, "its absence is said")
        async with Server(rig.platform, rig.practice, port=port):
            await until(lambda: uplink.status().connected, "found when it is there")


async def test_token_that_is_away_is_shown_and_the_link_comes_up_when_it_is_back(rig: Rig) -> None:
    away = [True]

    def sign(digest: bytes) -> bytes:
        if away[0]:
            raise RuntimeError("no token in the slot")
        return rig.gateway.tls.sign_digest_now(digest)

    async with (
        Server(rig.platform, rig.practice) as server,
        rig.uplink(address(server.port), sign_digest=sign) as uplink,
    ):
        await until(lambda: "no token in the slot" in uplink.status().detail, "the token's absence is said")
        away[0] = False
        await until(lambda: uplink.status().connected, "connected with the token back")


async def test_certificate_for_another_key_than_the_tokens_is_said_before_connecting(rig: Rig) -> None:
    rig.gateway.tls = SoftwareKey.generate()
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: "another key" in uplink.status().detail, "the mismatch is said")


async def test_platform_without_our_certificate_authority_is_refused(rig: Rig, tmp_path: Path) -> None:
    stranger = Practice.make(tmp_path / "stranger")
    rig.practice.public_file("ca").write_bytes(stranger.public_file("ca").read_bytes())
    async with Server(rig.platform, Practice(stranger.folder)) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: "next try" in uplink.status().detail, "the stranger is refused")
        assert not uplink.status().connected


async def test_gateway_that_was_never_enrolled_is_told_so(rig: Rig, tmp_path: Path) -> None:
    other = Practice.make(tmp_path / "other")
    for name in ("ca", "server", "platform"):
        other.key_file(name).write_bytes(rig.practice.key_file(name).read_bytes())
        other.public_file(name).write_bytes(rig.practice.public_file(name).read_bytes())
    with Book(other.folder / "book.sqlite") as book:
        platform = Platform(other, book, say=rig.events.append, now_us=lambda: FIRST_US)
        async with Server(platform, other) as server, rig.uplink(address(server.port)) as uplink:
            await until(lambda: "PERMISSION_DENIED" in uplink.status().detail, "told that it is not enrolled")


async def test_acknowledgement_of_what_was_never_sent_is_refused_and_alarmed_once(rig: Rig) -> None:
    class Liar(Platform):
        """Acknowledges a batch far ahead, well signed."""

        def take_batch(self, gateway_id: str, encoded: bytes) -> bytes | None:
            super().take_batch(gateway_id, encoded)
            return acknowledgement(self._key, gateway_id, Row(1, 99, bytes(32), b""))

    with Book(rig.practice.folder / "liar.sqlite") as book:
        liar = Liar(rig.practice, book, say=rig.events.append, now_us=lambda: FIRST_US)
        async with Server(liar, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
            await until(lambda: rig.gateway.connected == 1, "connected")
            rig.gateway.seal(uplink, "meter")
            rig.gateway.seal(uplink, "meter")
            await until(lambda: len(rig.gateway.alarms) == 1, "alarmed")
            assert rig.gateway.outbox.acknowledged == {}
            assert uplink.status().connected
            assert "acknowledges batch 99" in uplink.status().oddity, "the status shows it too"
    assert [code for code, _, _ in rig.gateway.alarms] == ["uplink.acknowledgement_unknown"]


async def test_batches_of_an_older_incarnation_are_delivered_before_those_of_the_present_one(rig: Rig) -> None:
    key = rig.gateway.evidence.key
    for incarnation in (1, 2):
        evidence = Evidence(incarnation=incarnation, key=key)
        rig.gateway.outbox.rows += [evidence.row("meter") for _ in range(3)]
    rig.gateway.evidence = evidence
    rig.gateway.outbox.incarnation = 2
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)):
        await until(rig.gateway.outbox.all_acknowledged, "both incarnations acknowledged")
    assert rig.gateway.outbox.acknowledged == {1: 3, 2: 3}
    assert rig.books()["conflicts"] == []


async def test_platform_that_lost_what_it_had_acknowledged_says_so_and_gets_it_again(rig: Rig) -> None:
    key = rig.gateway.evidence.key
    older = [Evidence(incarnation=1, key=key)]
    rig.gateway.outbox.rows += [older[0].row("meter") for _ in range(3)]
    rig.gateway.evidence = Evidence(incarnation=2, key=key)
    rig.gateway.outbox.incarnation = 2
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        for _ in range(3):
            rig.gateway.seal(uplink, "meter")
        await until(rig.gateway.outbox.all_acknowledged, "all acknowledged")
    # Only the first two batches of the older incarnation are left to it.
    with Book(rig.practice.folder / "earlier.sqlite") as book:
        earlier = Platform(rig.practice, book, say=rig.events.append, now_us=lambda: FIRST_US)
        for row in rig.gateway.outbox.rows[:2]:
            earlier.take_batch(rig.gateway.evidence.gateway_id, row.encoded)
        rig.platform = earlier
        async with Server(earlier, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
            await until(lambda: rig.books()["batches_verified"] == 6, "what was lost is there again")
            rig.gateway.seal(uplink, "meter")
            await until(rig.gateway.outbox.all_acknowledged, "and the road goes on")
            assert uplink.status().connections == 1
            assert "batches 3 to 3 of incarnation 1" in uplink.status().oddity, "the status shows it too"
    assert (rig.books()["batches_verified"], rig.books()["conflicts"]) == (7, [])
    [(code, _, text)] = rig.gateway.alarms
    assert code == "uplink.platform_went_back"
    assert "batches 3 to 3 of incarnation 1, batches 1 to 3 of incarnation 2" in text


async def test_platform_that_holds_what_was_never_sealed_here_is_alarmed(rig: Rig) -> None:
    """An older state was put back: its next batch would contradict one that the platform has."""
    ahead = Evidence(key=rig.gateway.evidence.key)
    for _ in range(2):
        rig.platform.take_batch(ahead.gateway_id, ahead.row("meter").encoded)
    rig.gateway.outbox.rows.append(rig.gateway.evidence.row("meter"))
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)):
        await until(lambda: len(rig.gateway.alarms) > 0, "alarmed")
    code, _, text = rig.gateway.alarms[0]
    assert code == "uplink.platform_ahead"
    assert "batch 2 of incarnation 1" in text


async def test_a_full_disk_keeps_no_acknowledgement_and_the_link_up_all_the_same(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands come over it. What the platform has is noted as soon as there is room, without a word of its."""
    outbox = rig.gateway.outbox
    full, noted = True, outbox.acknowledge
    refused = 0

    async def acknowledge(incarnation: int, up_to_number: int, at_us: int) -> int:
        nonlocal refused
        if full:
            refused += 1
            raise StoreFullError("no space left")
        return await noted(incarnation, up_to_number, at_us)

    monkeypatch.setattr(outbox, "acknowledge", acknowledge)
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        rig.gateway.seal(uplink, "meter")
        await until(lambda: refused > 1, "tried again")
        rig.gateway.seal(uplink, "meter")
        await until(lambda: rig.books()["batches_verified"] == 2, "the platform has both")
        assert not outbox.all_acknowledged()
        full = False
        await until(outbox.all_acknowledged, "noted")
        assert uplink.status().connections == 1


async def test_a_copy_that_has_sealed_as_much_as_the_platform_knows_is_alarmed_by_its_root(rig: Rig) -> None:
    """The numbers are those of the platform; what the card held when it was copied went on twice."""
    other = Evidence(key=rig.gateway.evidence.key)
    both = rig.gateway.evidence.row("meter")
    assert other.row("meter").root == both.root
    for row in (both, other.row("meter", "meter")):
        rig.platform.take_batch(other.gateway_id, row.encoded)
    rig.gateway.outbox.rows += [both, *(rig.gateway.evidence.row("meter") for _ in range(2))]
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)):
        await until(lambda: len(rig.gateway.alarms) > 0, "alarmed")
    code, _, text = rig.gateway.alarms[0]
    assert code == "uplink.platform_other_root"
    assert "batch 2 of incarnation 1" in text
    assert "copied" in text


async def test_platform_that_holds_nothing_yet_is_no_loss(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        rig.gateway.seal(uplink, "meter")
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged")
    assert rig.gateway.alarms == []
