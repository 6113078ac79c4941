"""Receipts before readings: what commands got while there was no link is at the platform before the backlog is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from agent.evidence.batch import receipt as receipt_of
from agent.evidence.errors import EvidenceError, ProofError
from agent.evidence.kinds import CommandReceipt, CommandState
from hil_tests.rig.broker import PLATFORM, client_files, mosquitto, running_broker
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import Rig, address, rig, until
from proto.energysettlement.v1.gateway_pb2 import UrgentStatement
from tests.agent.uplink.parts import FIRST_US, Evidence, row_of

__all__ = ["rig"]

Carrier = Callable[[Rig, Path], AbstractAsyncContextManager[str]]
BACKLOG = 200
STATES = (CommandState.RECEIVED, CommandState.ACCEPTED, CommandState.EXECUTING, CommandState.COMPLETED)


def of_a_command(state: CommandState) -> CommandReceipt:
    return CommandReceipt(
        command_hash=bytes(32),
        command_id="c1",
        state=state,
        timestamp_us=FIRST_US + int(state),
        reason="",
        delivered_energy_wh=5 if state.final else None,
    )


def outage(rig: Rig) -> None:
    """A long backlog of readings, whose last batches hold the receipts of a command that was obeyed meanwhile."""
    rows = rig.gateway.outbox.rows
    rows += [rig.gateway.evidence.row(*["meter"] * 20) for _ in range(BACKLOG)]
    rows += [row_of(rig.gateway.evidence.seal(of_a_command(state))) for state in STATES]


@asynccontextmanager
async def over_grpc(rig: Rig, tmp_path: Path) -> AsyncIterator[str]:
    async with Server(rig.platform, rig.practice) as server:
        yield address(server.port)


@asynccontextmanager
async def over_mqtt(rig: Rig, tmp_path: Path) -> AsyncIterator[str]:
    if mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    rig.mqtt = client_files(rig.practice, tmp_path / "clients", rig.gateway.evidence.gateway_id)
    async with running_broker(rig.practice, tmp_path / "broker") as broker:
        files = client_files(rig.practice, rig.practice.folder / "clients", PLATFORM)
        async with BrokerService(rig.platform, rig.practice, files, broker.port):
            yield broker.endpoint


def told(rig: Rig) -> list[str]:
    return [str(event["event"]) for event in rig.events if event["event"] in ("command_receipt", "batch")]


@pytest.mark.parametrize("carrier", [over_grpc, over_mqtt])
async def test_receipts_made_offline_arrive_before_the_backlog_and_count_once(
    rig: Rig, tmp_path: Path, carrier: Carrier
) -> None:
    outage(rig)
    async with carrier(rig, tmp_path) as endpoint, rig.uplink(endpoint):
        await until(rig.gateway.outbox.all_acknowledged, "the backlog is drained", within_s=60.0)
    assert told(rig) == ["command_receipt"] * len(STATES) + ["batch"] * (BACKLOG + len(STATES))
    assert [r.state for r in rig.platform.audits[rig.gateway.evidence.gateway_id].command_receipts[bytes(32)]] == [
        *STATES
    ]
    statements = rig.books()["statements"]
    assert isinstance(statements, dict)
    assert statements["CommandReceipt"] == len(STATES)
    assert rig.books()["conflicts"] == []
    # After a restart the platform reads in its book what came ahead, and then the batches.
    with Book(rig.practice.folder / "book.sqlite") as book:
        again = Platform(rig.practice, book, say=lambda _: None, now_us=lambda: FIRST_US)
        assert again.audits[rig.gateway.evidence.gateway_id].statement_counts["CommandReceipt"] == len(STATES)


async def test_a_receipt_sealed_while_a_capped_line_drains_does_not_wait_for_it(rig: Rig) -> None:
    rig.gateway.outbox.rows += [rig.gateway.evidence.row(*["meter"] * 20) for _ in range(400)]
    async with (
        Server(rig.platform, rig.practice) as server,
        rig.uplink(address(server.port), most_kbit_s=16, stall_s=60.0) as uplink,
    ):
        await until(lambda: "batch" in told(rig), "the backlog is on its way")
        rig.gateway.seal_statements(uplink, of_a_command(CommandState.RECEIVED))
        await until(lambda: "command_receipt" in told(rig), "the receipt")
        assert not rig.gateway.outbox.all_acknowledged(), "the backlog is on its way for minutes"
        assert uplink.status().connections == 1


async def test_without_a_backlog_a_receipt_comes_in_its_batch_only(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: rig.gateway.connected == 1, "connected")
        rig.gateway.seal_statements(uplink, of_a_command(CommandState.RECEIVED))
        await until(rig.gateway.outbox.all_acknowledged, "acknowledged")
    assert told(rig) == ["batch", "command_receipt"]
    assert rig.books()["receipts_verified"] == 0


def test_a_batch_of_another_root_than_what_came_ahead_of_it_is_a_conflict(rig: Rig) -> None:
    gateway_id, fork = rig.gateway.evidence.gateway_id, Evidence(key=rig.gateway.evidence.key)
    ahead = rig.gateway.evidence.seal(of_a_command(CommandState.RECEIVED))
    rig.platform.take_urgent(gateway_id, UrgentStatement(statement=ahead.leaves[1], receipt=receipt_of(ahead, 1)))
    with pytest.raises(ProofError, match="another root"):
        rig.platform.take_batch(gateway_id, fork.seal(of_a_command(CommandState.REJECTED)).encode())
    assert len(rig.platform.books()["gateways"][gateway_id]["conflicts"]) == 1  # type: ignore[index]


@pytest.mark.parametrize("wrong", ["a reading", "another statement", "nothing"])
def test_what_is_not_proven_or_not_urgent_is_refused_ahead(rig: Rig, wrong: str) -> None:
    evidence = rig.gateway.evidence
    batch = evidence.seal(of_a_command(CommandState.RECEIVED), evidence.reading("meter"))
    index, leaf = {"a reading": (2, 2), "another statement": (1, 2), "nothing": (1, 0)}[wrong]
    urgent = UrgentStatement(statement=batch.leaves[leaf], receipt=receipt_of(batch, index))
    with pytest.raises(EvidenceError):
        rig.platform.take_urgent(evidence.gateway_id, urgent)
    assert rig.platform.audits[evidence.gateway_id].command_receipts == {}
