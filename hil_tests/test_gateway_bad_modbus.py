"""Through the real agent: devices that are none, make no sense or are replaced are told so, and cost no others."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from hil_tests.gateway_parts import gateway_site, line_of, needs_softhsm
from hil_tests.test_sunspec_bad_input import listening, web
from hil_tests.test_sunspec_tcp import Server, serving
from tests.drivers.sunspec.fakes import battery, common, device_of, meter, model_words

NONSENSE = {"W": 3e38, "PhV": 230.0, "Hz": 50.0, "TotWhImp": 1e38, "TotWhExp": 42.0}
SECOND_METER = '\n[[device]]\nid = "meter-2"\nkind = "meter"\ndriver = "sunspec"\nparent = "meter-1"\naddress = "{}"\n'

pytestmark = needs_softhsm


def at(config: str, device_id: str, address: str) -> str:
    """The configuration with another address for a device."""
    changed, count = re.subn(rf'(id = "{device_id}"\n(?:.*\n){{2}}address = )"[^"]*"', rf'\1"{address}"', config)
    assert count == 1
    return changed


async def test_bad_devices_are_told_apart_and_a_replaced_one_begins_a_new_meter_epoch(tmp_path: Path) -> None:
    replaced = Server(battery("OLD"))
    await replaced.start()
    noisy = device_of([common("N-1"), model_words(213, NONSENSE)])
    async with gateway_site(tmp_path) as site, listening(web) as page, serving(noisy) as noise:
        config = site.stage.config.read_text(encoding="utf-8")
        config = at(at(config, "pv-1", page), "battery-1", replaced.address) + SECOND_METER.format(noise.address)
        site.stage.config.write_text(config, encoding="utf-8")
        await site.stage.start_all()

        status = await site.shows(
            lambda s: (
                {line["device_id"]: line["link"] for line in s["devices"]}.items()
                >= {"pv-1": "fault", "meter-2": "fault", "meter-1": "online", "battery-1": "online"}.items()
            ),
            "what each device is",
        )
        assert "what answers is not Modbus" in line_of(status, "pv-1")["detail"]
        assert "HTTP/1.1 400" in line_of(status, "pv-1")["detail"]
        assert "a power of 3e+38 W" in line_of(status, "meter-2")["detail"]
        await site.grows("meter-1", "battery-1", beyond=await site.newest_sequences())

        await replaced.stop()
        await site.shows(lambda s: bool(line_of(s, "battery-1")["link"] == "silent"), "that the battery is away")
        replaced.device = meter("M-9")  # something else first, as when two cables are mixed up
        await replaced.start()
        status = await site.shows(lambda s: bool(line_of(s, "battery-1")["link"] == "fault"), "that it is another")
        assert "has no model to measure a battery with" in line_of(status, "battery-1")["detail"]
        await replaced.stop()
        replaced.device = battery("NEW")
        await replaced.start()
        await site.shows(lambda s: bool(line_of(s, "battery-1")["link"] == "online"), "that there is a battery again")
        await site.grows("meter-1", "battery-1", beyond=await site.newest_sequences())

        evidence = await site.evidence()
        epochs = [reading.meter_epoch for reading, _ in evidence.readings["battery-1"]]
        assert (epochs[0], epochs[-1]) == (1, 2)
        assert epochs == sorted(epochs)
        assert "pv-1" not in evidence.readings
        assert "meter-2" not in evidence.readings
    await asyncio.wait_for(replaced.stop(), 10)
