"""The processes of the demo: simulated site, platform, the link between, and the real agent with a real config file.

Each can be started, ended, killed and started again by itself: their ports stay, as addresses do at a real site.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from hil_tests.rig.demo.child import Child, StageError, run_to_end
from hil_tests.rig.demo.configuration import SETTLED, configuration
from hil_tests.rig.demo.story import Story
from hil_tests.rig.link import Link
from hil_tests.rig.site.signing_meter import new_key

PV_RATED_W: Final = 48_000
"""So much sun that the battery and two cars cannot take it all: the CURTAIL has something to cut."""
ENVIRONMENT: Final = {"PYTHONUNBUFFERED": "1"}
FIRST_PORT: Final = 10_000
LAST_PORT: Final = 32_000
"""Below the ports that Linux gives to outgoing connections: one that is free stays free while its owner is away."""
AGENT: Final = "agent.cli.main"
PLATFORM: Final = "hil_tests.rig.platform"
PUBLISHED: Final = "hil_tests.rig.published"


class Stage:
    """Everything that can run, and where its files are. Made by `prepare`; ended by `close`."""

    def __init__(
        self,
        folder: Path,
        story: Story,
        *,
        state_dir: Path,
        gateway_id: str,
        link: Link,
        ports: Mapping[str, int],
    ) -> None:
        """Use `prepare`."""
        self.folder = folder
        self.state_dir = state_dir
        self.gateway_id = gateway_id
        self.link = link
        self._story = story
        self._ports = ports
        self._children: dict[str, Child] = {}

    @staticmethod
    async def prepare(folder: Path, story: Story, *, state_dir: Path | None = None) -> Stage:
        """As an installer: token, keys and certificate request; the platform enrols them; then the configuration.

        Nothing runs yet but the link. `state_dir` is the agent's (default: a folder in `folder`). Raises StageError.
        """
        state_dir = state_dir or folder / "state"
        ports = dict(zip(("meter", "pv", "battery", "ocpp", "page", "platform"), free_ports(6), strict=True))
        password = folder / "charger.password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(18), encoding="ascii")
        settled = [part for device_id in SETTLED for part in ("--settled", device_id)]
        initialised = await run_to_end(
            AGENT,
            ["init", "--state-dir", str(state_dir), "--config-out", str(folder / "init.toml"), "--name",
             "demo-site", *settled, "--json"],
            environment=ENVIRONMENT,
        )  # fmt: skip
        enrolment = Path(str(initialised["enrolment_dir"]))
        keys = [f"evidence={enrolment / 'evidence.pem'}"]
        keys += [f"device:{device_id}={enrolment / f'device-{device_id}.pem'}" for device_id in SETTLED]
        enrolled = await run_to_end(
            PLATFORM,
            ["enrol", str(folder / "platform"), "--csr", str(enrolment / "uplink.csr"),
             *(part for key in keys for part in ("--key", key))],
            environment=ENVIRONMENT,
        )  # fmt: skip
        link = await Link("127.0.0.1", ports["platform"]).__aenter__()
        stage = Stage(
            folder, story, state_dir=state_dir, gateway_id=str(initialised["gateway_id"]), link=link, ports=ports
        )
        stage.config.write_text(
            configuration(
                state_dir,
                window_s=story.window_s,
                addresses={f"{name}-1": f"tcp://127.0.0.1:{ports[name]}" for name in ("meter", "pv", "battery")},
                enrolled=enrolled,
                link_address=link.address,
                ocpp_port=ports["ocpp"],
                page_port=ports["page"],
                password=password,
                meter_key=folder / "charger-1.meter.pem",
                meter_key_sha256=new_key(folder / "charger-1.meter.key", folder / "charger-1.meter.pem"),
            ),
            encoding="utf-8",
        )
        return stage

    # -- Files and addresses ----------------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        return self.folder / "gateway.toml"

    @property
    def truth_file(self) -> Path:
        return self.folder / "truth.jsonl"

    @property
    def books_file(self) -> Path:
        return self.folder / "platform" / "books.json"

    @property
    def page_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['page']}/"

    @property
    def ocpp_port(self) -> int:
        return self._ports["ocpp"]

    # -- Processes --------------------------------------------------------------------------------------------------

    @property
    def site(self) -> Child:
        """The simulated site; the last one, when it has ended."""
        return self._children["site"]

    @property
    def platform(self) -> Child:
        """The platform; the last one, when it has ended."""
        return self._children["platform"]

    @property
    def gateway(self) -> Child:
        """The agent; the last one, when it has ended."""
        return self._children["gateway"]

    async def start_all(self) -> None:
        """In the order of a real installation. Raises StageError."""
        await self.start_site()
        await self.start_platform()
        await self.start_gateway()

    async def start_site(self) -> None:
        """Returns when it is ready. Raises StageError."""
        password, ports = self.folder / "charger.password", self._ports
        site = await self._start(
            "site",
            "-m", "hil_tests.rig.site", "--csms", f"ws://127.0.0.1:{ports['ocpp']}", "--truth", str(self.truth_file),
            "--truth-period", "0.5", "--ramp", f"{self._story.device_ramp_s:.2f}", "--pv-rated", str(PV_RATED_W),
            *(part for name in ("meter", "pv", "battery") for part in (f"--{name}-port", str(ports[name]))),
            "--v2g-password-file", str(password), "--plain-password-file", str(password),
            "--v2g-meter-key-file", str(self.folder / "charger-1.meter.key"), "--end-with-stdin",
            "--v2g-version", "2.1",
        )  # fmt: skip
        await site.hear("ready")

    async def start_platform(self, *more: str) -> None:
        """Returns when it is ready. `more`: arguments for its command line. Raises StageError."""
        folder, port = self.folder / "platform", self._ports["platform"]
        platform = await self._start("platform", "-m", PLATFORM, "serve", str(folder), "--port", str(port), *more)
        await platform.hear("ready")

    async def start_published_platform(self, archive: Path) -> None:
        """In place of the platform one of the published contract alone. Returns when it is ready. Raises StageError."""
        folder, port = self.folder / "platform", self._ports["platform"]
        platform = await self._start("platform", "-m", PUBLISHED, str(folder), str(archive), "--port", str(port))
        await platform.hear("ready")

    async def start_gateway(self, *command: str) -> None:
        """Returns at once: the status page says when it is ready. `command`: what starts it, where it is not itself."""
        begin = command or ("-m", AGENT)
        await self._start("gateway", *begin, "run", "--config", str(self.config))

    async def start_second_gateway(self) -> Child:
        """An agent more, on the state directory that is in use; the caller ends it."""
        arguments = ("-m", AGENT, "run", "--config", str(self.config))
        return await Child.start("second-gateway", arguments, folder=self.folder, environment=ENVIRONMENT)

    async def _start(self, name: str, *arguments: str) -> Child:
        child = await Child.start(name, arguments, folder=self.folder, environment=ENVIRONMENT)
        self._children[name] = child
        return child

    def take_token_away(self) -> None:
        """As if it had been unplugged."""
        self._tokens.rename(self._unplugged)
        self._tokens.mkdir(mode=0o700)

    def put_token_back(self) -> None:
        self._tokens.rmdir()
        self._unplugged.rename(self._tokens)

    @property
    def _tokens(self) -> Path:
        return self.state_dir / "token" / "tokens"

    @property
    def _unplugged(self) -> Path:
        return self.state_dir / "token" / "unplugged"

    async def close(self) -> None:
        """End what runs, the agent first, and the link."""
        for name in ("gateway", "site", "platform"):
            if name in self._children:
                await self._children[name].end()
        await self.link.__aexit__()

    # -- The agent --------------------------------------------------------------------------------------------------

    async def status(self, session: aiohttp.ClientSession) -> dict[str, object] | None:
        """The agent's snapshot; None while it does not answer."""
        try:
            async with session.get(f"{self.page_url}api/status", timeout=aiohttp.ClientTimeout(total=2)) as answer:
                status: dict[str, object] = await answer.json()
                return status
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None

    async def run(self, *command: str) -> dict[str, object]:
        """One of the agent's own commands, with --json. Raises StageError when it fails."""
        return await run_to_end(AGENT, [*command, "--json"], environment=ENVIRONMENT)

    async def export(self) -> Path:
        """The agent's evidence, by its own command. Raises StageError."""
        out = self.folder / "evidence.bundle"
        await self.run("export", str(out), "--config", str(self.config))
        return out


def free_ports(count: int) -> Sequence[int]:
    """Ports on loopback that were free a moment ago, and that no outgoing connection will take."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randint(FIRST_PORT, LAST_PORT)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return tuple(found)


__all__ = ["Child", "Stage", "StageError"]
