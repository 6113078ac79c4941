"""The whole gateway with MQTT as its only link: evidence, commands and windows go over a real broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from hil_tests.gateway_parts import STORAGE, gateway_site, needs_softhsm, part_of
from hil_tests.rig.broker import PLATFORM, client_files, mosquitto, running_broker
from hil_tests.rig.platform.enrol import Practice

pytestmark = [needs_softhsm, pytest.mark.skipif(mosquitto() is None, reason="mosquitto is not installed")]


async def test_a_site_works_over_a_broker_alone_and_loses_nothing_with_it(tmp_path: Path) -> None:
    async with gateway_site(tmp_path) as site:
        stage = site.stage
        practice = Practice.open(stage.folder / "platform")
        ours = client_files(practice, tmp_path / "clients", stage.gateway_id)
        platform = client_files(practice, tmp_path / "clients", PLATFORM)
        async with running_broker(practice, tmp_path / "broker") as broker:
            text = stage.config.read_text(encoding="utf-8")
            stage.config.write_text(
                text.replace(
                    f'endpoints = ["{stage.link.address}"]',
                    f'endpoints = ["{broker.endpoint}"]\nmqtt_certificate_file = "{ours.certificate}"\n'
                    f'mqtt_certificate_key_file = "{ours.key}"',
                ),
                encoding="utf-8",
            )
            at_broker = ("--broker-port", str(broker.port), "--broker-certificate", str(platform.certificate))
            await stage.start_site()
            await stage.start_platform(*at_broker, "--broker-key", str(platform.key))
            await stage.start_gateway()
            status = await site.well()
            assert broker.endpoint in part_of(status, "link")["detail"]
            command_id = await site.discharge(6_000, 20, *STORAGE)
            await site.delivers(-6_000, *STORAGE)
            await site.receipted(command_id, "EXECUTING")
            await broker.stop(kill=True)
            await site.shows(lambda s: not part_of(s, "link")["ok"], "the lost link")
            await site.delivers(-6_000, *STORAGE)
            await broker.start()
            await site.receipted(command_id, "COMPLETED", within_s=60)
            await site.shows(lambda s: s["settlement"]["windows_countersigned"] > 0, "a window signed by both sides")
            assert await stage.gateway.end() == 0
            await site.nothing_lost()
