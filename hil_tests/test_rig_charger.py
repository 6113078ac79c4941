"""The charger simulator alone, as a person starts it: it connects to the real CSMS, says how it goes, and ends."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from drivers.device import LinkState
from hil_tests.ocpp_station import until
from hil_tests.test_sunspec_tls import Authority
from hil_tests.v2g_parts import PASSWORD, Csms, csms


@pytest.fixture
async def site() -> AsyncIterator[Csms]:
    async with csms() as box:
        yield box


async def start(*words: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hil_tests.rig.charger", *words, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )


def arguments(site: Csms, *more: str) -> tuple[str, ...]:
    url = f"ws://127.0.0.1:{site.server.port}/ocpp"
    return (url, "--id", "CP-1", "--password", PASSWORD, "--token", "RFID-1", "--json", "--every", "0.2", *more)


async def hear(process: Process, wanted: Mapping[str, object]) -> dict[str, Any]:
    """The first line that says what is wanted."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        async for line in process.stdout:
            said: dict[str, Any] = json.loads(line)
            if all(said[name] == value for name, value in wanted.items()):
                return said
    raise AssertionError(f"it ended and never said {wanted}")


@pytest.mark.parametrize(("version", "spoken"), [("2.1", "ocpp2.1"), ("2.0.1", "ocpp2.0.1"), ("both", "ocpp2.1")])
async def test_it_boots_and_charges_in_the_version_that_was_asked_for(site: Csms, version: str, spoken: str) -> None:
    process = await start(*arguments(site, "--version", version, "--v2g", "--soc", "55"))
    said = await hear(process, {"online": True, "version": spoken, "state": "Charging"})
    assert said["soc_percent"] == pytest.approx(55, abs=1)
    await until(lambda: site.vehicle, "the CSMS knows of a car")
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 0
    assert process.stderr is not None
    assert await process.stderr.read() == b""
    await until(lambda: site.status.link is LinkState.SILENT, "it has gone")


async def test_it_ends_by_itself_and_the_last_line_is_said(site: Csms) -> None:
    process = await start(*arguments(site, "--seconds", "3", "--every", "60"))
    assert process.stdout is not None
    lines = [json.loads(line) async for line in process.stdout]
    assert await process.wait() == 0
    assert lines[0]["seconds"] < 1
    assert 3 <= lines[-1]["seconds"] < 10


async def test_lines_for_people_say_what_it_does(site: Csms) -> None:
    words = [word for word in arguments(site, "--seconds", "4", "--v2g") if word != "--json"]
    process = await start(*words)
    assert process.stdout is not None
    text = (await process.stdout.read()).decode()
    assert "ocpp2.1" in text
    assert "Charging" in text
    assert "car at 6" in text


async def test_a_wrong_password_is_shown_and_ends_with_1(site: Csms) -> None:
    words = [word if word != PASSWORD else "wrong" for word in arguments(site, "--seconds", "4")]
    process = await start(*words)
    assert process.stdout is not None
    lines = [json.loads(line) async for line in process.stdout]
    assert await process.wait() == 1
    assert "401" in lines[-1]["trouble"]


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("http://127.0.0.1:1",), 2, "is no ws:// or wss:// URL"),
        (("ws://127.0.0.1:1", "--soc", "120"), 2, "percentage"),
        (("ws://127.0.0.1:1", "--battery", "0"), 2, "above 0"),
        (("wss://127.0.0.1:1", "--ca", "/nonexistent/ca.pem"), 1, "cannot start"),
        (("ws://127.0.0.1:1", "--password-file", "/nonexistent/password"), 1, "cannot start"),
    ],
)
async def test_what_makes_no_sense_is_said_at_once(words: tuple[str, ...], code: int, complaint: str) -> None:
    process = await start(*words)
    _, told = await process.communicate()
    assert process.returncode == code
    assert complaint in told.decode()


async def test_it_trusts_only_the_given_authority_on_wss(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*ours.certify("localhost", address="127.0.0.1"))
    async with csms(ssl=tls) as site:
        words = list(arguments(site, "--seconds", "4"))
        words[0] = words[0].replace("ws://", "wss://")
        right = await start(*words, "--ca", str(ours.file))
        await hear(right, {"online": True})
        await right.wait()
        wrong = await start(*words, "--ca", str(other.file))
        assert wrong.stdout is not None
        lines = [json.loads(line) async for line in wrong.stdout]
        assert await wrong.wait() == 1
        assert "CERTIFICATE_VERIFY_FAILED" in lines[-1]["trouble"]
