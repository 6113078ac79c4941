"""The whole gateway and platforms without GatewayLink: commands, their receipts and windows go by devices' streams."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.evidence.kinds import CommandReceipt, SettlementWindow
from agent.evidence.verify import TrustedKey, VerifiedStatement, Verifier
from agent.identity.did import key_of_did
from agent.measure.reading import Reading
from hil_tests.gateway_parts import STORAGE, GatewaySite, gateway_site, needs_softhsm, part_of, until
from proto.energysettlement.v1.device_pb2 import DeviceTelemetry

pytestmark = needs_softhsm

IDLE = ["RECEIVED", "ACCEPTED", "EXECUTING", "COMPLETED"]


def archived(archive: Path) -> Iterator[DeviceTelemetry]:
    """What a platform of the published contract kept as it came, read by one that knows our fields."""
    octets = archive.read_bytes()
    while len(octets) >= 4 + (size := int.from_bytes(octets[:4], "big")):
        yield DeviceTelemetry.FromString(octets[4 : 4 + size])
        octets = octets[4 + size :]


def proven(site: GatewaySite, archive: Path) -> list[tuple[DeviceTelemetry, VerifiedStatement]]:
    """Every statement in the archive with its receipt, verified under the gateway's name."""
    gateway_id = site.stage.gateway_id
    verifier = Verifier([TrustedKey(gateway_id, key_of_did(gateway_id))])
    return [(t, verifier.verify_receipt(t.signature, t.statement)) for t in archived(archive) if t.statement]


async def test_a_platform_of_the_published_contract_alone_has_every_receipt_and_its_sums_are_the_readings(
    tmp_path: Path,
) -> None:
    archive = tmp_path / "archive"
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        await stage.start_site()
        await stage.start_published_platform(archive)
        written = stage.config.read_text()
        stage.config.write_text(written.replace("[platform]\n", '[platform]\nstatements_as_telemetry = "always"\n'))
        await stage.start_gateway("-m", "hil_tests.rig.held_clock")
        await site.shows(lambda s: "published contract only" in part_of(s, "link")["detail"], "the published contract")
        await site.shows(lambda s: all(line["link"] == "online" for line in s["devices"]), "all devices")
        await stage.platform.order(do="command", device="battery-1", id="plain-1", type="IDLE", valid_s=6)
        await stage.platform.hear("sent")
        await stage.platform.order(
            do="command", device="charger-1", id="plain-2", type="DISCHARGE", power_limit_kw=3.0, valid_s=60
        )

        def states(command_id: str) -> list[tuple[str, str]]:
            return [
                (telemetry.device_id, verified.statement.state.name)
                for telemetry, verified in proven(site, archive)
                if isinstance(verified.statement, CommandReceipt) and verified.statement.command_id == command_id
            ]

        async def ended() -> bool:
            kinds = {type(verified.statement) for _, verified in proven(site, archive)}
            return ("battery-1", "COMPLETED") in states("plain-1") and SettlementWindow in kinds

        await until(ended, "the last receipt and a window in the archive")
        # An unsigned command that is not restrictive is refused, and that is told, too.
        assert states("plain-2") == [("charger-1", "REJECTED")]
        assert await stage.gateway.end() == 0
        since = len(stage.platform.said)
        await stage.platform.order(do="books")
        books = (await stage.platform.hear("books", since))["books"]
        evidence = await site.evidence()
    assert [state for _, state in dict.fromkeys(states("plain-1"))] == IDLE
    assert isinstance(books, dict)
    sealed = {encoded for readings in evidence.readings.values() for _, encoded in readings}
    for device_id, page in books.items():
        readings = {
            verified.encoded: verified.statement
            for _, verified in proven(site, archive)
            if isinstance(verified.statement, Reading) and verified.statement.device_id == device_id
        }
        assert readings.keys() <= sealed
        energy_wh = sum(reading.net_energy_wh for reading in readings.values())
        assert (page["energy_wh"], page["energy_wh_by_ms"]) == (energy_wh, energy_wh), device_id
        assert (page["overwritten"], page["charge_lost"]) == (0, 0), device_id
        assert page["points"] > len(readings), device_id
    assert books["battery-1"]["percent"] > 0
    for telemetry, verified in proven(site, archive):
        if not isinstance(verified.statement, Reading):
            assert (telemetry.net_energy_wh, telemetry.sequence) == (0, 0)


async def test_a_signed_command_by_device_stream_is_receipted_there_and_nothing_is_lost(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        await stage.start_site()
        await stage.start_platform("--without-link")
        await stage.start_gateway("-m", "hil_tests.rig.held_clock")
        await site.shows(lambda s: "published contract only" in part_of(s, "link")["detail"], "no GatewayLink")
        await site.shows(lambda s: all(line["link"] == "online" for line in s["devices"]), "all devices")
        command_id = await site.discharge(6_000, 8, *STORAGE)
        await site.delivers(-6_000, *STORAGE)
        await stage.platform.end()
        # The end of the command comes while nobody is there: its receipt goes ahead of the readings when somebody is.
        await site.delivers(0, "battery-1")
        await stage.start_platform("--without-link")
        await site.receipted(command_id, "COMPLETED")
        assert [receipt["state"] for receipt in await site.receipts(command_id)][:3] == IDLE[:3]
        assert await stage.gateway.end() == 0
        page, evidence = await site.page(), await site.evidence()
    assert (page["conflicts"], page["receipts_rejected"]) == ([], 0)
    assert page["statements"]["SettlementWindow"] > 0
    for device_id, readings in evidence.readings.items():
        assert page["devices"][device_id]["missing"] == 0, device_id
        assert page["devices"][device_id]["readings"] == len(readings), device_id
