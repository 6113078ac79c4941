"""`v2g-gateway chargers` as processes, against the real CSMS and local socket, with a charger of raw frames."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.cli.client import SOCKET_NAME
from agent.roads.charger_passwords import ChargerPasswords
from agent.web.server import serve_locally
from drivers.ocpp import ChargerSettings
from drivers.ocpp.reception import Reception
from drivers.ocpp.tokens import SiteToken
from hil_tests.ocpp_raw import Answer, AnsweredError, Payload, RawCharger, Silence, TlsSite
from hil_tests.ocpp_station import until
from hil_tests.test_cli_commands import command_beside
from hil_tests.test_web import FakeSite

SETTINGS = ChargerSettings(
    device_id="car-1", charger_id="CP-1", password="secret-1", rated_import_w=11_000, fallback_import_w=4_200
)


class Chargers:
    """The gateway's side of the local interface."""

    def __init__(self, site: TlsSite) -> None:
        self._site = site

    @property
    def reception(self) -> Reception | None:
        return self._site.server.reception

    def reload_tokens(self) -> int:
        self._site.tokens.replace([SiteToken(name="NEW-1")])
        return 1


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[TlsSite]:
    keeper = ChargerPasswords(tmp_path / "state" / "chargers")
    made = TlsSite(tmp_path, [SETTINGS], options={"keeper": keeper, "guests": True})
    (tmp_path / "state").mkdir()
    (tmp_path / "gateway.toml").write_text(f'[gateway]\nstate_dir = "{tmp_path / "state"}"\n[token]\nlabel = "t"\n')
    socket_file = tmp_path / "state" / SOCKET_NAME
    async with made.running(), serve_locally(FakeSite(), socket_file, chargers=Chargers(made)):
        yield made


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    async with site.charger() as charger:
        await charger.ready()
        yield charger


async def chargers(site: TlsSite, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await command_beside("chargers", *arguments, "--config", site.folder / "gateway.toml")


async def answer(site: TlsSite, *arguments: str, code: int = 0) -> object:
    done = await chargers(site, *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


async def test_the_list_shows_chargers_and_who_waits(charger: RawCharger, site: TlsSite) -> None:
    async with site.charger("NEW-1", None) as stranger:
        await stranger.boot()
        done = await chargers(site, "list")
        assert done.returncode == 0, done.stderr
        assert re.search(r"CP-1\s+car-1\s+online\s+Accepted", done.stdout)
        assert re.search(r"NEW-1\s+is not in the configuration\s+127\.0\.0\.1", done.stdout)
        told = await answer(site, "list")
        assert isinstance(told, dict)
        assert told["chargers"][0]["evses"][0]["device"] == "car-1"


async def test_an_approval_prints_the_section_for_the_configuration(site: TlsSite) -> None:
    async with site.charger("New_1", None) as stranger:
        await stranger.boot()
        done = await chargers(site, "approve", "New_1")
        assert done.returncode == 0, done.stderr
        file = site.folder / "state" / "chargers" / "New_1.password"
        assert (
            f'id = "new-1"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "New_1"\npassword_secret = "file:{file}"'
            in (done.stdout)
        )
        assert file.read_text() not in done.stdout


def rejected(asked: Payload) -> Payload:
    results = [
        {"attributeStatus": "Rejected", "component": each["component"], "variable": each["variable"]}
        for each in asked["setVariableData"]
    ]
    return {"setVariableResult": results}


@pytest.mark.parametrize("refusal", [rejected, AnsweredError("InternalError")], ids=["refused", "error"])
async def test_an_approval_that_the_charger_does_not_take_is_called_none_and_can_be_given_again(
    site: TlsSite, refusal: Answer
) -> None:
    async with site.charger("New_1", None) as stranger:
        await stranger.boot()
        takes = stranger.answers["SetVariables"]
        stranger.answers["SetVariables"] = refusal
        done = await chargers(site, "approve", "New_1")
        assert done.returncode == 1
        assert "status: not let in" in done.stdout
        assert "it goes on waiting" in done.stdout
        assert "approved" not in done.stdout
        told = await answer(site, "approve", "New_1", code=1)
        assert isinstance(told, dict)
        assert (told["ok"], told["status"]) == (False, "not let in")
        [knock] = site.server.entrance.who_waits()
        assert (knock["here"], knock["approved"]) == (True, False)
        done = await chargers(site, "start", "New_1", "0412")
        assert (done.returncode, "waits for an approval" in done.stderr) == (1, True), "not now, and rightly asked"
        stranger.answers["SetVariables"] = takes
        assert (await chargers(site, "approve", "New_1")).returncode == 0


async def test_a_charger_is_locked_and_approved(charger: RawCharger, site: TlsSite) -> None:
    assert await answer(site, "lock", "CP-1") == {"ok": True, "status": "Pending"}
    assert (await charger.boot())["status"] == "Pending"
    told = await answer(site, "approve", "CP-1")
    assert isinstance(told, dict)
    assert told["status"] == "accepted"
    assert (await charger.boot())["status"] == "Accepted"


async def test_a_limit_bounds_what_the_plan_may_use_until_it_is_taken_away(charger: RawCharger, site: TlsSite) -> None:
    def rated() -> tuple[int, int]:
        capabilities = site.server.devices["car-1"].status().capabilities
        assert capabilities is not None
        return capabilities.rated_import_w, capabilities.rated_export_w

    assert rated() == (11_000, 0)
    assert (await chargers(site, "limit", "car-1", "3000")).returncode == 0
    assert rated() == (3_000, 0)
    shares = [call for call in charger.calls("SetChargingProfile") if call["chargingProfile"]["stackLevel"] == 0]
    period = shares[-1]["chargingProfile"]["chargingSchedule"][0]["chargingSchedulePeriod"][0]
    assert period["limit"] == 3_000
    again = site.make_server()
    await again.chargers["CP-1"].recall()
    assert again.chargers["CP-1"].evses[1].limited_to_w == 3_000
    assert (await chargers(site, "limit", "car-1", "none")).returncode == 0
    assert rated() == (11_000, 0)
    assert (await chargers(site, "limit", "car-1", "-5")).returncode == 2
    assert (await chargers(site, "limit", "car-1", "much")).returncode == 2


async def test_start_and_stop_reach_the_charger_and_refusals_are_told(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["RequestStartTransaction"] = charger.answers["RequestStopTransaction"] = {"status": "Accepted"}
    assert (await chargers(site, "start", "car-1", "0412")).returncode == 0
    assert charger.calls("RequestStartTransaction")[0]["idToken"]["idToken"] == "0412"
    done = await chargers(site, "stop", "car-1")
    assert done.returncode == 1
    assert "no transaction is running" in done.stderr
    await charger.event("Started", 0)
    assert (await chargers(site, "stop", "car-1")).returncode == 0


async def test_a_wish_to_charge_now_that_the_charger_cannot_be_told_is_said_why(
    charger: RawCharger, site: TlsSite
) -> None:
    done = await chargers(site, "charge-now", "car-1")
    assert done.returncode == 1
    assert "no transaction is running" in done.stderr
    await charger.event("Started", 0)
    done = await chargers(site, "charge-now", "car-1", "--off")
    assert done.returncode == 1
    assert "UsePriorityCharging is of ocpp2.1" in done.stderr


async def test_variables_are_shown_and_asked_for_anew(charger: RawCharger, site: TlsSite) -> None:
    await site.order("set", variable="AlignedDataCtrlr/Interval", value="900")
    done = await chargers(site, "variables", "CP-1", "aligned")
    assert re.search(r"AlignedDataCtrlr/Interval\s+900", done.stdout)
    assert await answer(site, "variables", "CP-1", "nothing like it") == []
    done = await chargers(site, "variables", "CP-1", "--refresh")
    assert done.returncode == 1
    assert "makes no report: NotSupported" in done.stderr


async def test_a_log_is_asked_for_and_show_tells_how_far_it_is(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["GetLog"] = {"status": "Accepted", "filename": "cp-1.log"}
    told = await answer(site, "log", "CP-1", "https://192.0.2.1/up", "--security", "--oldest", "2026-01-01T00:00:00Z")
    assert isinstance(told, dict)
    assert (told["ok"], told["filename"]) == (True, "cp-1.log")
    (asked,) = charger.calls("GetLog")
    assert asked["logType"] == "SecurityLog"
    assert asked["log"] == {"remoteLocation": "https://192.0.2.1/up", "oldestTimestamp": "2026-01-01T00:00:00.000Z"}
    await charger.ask("LogStatusNotification", {"status": "Uploading", "requestId": asked["requestId"]})
    shown = await answer(site, "show", "CP-1")
    assert isinstance(shown, dict)
    assert "Uploading" in str(shown["logs"])
    assert (await chargers(site, "log", "CP-1", "up there")).returncode == 2
    charger.answers["GetLog"] = {"status": "Rejected"}
    assert (await chargers(site, "log", "CP-1", "https://192.0.2.1/up")).returncode == 1


async def test_any_order_can_be_given_by_name(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["ChangeAvailability"] = {"status": "Accepted"}
    assert await answer(site, "order", "car-1", "availability", "operative=false") == {"ok": True, "status": "Accepted"}
    assert charger.calls("ChangeAvailability") == [{"operationalStatus": "Inoperative", "evse": {"id": 1}}]
    told = await answer(site, "order", "CP-1", "set", "variable=A/B", "value=true")
    assert told == {"ok": True, "status": "Accepted"}
    assert charger.calls("SetVariables")[-1]["setVariableData"][0]["attributeValue"] == "true"


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["show", "GHOST"], 2, "no charger and no device is called 'GHOST'"),
        (["order", "CP-1", "dance"], 2, "no order is called 'dance'; known: availability"),
        (["order", "CP-1", "unlock", "connector"], 2, "'connector' is no KEY=VALUE"),
        (["order", "CP-1", "install-certificate", "certificate=@/none"], 2, "/none: cannot be read"),
        (["order", "CP-1", "trigger", "message=Weather"], 2, "requestedMessage"),
        (["reset"], 2, "No such command"),
    ],
)
async def test_what_was_asked_wrongly_is_told(
    charger: RawCharger, site: TlsSite, arguments: list[str], code: int, why: str
) -> None:
    done = await chargers(site, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert why in done.stderr


async def test_a_charger_that_is_silent_or_away_ends_the_command_with_a_reason(site: TlsSite) -> None:
    assert "not connected" in (await chargers(site, "order", "CP-1", "reset")).stderr
    async with site.charger() as charger:
        await charger.ready()
        charger.answers["Reset"] = Silence()
        done = await chargers(site, "order", "CP-1", "reset")
        assert done.returncode == 1
        assert "no answer before the deadline" in done.stderr


async def test_tokens_are_read_again(charger: RawCharger, site: TlsSite) -> None:
    assert await answer(site, "reload-tokens") == {"ok": True, "tokens": 1}
    told = await charger.ask("Authorize", {"idToken": {"idToken": "new-1", "type": "ISO14443"}})
    assert told["idTokenInfo"]["status"] == "Accepted"


async def test_without_an_agent_the_command_says_so(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text(f'[gateway]\nstate_dir = "{tmp_path}"\n[token]\nlabel = "t"\n')
    done = await command_beside("chargers", "list", "--config", tmp_path / "gateway.toml", "--json")
    assert done.returncode == 1
    assert "no agent runs" in json.loads(done.stdout)["error"]


def ask_raw(file: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(file))
        client.sendall(request)
        return client.recv(65536)


@pytest.mark.parametrize(
    ("body", "header", "status"),
    [
        (b"", b"X-V2G-Gateway: me\r\n", 400),
        (b"[" * 30_000, b"X-V2G-Gateway: me\r\n", 400),
        (b"\xff\xfe", b"X-V2G-Gateway: me\r\n", 400),
        (b'{"name": 1, "order": "reset"}', b"X-V2G-Gateway: me\r\n", 400),
        (b'{"name": "CP-1", "order": "reset", "arguments": []}', b"X-V2G-Gateway: me\r\n", 400),
        (b'{"name": "CP-1", "order": "reset"}', b"", 403),
        (b"x" * 70_000, b"X-V2G-Gateway: me\r\n", 413),
    ],
    ids=["nothing", "deep", "no text", "name", "arguments", "nobody", "long"],
)
async def test_nonsense_on_the_socket_is_refused_and_the_agent_lives(
    charger: RawCharger, site: TlsSite, body: bytes, header: bytes, status: int
) -> None:

    file = site.folder / "state" / SOCKET_NAME
    head = b"POST /api/chargers/order HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    request = head + header + b"Content-Length: %d\r\n\r\n" % len(body) + body
    told = await asyncio.to_thread(ask_raw, file, request)
    assert told.split(b" ")[1] == str(status).encode(), told[:300]
    assert charger.calls("Reset") == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await until(lambda: site.server.chargers["CP-1"].taken, "the charger to be served")


async def test_the_tap_shows_the_conversation_and_no_secret(charger: RawCharger, site: TlsSite) -> None:
    listening = asyncio.create_task(
        command_beside("ocpp", "tap", "CP-1", "--seconds", "4", "--config", site.folder / "gateway.toml")
    )
    tap = site.server.chargers["CP-1"].tap
    await until(lambda: tap.listened, "somebody to listen", 20.0)
    await charger.ask("Authorize", {"idToken": {"idToken": "TOPSECRET-99", "type": "ISO14443"}})
    await site.order("password")
    with pytest.raises(ValueError, match="no order"):
        await site.order("dance")
    await charger.socket.send("[]")
    done = await listening
    assert done.returncode == 0, done.stderr
    assert re.search(r'charger -> Authorize \{"idToken": \{"idToken": "\.\.\.99", "type": "ISO14443"\}\}', done.stdout)
    assert re.search(r'gateway -> answers Authorize \{"idTokenInfo": \{"status": "Unknown"\}\}', done.stdout)
    assert re.search(r'gateway -> SetVariables .*"BasicAuthPassword"\}, "attributeValue": "\*\*\*"', done.stdout)
    assert "sent what OCPP does not allow" in done.stdout
    assert "TOPSECRET" not in done.stdout
    await until(lambda: not tap.listened, "the listener to be gone")


async def test_a_tap_of_nobody_is_refused(site: TlsSite) -> None:
    done = await command_beside("ocpp", "tap", "GHOST", "--config", site.folder / "gateway.toml", "--json")
    assert done.returncode == 2
    assert "called 'GHOST'" in json.loads(done.stdout)["error"]


async def test_a_listener_that_is_killed_costs_nothing(charger: RawCharger, site: TlsSite) -> None:
    file = site.folder / "state" / SOCKET_NAME
    tap = site.server.chargers["CP-1"].tap

    def knock() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(file))
        client.sendall(b"GET /api/chargers/tap?name=CP-1 HTTP/1.1\r\nHost: x\r\n\r\n")
        return client

    client = await asyncio.to_thread(knock)
    await until(lambda: tap.listened, "somebody to listen")
    client.close()
    for _ in range(20):
        await charger.ask("Heartbeat", {})
    await until(lambda: not tap.listened, "the listener to be gone")
