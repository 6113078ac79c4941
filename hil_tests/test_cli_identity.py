"""`v2g-gateway identity` from the creation of a name over a rotation under a running agent to a verifier's word."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.store import Store
from hil_tests.rig.tie import tied
from hil_tests.rig.token import softhsm_module
from hil_tests.test_cli_commands import ROOT

PATIENCE_S = 60.0

pytestmark = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")


def write_parties(folder: Path) -> None:
    """The keys of an owner and an operator, and the file that names them."""
    owner, operator = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    for name, key in (("owner", owner), ("operator", operator)):
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(public)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.key.pem").write_bytes(secret)
    (folder / "subject.toml").write_text(
        'location = "52.5201,13.4099"\n'
        '[owner]\nname = "A. Owner"\nkey_file = "owner.pem"\n'
        '[operator]\nname = "Grid Ltd"\nkey_file = "operator.pem"\n'
        '[[rating]]\nname = "export"\nvalue = 30000\nunit = "W"\ncertificate = "Body, no. 1"\n'
    )


class Desk:
    """A gateway's folder, and its owner's and operator's desks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "etc" / "gateway.toml"
        self.state_dir = folder / "state"
        write_parties(folder)

    def run(self, *arguments: str | Path, code: int = 0, where: bool = True) -> Any:
        """The JSON answer of a command."""
        place = ["--config", str(self.config)] if where else []
        done = CliRunner().invoke(app, [*map(str, arguments), *place, "--json"], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def init(self) -> Any:
        return self.run(
            "init", "--state-dir", self.state_dir, "--config-out", self.config, "--module", softhsm_module() or "",
            where=False,
        )  # fmt: skip

    def signed(self, file: Path, *parties: str) -> None:
        for party in parties:
            self.run("identity", "sign", file, "--key", self.folder / f"{party}.key.pem", where=False)

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[bytes]]:
        """Running until the end of the block, then told to stop."""
        agent = subprocess.Popen(
            tied(sys.executable, "-m", "agent.cli.main", "run", "--config", str(self.config)),
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield agent
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(30) == 0
        finally:
            agent.kill()
            agent.wait()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.delenv("SOFTHSM2_CONF", raising=False)
    made = Desk(tmp_path)
    made.init()
    return made


def test_a_name_outlives_its_key_under_a_running_agent_and_a_verifier_needs_the_history_alone(desk: Desk) -> None:
    order = desk.folder / "order.cose"
    proposed = desk.run("identity", "propose", "create", "--subject", desk.folder / "subject.toml", "--out", order)
    assert proposed["missing"] == ["A. Owner", "Grid Ltd"]
    desk.signed(order, "owner")
    refused = desk.run("identity", "apply", order, code=1)
    assert "not signed by Grid Ltd" in refused["error"]
    desk.signed(order, "operator")
    assert desk.run("identity", "review", order, where=False)["missing"] == []
    created = desk.run("identity", "apply", order)
    assert created["gateway_id"] == proposed["gateway_id"]
    assert created["gateway_id"].startswith("did:v2g:z")

    # What the platform is given names the gateway by its history from now on.
    assert desk.init()["gateway_id"] == created["gateway_id"]
    request = x509.load_pem_x509_csr((desk.state_dir / "enrolment" / "uplink.csr").read_bytes())
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [created["gateway_id"]]

    with desk.agent():
        wait(lambda: sealed(desk) > 0, "the agent has sealed a first batch")
        desk.run("identity", "rotate", "--out", order)
        desk.signed(order, "owner", "operator")
        rotated = desk.run("identity", "apply", order)
        assert (rotated["gateway_id"], rotated["epochs"][1]["number"]) == (created["gateway_id"], 2)
        # The agent tells of it in evidence, under the new key.
        before = rotated["epochs"][0]["until"][1]
        wait(lambda: sealed(desk) > before, "the agent seals on")

    bundle, history = desk.folder / "evidence.cbor", desk.folder / "history.cose"
    assert desk.run("export", bundle)["gateway_id"] == created["gateway_id"]
    desk.run("identity", "history", "--out", history)
    shown = desk.run("verify", bundle, "--history", history, "--gateway", created["gateway_id"], where=False)
    assert shown["ok"]
    assert shown["last_number"] > before
    assert shown["statements"]["alarm"] == 1
    asked = desk.run("verify", bundle, "--gateway", created["gateway_id"], where=False, code=2)
    assert "--history FILE" in asked["error"]
    document = desk.run("identity", "document")
    assert document["verificationMethod"][0]["id"] == f"{created['gateway_id']}#key-2"
    assert document["v2gGateway"]["location"] == {"latitude": 52.52, "longitude": 13.41, "gridDegrees": 0.01}


def test_a_lost_key_is_replaced_by_its_recovery_key_and_the_history_alone_proves_both_signatures(desk: Desk) -> None:
    for name in ("owner-recovery", "owner-new", "thief"):
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (desk.folder / f"{name}.pem").write_bytes(public)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (desk.folder / f"{name}.key.pem").write_bytes(secret)
    text = desk.config.read_text().replace("[evidence]\n", '[evidence]\ncountersign = "ml-dsa-65"\n', 1)
    desk.config.write_text(text)
    file, order = desk.folder / "subject.toml", desk.folder / "order.cose"
    plain = file.read_text()
    file.write_text(plain.replace('"owner.pem"', '"owner.pem"\nrecovery_key_file = "owner-recovery.pem"'))
    desk.run("identity", "propose", "create", "--subject", file, "--out", order)
    desk.signed(order, "owner", "operator")
    created = desk.run("identity", "apply", order)
    assert created["epochs"][0]["countersigner"]

    # The owner's key is lost.
    file.write_text(plain.replace('"owner.pem"', '"owner-new.pem"'))
    propose = ("identity", "propose", "replace", "--subject", file, "--out", order)
    assert "recovery key" in desk.run(*propose, code=1)["error"]
    said = desk.run(*propose, "--recovery-key", desk.folder / "nowhere.pem", code=1)["error"]
    assert "nowhere.pem: No such file" in said
    wrong = desk.run(*propose, "--recovery-key", desk.folder / "thief.pem")
    desk.signed(order, "operator", "thief", "owner-new")
    assert "not the one that was committed to" in desk.run("identity", "apply", order, code=1)["error"]
    right = desk.run(*propose, "--recovery-key", desk.folder / "owner-recovery.pem")
    assert (right["missing"], wrong["number"]) == (["A. Owner", "Grid Ltd", "the recovery key of A. Owner"], 1)
    desk.signed(order, "operator", "owner-new")
    assert "not signed by the recovery key of A. Owner" in desk.run("identity", "apply", order, code=1)["error"]
    desk.signed(order, "owner-recovery")
    replaced = desk.run("identity", "apply", order)
    assert (replaced["gateway_id"], replaced["entries"]) == (created["gateway_id"], 2)

    with desk.agent():
        wait(lambda: sealed(desk) > 0, "the agent has sealed a first batch")
    bundle, history = desk.folder / "evidence.cbor", desk.folder / "history.cose"
    desk.run("export", bundle)
    desk.run("identity", "history", "--out", history)
    for policy, held in (("pq-only", {"ML-DSA-65"}), ("both", {"ES256", "ML-DSA-65"}), ("either", {"ES256"})):
        shown = desk.run("verify", bundle, "--history", history, "--policy", policy, where=False)
        assert shown["ok"]
        assert set(shown["signatures"]["held"]) == held
    document = desk.run("identity", "document")
    second = document["verificationMethod"][1]
    assert second["id"] == f"{created['gateway_id']}#countersign-1"
    assert (second["publicKeyJwk"]["kty"], second["publicKeyJwk"]["alg"]) == ("AKP", "ML-DSA-65")
    assert document["assertionMethod"] == [f"{created['gateway_id']}#key-1"]


def test_a_history_without_a_second_key_proves_no_second_signature(desk: Desk) -> None:
    order, history, bundle = desk.folder / "order.cose", desk.folder / "history.cose", desk.folder / "evidence.cbor"
    desk.run("identity", "propose", "create", "--subject", desk.folder / "subject.toml", "--out", order)
    desk.signed(order, "owner", "operator")
    desk.run("identity", "apply", order)
    with desk.agent():
        wait(lambda: sealed(desk) > 0, "the agent has sealed a first batch")
    desk.run("export", bundle)
    desk.run("identity", "history", "--out", history)
    said = desk.run("verify", bundle, "--history", history, "--policy", "pq-only", where=False, code=1)["error"]
    assert "names no second key" in said


def sealed(desk: Desk) -> int:
    """Batches that the agent's store holds."""

    async def count() -> int:
        async with Store.beside(desk.state_dir) as store:
            return len(await store.batches(1, 1000))

    return asyncio.run(count())


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.05)


def test_what_is_wrong_with_a_subject_or_an_order_is_said_without_a_traceback(desk: Desk) -> None:
    file = desk.folder / "subject.toml"
    good = file.read_text()
    for bad, said in (
        (good.replace("52.5201", "north"), "write LATITUDE,LONGITUDE"),
        (good.replace("operator.pem", "owner.pem"), "dual control needs two"),
        (good.replace("operator.pem", "nowhere.pem"), "nowhere.pem"),
        (good.replace("operator.pem", "operator.key.pem"), "holds a private key"),
        (good + "[meter]\n", "meter is not known here"),
        (good.replace("30000", "-1"), "not an integer from 0"),
        ("owner = 1", "owner.: not a table"),
        ("[", "subject.toml"),
    ):
        file.write_text(bad)
        answer = desk.run("identity", "propose", "create", "--subject", file, code=1)
        assert said in answer["error"], answer
    file.write_text(good)
    noise = desk.folder / "noise"
    noise.write_bytes(b"\x00\xff noise")
    for arguments, said in (
        (("identity", "apply", noise), "order"),
        (("identity", "adopt", noise), "history"),
        (("identity", "propose", "rotate"), "there is no history yet"),
        (("identity", "propose", "create"), "--subject FILE"),
        (("identity", "history"), "has no history"),
        (("identity", "document", "--device", "pv-1"), "only a gateway with a history"),
    ):
        assert said in desk.run(*arguments, code=1)["error"]
    assert desk.run("identity", "propose", "marry", code=2)["ok"] is False
    assert desk.run("identity", "propose", "recover", "--believed", "1:2:xyz", code=2)["ok"] is False
    shown = desk.run("identity", "show")
    assert shown["gateway_id"].startswith("did:key:z")
    assert desk.run("identity", "document")["id"] == shown["gateway_id"]


def test_an_order_is_signed_with_a_key_under_a_passphrase_and_not_with_another_kind_of_key(desk: Desk) -> None:
    order = desk.folder / "order.cose"
    desk.run("identity", "propose", "create", "--subject", desk.folder / "subject.toml", "--out", order)
    locked = desk.folder / "locked.pem"
    key = load_pem_private_key((desk.folder / "owner.key.pem").read_bytes(), None)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")))
    assert "cannot be read" in desk.run("identity", "sign", order, "--key", locked, where=False, code=1)["error"]
    asked = ["identity", "sign", str(order), "--key", str(locked), "--passphrase-stdin", "--json"]
    done = CliRunner().invoke(app, asked, input="open sesame\n")
    assert json.loads(done.stdout)["signatures"] == 1
    # A stranger's signature would make the order void, and cannot be taken back.
    stranger, before = desk.folder / "stranger.pem", order.read_bytes()
    p256 = ec.generate_private_key(ec.SECP256R1())
    stranger.write_bytes(p256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    said = desk.run("identity", "sign", order, "--key", stranger, where=False, code=1)["error"]
    assert "neither that of A. Owner nor Grid Ltd" in said
    assert order.read_bytes() == before
    weak = desk.folder / "weak.pem"
    p384 = ec.generate_private_key(ec.SECP384R1())
    weak.write_bytes(p384.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert "cannot sign this" in desk.run("identity", "sign", order, "--key", weak, where=False, code=1)["error"]
