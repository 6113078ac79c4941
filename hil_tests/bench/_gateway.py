"""The whole agent for a bench: `v2g-gateway run` over simulated devices, with a platform and a SoftHSM token."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from agent.cli.init import choose_softhsm
from agent.config import TokenSettings, read_secret
from agent.token.token import Token
from hil_tests.rig.demo.child import Child, StageError, run_to_end
from hil_tests.rig.demo.stage import AGENT, ENVIRONMENT, PLATFORM, free_ports

PERIOD_S: Final = 1
READY_S: Final = 60.0
LOOK_EVERY_S: Final = 0.2
METER: Final = "meter-0"
TOKEN_LABEL: Final = "v2g-gateway"


def device_ids(count: int) -> list[str]:
    """The grid meter and the inverters behind it."""
    return [METER, *(f"pv-{place}" for place in range(1, count))]


class Site:
    """The running agent, from outside. Made by `gateway_over`."""

    def __init__(self, agent: Child, platform: Child, page_port: int, session: aiohttp.ClientSession) -> None:
        self._agent = agent
        self.platform = platform
        self._url = f"http://127.0.0.1:{page_port}/api/status"
        self._session = session

    async def readings(self) -> int:
        """That all devices have given so far. Raises StageError when the agent does not answer."""
        return int((await self._status())["evidence"]["readings"])

    async def all_measured(self, devices: int) -> None:
        """Wait until every device was measured. Raises StageError when that does not come."""
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                status = await self._status()
                if sum(line["link"] == "online" for line in status["devices"]) == devices:
                    return
            await asyncio.sleep(LOOK_EVERY_S)
        raise StageError(f"not all {devices} devices were measured within {READY_S:g} s: {self._agent.words()}")

    async def _status(self) -> dict[str, Any]:
        async with self._session.get(self._url, timeout=aiohttp.ClientTimeout(total=5)) as answer:
            status: dict[str, Any] = await answer.json()
            return status

    def cpu_s(self) -> float:
        """User and system time of the agent so far, all threads."""
        fields = Path(f"/proc/{self._agent.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Resident memory of the agent, MiB."""
        for line in Path(f"/proc/{self._agent.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise StageError(f"the agent has ended: {self._agent.words()}")


@dataclass(frozen=True, slots=True)
class Installed:
    """A gateway with its keys, enrolled with a practice platform; nothing runs."""

    folder: Path
    gateway_id: str
    enrolled: Mapping[str, object]

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def platform_dir(self) -> Path:
        return self.folder / "platform"


async def install(folder: Path) -> Installed:
    """As an installer does it. Raises StageError."""
    initialised = await run_to_end(
        AGENT,
        ["init", "--state-dir", str(folder / "state"), "--config-out", str(folder / "init.toml"), "--name", "bench",
         "--json"],
        environment=ENVIRONMENT,
    )  # fmt: skip
    enrolment = Path(str(initialised["enrolment_dir"]))
    enrolled = await run_to_end(
        PLATFORM,
        ["enrol", str(folder / "platform"), "--csr", str(enrolment / "uplink.csr"),
         "--key", f"evidence={enrolment / 'evidence.pem'}"],
        environment=ENVIRONMENT,
    )  # fmt: skip
    return Installed(folder, str(initialised["gateway_id"]), enrolled)


def installed_token(installed: Installed) -> Token:
    """Its SoftHSM token, in this process, not started."""
    pin = f"file:{installed.state_dir / 'token-pin'}"
    settings = TokenSettings(label=TOKEN_LABEL, pin_secret=pin)
    choose_softhsm(settings, installed.state_dir)
    return Token(module=settings.module, label=TOKEN_LABEL, read_pin=lambda: read_secret(pin))


@contextlib.asynccontextmanager
async def gateway_over(
    installed: Installed, ports: Sequence[int], platform: Sequence[str] = ("-m", PLATFORM, "serve")
) -> AsyncIterator[Site]:
    """An agent over the devices of `_inverter_site`, each polled once a second, and its platform. Raises StageError.

    `platform`: the program that serves the platform's folder, and says its address when it is ready.
    """
    folder = installed.folder
    (page_port,) = free_ports(1)
    serving = await Child.start(
        "platform", (*platform, str(installed.platform_dir)), folder=folder, environment=ENVIRONMENT
    )
    try:
        address = str((await serving.hear("ready"))["address"])
        config = folder / "gateway.toml"
        config.write_text(_configuration(installed, address, page_port, ports), encoding="utf-8")
        agent = await Child.start(
            "gateway", ("-m", AGENT, "run", "--config", str(config)), folder=folder, environment=ENVIRONMENT
        )
        try:
            async with aiohttp.ClientSession() as session:
                yield Site(agent, serving, page_port, session)
        finally:
            await agent.end()
    finally:
        await serving.end()


def _configuration(installed: Installed, address: str, page_port: int, ports: Sequence[int]) -> str:
    files = "\n".join(f'{key} = "{value}"' for key, value in installed.enrolled.items() if key.endswith("_file"))
    devices = "\n".join(
        f'[[device]]\nid = "{name}"\nkind = "{name.partition("-")[0]}"\ndriver = "sunspec"\n'
        f'address = "tcp://127.0.0.1:{port}"\nperiod_s = {PERIOD_S}\n'
        + (f'parent = "{METER}"\n' if name != METER else "")
        for name, port in zip(device_ids(len(ports)), ports, strict=True)
    )
    return f"""\
[gateway]
name = "bench"
state_dir = "{installed.state_dir}"

[site]
fuse_a = 630
import_limit_w = 400000
export_limit_w = 400000

[token]
label = "{TOKEN_LABEL}"
pin_secret = "file:{installed.state_dir / "token-pin"}"

[platform]
endpoints = ["{address}"]
server_name = "localhost"
{files}

[web]
listen = "127.0.0.1:{page_port}"

{devices}"""
