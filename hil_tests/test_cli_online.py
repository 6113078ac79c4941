"""`verify --online` against real HTTPS on loopback: what is fetched and believed, held back, lied about, away."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.evidence import acknowledgement, statements
from agent.evidence.acknowledgement import Acknowledgement
from agent.evidence.batch import SealedBatch
from agent.evidence.bundle import BundleHead, encode_batch_item
from agent.evidence.partial import cut, receipts
from agent.evidence.proof import ProofFile, Proven, WindowPart, path_in
from agent.evidence.verify import ChainPosition
from agent.identity.did import did_of
from agent.identity.document import gateway_document
from agent.identity.history import encode_history, step
from agent.identity.locations import ACKNOWLEDGEMENT, CONTENT_TYPES, HISTORY, NEWEST_BATCH, TRUST_LIST
from agent.identity.subject import DeviceIdentity
from hil_tests import evidence_cases, proof_cases, trust_cases
from hil_tests.evidence_cases import START_US, TestKey, leaves, make_batch
from hil_tests.http_parts import serving
from hil_tests.identity_cases import (
    BOTH,
    FIRST,
    NEW_OWNER,
    SECOND,
    SUBJECT,
    THIRD,
    create,
    created,
    entry,
    rotation,
    sold,
)

PLATFORM = TestKey("platform of the tests", -7)
STRANGER = TestKey("a stranger", -7)

FIRST_ENTRY, CREATED = created()
GATEWAY = CREATED.gateway_id


def batch(number: int, before: SealedBatch | None, key: TestKey, readings: int = 4) -> SealedBatch:
    root = bytes(32) if before is None else before.root
    return make_batch(leaves(number, readings), number=number, previous_root=root, key=key, gateway_id=GATEWAY)


ONE = batch(1, None, FIRST)
TWO = batch(2, ONE, FIRST)
THREE = batch(3, TWO, SECOND)
FOUR = batch(4, THREE, SECOND)
ROTATED_ENTRY = entry(rotation(CREATED, SECOND, THIRD), BOTH, [FIRST, SECOND], closing=ChainPosition(1, 2, TWO.root))
ENTRIES = (FIRST_ENTRY, ROTATED_ENTRY)
ROTATED = step(CREATED, ROTATED_ENTRY)


def acknowledged(of: SealedBatch, root: bytes | None = None, gateway_id: str = GATEWAY) -> bytes:
    said = Acknowledgement(
        gateway_id=gateway_id,
        incarnation=1,
        batch_number=of.identity.number,
        root=of.root if root is None else root,
        platform_time_us=START_US + 60_000_000,
    )
    key = PLATFORM.verify_key
    unsigned = acknowledgement.prepare(said, algorithm=key.algorithm, key_id=key.key_id)
    return unsigned.encode(PLATFORM.sign(unsigned.to_be_signed))


@dataclass
class Server:
    """A web server that publishes files, and counts who asked for what."""

    files: dict[str, bytes] = field(default_factory=dict)
    content_type: str | None = None
    sends_to: str | None = None
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        self.asked.append(name)
        if self.sends_to is not None:
            raise web.HTTPFound(self.sends_to)
        if name not in self.files:
            raise web.HTTPNotFound
        return web.Response(body=self.files[name], content_type=self.content_type or CONTENT_TYPES[name])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@dataclass
class Table:
    """What a verifier has before it: a file, whom it trusts, and servers."""

    folder: Path
    tls: SSLContext
    ca: Path

    @contextlib.asynccontextmanager
    async def server(self, files: Mapping[str, bytes], **more: str) -> AsyncIterator[Server]:
        made = Server(dict(files), **more)  # type: ignore[arg-type]  # texts alone
        async with serving("GET", made.answer, self.tls) as made.port:
            yield made

    def bundle(self, *run: SealedBatch) -> Path:
        path = self.folder / "evidence"
        items = [encode_batch_item(each.encode()) for each in run]
        path.write_bytes(BundleHead(GATEWAY, ()).encode() + b"".join(items))
        return path

    def history(self, *entries: bytes) -> Path:
        path = self.folder / "history"
        path.write_bytes(encode_history(entries))
        return path

    def key(self, of: TestKey, name: str = "platform") -> Path:
        path = self.folder / f"{name}.pem"
        public = load_der_public_key(of.public_key_der)
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return path

    async def verify(self, *arguments: object, code: int = 0, ca: bool = True) -> dict[str, Any]:
        """The answer of the command, with --json."""
        words = ["verify", *map(str, arguments), *(("--ca", str(self.ca)) if ca else ()), "--json"]
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
        assert done.exit_code == code, done.output
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    async def says(self, *arguments: object) -> str:
        words = ["verify", *map(str, arguments), "--ca", str(self.ca)]
        done = await asyncio.to_thread(CliRunner().invoke, app, words)
        return done.output


@pytest.fixture
def table(tmp_path: Path, loopback_tls: tuple[SSLContext, Path]) -> Table:
    return Table(tmp_path, *loopback_tls)


PUBLISHED = {
    HISTORY: encode_history(ENTRIES),
    NEWEST_BATCH: cut(FOUR, (0,)).encode(),
    ACKNOWLEDGEMENT: acknowledged(THREE),
}


def online(answer: dict[str, Any]) -> dict[str, Any]:
    found = answer["online"]
    assert isinstance(found, dict)
    return found


# What is fetched, and proves


async def test_a_name_is_enough_where_its_history_is_published(table: Table) -> None:
    async with table.server(PUBLISHED) as server:
        answer = await table.verify(
            table.bundle(ONE, TWO, THREE), "--gateway", GATEWAY, "--online", server.url,
            "--platform-key", table.key(PLATFORM),
        )  # fmt: skip
    found = online(answer)
    assert (answer["ok"], found["verdict"], found["complete"]) == (True, "online", True)
    assert found["history"] == {
        "from": f"{server.url}/.well-known/v2g-gateway/history.cbor",
        "entries": 2,
        "newest_applied_us": ROTATED.applied_us,
        "held_back": [],
    }
    (newest,) = found["newest_batches"]
    assert (newest["number"], newest["newer_than_file"], newest["in_file"]) == (4, 1, False)
    assert newest["sealed_at_us"] is not None
    (held,) = found["acknowledgements"]
    assert (held["number"], held["in_file"]) == (3, True)
    assert [each["what"] for each in found["fetched"]] == [HISTORY, NEWEST_BATCH, ACKNOWLEDGEMENT]
    assert any("hold back" in text for text in answer["not_proven"])


async def test_one_history_by_its_url(table: Table) -> None:
    async with table.server(PUBLISHED, content_type="application/octet-stream") as server:
        url = f"{server.url}/anywhere/history.cbor"
        answer = await table.verify(table.bundle(ONE, TWO, THREE), "--gateway", GATEWAY, "--history", url)
        assert online(answer)["verdict"] == "online"
        assert server.asked == [HISTORY]


async def test_a_receipt_is_looked_up_too(table: Table) -> None:
    receipt, statement = table.folder / "receipt", table.folder / "statement"
    receipt.write_bytes(receipts(THREE, [1])[0])
    statement.write_bytes(THREE.leaves[1])
    with_it = ("--statement", statement, "--gateway", GATEWAY, "--platform-key", table.key(PLATFORM))
    async with table.server(PUBLISHED) as server:
        answer = await table.verify(receipt, *with_it, "--online", server.url)
        assert online(answer)["acknowledgements"][0]["in_file"] is True
        server.files[ACKNOWLEDGEMENT] = acknowledged(THREE, root=bytes(32))
        answer = await table.verify(receipt, *with_it, "--online", server.url, code=1)
        assert answer["ok"] is False


async def test_a_did_document_names_the_place_for_its_own_subject_alone(table: Table) -> None:
    async with table.server(PUBLISHED) as server:
        document = table.folder / "did.json"
        document.write_text(json.dumps(gateway_document(ROTATED, server.url)))
        file = table.bundle(ONE, TWO, THREE)
        answer = await table.verify(file, "--gateway", GATEWAY, "--online", document)
        assert online(answer)["verdict"] == "online"
        document.write_text(json.dumps(gateway_document(ROTATED)))
        answer = await table.verify(file, "--gateway", GATEWAY, "--online", document, code=2)
        assert "names a service" in str(answer["error"])


async def test_the_trust_list_under_its_roots(table: Table) -> None:
    case = next(case for case in trust_cases.cases() if case.expected is not None and case.threshold == 1)
    roots = b"".join(table.key(root, root.name.replace(" ", "-")).read_bytes() for root in trust_cases.ROOTS)
    roots_file = table.folder / "roots.pem"
    roots_file.write_bytes(roots)
    asked = (table.bundle(ONE), "--gateway", GATEWAY, "--trust-root", roots_file)
    async with table.server({**PUBLISHED, TRUST_LIST: case.encoded}) as server:
        found = online(await table.verify(*asked, "--online", server.url))
        assert [each["url"] for each in found["trust_lists"]] == [
            f"{server.url}/.well-known/v2g-gateway/trust-list.cose"
        ]
        roots_file.write_bytes(table.key(STRANGER).read_bytes())
        found = online(await table.verify(*asked, "--online", server.url))
        assert (found["trust_lists"], found["complete"]) == ([], False)


# Held back, lied about


async def test_an_older_copy_is_told_and_the_longer_history_counts(table: Table) -> None:
    """Whichever of the two is at hand."""
    file = table.bundle(ONE, TWO, THREE)
    async with table.server({HISTORY: encode_history([FIRST_ENTRY])}) as server:
        answer = await table.verify(
            file, "--gateway", GATEWAY, "--history", table.history(*ENTRIES), "--online", server.url
        )
        history = online(answer)["history"]
        assert isinstance(history, dict)
        assert history["held_back"] == [
            {"by": f"{server.url}/.well-known/v2g-gateway/history.cbor", "entries": 1, "lacks": 1}
        ]
        server.files[HISTORY] = encode_history(ENTRIES)
        answer = await table.verify(file, "--history", table.history(FIRST_ENTRY), "--online", server.url)
        history = online(answer)["history"]
        assert isinstance(history, dict)
        assert (history["entries"], history["held_back"][0]["by"]) == (2, str(table.folder / "history"))


async def test_a_newest_batch_that_is_older_than_what_the_platform_has_is_told(table: Table) -> None:
    async with (
        table.server({**PUBLISHED, NEWEST_BATCH: cut(TWO, (0,)).encode()}) as server,
        table.server({**PUBLISHED, ACKNOWLEDGEMENT: acknowledged(ONE)}) as other,
    ):
        asked = (table.bundle(ONE, TWO, THREE), "--gateway", GATEWAY, "--platform-key", table.key(PLATFORM))
        found = online(await table.verify(*asked, "--online", server.url, "--online", other.url))
        assert [each["held_back"] for each in found["newest_batches"]] == [True, False]
        said = await table.says(*asked, "--online", server.url)
        assert "shows an older batch as its newest; there is batch 3" in said


async def test_a_batch_by_a_key_that_an_entry_on_the_web_has_ended_is_refused(table: Table) -> None:
    late = batch(3, TWO, FIRST)
    file = table.bundle(ONE, TWO, late)
    await table.verify(file, "--history", table.history(FIRST_ENTRY), ca=False)
    async with table.server(PUBLISHED) as server:
        answer = await table.verify(file, "--history", table.history(FIRST_ENTRY), "--online", server.url, code=1)
        assert "its key ended with batch 2" in str(answer["error"])


async def test_two_histories_of_one_name_are_believed_neither(table: Table) -> None:
    other = (FIRST_ENTRY, entry(sold(CREATED), (*BOTH, NEW_OWNER), [FIRST]))
    async with table.server({HISTORY: encode_history(other)}) as server:
        answer = await table.verify(
            table.bundle(ONE), "--history", table.history(*ENTRIES), "--online", server.url, code=1
        )
        assert "differ in an entry" in str(answer["error"])


async def test_a_server_cannot_give_another_name_its_history(table: Table) -> None:
    async with table.server(PUBLISHED) as server:
        answer = await table.verify(table.bundle(ONE), "--gateway", "did:v2g:zQmOther", "--online", server.url, code=1)
        assert "could not be had" in str(answer["error"])
        assert "the history is of" in str(answer["error"])


async def test_another_batch_of_the_same_number_is_a_contradiction(table: Table) -> None:
    """Signed by the gateway, or acknowledged by the platform."""
    file = table.bundle(ONE, TWO, THREE)
    other = batch(3, TWO, SECOND, readings=3)
    asked = (file, "--gateway", GATEWAY, "--platform-key", table.key(PLATFORM))
    async with table.server({**PUBLISHED, NEWEST_BATCH: cut(other, (0,)).encode()}) as server:
        answer = await table.verify(*asked, "--online", server.url, code=1)
        assert "another batch 3 of incarnation 1" in str(answer["contradictions"])
    async with table.server({**PUBLISHED, ACKNOWLEDGEMENT: acknowledged(other)}) as server:
        answer = await table.verify(*asked, "--online", server.url, code=1)
        assert "the platform acknowledged another batch 3" in str(answer["contradictions"])


async def test_a_newest_batch_that_does_not_follow_the_file_is_a_break(table: Table) -> None:
    elsewhere = batch(4, batch(3, TWO, SECOND, readings=3), SECOND)
    async with table.server({**PUBLISHED, NEWEST_BATCH: cut(elsewhere, (0,)).encode()}) as server:
        answer = await table.verify(table.bundle(ONE, TWO, THREE), "--gateway", GATEWAY, "--online", server.url, code=1)
        assert "follows root" in str(answer["contradictions"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (NEWEST_BATCH, cut(batch(4, THREE, STRANGER), (0,)).encode()),
        (ACKNOWLEDGEMENT, acknowledged(THREE, gateway_id="did:v2g:zQmOther")),
        (ACKNOWLEDGEMENT, b"\xd2\x84"),
        (NEWEST_BATCH, b""),
    ],
)
async def test_what_is_not_signed_as_it_must_be_is_named_and_counts_for_nothing(
    table: Table, name: str, content: bytes
) -> None:
    async with table.server({**PUBLISHED, name: content}) as server:
        answer = await table.verify(
            table.bundle(ONE, TWO, THREE), "--gateway", GATEWAY, "--online", server.url,
            "--platform-key", table.key(PLATFORM),
        )  # fmt: skip
    found = online(answer)
    assert [each["what"] for each in found["failed"]] == [name]
    assert found["complete"] is False


# Not had


async def test_a_server_that_is_away_leaves_the_verdict_to_what_is_at_hand(table: Table) -> None:
    file, history = table.bundle(ONE, TWO, THREE), table.history(*ENTRIES)
    answer = await table.verify(file, "--history", history, "--online", "https://127.0.0.1:1")
    found = online(answer)
    assert (answer["ok"], found["verdict"]) == (True, "offline")
    assert [each["what"] for each in found["failed"]] == [HISTORY, NEWEST_BATCH]
    assert "Connect call failed" in found["failed"][0]["why"]
    said = await table.says(file, "--history", history, "--online", "https://127.0.0.1:1")
    assert "by what is in the file and at hand alone (offline)" in said
    answer = await table.verify(file, "--gateway", GATEWAY, "--online", "https://127.0.0.1:1", code=1)
    assert "without it nothing can be verified" in str(answer["error"])


async def test_pages_redirects_and_floods_are_no_files(table: Table) -> None:
    file, history = table.bundle(ONE), table.history(*ENTRIES)
    asked = (file, "--history", history, "--online")
    async with table.server(PUBLISHED) as other:
        for more in ({"content_type": "text/html"}, {"sends_to": f"{other.url}/history.cbor"}):
            async with table.server(PUBLISHED, **more) as server:
                assert online(await table.verify(*asked, server.url))["verdict"] == "offline"
        assert other.asked == []
    async with table.server({**PUBLISHED, ACKNOWLEDGEMENT: bytes(17_000)}) as server:
        answer = await table.verify(*asked, server.url, "--platform-key", table.key(PLATFORM))
        (failed,) = online(answer)["failed"]
        assert "longer than 16384 bytes" in failed["why"]


async def test_a_server_that_nobody_certified_is_not_asked(table: Table) -> None:
    async with table.server(PUBLISHED) as server:
        answer = await table.verify(table.bundle(ONE), "--gateway", GATEWAY, "--online", server.url, ca=False, code=1)
        assert "certificate" in str(answer["error"]).lower()
        assert server.asked == []


async def test_without_the_platforms_key_its_word_proves_nothing(table: Table) -> None:
    async with table.server(PUBLISHED) as server:
        answer = await table.verify(table.bundle(ONE), "--gateway", GATEWAY, "--online", server.url)
        assert ACKNOWLEDGEMENT not in server.asked
    assert any("--platform-key" in text for text in answer["not_proven"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--history", "https://gw.example/history.cbor"], "give it with --gateway did:v2g"),
        (["--gateway", GATEWAY, "--online", "http://gw.example"], "use https"),
        (["--gateway", GATEWAY, *["--online", "https://gw.example"] * 9], "too many"),
        (["--gateway", GATEWAY, "--trust-root", "x"], "say from where"),
    ],
)
async def test_a_question_that_cannot_be_asked_is_wrong_use(table: Table, arguments: list[str], said: str) -> None:
    (table.folder / "x").write_bytes(table.key(PLATFORM).read_bytes())
    words = [str(table.folder / "x") if word == "x" else word for word in arguments]
    answer = await table.verify(table.bundle(ONE), *words, ca=False, code=2)
    assert said in str(answer["error"])


async def test_nothing_is_fetched_unless_asked(table: Table) -> None:
    answer = await table.verify(table.bundle(ONE, TWO), "--history", table.history(*ENTRIES), ca=False)
    assert answer["online"] == {"verdict": "offline"}


async def test_a_ca_that_is_none_is_named(table: Table) -> None:
    (table.folder / "ca").write_bytes(b"no certificate")
    asked = (table.bundle(ONE), "--gateway", GATEWAY, "--online", "https://127.0.0.1:1")
    for name in ("ca", "nowhere"):
        answer = await table.verify(*asked, "--ca", table.folder / name, ca=False, code=1)
        assert f"--ca {table.folder / name}" in answer["error"]


async def test_a_gateway_that_is_named_by_its_key_shows_its_newest_batch_too(table: Table) -> None:
    name = did_of(FIRST.public_key_der)
    only = make_batch(leaves(1), number=1, previous_root=bytes(32), key=FIRST, gateway_id=name)
    file = table.folder / "batch"
    file.write_bytes(only.encode())
    async with table.server({NEWEST_BATCH: cut(only, (0,)).encode()}) as server:
        found = online(await table.verify(file, "--gateway", name, "--online", server.url))
        assert server.asked == [NEWEST_BATCH]
    assert (found["complete"], found["history"], found["newest_batches"][0]["in_file"]) == (True, None, True)


# The device's key of a proof


def settled_proof(device_key: TestKey) -> tuple[str, bytes, bytes]:
    """(gateway, its history, a proof up to the channel state): the history names this key for the device."""
    device = DeviceIdentity(
        device_id="battery-1", serial_number="", key=device_key.verify_key, meter_key=None, charger_certificate=None
    )
    first = entry(create(subject=replace(SUBJECT, ratings=(), devices=(device,))), BOTH, [FIRST])
    gateway = step(None, first).gateway_id

    def proven(leaf: bytes, number: int, previous: bytes) -> Proven:
        sealing = statements.encode(evidence_cases.sealing(number))
        sealed = make_batch([sealing, leaf], number=number, previous_root=previous, key=FIRST, gateway_id=gateway)
        return Proven(leaf, receipts(sealed, [1])[0])

    state = replace(proof_cases.STATE, channel_id=replace(proof_cases.TERMS, gateway_id=gateway).channel_id)
    file = ProofFile(
        gateway,
        (),
        proven(proof_cases.READINGS[proof_cases.MIDDLE], 1, bytes(32)),
        WindowPart(proven(proof_cases.WINDOWS[0], 2, bytes([2]) * 32),
                   path_in(proof_cases.READINGS, proof_cases.MIDDLE)),
        proof_cases.channel_part(proof_cases.signed(state)),
    )  # fmt: skip
    return gateway, encode_history([first]), file.encode()


async def test_the_history_on_the_web_names_the_devices_key_of_a_proof(table: Table) -> None:
    gateway, history, proof = settled_proof(evidence_cases.DEVICE_KEY)
    (table.folder / "proof").write_bytes(proof)
    platform = table.key(evidence_cases.PLATFORM_KEY)
    async with table.server({HISTORY: history}) as server:
        answer = await table.verify(
            table.folder / "proof", "--gateway", gateway, "--online", server.url, "--platform-key", platform
        )
    assert [text for text in answer["not_proven"] if "device" in text] == []
    assert answer["channel_state"] is not None


async def test_a_channel_state_by_another_key_than_the_history_names_is_refused(table: Table) -> None:
    gateway, history, proof = settled_proof(STRANGER)
    (table.folder / "proof").write_bytes(proof)
    (table.folder / "history").write_bytes(history)
    answer = await table.verify(
        table.folder / "proof", "--gateway", gateway, "--history", table.folder / "history", ca=False, code=1
    )
    assert "the gateway's history names" in answer["error"]
