"""The command line as processes: exit codes, JSON, STOP without an agent and with one, evidence out and verified."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from agent.cli.client import SOCKET_NAME
from agent.evidence.batch import KeyProtection
from agent.evidence.bundle import BundleHead
from agent.evidence.seal import SealPolicy
from agent.identity.did import did_of
from agent.identity.purposes import EVIDENCE_KEY
from agent.roads.desk import Desk
from agent.roads.sealing import Sealer
from agent.status import Verdict
from agent.store import Store
from agent.web.server import serve_locally
from hil_tests.rig.tie import tied
from hil_tests.roads_parts import BOOT_ID, START_US, HandClock, reading
from hil_tests.test_web import WELL, FakeSite
from tests.agent.identity.software import SoftwareSigner

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0


def command(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.cli.main", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


async def command_beside(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same while this process serves as the agent."""
    return await asyncio.to_thread(command, *arguments)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'[gateway]\nstate_dir = "{tmp_path / "state"}"\n[token]\nlabel = "t"\n'
        '[[device]]\nid = "grid"\nkind = "meter"\ndriver = "sunspec"\naddress = "tcp://127.0.0.1:502"\n'
    )
    return file


@pytest.fixture
def stop_file(config: Path) -> Path:
    return config.parent / "state" / "STOP"


# Configuration


def test_a_good_configuration_is_said_to_be_good(config: Path) -> None:
    done = command("config", "check", "--config", config)
    assert (done.returncode, done.stderr) == (0, "")
    assert "good. 1 device: grid." in done.stdout


def test_a_good_configuration_as_json(config: Path) -> None:
    config.write_text(config.read_text().replace('label = "t"', 'label = "t"\nmodule = "/none.so"'))
    done = command("config", "check", "--config", config, "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer.pop("missing") == ["token.module: /none.so: there is no such file; until then nothing is signed"]
    assert answer == {"ok": True, "file": str(config), "devices": ["grid"], "platform": False}


def test_a_secret_that_others_can_read_is_told_before_the_gateway_misses_it(config: Path) -> None:
    pin = config.with_name("pin")
    pin.write_text("987654")
    pin.chmod(0o644)
    config.write_text(config.read_text().replace('label = "t"', f'label = "t"\npin_secret = "file:{pin}"'))
    done = command("config", "check", "--config", config)
    assert done.returncode == 0
    assert f"! token.pin_secret: {pin}: others may read this secret; run chmod 600 on it" in done.stdout
    assert "987654" not in done.stdout


def test_a_wrong_configuration_is_refused_with_file_line_and_key(config: Path) -> None:
    config.write_text(config.read_text() + "unit = 999\n")
    line = len(config.read_text().splitlines())
    done = command("config", "check", "--config", config)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{config}:{line}: device.1.unit" in done.stderr
    done = command("config", "check", "--config", config, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"]) == (1, False)
    assert "device.1.unit" in answer["error"]


def test_a_configuration_that_is_missing_is_refused_with_the_way_to_one(tmp_path: Path) -> None:
    done = command("config", "check", "--config", tmp_path / "none.toml")
    assert done.returncode == 1
    assert "v2g-gateway init" in done.stderr


def test_wrong_use_is_another_exit_code() -> None:
    assert command("config", "check", "--no-such-option").returncode == 2
    assert command("scan", "host", "--units", "999", "--json").returncode == 2


# STOP


def test_stop_holds_without_a_running_agent_until_it_is_cleared(config: Path, stop_file: Path) -> None:
    done = command("stop", "--config", config)
    assert done.returncode == 0
    assert str(stop_file) in done.stdout.replace("\n", "")
    assert stop_file.read_text().startswith("command line, ")
    done = command("clear-stop", "--config", config)
    assert (done.returncode, stop_file.exists()) == (0, False)
    assert "no agent runs" in done.stdout


def test_stop_and_clear_stop_as_json(config: Path, stop_file: Path) -> None:
    done = command("stop", "--config", config, "--json")
    answer = json.loads(done.stdout)
    assert (answer["ok"], answer["noted"], answer["agent_reached"]) == (True, True, False)
    assert stop_file.exists()
    for _ in range(2):
        done = command("clear-stop", "--config", config, "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, {"ok": True, "agent_reached": False})
        assert not stop_file.exists()


def test_stop_that_can_neither_be_noted_nor_given_fails_aloud(config: Path) -> None:
    (config.parent / "state").rmdir()
    done = command("stop", "--config", config)
    assert done.returncode == 1
    assert "STOP could not be given" in done.stderr


def test_stop_needs_no_name_of_the_user(config: Path, stop_file: Path) -> None:
    # A user id without an entry, as containers have; no variable that names it.
    program = (
        "import os, pwd, sys\n"
        "def nobody(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = nobody\n"
        "for name in ('LOGNAME', 'USER', 'LNAME', 'USERNAME'): os.environ.pop(name, None)\n"
        f"sys.argv = ['v2g-gateway', 'stop', '--config', {str(config)!r}]\n"
        "from agent.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert stop_file.read_text() == f"command line, user {os.getuid()}\n"


async def test_why_explains_a_running_agent_and_names_what_it_does_not_know(config: Path) -> None:
    name = WELL.devices[0].device_id
    async with serve_locally(FakeSite(), config.parent / "state" / SOCKET_NAME):
        told = await command_beside("why", "--config", config)
        as_json = await command_beside("why", name, "--config", config, "--json")
        unknown = await command_beside("why", "nobody", "--config", config)
    assert told.returncode == 0
    assert f"{name}: " in told.stdout
    assert set(json.loads(as_json.stdout)["devices"]) == {name}
    assert unknown.returncode == 2
    assert "nobody" in unknown.stderr
    silent = await command_beside("why", "--config", config)
    assert silent.returncode == 1
    assert "no agent runs" in silent.stderr


async def test_stop_reaches_a_running_agent(config: Path, stop_file: Path) -> None:
    site = FakeSite()
    async with serve_locally(site, stop_file.parent / SOCKET_NAME):
        done = await command_beside("stop", "--config", config, "--json")
        assert json.loads(done.stdout)["agent_reached"] is True
        assert site.now.stopped_by is not None
        assert site.now.stopped_by.startswith("command line, ")
        done = await command_beside("clear-stop", "--config", config, "--json")
        assert json.loads(done.stdout)["agent_reached"] is True
        assert site.now.stopped_by is None


# Status


def test_status_without_an_agent_says_where_it_looked(config: Path) -> None:
    done = command("status", "--config", config)
    assert done.returncode == 1
    assert SOCKET_NAME in done.stderr
    done = command("status", "--config", config, "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)


async def test_status_shows_a_running_agent_and_its_verdict_is_the_exit_code(config: Path, stop_file: Path) -> None:
    site = FakeSite()
    async with serve_locally(site, stop_file.parent / SOCKET_NAME):
        done = await command_beside("status", "--config", config, "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, json.loads(json.dumps(asdict(WELL))))
        done = await command_beside("status", "--config", config)
        assert done.returncode == 0
        assert "roof <script>alert(1)</script>" in done.stdout
        site.now = replace(WELL, verdict=Verdict.TROUBLE)
        assert (await command_beside("status", "--config", config)).returncode == 2


# Evidence


@pytest.fixture
async def evidence(config: Path) -> str:
    """The gateway id, once its store holds three sealed batches."""
    signer = SoftwareSigner()
    hand = HandClock()
    async with await Store.open(config.parent / "state") as store:
        desk = Desk(store, lambda: hand.monotonic_s)
        sealer = Sealer(
            store=store,
            desk=desk,
            clock=hand.clock,
            signer=signer,
            gateway_id=did_of(signer.public_key_der),
            boot_id=BOOT_ID,
            key_protection=KeyProtection.SOFTWARE,
            policy=SealPolicy(),
            on_sealed=lambda _: None,
        )
        for sequence in range(1, 4):
            await desk.put([reading(sequence, at_us=START_US + sequence)])
            await sealer.seal_once()
        await store.journal("token").remember(f"pin/{EVIDENCE_KEY.hex()}", signer.public_key_der)
    return did_of(signer.public_key_der)


def test_exported_evidence_verifies_for_who_trusts_the_gateway(config: Path, evidence: str, tmp_path: Path) -> None:
    file = tmp_path / "evidence.bundle"
    done = command("export", file, "--config", config, "--json")
    assert json.loads(done.stdout) == {"ok": True, "file": str(file), "batches": 3, "gateway_id": evidence}
    done = command("verify", file, "--gateway", evidence, "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["statements"]) == (0, True, {"reading": 3})
    done = command("verify", file, "--gateway", evidence)
    assert (done.returncode, "one unbroken chain of batches 1 to 3" in done.stdout) == (0, True)


def test_evidence_that_was_changed_or_is_nobodys_is_refused(config: Path, evidence: str, tmp_path: Path) -> None:
    file = tmp_path / "evidence.bundle"
    command("export", file, "--config", config)
    content = bytearray(file.read_bytes())
    assert command("verify", file).returncode == 2, "nobody is named to trust"
    content[-10] ^= 1
    file.write_bytes(content)
    done = command("verify", file, "--gateway", evidence, "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (1, False)
    assert "batch 3" in json.loads(done.stdout)["error"]


def test_there_is_nothing_to_export_before_the_agent_ran(config: Path, tmp_path: Path) -> None:
    done = command("export", tmp_path / "evidence.bundle", "--config", config)
    assert done.returncode == 1
    assert "there is no store" in done.stderr
    assert not (tmp_path / "evidence.bundle").exists()


# Scan


def test_a_scan_of_nobody_names_the_place_and_fails() -> None:
    done = command("scan", "127.0.0.1:1", "--timeout-s", "0.2", "--json")
    [line] = json.loads(done.stdout)["devices"]
    assert (done.returncode, line["address"], line["kind"]) == (1, "tcp://127.0.0.1:1", None)
    assert line["problem"]


def test_a_file_cannot_speak_to_the_terminal_of_its_auditor(tmp_path: Path) -> None:
    """Evidence comes from strangers: what it says of itself is shown, and moves no cursor and sets no title."""
    file = tmp_path / "evil.bundle"
    file.write_bytes(BundleHead("did:\x1b]0;owned\x07\x1b[2J\x9b1m", ()).encode())
    done = command("verify", file)
    assert done.returncode == 2, "nobody is named to trust"
    assert "owned" in done.stderr
    assert all(letter.isprintable() or letter == "\n" for letter in done.stdout + done.stderr)


def test_what_the_agent_makes_is_for_its_user_alone(config: Path, tmp_path: Path) -> None:
    """Also where it is started by hand, with a umask that lets others in."""
    arguments = tied(sys.executable, "-m", "agent.cli.main", "run", "--config", str(config))
    agent = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL, umask=0)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (tmp_path / "state" / SOCKET_NAME).exists() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert command("stop", "--config", config).returncode == 0
        made = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "state").rglob("*")}
    finally:
        agent.terminate()
        agent.wait(PATIENCE_S)
    assert {SOCKET_NAME, "evidence.db"} <= made.keys()
    assert {name for name, others in made.items() if others and name != "STOP"} == set()


async def test_an_export_is_for_its_owner_alone(config: Path, tmp_path: Path) -> None:
    """It says when somebody is at home. Whom to give it is the owner's to decide."""
    async with await Store.open(tmp_path / "state"):
        pass
    out = tmp_path / "evidence.bundle"
    assert command("export", out, "--config", config).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o600
