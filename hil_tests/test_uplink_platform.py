"""The rig's platform itself: what it accepts, keeps, countersigns and refuses, also as a process that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.control.authorization import decode_authorization
from agent.evidence.acknowledgement import verify_acknowledgement
from agent.evidence.batch import decode_batch
from agent.evidence.errors import EvidenceError
from agent.evidence.statements import SettlementWindow, encode
from agent.identity.csr import certificate_request
from agent.identity.keys import verify_key_from_pem
from agent.identity.trust import decode_trust_list
from agent.ledger.frames import Proposal, Reestablish, from_wire, to_wire
from agent.ledger.settle import read_window, successor
from agent.ledger.state import ChannelState, SignedState
from agent.measure.reading import Quality
from agent.uplink.delivery import readings_of
from hil_tests.rig.platform.book import Book, Kind
from hil_tests.rig.platform.core import Platform
from hil_tests.rig.platform.enrol import EnrolmentError, Practice
from hil_tests.rig.platform.keys import SoftwareKey
from hil_tests.rig.platform.orders import OrderError
from hil_tests.rig.platform.service import Server
from hil_tests.rig.tie import tied
from hil_tests.uplink_parts import Rig, address, rig, until
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry
from proto.energysettlement.v1.gateway_pb2 import PlatformFrame
from tests.agent.uplink.parts import FIRST_US, Evidence, Row, row_of

__all__ = ["rig"]

WINDOW_US = 900_000_000


def window(start_us: int, import_wh: int) -> SettlementWindow:
    return SettlementWindow(
        device_id="pv",
        incarnation=1,
        window_start_us=start_us,
        window_end_us=start_us + WINDOW_US,
        revision=0,
        import_wh=import_wh,
        export_wh=0,
        net_energy_wh=import_wh,
        first_sequence=None,
        last_sequence=None,
        reading_count=0,
        readings_root=bytes(32),
        meter_epoch=1,
        quality=Quality.GOOD,
        command_hashes=(),
    )


class Proposer:
    """The gateway's half of the channel of "pv", as far as a test needs it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        enrolled = rig.practice.gateways()[rig.gateway.evidence.gateway_id]
        self.terms = enrolled.terms("pv")
        self.device_key = enrolled.keys["device:pv"]

    def propose(self, before: ChannelState | None, version: int, *windows: SettlementWindow) -> Proposal:
        state = successor(
            before,
            [read_window(encode(each), "pv") for each in windows],
            terms=self.terms,
            incarnation=1,
            version=version,
            device_key=self.device_key,
        )
        return Proposal(
            state=state.encode(), gateway_signature=self.rig.gateway.device_key.sign_digest_now(state.digest)
        )


@pytest.fixture
def frames(rig: Rig) -> asyncio.Queue[PlatformFrame | None]:
    """The queue of the gateway's link, as if it were connected."""
    return rig.platform.link_up(rig.gateway.evidence.gateway_id)


def take(rig: Rig, row: Row) -> bytes | None:
    return rig.platform.take_batch(rig.gateway.evidence.gateway_id, row.encoded)


def test_repeated_batch_is_acknowledged_again_and_counted_once(rig: Rig) -> None:
    row = rig.gateway.evidence.row("meter")
    for _ in range(2):
        encoded = take(rig, row)
        assert encoded is not None
        seen = verify_acknowledgement(encoded, rig.practice.key("platform").verify_key)
        assert (seen.batch_number, seen.root) == (1, row.root)
    assert (rig.books()["batches_verified"], rig.books()["batches_repeated"]) == (1, 1)


def test_batch_with_any_flipped_bit_is_refused_and_noted(rig: Rig) -> None:
    row = rig.gateway.evidence.row("meter")
    for place in range(0, len(row.encoded), 7):
        broken = bytearray(row.encoded)
        broken[place] ^= 1
        with pytest.raises(EvidenceError):
            rig.platform.take_batch(rig.gateway.evidence.gateway_id, bytes(broken))
    assert rig.books()["batches_verified"] == 0
    assert take(rig, row) is not None


def test_gap_in_the_chain_is_refused(rig: Rig) -> None:
    rig.gateway.evidence.row("meter")
    with pytest.raises(EvidenceError, match="batch 2 where batch 1 is next"):
        take(rig, rig.gateway.evidence.row("meter"))


def test_second_content_under_one_number_is_refused_as_equivocation(rig: Rig) -> None:
    take(rig, rig.gateway.evidence.row("meter"))
    clone = Evidence(key=rig.gateway.evidence.key)
    with pytest.raises(EvidenceError, match="equivocation"):
        take(rig, clone.row("pv"))


def test_reading_shown_live_with_another_content_than_the_sealed_one_is_a_conflict(rig: Rig) -> None:
    other, evidence = Evidence(key=rig.gateway.evidence.key), rig.gateway.evidence
    lie = row_of(other.seal(replace(other.reading("meter"), power_w=1)))
    (shown,) = readings_of(decode_batch(lie.encoded))
    rig.platform.take_telemetry(evidence.gateway_id, shown, carried=False)
    take(rig, evidence.row("meter"))
    assert "two contents" in str(rig.books()["conflicts"])


def test_reading_whose_plain_fields_differ_from_the_signed_ones_is_refused(rig: Rig) -> None:
    (telemetry,) = readings_of(decode_batch(rig.gateway.evidence.row("meter").encoded))
    for change in ({"net_energy_wh": 2}, {"timestamp_us": 1}, {"sequence": 9}, {"state_of_charge_percent": 0}):
        lie = DeviceTelemetry()
        lie.CopyFrom(telemetry)
        for name, value in change.items():
            setattr(lie, name, value)
        with pytest.raises(EvidenceError, match="plain fields"):
            rig.platform.take_telemetry(rig.gateway.evidence.gateway_id, lie, carried=False)
    assert (rig.books()["receipts_verified"], rig.books()["receipts_rejected"]) == (0, 4)


def test_proposal_is_countersigned_when_its_windows_have_arrived_and_not_before(
    rig: Rig, frames: asyncio.Queue[PlatformFrame | None]
) -> None:
    proposer, gateway_id = Proposer(rig), rig.gateway.evidence.gateway_id
    closed = window(FIRST_US, 250)
    proposal = proposer.propose(None, 1, closed)
    rig.platform.take_channel(gateway_id, to_wire("pv", proposer.terms.channel_id, proposal))
    assert frames.empty()
    take(rig, row_of(rig.gateway.evidence.seal(closed)))
    answered = frames.get_nowait()
    assert answered is not None
    assert answered.channel.WhichOneof("content") == "countersignature"
    # Asked again, the same countersignature comes again, and nothing new is signed.
    rig.platform.take_channel(gateway_id, to_wire("pv", proposer.terms.channel_id, proposal))
    assert frames.get_nowait() == answered
    channels = rig.books()["channels"]
    assert isinstance(channels, dict)
    assert channels["pv"]["countersigned"] == 1
    assert channels["pv"]["newest"]["net_wh"] == 250


def test_second_state_under_one_version_is_refused_and_kept_as_a_fork(
    rig: Rig, frames: asyncio.Queue[PlatformFrame | None]
) -> None:
    proposer, gateway_id = Proposer(rig), rig.gateway.evidence.gateway_id
    first, second = window(FIRST_US, 250), window(FIRST_US + WINDOW_US, 1)
    take(rig, row_of(rig.gateway.evidence.seal(first, second)))
    for windows in ((first,), (first, second)):
        proposal = proposer.propose(None, 1, *windows)
        rig.platform.take_channel(gateway_id, to_wire("pv", proposer.terms.channel_id, proposal))
    kinds = [frame.channel.WhichOneof("content") for frame in (frames.get_nowait(), frames.get_nowait()) if frame]
    assert kinds == ["countersignature", "refusal"]
    assert "fork" in str(rig.books()["conflicts"])


async def test_channel_is_reestablished_after_the_platform_was_restarted(rig: Rig) -> None:
    proposer, gateway_id = Proposer(rig), rig.gateway.evidence.gateway_id
    closed = window(FIRST_US, 250)
    take(rig, row_of(rig.gateway.evidence.seal(closed)))
    wire = to_wire("pv", proposer.terms.channel_id, proposer.propose(None, 1, closed))
    rig.platform.take_channel(gateway_id, wire)
    with Book(rig.practice.folder / "book.sqlite") as book:
        again = Platform(rig.practice, book, say=rig.events.append, now_us=lambda: FIRST_US)
        queue = again.link_up(gateway_id)
        question = Reestablish(nonce=bytes(16), is_answer=False)
        again.take_channel(gateway_id, to_wire("pv", proposer.terms.channel_id, question))
        answered = queue.get_nowait()
        assert answered is not None
        told = from_wire(answered.channel)
    assert isinstance(told, Reestablish)
    assert (told.is_answer, told.version) == (True, 1)
    signed = SignedState(
        successor(
            None,
            [read_window(encode(closed), "pv")],
            terms=proposer.terms,
            incarnation=1,
            version=1,
            device_key=proposer.device_key,
        ),
        told.gateway_signature,
        told.platform_signature,
    )
    signed.verify(proposer.device_key, rig.practice.key("platform").verify_key)


async def test_channel_proposal_is_countersigned_over_the_real_link(rig: Rig) -> None:
    proposer, closed = Proposer(rig), window(FIRST_US, 250)
    rig.gateway.outbox.rows.append(row_of(rig.gateway.evidence.seal(closed)))
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port)) as uplink:
        await until(lambda: rig.gateway.connected == 1, "connected")
        await uplink.send_channel(to_wire("pv", proposer.terms.channel_id, proposer.propose(None, 1, closed)))
        await until(lambda: bool(rig.gateway.channel_frames), "countersigned")
    assert rig.gateway.channel_frames[0].WhichOneof("content") == "countersignature"


async def test_issued_commands_are_signed_by_keys_of_the_trust_list(rig: Rig) -> None:
    root = verify_key_from_pem(rig.practice.public_file("trust-root").read_bytes(), what="root")
    trust = decode_trust_list(rig.practice.trust_list_file.read_bytes(), root, None)
    for signed_by, roles in (("operational", [0]), ("both", [0, 1])):
        order = {"id": signed_by, "type": "CHARGE", "power_w": 7400, "duration_s": 5.5, "signed_by": signed_by}
        issued = await rig.platform.issue(order)
        authorization = decode_authorization(issued.message.authorization)
        for index, (signature, role) in enumerate(zip(authorization.signatures, roles, strict=True)):
            rights = trust.rights_of(signature.key_id)
            assert rights is not None
            assert int(rights.role) == role
            authorization.verify(index, rights.key)
        assert authorization.command.end_us - authorization.command.start_us == 5_500_000


@pytest.mark.parametrize(
    "order",
    [
        "IDLE",
        {},
        {"id": "c"},
        {"id": "c", "type": "EXPLODE", "duration_s": 1},
        {"id": "c", "type": "IDLE", "duration_s": "long"},
        {"id": "c", "type": "IDLE", "duration_s": 0},
        {"id": "c", "type": "CHARGE", "duration_s": 1, "power_w": -5},
        {"id": "c", "type": "IDLE", "duration_s": 1, "wattage": 5},
        {"id": "c", "type": "IDLE", "duration_s": 1, "signed_by": "me"},
    ],
)
async def test_order_that_makes_no_command_is_refused_with_a_reason(rig: Rig, order: object) -> None:
    with pytest.raises(OrderError):
        await rig.platform.issue(order)


async def test_request_under_a_strange_name_or_key_is_not_certified(tmp_path: Path) -> None:
    practice = Practice.make(tmp_path / "p")
    tls, evidence = SoftwareKey.generate(), Evidence()
    keys = {"evidence": evidence.key.public_key_der}
    good = await certificate_request(tls, common_name="g", did=evidence.gateway_id)
    with pytest.raises(EnrolmentError, match="evidence"):
        practice.enrol(good, {})
    with pytest.raises(EnrolmentError, match="the evidence key is that of"):
        practice.enrol(await certificate_request(tls, common_name="g", did=Evidence().gateway_id), keys)
    with pytest.raises(EnrolmentError, match="common name"):
        practice.enrol(await certificate_request(tls, common_name="../../g", did=evidence.gateway_id), keys)
    with pytest.raises(EnrolmentError, match="PEM"):
        practice.enrol(b"nonsense", keys)
    practice.enrol(good, keys)
    assert list(practice.gateways()) == [evidence.gateway_id]


class Process:
    """The platform as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[dict[str, object]] = []

    async def event(self, name: str) -> dict[str, object]:
        """The next event of this name."""
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            while line := await self._process.stdout.readline():
                self.events.append(json.loads(line))
                if self.events[-1]["event"] == name:
                    return self.events[-1]
        pytest.fail(f"the platform ended without saying {name!r}")

    def order(self, **order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        return await self._process.wait()


@asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[Process]:
    started = await asyncio.create_subprocess_exec(
        *tied(sys.executable, "-m", "hil_tests.rig.platform", "serve", str(folder), *options),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent, env=dict(os.environ),
    )  # fmt: skip
    try:
        yield Process(started)
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_what_the_process_acknowledged_survives_its_death(rig: Rig) -> None:
    folder = rig.practice.folder
    async with serving(folder) as process:
        ready = await process.event("ready")
        async with rig.uplink(str(ready["address"])) as uplink:
            for _ in range(5):
                rig.gateway.seal(uplink, "meter", "pv")
            process.order(do="issue", command={"id": "c1", "type": "IDLE", "duration_s": 3600})
            await until(rig.gateway.outbox.all_acknowledged, "acknowledged")
            await until(lambda: len(rig.gateway.commands) == 1, "command received")
        await process.end(signal.SIGKILL)
    with Book(folder / "book.sqlite") as book:
        assert [entry.octets for entry in book.entries(Kind.BATCH)] == [row.encoded for row in rig.gateway.outbox.rows]
    rig.gateway.commands.clear()
    async with serving(folder) as process:
        ready = await process.event("ready")
        async with rig.uplink(str(ready["address"])) as uplink:
            rig.gateway.seal(uplink, "meter", "pv")
            await until(rig.gateway.outbox.all_acknowledged, "goes on where it was")
            await until(lambda: len(rig.gateway.commands) == 1, "the command without a receipt is sent again")
        process.order(do="books")
        process.order(do="nonsense")
        assert "known orders" in str((await process.event("error"))["text"])
        assert await process.end(signal.SIGTERM) == 0
    books = json.loads((folder / "books.json").read_text())
    page = books["gateways"][rig.gateway.evidence.gateway_id]
    assert page["devices"]["meter"]["sequences"] == [[1, 1, 6]]
    assert page["devices"]["meter"]["missing"] == 0
    assert page["conflicts"] == []
    assert [command["command_id"] for command in page["commands"]] == ["c1"]


async def test_enrol_prints_the_files_that_a_gateways_settings_need(tmp_path: Path) -> None:
    tls, evidence = SoftwareKey.generate(), Evidence()
    (tmp_path / "csr.pem").write_bytes(await certificate_request(tls, common_name="g", did=evidence.gateway_id))
    (tmp_path / "evidence.pem").write_bytes(evidence.key.public_pem)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hil_tests.rig.platform", "enrol", str(tmp_path / "p"),
        "--csr", str(tmp_path / "csr.pem"), "--key", f"evidence={tmp_path / 'evidence.pem'}",
        "--contract", "0x" + "11" * 20, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    output, _ = await process.communicate()
    said = json.loads(output)
    assert said.pop("gateway_id") == evidence.gateway_id
    assert sorted(said) == ["ca_file", "certificate_file", "platform_key_file", "trust_list_file", "trust_root_file"]
    assert all(file.startswith(str(tmp_path)) for file in said.values())
    assert Practice.open(tmp_path / "p").gateways()[evidence.gateway_id].agreement.contract == b"\x11" * 20


async def test_link_process_cuts_and_restores_on_order(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while octets := await reader.read(100):
            writer.write(octets)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hil_tests.rig.link", "--to", f"127.0.0.1:{port}",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert started.stdin is not None
    assert started.stdout is not None
    try:
        link_port = int(json.loads(await started.stdout.readline())["address"].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", link_port)
        writer.write(b"whole")
        assert await reader.readexactly(5) == b"whole"
        started.stdin.write(b'{"do": "cut"}\n')
        assert json.loads(await started.stdout.readline())["condition"] == "cut"
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        started.stdin.write(b'{"do": "restore"}\n')
        assert json.loads(await started.stdout.readline())["condition"] == "restore"
        reader, writer = await asyncio.open_connection("127.0.0.1", link_port)
        writer.write(b"again")
        assert await reader.readexactly(5) == b"again"
        writer.close()
    finally:
        started.kill()
        await started.wait()
        server.close()
