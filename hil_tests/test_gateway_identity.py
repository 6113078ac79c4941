"""The whole agent and a platform: the key is rotated under them, killed in the middle of it, and the chain goes on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.commands import app
from hil_tests.gateway_parts import GatewaySite, gateway_site, needs_softhsm, until
from hil_tests.rig.demo.child import run_to_end
from hil_tests.rig.demo.configuration import SETTLED
from hil_tests.rig.demo.stage import ENVIRONMENT, PLATFORM
from hil_tests.test_cli_identity import write_parties

pytestmark = needs_softhsm


async def identity(site: GatewaySite, *arguments: str | Path) -> dict[str, object]:
    """`v2g-gateway identity` on this gateway."""
    return await command("identity", *arguments, "--config", site.stage.config)


async def command(*arguments: str | Path) -> dict[str, object]:
    """In this process, which saves seconds each time."""
    done = await asyncio.to_thread(CliRunner().invoke, app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


async def sign(folder: Path, order: Path) -> None:
    for party in ("owner", "operator"):
        await command("identity", "sign", order, "--key", folder / f"{party}.key.pem")


async def verifies_online(site: GatewaySite, folder: Path) -> None:
    """Whoever knows the name alone gets the history, the newest batch and who has it, from the agent itself."""
    bundle = await site.stage.export()
    looked = await command(
        "verify", bundle, "--gateway", site.stage.gateway_id, "--online", site.stage.page_url,
        "--platform-key", folder / "platform" / "platform.pem",
        "--trust-root", folder / "platform" / "trust-root.pem",
    )  # fmt: skip
    online = looked["online"]
    assert isinstance(online, dict)
    assert (looked["ok"], online["complete"], online["verdict"]) == (True, True, "online")
    assert online["history"]["entries"] == 3
    assert online["newest_batches"][0]["number"] >= looked["last_number"]
    assert online["acknowledgements"][0]["number"] >= 1
    assert online["trust_lists"][0]["expired"] is False


async def test_readings_flow_on_to_the_platform_over_a_rotation_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOFTHSM2_CONF", raising=False)
    order = tmp_path / "order.cose"
    write_parties(tmp_path)
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        await identity(site, "propose", "create", "--subject", tmp_path / "subject.toml", "--out", order)
        await sign(tmp_path, order)
        created = await identity(site, "apply", order)
        await command("init", "--state-dir", stage.state_dir, "--config-out", stage.config)
        enrolment = stage.state_dir / "enrolment"
        keys = [f"evidence={enrolment / 'evidence.pem'}"]
        keys += [f"device:{device_id}={enrolment / f'device-{device_id}.pem'}" for device_id in SETTLED]
        enrolled = await run_to_end(
            PLATFORM,
            ["enrol", str(tmp_path / "platform"), "--csr", str(enrolment / "uplink.csr"),
             "--history", str(enrolment / "history.cose"), *(part for key in keys for part in ("--key", key))],
            environment=ENVIRONMENT,
        )  # fmt: skip
        stage.gateway_id = str(created["gateway_id"])
        assert enrolled["gateway_id"] == stage.gateway_id

        await stage.start_all()
        await site.well()
        await site.grows("meter-1", "pv-1", beyond={})
        await identity(site, "rotate", "--out", order)
        await sign(tmp_path, order)
        waiting = stage.state_dir / "identity" / "order.cose"
        waiting.write_bytes(order.read_bytes())  # as `apply` puts it there
        await stage.gateway.kill()
        told = await site.newest_sequences()
        await stage.start_gateway()
        status = await site.well()
        assert status["gateway_id"] == stage.gateway_id
        await site.grows("meter-1", "pv-1", beyond=told)
        assert not waiting.exists()

        # And once more while it runs: the platform hears of the key before its first batch, or asks for it.
        await identity(site, "rotate", "--out", order)
        await sign(tmp_path, order)
        rotated = await identity(site, "apply", order)
        assert rotated["entries"] == 3
        told = await site.newest_sequences()
        await site.grows("meter-1", "pv-1", beyond=told)
        await site.well()
        await verifies_online(site, tmp_path)
        assert await stage.gateway.end() == 0

        async def all_there() -> bool:
            page = await site.page()
            return all(record["missing"] == 0 for record in page["devices"].values())

        await until(all_there, "no reading is missing at the platform")
        assert (await site.page())["conflicts"] == []
        bundle, history = await stage.export(), tmp_path / "history.cose"
        await identity(site, "history", "--out", history)
        found = await command("verify", bundle, "--history", history, "--gateway", stage.gateway_id)
        assert found["ok"], found
        assert found["batches"] == (await site.page())["batches_verified"]
