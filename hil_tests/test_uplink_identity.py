"""A platform follows a gateway over the rotation of its key by the history in its hello, and follows nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.evidence.cose import ES256
from agent.evidence.verify import ChainPosition
from agent.identity import history
from agent.identity.csr import certificate_request
from hil_tests.evidence_cases import TestKey
from hil_tests.identity_cases import BOTH, FIRST, THIRD, create, entry, rotation
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.enrol import EnrolmentError, Practice
from hil_tests.rig.platform.keys import SoftwareKey
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import NAME, Gateway, Rig, address, until
from tests.agent.uplink.parts import FIRST_US, Evidence

SECOND = TestKey("evidence 2 of the uplink", ES256)


def software(key: TestKey) -> SoftwareKey:
    private = key._private()
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return SoftwareKey(private)


class Named:
    """The rig's gateway with a history in place of a key for a name."""

    def __init__(self, rig: Rig, entries: list[bytes]) -> None:
        self.rig = rig
        self.entries = entries

    @property
    def state(self) -> history.IdentityState:
        return history.replay(self.entries)

    def rotate(self) -> bytes:
        """A new key from the last sealed batch on; gives the history as it is then."""
        last = self.rig.gateway.outbox.rows[-1]
        closing = ChainPosition(last.incarnation, last.number, last.root)
        order = rotation(self.state, SECOND, THIRD)
        self.entries.append(entry(order, BOTH, [FIRST, SECOND], closing=closing))
        self.rig.gateway.evidence.key = software(SECOND)
        return history.encode_history(self.entries)


@pytest.fixture
async def named(tmp_path: Path) -> AsyncIterator[Named]:
    practice = Practice.make(tmp_path / "platform")
    entries = [entry(create(FIRST, SECOND), BOTH, [FIRST])]
    gateway = Gateway(Evidence(key=software(FIRST)), SoftwareKey.generate())
    gateway.evidence.gateway_id = history.replay(entries).gateway_id
    gateway.history = history.encode_history(entries)
    request = await certificate_request(gateway.tls, common_name=NAME, did=gateway.evidence.gateway_id)
    practice.enrol(request, {"evidence": FIRST.public_key_der}, history=gateway.history)
    with Book(practice.folder / "book.sqlite") as book:
        platform = Platform(practice, book, say=lambda _: None, now_us=lambda: FIRST_US)
        yield Named(Rig(practice, platform, gateway, []), entries)


async def test_batches_go_on_over_a_rotation_and_a_restart_of_the_platform(named: Named) -> None:
    rig, gateway = named.rig, named.rig.gateway
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        gateway.seal(uplink, "meter", "pv")
        await until(gateway.outbox.all_acknowledged, "acknowledged under the first key")
        gateway.history = named.rotate()
        uplink.introduce_again()
        gateway.seal(uplink, "meter", "pv")
        await until(gateway.outbox.all_acknowledged, "acknowledged under the second key")
        assert gateway.alarms == []
    with Book(rig.practice.folder / "book.sqlite") as book:
        again = Platform(rig.practice, book, say=lambda _: None, now_us=lambda: FIRST_US)
    position = again.audits[gateway.evidence.gateway_id].position
    assert position is not None
    assert position.number == 2


async def test_a_batch_of_a_key_that_the_platform_has_not_heard_of_waits_until_it_has(named: Named) -> None:
    rig, gateway = named.rig, named.rig.gateway
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        gateway.seal(uplink, "meter")
        await until(gateway.outbox.all_acknowledged, "acknowledged under the first key")
        newer = named.rotate()
        gateway.seal(uplink, "meter")
        await until(lambda: "is not trusted for gateway" in uplink.status().detail, "the refusal is shown")
        gateway.history = newer
        await until(gateway.outbox.all_acknowledged, "acknowledged once the platform has the history")


async def test_an_older_history_than_the_platform_has_is_refused(named: Named) -> None:
    rig, gateway = named.rig, named.rig.gateway
    older = gateway.history
    async with Server(rig.platform, rig.practice) as server:
        async with rig.uplink(address(server.port)) as uplink:
            gateway.seal(uplink, "meter")
            await until(gateway.outbox.all_acknowledged, "acknowledged under the first key")
            gateway.history = named.rotate()
            uplink.introduce_again()
            gateway.seal(uplink, "meter")
            await until(gateway.outbox.all_acknowledged, "acknowledged under the second key")
        gateway.history = older
        async with rig.uplink(address(server.port)) as uplink:
            await until(lambda: "does not continue" in uplink.status().detail, "the refusal is shown")


async def test_a_gateway_is_enrolled_with_the_key_at_the_end_of_its_history_only(named: Named) -> None:
    rig = named.rig
    request = await certificate_request(rig.gateway.tls, common_name=NAME, did=rig.gateway.evidence.gateway_id)
    with pytest.raises(EnrolmentError, match="at the end of the gateway's history"):
        rig.practice.enrol(request, {"evidence": SECOND.public_key_der}, history=rig.gateway.history)
