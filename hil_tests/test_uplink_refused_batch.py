"""A batch that the platform refuses for ever, over gRPC and over a real broker: kept, told of, and nothing storms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agent.evidence.batch import decode_batch
from agent.evidence.errors import EvidenceError
from agent.evidence.kinds import CommandReceipt, CommandState
from agent.uplink import refusals
from agent.uplink.left import LEFT_NOTE, encode_left
from agent.uplink.refusals import SUSPECTED
from agent.uplink.status import Carrier
from hil_tests.rig.broker import PLATFORM, client_files, mosquitto, running_broker
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, address, rig, until
from tests.agent.uplink.parts import FIRST_US, Evidence

__all__ = ["rig"]

REFUSED = "uplink.batch_refused"
HOLD_S = 4.0


class Bad:
    """What the platform does not take: (incarnation, number) of batches; and how often they came."""

    def __init__(self) -> None:
        self.batches: set[tuple[int, int]] = set()
        self.came = 0


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Bad:
    monkeypatch.setattr(refusals, "LEAST_HOLD_S", HOLD_S)
    monkeypatch.setattr(refusals, "MOST_HOLD_S", HOLD_S)
    bad, take = Bad(), Platform.take_batch

    def judged(platform: Platform, gateway_id: str, encoded: bytes) -> bytes | None:
        identity = decode_batch(encoded).identity
        if (identity.incarnation, identity.number) in bad.batches:
            bad.came += 1
            raise EvidenceError("this one is not taken")
        return take(platform, gateway_id, encoded)

    monkeypatch.setattr(Platform, "take_batch", judged)
    return bad


@pytest.fixture(params=["grpc", "mqtt"])
async def endpoint(rig: Rig, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """Of the rig's platform, by each of the carriers."""
    async with AsyncExitStack() as stack:
        if request.param == "grpc":
            yield address((await stack.enter_async_context(Server(rig.platform, rig.practice))).port)
            return
        if mosquitto() is None:
            pytest.skip("mosquitto is not installed")
        rig.mqtt = client_files(rig.practice, tmp_path / "clients", rig.gateway.evidence.gateway_id)
        broker = await stack.enter_async_context(running_broker(rig.practice, tmp_path / "broker"))
        files = client_files(rig.practice, rig.practice.folder / "clients", PLATFORM)
        await stack.enter_async_context(BrokerService(rig.platform, rig.practice, files, broker.port))
        yield broker.endpoint


def alarms(rig: Rig) -> list[str]:
    return [text for code, _, text in rig.gateway.alarms if code == REFUSED]


async def test_it_waits_on_a_link_that_is_up_for_all_else_and_goes_when_it_is_taken(
    rig: Rig, bad: Bad, endpoint: str
) -> None:
    bad.batches = {(1, 2)}
    async with rig.uplink(endpoint, stall_s=2.0) as uplink:
        for _ in range(5):
            rig.gateway.seal(uplink, "meter")
        await until(lambda: bool(alarms(rig)), "it is told", within_s=40)
        assert alarms(rig)[0].startswith("batch 2 of incarnation 1 was sent on 3 links")
        await until(lambda: uplink.status().carrier is Carrier.GATEWAY_LINK, "the link is up again")
        assert "batch 2" in uplink.status().oddity
        connections, came = uplink.status().connections, bad.came
        # While it waits all else goes on.
        await rig.platform.issue({"id": "c1", "type": "IDLE", "duration_s": 60})
        await until(lambda: [c.command_id for c, _ in rig.gateway.commands] == ["c1"], "a command")
        receipt = CommandReceipt(
            command_hash=bytes(32),
            command_id="c1",
            state=CommandState.ACCEPTED,
            timestamp_us=FIRST_US,
            reason="",
            delivered_energy_wh=None,
        )
        rig.gateway.seal_statements(uplink, receipt)
        await until(lambda: "command_receipt" in [each["event"] for each in rig.events], "its receipt, ahead")
        assert (uplink.status().connections, bad.came) == (connections, came)
        assert rig.gateway.outbox.acknowledged == {1: 1}
        bad.batches.clear()
        await until(rig.gateway.outbox.all_acknowledged, "all of it", within_s=30)
        assert came == SUSPECTED


@pytest.mark.parametrize("link", [True, False], ids=["link", "streams"])
async def test_what_was_left_behind_is_not_sent_and_stays(rig: Rig, link: bool) -> None:
    _two_lives(rig)
    rig.gateway.outbox.notes[LEFT_NOTE] = encode_left(frozenset({1}))
    async with Server(rig.platform, rig.practice, link=link) as server, rig.uplink(address(server.port)):
        await until(lambda: rig.gateway.outbox.acknowledged == {2: 3}, "the present life's batches")
    pages = rig.books()["devices"]
    assert isinstance(pages, dict)
    assert pages["meter"]["sequences"] == [[2, 1, 3]]


def _two_lives(rig: Rig) -> None:
    for incarnation in (1, 2):
        evidence = Evidence(incarnation=incarnation, key=rig.gateway.evidence.key)
        rig.gateway.outbox.rows += [evidence.row("meter") for _ in range(3)]
    rig.gateway.evidence = evidence
    rig.gateway.outbox.incarnation = 2
