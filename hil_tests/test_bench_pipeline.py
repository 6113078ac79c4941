"""The bench `pipeline` gives its figures of a few readings; its peer's platform answers and counts as ThingsBoard does.

The peer itself is installed from PyPI by the bench, and not in tests.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from hil_tests.bench import _thingsboard, pipeline
from hil_tests.bench._mosquitto import plain_broker
from hil_tests.bench._thingsboard import ANSWER, QUESTION, TELEMETRY, Arrivals, counting_platform
from hil_tests.rig.broker import mosquitto
from hil_tests.rig.demo.child import StageError
from hil_tests.rig.token import softhsm_module


@pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed")
def test_pipeline_counts_what_the_platform_has_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    async def deliver(*_: object, devices: int, readings: int, most_s: float) -> tuple[int, float]:
        asked.append((devices, readings))
        return readings, 2.0

    monkeypatch.setattr(_thingsboard, "deliver", deliver)
    figures = pipeline.run(lambda _: None, readings=640, python=Path("python"))
    assert set(figures) == {"readings_per_s", "thingsboard_readings_per_s", "ratio"}
    assert asked == [(pipeline.DEVICES, 640)]
    assert figures["thingsboard_readings_per_s"] == 320
    assert figures["readings_per_s"] > 0


def test_a_reading_that_arrives_twice_counts_once() -> None:
    arrivals = Arrivals()
    message = json.dumps({"device-1": [{"ts": 1, "values": {"sequence": 1}}, {"ts": 2, "values": {"sequence": 2}}]})
    arrivals.take(message.encode())
    arrivals.take(message.encode())
    assert arrivals.seen == {("device-1", 1), ("device-1", 2)}


@pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")
async def test_the_peers_platform_answers_for_limits_and_counts_telemetry(tmp_path: Path) -> None:
    answered, loop = asyncio.Event(), asyncio.get_running_loop()
    answers: list[object] = []

    def on_message(_: paho.Client, __: object, message: paho.MQTTMessage) -> None:
        answers.append(json.loads(message.payload))
        loop.call_soon_threadsafe(answered.set)

    async with plain_broker(tmp_path / "broker") as port, counting_platform(port) as arrivals:
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.on_message = on_message
        client.connect("127.0.0.1", port)
        client.subscribe(ANSWER + "+", 1)
        client.loop_start()
        client.publish(QUESTION + "7", json.dumps({"method": "getSessionLimits", "params": {}}), qos=1)
        client.publish(TELEMETRY, json.dumps({"d": [{"ts": 1, "values": {"sequence": 9}}]}), qos=1)
        async with asyncio.timeout(60):
            await answered.wait()
            while not arrivals.seen:  # noqa: ASYNC110 (counted in the client's thread)
                await asyncio.sleep(0.01)
        client.disconnect()
        client.loop_stop()
    assert answers == [_thingsboard.LIMITS]
    assert arrivals.seen == {("d", 9)}


async def test_a_peer_that_cannot_be_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(StageError, match="venv"):
        await _thingsboard.install(tmp_path, lambda _: None)
