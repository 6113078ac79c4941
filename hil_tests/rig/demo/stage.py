"""The processes of the demo: simulated site, platform, the link between, and the real agent with a real config file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from hil_tests.rig.demo.story import Story
from hil_tests.rig.link import Link

READY_S: Final = 60.0
ENDED_S: Final = 20.0
PV_RATED_W: Final = 48_000
"""So much sun that the battery and two cars cannot take it all: the CURTAIL has something to cut."""
CHARGER_RATED_W: Final = 7_360
ROOT: Final = Path(__file__).resolve().parents[3]


class StageError(Exception):
    """Something did not start, or ended by itself. Says what, and where its words are."""


class Child:
    """A process that speaks JSON lines; its standard error goes to a file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log
        self.said: list[dict[str, object]] = []
        self._heard = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    @staticmethod
    async def start(name: str, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> Child:
        """Start `python ARGUMENTS` with its words in FOLDER/NAME.log."""
        log = folder / f"{name}.log"
        with log.open("ab") as words:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=words,
                cwd=ROOT,
                env={**os.environ, **environment},
                # Ctrl-C is for us: the processes end in order.
                start_new_session=True,
            )
        return Child(name, process, log)

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    self.said.append(said)
                    self._heard.set()
                    self._heard = asyncio.Event()
        self._heard.set()

    async def hear(self, key: str, since: int = 0) -> dict[str, object]:
        """The first line from number `since` that has this key. Raises StageError when it does not come."""
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    for said in self.said[since:]:
                        if key in said:
                            return said
                    if self._listening.done():
                        raise StageError(
                            f"{self.name} ended with exit code {await self._process.wait()}: {self.words()}"
                        )
                    await self._heard.wait()
        except TimeoutError:
            raise StageError(f"{self.name} did not get ready within {READY_S:g} s: {self.words()}") from None

    async def order(self, **order: object) -> None:
        """One order on its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def end(self) -> int:
        """SIGTERM, and SIGKILL when that does not help; the exit code."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(ENDED_S):
                code = await self._process.wait()
                await self._listening
        except TimeoutError:
            self._process.kill()
            code = await self._process.wait()
            await self._listening
        return code

    def words(self) -> str:
        """The end of what it wrote, for an error."""
        return f"{self._log}: …{self._log.read_text(errors='replace')[-600:]}"


@dataclass(slots=True)
class Stage:
    """Everything that runs, and where its files are."""

    folder: Path
    site: Child
    platform: Child
    gateway: Child
    link: Link
    gateway_id: str
    page_url: str
    config: Path
    environment: Mapping[str, str]

    @property
    def truth_file(self) -> Path:
        return self.folder / "truth.jsonl"

    @property
    def books_file(self) -> Path:
        return self.folder / "platform" / "books.json"

    async def status(self, session: aiohttp.ClientSession) -> dict[str, object] | None:
        """The agent's snapshot; None while it does not answer."""
        try:
            async with session.get(f"{self.page_url}api/status", timeout=aiohttp.ClientTimeout(total=2)) as answer:
                status: dict[str, object] = await answer.json()
                return status
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

    async def export(self) -> Path:
        """The agent's evidence, by its own command. Raises StageError."""
        out = self.folder / "evidence.bundle"
        await run_agent(
            ["export", str(out), "--config", str(self.config), "--json"],
            environment=self.environment,
        )
        return out


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def run_agent(
    arguments: Sequence[str], *, environment: Mapping[str, str], module: str = "agent.cli.main"
) -> dict[str, object]:
    """Run a command of the agent (or another module) to its end; its JSON. Raises StageError."""
    out = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    words, complaints = await out.communicate()
    if out.returncode != 0:
        raise StageError(
            f"{module} {' '.join(arguments)}: {complaints.decode(errors='replace')[-600:]}{words.decode()[-300:]}"
        )
    answer = json.loads(words)
    assert isinstance(answer, dict)
    return answer


SETTLED: Final = ("pv-1", "battery-1", "charger-1", "charger-2")


async def set_up(folder: Path, story: Story) -> Stage:
    """Start everything, in the order of a real installation. Raises StageError."""
    environment = {"PYTHONUNBUFFERED": "1"}
    ocpp_port, page_port = free_port(), free_port()
    password = folder / "charger.password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(18), encoding="ascii")

    site = await Child.start(
        "site",
        [
            "-m", "hil_tests.rig.site", "--csms", f"ws://127.0.0.1:{ocpp_port}", "--truth", str(folder / "truth.jsonl"),
            "--truth-period", "0.5", "--ramp", f"{story.device_ramp_s:.2f}", "--pv-rated", str(PV_RATED_W),
            "--v2g-password-file", str(password), "--plain-password-file", str(password), "--end-with-stdin",
        ],
        folder=folder,
        environment=environment,
    )  # fmt: skip
    addresses = (await site.hear("ready"))["addresses"]
    assert isinstance(addresses, dict)

    # As an installer: token, keys and certificate request; the platform enrols them; then the configuration.
    settled = [part for device_id in SETTLED for part in ("--settled", device_id)]
    initialised = await run_agent(
        ["init", "--state-dir", str(folder / "state"), "--config-out", str(folder / "init.toml"), "--name", "demo-site",
         *settled, "--json"],
        environment=environment,
    )  # fmt: skip
    enrolment = Path(str(initialised["enrolment_dir"]))
    keys = [f"evidence={enrolment / 'evidence.pem'}"]
    keys += [f"device:{device_id}={enrolment / f'device-{device_id}.pem'}" for device_id in SETTLED]
    enrolled = await run_agent(
        ["enrol", str(folder / "platform"), "--csr", str(enrolment / "uplink.csr"),
         *(part for key in keys for part in ("--key", key))],
        environment=environment,
        module="hil_tests.rig.platform",
    )  # fmt: skip
    platform = await Child.start(
        "platform", ["-m", "hil_tests.rig.platform", "serve", str(folder / "platform")], folder=folder,
        environment=environment,
    )  # fmt: skip
    address = str((await platform.hear("ready"))["address"])
    link = await Link("127.0.0.1", int(address.rpartition(":")[2])).__aenter__()

    config = folder / "gateway.toml"
    config.write_text(
        configuration(
            folder, story, addresses=addresses, enrolled=enrolled, link_address=link.address, ocpp_port=ocpp_port,
            page_port=page_port, password=password,
        ),
        encoding="utf-8",
    )  # fmt: skip
    gateway = await Child.start(
        "gateway", ["-m", "agent.cli.main", "run", "--config", str(config)], folder=folder, environment=environment
    )
    return Stage(
        folder=folder,
        site=site,
        platform=platform,
        gateway=gateway,
        link=link,
        gateway_id=str(initialised["gateway_id"]),
        page_url=f"http://127.0.0.1:{page_port}/",
        config=config,
        environment=environment,
    )


def configuration(
    folder: Path,
    story: Story,
    *,
    addresses: Mapping[str, object],
    enrolled: Mapping[str, object],
    link_address: str,
    ocpp_port: int,
    page_port: int,
    password: Path,
) -> str:
    """The agent's configuration file."""
    files = "\n".join(f'{key} = "{value}"' for key, value in enrolled.items() if key.endswith("_file"))
    modbus = "\n".join(
        f'[[device]]\nid = "{device_id}"\nkind = "{kind}"\ndriver = "sunspec"\n'
        f'address = "{addresses[device_id]}"\n{more}'
        for device_id, kind, more in (
            ("meter-1", "meter", ""),
            ("pv-1", "pv", 'parent = "meter-1"\nsettled = true\n'),
            ("battery-1", "battery", 'parent = "meter-1"\nsettled = true\n'),
        )
    )
    chargers = "\n".join(
        f'[[device]]\nid = "{device_id}"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "{device_id}"\n'
        f'password_secret = "file:{password}"\nparent = "meter-1"\nsettled = true\nrated_import_w = {CHARGER_RATED_W}\n'
        f'fallback_import_w = 4140\nlocal_tokens = ["{token}"]\n{more}'
        for device_id, token, more in (
            ("charger-1", "TOKEN-V2G", f'discharge = "negative_limit"\nrated_export_w = {CHARGER_RATED_W}\n'),
            ("charger-2", "TOKEN-PLAIN", ""),
        )
    )
    return f"""\
# Configuration of the demo: what an installer would write for this site.
[gateway]
name = "demo-site"
state_dir = "{folder / "state"}"
log_level = "info"

[site]
fuse_a = 80
import_limit_w = 50000
export_limit_w = 50000
house_reserve_w = 3000
discharge_permitted = true

[token]
label = "v2g-gateway"
pin_secret = "file:{folder / "state" / "token-pin"}"

[platform]
endpoints = ["{link_address}"]
{files}
reconnect_least_s = 0.2
reconnect_most_s = 2.0
stall_s = 5.0

[control]
lease_s = 30

[[control.mandate]]
token_id = "TOKEN-V2G"
minimum_soc_percent = 30

[settlement]
window_s = {story.window_s}

[ocpp]
listen = "127.0.0.1:{ocpp_port}"
meter_interval_s = 1
heartbeat_s = 30

[web]
listen = "127.0.0.1:{page_port}"

{modbus}
{chargers}"""
