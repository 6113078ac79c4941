"""The peer of the bench `pipeline`: PyPI's thingsboard-gateway in a venv of its own, with a mosquitto of its own.

As shipped, but for: sqlite storage, QoS 1, packs of 1000, no remote configuration, no statistics, warnings only in its
logs, and no look for updates on the internet. A small MQTT client stands for the platform: it answers the question for
session limits as ThingsBoard does, with no rate limits, and counts what arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from hil_tests.bench._mosquitto import plain_broker
from hil_tests.rig.demo.child import StageError

PACKAGE: Final = "thingsboard-gateway"
VERSION: Final = "3.8.5"
INSTALL_S: Final = 600.0
TELEMETRY: Final = "v1/gateway/telemetry"
QUESTION: Final = "v1/devices/me/rpc/request/"
ANSWER: Final = "v1/devices/me/rpc/response/"
LIMITS: Final = {
    "maxPayloadSize": 65_536,
    "maxInflightMessages": 100,
    "rateLimits": {},
    "gatewayRateLimits": {},
}
"""What a ThingsBoard server answers to getSessionLimits, with its shipped sizes and every rate limit off."""
LOOK_EVERY_S: Final = 0.1
NOWHERE: Final = "http://127.0.0.1:9"
"""A proxy that is not there: what it would ask of the internet is refused at once."""
LEVEL: Final = "WARNING"
HERE: Final = Path(__file__).parent
CONNECTOR: Final = "_thingsboard_connector.py"
READINGS: Final = "_pipeline_readings.py"


@dataclass(slots=True)
class Arrivals:
    """Readings that the broker delivered, each counted once."""

    seen: set[tuple[str, int]] = field(default_factory=set)
    last_s: float = 0.0

    def take(self, payload: bytes | bytearray) -> None:
        """One telemetry message. Raises ValueError when it is none."""
        for device, entries in orjson.loads(payload).items():
            self.seen.update((device, int(entry["values"]["sequence"])) for entry in entries)
        self.last_s = time.monotonic()


async def install(folder: Path, progress: Callable[[str], None]) -> Path:
    """Make the venv; its Python. Raises StageError, when there is no way to PyPI too."""
    venv = folder / "thingsboard-venv"
    progress(f"a venv for {PACKAGE} {VERSION}")
    await _run(sys.executable, "-m", "venv", str(venv))
    python = venv / "bin" / "python"
    progress(f"pip install {PACKAGE}=={VERSION} from PyPI")
    await _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{PACKAGE}=={VERSION}")
    return python


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(INSTALL_S):
            words, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise StageError(f"{' '.join(command)}: not done within {INSTALL_S:g} s") from None
    if process.returncode != 0:
        raise StageError(f"{' '.join(command)}: {words.decode(errors='replace')[-600:]}")
    return words.decode()


async def deliver(
    python: Path, folder: Path, progress: Callable[[str], None], *, devices: int, readings: int, most_s: float
) -> tuple[int, float]:
    """(readings that arrived, seconds from the first sample to the last arrival), at most `most_s` of them."""
    began_file = folder / "began.json"
    async with plain_broker(folder / "broker") as port, counting_platform(port) as arrivals:
        await _configure(python, folder, port, devices=devices, readings=readings, began_file=began_file)
        async with _gateway(python, folder) as running:
            deadline_s, shown = time.monotonic() + most_s, 0
            while len(arrivals.seen) < readings and time.monotonic() < deadline_s:
                if running.returncode is not None:
                    raise StageError(f"{PACKAGE} ended by itself: {_words(folder)}")
                if len(arrivals.seen) - shown >= readings // 5:
                    shown = len(arrivals.seen)
                    progress(f"{shown} of {readings} readings have arrived")
                await asyncio.sleep(LOOK_EVERY_S)
            if not began_file.exists() or not arrivals.seen:
                raise StageError(f"nothing of {PACKAGE} has arrived within {most_s:g} s: {_words(folder)}")
    began_s = float(json.loads(began_file.read_text(encoding="utf-8"))["began_s"])
    return len(arrivals.seen), arrivals.last_s - began_s


@contextlib.asynccontextmanager
async def counting_platform(port: int) -> AsyncIterator[Arrivals]:
    """Counts telemetry and answers the question for limits, while the context is open."""
    arrivals = Arrivals()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="platform", protocol=paho.MQTTv5)
    subscribed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_message(client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        if message.topic == TELEMETRY:
            arrivals.take(message.payload)
        elif json.loads(message.payload).get("method") == "getSessionLimits":
            client.publish(ANSWER + message.topic.removeprefix(QUESTION), json.dumps(LIMITS), qos=1)

    def on_subscribe(*_: Any) -> None:
        loop.call_soon_threadsafe(subscribed.set)

    client.on_message, client.on_subscribe = on_message, on_subscribe
    client.on_connect = lambda client, *_: client.subscribe([(TELEMETRY, 1), (QUESTION + "+", 1)])
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        async with asyncio.timeout(10):
            await subscribed.wait()
        yield arrivals
    finally:
        client.disconnect()
        client.loop_stop()


async def _configure(python: Path, folder: Path, port: int, *, devices: int, readings: int, began_file: Path) -> None:
    """Its shipped configuration with the changes that the first lines of this file name."""
    package = Path((await _run(str(python), "-c", "import thingsboard_gateway as t; print(t.__path__[0])")).strip())
    extension = package / "extensions" / "bench"
    extension.mkdir(exist_ok=True)
    (extension / "__init__.py").touch()
    for name in (CONNECTOR, READINGS):
        shutil.copy(HERE / name, extension / name)
    config, data = folder / "config", folder / "data"
    for made in (config, data, folder / "logs"):
        made.mkdir()
    settings = json.loads((package / "config" / "tb_gateway.json").read_text(encoding="utf-8"))
    settings["thingsboard"] |= {
        "host": "127.0.0.1",
        "port": port,
        "qos": 1,
        "remoteConfiguration": False,
        "statistics": {"enable": False},
        "security": {"type": "accessToken", "accessToken": "bench"},
    }
    settings["storage"] = {
        "type": "sqlite",
        "data_file_path": f"{data}/",
        "max_read_records_count": 1000,
        "writing_batch_size": 1000,
    }
    settings["connectors"] = [
        {"type": "bench", "name": "readings", "class": "ReadingsConnector", "configuration": "bench.json"}
    ]
    connector = {"devices": devices, "readings": readings, "began_file": str(began_file)}
    _write(config / "tb_gateway.json", settings)
    _write(config / "bench.json", connector)
    logs = json.loads((package / "config" / "logs.json").read_text(encoding="utf-8"))
    for logger in logs["loggers"].values():
        logger["level"] = LEVEL
    _write(config / "logs.json", logs)


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@contextlib.asynccontextmanager
async def _gateway(python: Path, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The running gateway; killed at the end, for it has nothing more to say."""
    environment = {
        **os.environ,
        "TB_GW_CONFIG_DIR": str(folder / "config"),
        "TB_GW_LOGS_PATH": str(folder / "logs"),
        "http_proxy": NOWHERE,
        "https_proxy": NOWHERE,
    }
    # Of these names it would take credentials out of the environment.
    for name in ("host", "port", "type", "accessToken", "username", "password", "clientId", "caCert", "privateKey"):
        environment.pop(name, None)
    with (folder / "words").open("wb") as words:
        process = await asyncio.create_subprocess_exec(
            str(python), "-m", "thingsboard_gateway.tb_gateway", stdout=words, stderr=words, cwd=folder, env=environment
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _words(folder: Path) -> str:
    return f"…{(folder / 'words').read_text(encoding='utf-8', errors='replace')[-600:]}"
