"""A sample is of the moment of its measurement: not of the end of the look, nor of what is read after it."""

from __future__ import annotations

from collections.abc import Mapping

from drivers.device import DeviceKind
from drivers.sunspec.codec import layout
from drivers.sunspec.connection import Words
from drivers.sunspec.pdu import octets_of
from drivers.sunspec.registers import ModelPoll
from tests.drivers.sunspec.fakes import (
    FakeDevice,
    FakeLine,
    Time,
    address_of,
    battery,
    definition,
    model_words,
)
from tests.drivers.sunspec.orders import Rig

TAKES_S = 0.4


class SlowLine(FakeLine):
    """Each answer takes its time."""

    def __init__(self, units: Mapping[int, FakeDevice]) -> None:
        super().__init__(units)
        self.time: Time | None = None
        self.middles: list[tuple[range, float]] = []
        """Addresses of each read, and the middle of question and answer."""

    async def read(self, unit: int, address: int, count: int, timeout_s: float) -> bytes:
        octets = await super().read(unit, address, count, timeout_s)
        if self.time is not None:
            self.middles.append((range(address, address + count), self.time.now_s + TAKES_S / 2))
            self.time.now_s += TAKES_S
        return octets


async def test_a_sample_has_the_moment_of_its_power_whatever_is_read_in_the_same_look() -> None:
    rig = Rig(battery(), DeviceKind.BATTERY, line=SlowLine)
    line = rig.line
    assert isinstance(line, SlowLine)
    await rig.device.look()
    line.time = rig.time
    rig.time.now_s += 60
    sample = await rig.device.look()
    power = address_of(rig.fake, 701, "W")
    [moment] = [middle for addresses, middle in line.middles if power in addresses]
    assert sample.monotonic_s == moment
    assert len(line.middles) > 1, "slow data was read too"
    assert rig.time.now_s > moment + TAKES_S


async def test_a_model_in_several_requests_has_the_moment_of_its_first_answer() -> None:
    words = model_words(103, {"W": 1234, "W_SF": 0, "Hz": 5001, "Hz_SF": -2, "WH": 7, "WH_SF": 0})
    device = FakeDevice({100 + index: word for index, word in enumerate(words)})
    device.unreadable = {118}  # VA, between Hz and WH
    time = Time()

    async def read(address: int, count: int) -> Words:
        octets = octets_of(device.read(address, count))
        time.now_s += TAKES_S
        return Words(octets, time.now_s - TAKES_S, time.now_s)

    poll = ModelPoll(layout(definition(103), 50), 100, ["W", "VA", "WH"])
    began_s = time.now_s
    look = await poll.read(read, 0.0)
    assert set(look.values) == {"W", "WH"}
    assert time.now_s > began_s + TAKES_S
    assert look.monotonic_s == began_s + TAKES_S / 2
