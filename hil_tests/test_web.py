"""The status page over real HTTP: what it shows, whom it lets in, and that STOP works."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from agent.config import ConfigError, SecretError, WebSettings, read_settings
from agent.status import (
    ClockLine,
    DeviceLine,
    EvidenceLine,
    PartLine,
    Problem,
    SettlementLine,
    Snapshot,
    Verdict,
    verdict_of,
)
from agent.web import server
from agent.web.connections import Connections
from agent.web.history import MOST_POINTS, PowerHistory
from agent.web.server import PRESS_HEADER, network_guard, serve, serve_locally

WELL = Snapshot(
    taken_at_us=1_800_000_000_000_000,
    name="roof <script>alert(1)</script>",
    version="0.1.0",
    gateway_id="did:key:zDn",
    incarnation=1,
    boot_id="00" * 16,
    uptime_s=12.5,
    verdict=Verdict.WELL,
    sentence="All is well.",
    problems=(),
    stopped_by=None,
    safe_mode=None,
    control_age_s=0.4,
    connection_power_w=-1200,
    clock=ClockLine(quality="SYNCED", error_bound_us=1000),
    parts=(PartLine(name="store", ok=True, state="ready", detail=""),),
    evidence=EvidenceLine(readings=10, queued=1, sealed=9, acknowledged=8, batches_waiting=1),
    devices=(
        DeviceLine(
            device_id="pv-1",
            kind="pv",
            link="online",
            detail="",
            settled=True,
            power_w=-4200,
            import_wh=None,
            export_wh=123_456,
            state_of_charge_percent=None,
            vehicle="",
            lowest_w=None,
            highest_w=None,
            reason="",
        ),
    ),
    commands=(),
    settlement=SettlementLine(
        window_s=900,
        windows_closed=2,
        windows_countersigned=1,
        windows_waiting=1,
        channels_frozen=0,
        last_window_end_us=None,
    ),
)


class FakeSite:
    """A site whose snapshot a test sets."""

    def __init__(self) -> None:
        self.now = WELL

    def snapshot(self) -> Snapshot:
        return self.now

    async def stop(self, by: str) -> None:
        self.now = replace(self.now, stopped_by=by)

    async def clear_stop(self, by: str) -> None:
        self.now = replace(self.now, stopped_by=None)


@pytest.fixture
def site() -> FakeSite:
    return FakeSite()


@pytest.fixture
async def page(site: FakeSite) -> AsyncIterator[aiohttp.ClientSession]:
    settings = WebSettings(listen="127.0.0.1:0")
    async with (
        serve(site, settings) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def test_page_and_its_parts_are_served_without_inline_script(page: aiohttp.ClientSession) -> None:
    for path in ("/", "/page.js", "/page.css"):
        async with page.get(path) as answer:
            assert answer.status == 200
            assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
            body = await answer.text()
    async with page.get("/") as answer:
        body = await answer.text()
    assert "<script>" not in body


async def test_status_is_the_snapshot(page: aiohttp.ClientSession) -> None:
    async with page.get("/api/status") as answer:
        status = await answer.json()
    assert status["devices"][0]["power_w"] == -4200
    assert status["verdict"] == "well"


async def test_whoever_opens_the_page_gets_the_power_of_the_last_minutes(
    page: aiohttp.ClientSession, site: FakeSite
) -> None:
    name = site.now.devices[0].device_id

    async def powers() -> list[int | None]:
        async with page.get("/api/history") as answer:
            told: list[int | None] = (await answer.json())["power_w"].get(name, [])
            return told

    async with asyncio.timeout(30):
        while not await powers():  # noqa: ASYNC110 - a page that is asked tells nobody
            await asyncio.sleep(0.02)
        site.now = replace(site.now, devices=(replace(site.now.devices[0], power_w=-100),))
        while (await powers())[-1] != -100:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    assert (await powers())[0] == -4200


def test_the_history_of_power_is_bounded() -> None:
    past = PowerHistory()
    for _ in range(2 * MOST_POINTS):
        past.note(WELL)
    kept = past.as_json()["power_w"]
    assert isinstance(kept, dict)
    assert {len(line) for line in kept.values()} == {MOST_POINTS}


async def test_health_fails_when_the_control_loop_stands_still(page: aiohttp.ClientSession, site: FakeSite) -> None:
    async with page.get("/healthz") as answer:
        assert answer.status == 200
    site.now = replace(site.now, control_age_s=60.0)
    async with page.get("/healthz") as answer:
        assert answer.status == 503
        assert "stands still" in (await answer.json())["sentence"]


async def test_health_fails_when_the_store_fails(page: aiohttp.ClientSession, site: FakeSite) -> None:
    site.now = replace(site.now, parts=(PartLine(name="store", ok=False, state="full", detail="disk"),))
    async with page.get("/healthz") as answer:
        assert answer.status == 503


async def test_metrics_leave_out_what_is_absent(page: aiohttp.ClientSession) -> None:
    async with page.get("/metrics") as answer:
        text = await answer.text()
    assert 'v2g_device_power_watts{device="pv-1",kind="pv"} -4200.0' in text
    assert 'v2g_device_export_watt_hours_total{device="pv-1",kind="pv"} 123456.0' in text
    assert "v2g_device_state_of_charge_percent{" not in text
    assert "v2g_gateway_readings_total 10.0" in text


async def test_stop_is_pressed_and_cleared(page: aiohttp.ClientSession, site: FakeSite) -> None:
    async with page.post("/api/stop", headers={PRESS_HEADER: "a person"}) as answer:
        assert (await answer.json())["stopped_by"] == "a person"
    async with page.post("/api/clear-stop", headers={PRESS_HEADER: "a person"}) as answer:
        assert (await answer.json())["stopped_by"] is None


async def test_a_press_without_our_header_is_refused(page: aiohttp.ClientSession, site: FakeSite) -> None:
    async with page.post("/api/stop", data="x") as answer:
        assert answer.status == 403
    assert site.now.stopped_by is None


async def test_another_host_name_is_refused_on_loopback(page: aiohttp.ClientSession) -> None:
    async with page.get("/api/status", headers={"Host": "evil.example:8080"}) as answer:
        assert answer.status == 403


async def test_a_host_that_is_no_address_is_refused_and_no_fault(page: aiohttp.ClientSession) -> None:
    for host in ("localhost:", "localhost:x", "[::1]x", "::", "evil:80:80", "127.0.0.1:8080.evil.example"):
        async with page.get("/api/status", headers={"Host": host}) as answer:
            assert answer.status == 403, host


async def test_every_way_to_write_loopback_is_ours(page: aiohttp.ClientSession) -> None:
    for host in ("localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080"):
        async with page.get("/api/status", headers={"Host": host}) as answer:
            assert answer.status == 200, host


async def raw(port: int, *lines: bytes) -> bytes:
    """What the server says to a request that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
    said = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return said


async def test_who_presses_is_printable_text_whatever_the_header_holds(site: FakeSite) -> None:
    """It is signed, stored and shown: bytes that are no text would stop all three."""
    async with serve(site, WebSettings(listen="127.0.0.1:0")) as port:
        press = f"{PRESS_HEADER}: ".encode() + b"a\xff\xc2\x9b2Jb \xe2\x80\xae" + b"x" * 100
        said = await raw(port, b"POST /api/stop HTTP/1.1", b"Host: localhost", press)
        assert said.startswith(b"HTTP/1.1 200")
        assert site.now.stopped_by is not None
        assert site.now.stopped_by.isascii()
        assert site.now.stopped_by.isprintable()
        assert len(site.now.stopped_by) <= 64
        assert (await raw(port, b"GET /api/status HTTP/1.1", b"Host: localhost")).startswith(b"HTTP/1.1 200")


async def test_what_is_no_http_is_refused_and_does_not_fill_the_log(
    site: FakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(site, WebSettings(listen="127.0.0.1:0")) as port:
        for line in (b"GET / HTTP/9.9", b"GET " + b"a" * 9000 + b" HTTP/1.1", b"\x16\x03\x01\x02"):
            assert (await raw(port, line)).startswith(b"HTTP/1.0 400")
    assert caplog.records == []


async def test_a_fault_of_ours_is_logged(site: FakeSite, caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> Snapshot:
        raise RuntimeError("our fault")

    async with serve(site, WebSettings(listen="127.0.0.1:0")) as port:
        site.snapshot = fails  # type: ignore[method-assign]
        assert (await raw(port, b"GET /healthz HTTP/1.1", b"Host: localhost")).startswith(b"HTTP/1.1 500")
    assert "our fault" in caplog.text


async def test_connections_that_never_ask_are_few_and_do_not_last(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow or silent clients must not take the descriptors that the gateway's own work needs."""
    monkeypatch.setattr(server, "Connections", partial(Connections, most=4, quiet_s=0.3))
    async with serve(site, WebSettings(listen="127.0.0.1:0")) as port:
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for _, writer in slow:
            writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
        await asyncio.sleep(0.1)
        ended = [reader.at_eof() for reader, _ in slow]
        assert ended.count(False) <= 4
        for reader, _ in slow:
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)
        said = await raw(port, b"GET /healthz HTTP/1.1", b"Host: localhost")
        assert said.startswith(b"HTTP/1.1 200")
        for _, writer in slow:
            writer.close()


async def test_a_client_that_goes_on_asking_keeps_its_connection(
    site: FakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "Connections", partial(Connections, most=1, quiet_s=0.3))
    async with serve(site, WebSettings(listen="127.0.0.1:0")) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(4):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"}"), 1)).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.15)
        writer.close()


async def test_an_empty_password_lets_nobody_in(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("\n")
    secret.chmod(0o600)
    settings = WebSettings(
        listen="0.0.0.0:8080",
        password_secret=f"file:{secret}",
        certificate_file=tmp_path / "c",
        certificate_key_file=tmp_path / "k",
    )
    with pytest.raises(SecretError, match="is empty"):
        network_guard(settings)


async def test_the_local_socket_is_ours_alone_from_its_first_moment(
    site: FakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mode that is set after the bind leaves a moment in which others may connect, and stay."""
    modes: list[int] = []
    bind = socket.socket.bind

    def watched(self: socket.socket, address: object) -> None:
        bind(self, address)  # type: ignore[arg-type]
        if isinstance(address, str):
            modes.append(Path(address).stat().st_mode & 0o777)

    monkeypatch.setattr(socket.socket, "bind", watched)
    before = os.umask(0)
    try:
        async with serve_locally(site, tmp_path / "s"):
            pass
        assert os.umask(0) == 0, "the umask of the process is as before"
    finally:
        os.umask(before)
    assert [mode & 0o077 for mode in modes] == [0]


async def test_the_local_socket_needs_no_password_and_is_ours_alone(site: FakeSite, tmp_path: Path) -> None:
    async with serve_locally(site, tmp_path / "s"):
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        connector = aiohttp.UnixConnector(str(tmp_path / "s"))
        async with (
            aiohttp.ClientSession("http://gateway", connector=connector) as local,
            local.post("/api/stop", headers={PRESS_HEADER: "cli"}) as answer,
        ):
            assert answer.status == 200
    assert site.now.stopped_by == "cli"


async def test_two_listeners_on_one_port_say_so(site: FakeSite) -> None:
    async with serve(site, WebSettings(listen="127.0.0.1:0")) as port:
        with pytest.raises(OSError, match=str(port)):
            async with serve(site, WebSettings(listen=f"127.0.0.1:{port}")):
                pass


def test_beyond_loopback_a_password_and_a_certificate_are_required(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('[token]\nlabel = "x"\n[web]\nlisten = "0.0.0.0:8080"\n')
    with pytest.raises(ConfigError, match=r"gateway.toml:4: web.listen: .*password_secret and certificate_file"):
        read_settings(config)


async def test_a_verifier_gets_what_is_published_and_nothing_else(site: FakeSite) -> None:
    files = {"history.cbor": b"entries", "did.json": b"{}"}
    async with (
        serve(site, WebSettings(listen="127.0.0.1:0"), published=files.get) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}/.well-known/v2g-gateway/") as session,
    ):
        async with session.get("history.cbor") as answer:
            assert (answer.status, answer.content_type, await answer.read()) == (200, "application/cbor", b"entries")
        for name in ("newest-batch.cbor", "evidence.db", "..%2f..%2fapi%2fstatus"):
            async with session.get(name) as answer:
                assert answer.status == 404
        async with session.post("history.cbor") as answer:
            assert answer.status == 405
        async with session.get("history.cbor", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 403


def test_what_the_owner_publishes_needs_no_password_and_everything_else_does(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse")
    secret.chmod(0o600)
    closed = WebSettings(
        listen="0.0.0.0:8080",
        password_secret=f"file:{secret}",
        certificate_file=tmp_path / "c",
        certificate_key_file=tmp_path / "k",
    )
    history = make_mocked_request("GET", "/.well-known/v2g-gateway/history.cbor", headers={"Host": "gw.example"})
    refusal = network_guard(closed)(history)
    assert refusal is not None
    assert refusal.status == 401
    for guard in (
        network_guard(closed.model_copy(update={"public_url": "https://gw.example"})),
        network_guard(WebSettings(listen="127.0.0.1:8080", public_url="https://gw.example")),
    ):
        assert guard(history) is None
        for method, path in (
            ("GET", "/api/status"),
            ("GET", "/did.json"),
            ("POST", "/.well-known/v2g-gateway/history.cbor"),
            ("GET", "/.well-known/v2g-gateway/../../metrics"),
        ):
            assert guard(make_mocked_request(method, path, headers={"Host": "gw.example"})) is not None


async def test_beyond_loopback_only_the_right_password_passes(site: FakeSite, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse")
    secret.chmod(0o600)
    guard = network_guard(
        WebSettings(
            listen="0.0.0.0:8080",
            password_secret=f"file:{secret}",
            certificate_file=tmp_path / "c",
            certificate_key_file=tmp_path / "k",
        )
    )
    right = aiohttp.encode_basic_auth("installer", "correct horse")
    wrong = aiohttp.encode_basic_auth("installer", "battery staple")
    assert guard(make_mocked_request("GET", "/", headers={"Authorization": right})) is None
    for header in ({"Authorization": wrong}, {"Authorization": "Basic %%%"}, {}):
        refusal = guard(make_mocked_request("GET", "/", headers=header))
        assert refusal is not None
        assert refusal.status == 401


def test_the_headline_is_the_worst_problem() -> None:
    mild = Problem(severity=Verdict.ATTENTION, subject="link", sentence="is down")
    bad = Problem(severity=Verdict.TROUBLE, subject="store", sentence="is full")
    assert verdict_of(()) == (Verdict.WELL, "All is well.")
    assert verdict_of((mild, bad)) == (Verdict.TROUBLE, "store: is full (and 1 more)")
