"""A real mosquitto on loopback with TLS, and certificates for its clients from a practice platform's CA."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.platform.keys import SoftwareKey
from hil_tests.rig.tie import tied

PLATFORM: Final = "platform"
"""User name of the platform at the broker."""
UP_WITHIN_S: Final = 10.0


def mosquitto() -> str | None:
    """Path of the program; Debian keeps it out of a user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """What a client logs in with."""

    certificate: Path
    key: Path


def client_files(practice: Practice, folder: Path, name: str) -> ClientFiles:
    """A key file and its certificate, whose common name is the user name at the broker."""
    folder.mkdir(parents=True, exist_ok=True)
    key, stem = SoftwareKey.generate(), name.replace(":", "_")
    files = ClientFiles(folder / f"{stem}.pem", folder / f"{stem}.key.pem")
    key.save(files.key)
    files.certificate.write_bytes(practice.broker_client_certificate(name, key))
    return files


class Broker:
    """One mosquitto. Who is who comes from client certificates; each gateway has its own topics only."""

    def __init__(self, practice: Practice, folder: Path, port: int) -> None:
        self._practice = practice
        self._folder = folder
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def endpoint(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns once it listens."""
        program = mosquitto()
        if program is None:
            raise RuntimeError("mosquitto is not installed: install the package mosquitto")
        self._folder.mkdir(parents=True, exist_ok=True)
        access = self._folder / "acl"
        access.write_text(f"user {PLATFORM}\ntopic readwrite esp1/#\npattern readwrite esp1/+/%u/#\n", encoding="utf-8")
        settings = self._folder / "mosquitto.conf"
        settings.write_text(
            f"listener {self.port} 127.0.0.1\n"
            f"cafile {self._practice.public_file('ca')}\n"
            f"certfile {self._practice.public_file('server')}\n"
            f"keyfile {self._practice.key_file('server')}\n"
            "require_certificate true\nuse_identity_as_username true\n"
            f"acl_file {access}\npersistence true\npersistence_location {self._folder}/\n"
            # As root it would become another user, who may not read the practice platform's keys.
            f"max_queued_messages 10000\nuser {getpass.getuser()}\n",
            encoding="utf-8",
        )
        # As root it would become another user, who may not read the practice platform's keys.
        log = (self._folder / "log").open("ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                *tied(program, "-c", str(settings)), stdout=log, stderr=log
            )
        async with asyncio.timeout(UP_WITHIN_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                return

    async def stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill() if kill else process.terminate()
            await process.wait()

    def freeze(self, frozen: bool) -> None:
        """Its process stands still, and the kernel goes on taking what is sent to it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def forget(self) -> None:
        """While it is down: no session, no message and no retained one is left of what it had kept."""
        (self._folder / "mosquitto.db").unlink(missing_ok=True)

    def words(self) -> str:
        """What it has logged."""
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")


@asynccontextmanager
async def running_broker(practice: Practice, folder: Path) -> AsyncIterator[Broker]:
    """A broker while the context is open."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    broker = Broker(practice, folder, port)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
