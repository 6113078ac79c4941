"""One running site and what happens to it: devices, platform, link and token lost and back, bad input, STOP, the end.

All tests share one agent that runs on; each begins when all is well again.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hil_tests.gateway_parts import (
    DEVICES,
    STORAGE,
    GatewaySite,
    line_of,
    needs_softhsm,
    part_of,
    problem_of,
    until,
)
from hil_tests.rig.demo import score
from hil_tests.running_site import running as running
from hil_tests.running_site import site as site

pytestmark = [needs_softhsm, pytest.mark.asyncio(loop_scope="module")]
PRESS = {"X-V2G-Gateway": "the test"}
SAFE_WITHIN_S = 8.0
CONTROLLABLE = ("pv-1", "battery-1", "charger-1", "charger-2")


async def test_devices_that_are_lost_are_shown_disturb_no_other_and_come_back(site: GatewaySite) -> None:
    before = await site.newest_sequences()
    faults = {"pv-1": "drop", "battery-1": "silence", "charger-1": "drop"}
    for device_id, fault in faults.items():
        await site.order_site(do=fault, device=device_id)
    status = await site.shows(
        lambda s: all(problem_of(s, device_id) for device_id in faults), "what is wrong with each device that is lost"
    )
    assert {line_of(status, device_id)["link"] for device_id in faults} == {"silent"}
    assert {line_of(status, device_id)["link"] for device_id in ("meter-1", "charger-2")} == {"online"}
    await site.grows("meter-1", "charger-2", beyond=await site.newest_sequences())
    for device_id in faults:
        await site.order_site(do="restore", device=device_id)
    await site.well()
    await site.grows(*DEVICES, beyond=before)


async def test_a_platform_that_was_killed_gets_everything_once_it_is_back(site: GatewaySite) -> None:
    before = await site.newest_sequences()
    async with platform_away(site, seconds=5):
        await site.stage.platform.kill()
        await waits_for_the_platform(site)
        await site.stage.start_platform()
    await site.grows(*DEVICES, beyond=before)


async def test_a_half_open_link_is_noticed_and_loses_nothing(site: GatewaySite) -> None:
    before = await site.newest_sequences()
    async with platform_away(site, seconds=10):
        site.stage.link.freeze()
        await waits_for_the_platform(site)
        site.stage.link.restore()
    await site.grows(*DEVICES, beyond=before)


@asynccontextmanager
async def platform_away(site: GatewaySite, *, seconds: float) -> AsyncIterator[None]:
    """While the platform is away the site is controlled, and the battery obeys what it was told before."""
    command_id = await site.discharge(5_000, seconds, "battery-1")
    await site.delivers(-5_000, "battery-1")
    yield
    await site.well()
    await site.receipted(command_id, "COMPLETED")


async def waits_for_the_platform(site: GatewaySite) -> None:
    """The link is shown as down, and readings pile up."""
    status = await site.shows(lambda s: not part_of(s, "link")["ok"], "the link as down")
    assert problem_of(status, "link")
    await site.shows(lambda s: s["evidence"]["batches_waiting"] > 0, "batches that wait for the platform")
    await site.delivers(-5_000, "battery-1", within_s=1)


async def test_a_token_that_is_taken_away_and_put_back_signs_what_waited(site: GatewaySite) -> None:
    before = await site.newest_sequences()
    site.stage.take_token_away()
    try:
        status = await site.shows(
            lambda s: not part_of(s, "token")["ok"] and s["evidence"]["queued"] > len(DEVICES),
            "the token as away, and readings that wait for it",
        )
        assert problem_of(status, "token")
        assert status["control_age_s"] < 5
    finally:
        site.stage.put_token_back()
    await site.well()
    await site.grows(*DEVICES, beyond=before)


async def test_garbage_on_the_charger_socket_disturbs_nobody(site: GatewaySite) -> None:
    before = await site.newest_sequences()
    charger = "charger-1"
    wrong = base64.b64encode(f"{charger}:not-its-password".encode()).decode()
    upgrade = (
        f"GET /{charger} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Protocol: ocpp2.0.1\r\n"
    )
    garbage = {
        "raw bytes": bytes(range(256)) * 40,
        "bad HTTP": b"NONSENSE / HTTP/9.9\r\n\r\n",
        "no password": f"{upgrade}\r\n".encode(),
        "wrong password": f"{upgrade}Authorization: Basic {wrong}\r\n\r\n".encode(),
        "brackets": b"[" * 100_000,
        "endless header": b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
    }
    answers = dict(zip(garbage, await asyncio.gather(*(shout(site, words) for words in garbage.values())), strict=True))
    password = (site.stage.folder / "charger.password").read_bytes()
    own = base64.b64encode(charger.encode() + b":" + password).decode()
    # Whoever knows the password gets in while the charger is away, and says nothing that is OCPP: one frame of "[".
    await site.order_site(do="drop", device=charger)
    await site.shows(lambda s: line_of(s, charger)["link"] != "online", "the charger as away")
    frame = b"\x81\xff" + (100_000).to_bytes(8, "big") + bytes(4) + b"[" * 100_000
    impostor = f"{upgrade}Authorization: Basic {own}\r\n\r\n".encode()
    answers["brackets of one who got in"] = await shout(site, impostor + frame)
    await site.order_site(do="restore", device=charger)
    assert b"101" in answers["brackets of one who got in"].split(b"\r\n")[0]
    assert b"401" in answers["wrong password"].split(b"\r\n")[0]
    assert b"401" in answers["no password"].split(b"\r\n")[0]
    for what, answer in answers.items():
        assert b"Traceback" not in answer, what
    await site.well()
    await site.grows(*DEVICES, beyond=before)


async def shout(site: GatewaySite, words: bytes) -> bytes:
    """Say something to the chargers' socket and listen until it is closed, or has nothing more to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.stage.ocpp_port)
    heard = b""
    try:
        async with asyncio.timeout(4):
            writer.write(words)
            await writer.drain()
            while chunk := await reader.read(4096):
                heard += chunk
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    return heard


async def test_commands_that_must_not_be_obeyed_are_refused_with_a_reason(site: GatewaySite) -> None:
    begun_s = time.time()
    order = {"type": "DISCHARGE", "power_w": 5_000, "point": "device", "targets": ["battery-1"], "duration_s": 600}
    wrong: dict[str, dict[str, object]] = {
        "expired": {"start_in_s": -60, "duration_s": 30},
        "unsigned": {"signed_by": "nobody", "stream": "battery-1"},
        "unsigned for the site": {"signed_by": "nobody"},
        "badly signed": {"spoiled": "signature"},
        "contradictory": {"spoiled": "power"},
        "for another gateway": {"audience": "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169"},
        "for another zone": {"audience": "zone:elsewhere"},
        "beyond the horizon": {"start_in_s": 30 * 86_400},
    }
    for what, how in wrong.items():
        await site.issue(**{**order, "id": f"refused, {what}", **how})
    reasons = {}
    for what in wrong:
        receipt = await site.told("command_receipt", command_id=f"refused, {what}")
        assert receipt["state"] == "REJECTED", what
        reasons[what] = str(receipt["reason"])
    assert all(len(reason) > 10 for reason in reasons.values()), reasons
    assert len(set(reasons.values())) >= len(reasons) - 2, f"one reason for everything says nothing: {reasons}"

    # The same id with another content is an attack or a grave mistake.
    await site.issue(**{**order, "type": "IDLE", "power_w": 0, "duration_s": 2, "id": "twice"})
    await site.receipted("twice", "RECEIVED")
    await site.issue(**{**order, "id": "twice", "power_w": 6_000})
    await site.told("alarm", code="command.equivocation", subject="twice")

    # What only restricts is obeyed from anybody.
    await site.issue(type="IDLE", duration_s=3, signed_by="nobody", stream="battery-1", id="unsigned IDLE")
    await site.delivers(0, "battery-1")
    looks = [look for look in score.read_truth(site.stage.truth_file) if look.at_s >= begun_s]
    assert min(look.power_w["battery-1"] for look in looks) > -100, "a refused command has moved the battery"
    await site.receipted("unsigned IDLE", "COMPLETED")


async def test_stop_is_obeyed_by_all_power_survives_a_restart_and_is_cleared_only_here(site: GatewaySite) -> None:
    stage, config = site.stage, str(site.stage.config)
    command_id = await site.discharge(8_000, 600, *STORAGE)
    await site.delivers(-8_000, *STORAGE)

    answer = await stage.run("stop", "--config", config)
    assert answer["agent_reached"]
    await everything_stands_still(site)
    status = await site.shows(lambda s: bool(s["stopped_by"]), "who pressed STOP")
    assert "command line" in status["stopped_by"]

    # Neither a restart nor the platform takes it back, whatever it sends.
    await stage.gateway.kill()
    await stage.start_gateway()
    await site.shows(lambda s: bool(s["stopped_by"]) and part_of(s, "link")["ok"], "STOP after the restart")
    later = await site.issue(
        type="DISCHARGE", power_w=6_000, duration_s=600, point="device", targets=list(STORAGE), priority=0,
        signed_by="both",
    )  # fmt: skip
    await site.receipted(later, "RECEIVED")
    await site.shows(
        lambda s: all(line_of(s, device_id)["link"] == "online" for device_id in DEVICES), "all devices after STOP"
    )
    await everything_stands_still(site)

    async with site.session.post(f"{stage.page_url}api/clear-stop") as pressed:
        assert pressed.status == 403, "a page from elsewhere has cleared STOP"
    async with site.session.post(f"{stage.page_url}api/clear-stop", headers=PRESS) as pressed:
        assert (await pressed.json())["stopped_by"] is None
    await site.delivers(-6_000, *STORAGE)

    async with site.session.post(f"{stage.page_url}api/stop", headers=PRESS) as pressed:
        assert (await pressed.json())["stopped_by"] == "the test"
    await everything_stands_still(site)
    assert (await stage.run("clear-stop", "--config", config))["agent_reached"]
    await site.delivers(-6_000, *STORAGE)
    await site.issue(type="IDLE", duration_s=1, targets=list(STORAGE))
    await site.receipted(command_id, "SUPERSEDED")
    await site.receipted(later, "SUPERSEDED")


async def everything_stands_still(site: GatewaySite) -> None:
    """Within seconds, by the simulated meters."""
    begun_s = time.monotonic()
    for device_id in CONTROLLABLE:
        left_s = SAFE_WITHIN_S - (time.monotonic() - begun_s)
        await site.delivers(0, device_id, within_s=max(0.1, left_s))


async def test_a_lost_meter_puts_the_site_into_safe_mode_until_it_is_back(site: GatewaySite) -> None:
    await site.order_site(do="silence", device="meter-1")
    status = await site.shows(lambda s: bool(s["safe_mode"]), "safe mode")
    assert "meter-1" in status["safe_mode"]
    await site.grows("pv-1", "battery-1", "charger-1", "charger-2", beyond=await site.newest_sequences())
    await site.order_site(do="restore", device="meter-1")
    await site.shows(lambda s: line_of(s, "meter-1")["link"] == "online", "the meter as online")


async def test_the_site_answers_the_grids_frequency_both_ways_and_states_it(site: GatewaySite) -> None:
    base_w = 2_000
    command_id = await site.discharge(base_w, 600, "battery-1")
    await site.delivers(-base_w, "battery-1")
    # 100 mHz beyond the dead band, of the 500 mHz that ask for everything: a fifth of the battery's 10 kW.
    await site.order_site(do="frequency", hertz=49.7)
    await site.delivers(-base_w - 2_000, "battery-1")
    await site.order_site(do="frequency", hertz=50.3)
    await site.delivers(-base_w + 2_000, "battery-1")
    await site.order_site(do="frequency", hertz=50.0)
    await site.delivers(-base_w, "battery-1")
    alarms: list[str] = []

    async def stated() -> bool:
        alarms[:] = [
            alarm["text"] for alarm in (await site.page())["alarms"] if alarm["code"] == "site.frequency_event"
        ]
        return len(alarms) >= 2

    await until(stated, "a statement of each event")
    assert "below the band" in alarms[-2]
    assert "Trace" in alarms[-1]
    await site.issue(type="IDLE", duration_s=1, targets=["battery-1"])
    await site.receipted(command_id, "SUPERSEDED")


async def test_a_second_agent_on_one_state_directory_says_so_and_ends(running: GatewaySite) -> None:
    second = await running.stage.start_second_gateway()
    assert await second.ended(20) == 69
    assert "another v2g-gateway is using this state directory" in second.words()
    await running.shows(lambda s: s["control_age_s"] < 5, "the first agent at work")


async def test_sigterm_ends_it_in_time_with_everything_sealed_and_acknowledged(running: GatewaySite) -> None:
    site = running
    await site.shows(lambda s: part_of(s, "link")["ok"], "the link as up")
    assert await site.stage.gateway.end() == 0, "it was killed, for it did not end in time"
    # Last of all, and so of everything that was done to this agent: nothing was lost, doubled or contradicted.
    await site.nothing_lost()
