"""The status page over real HTTP: what it shows, whom it lets in, and that STOP works."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from agent.config import ConfigError, WebSettings, read_settings
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
    with pytest.raises(ConfigError, match=r"gateway.toml:3: web: .*password_secret and certificate_file"):
        read_settings(config)


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
