"""What a poll has learned of a device's holes serves the next one: the same values, and hardly a refused request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.codec import layout
from drivers.sunspec.connection import Words
from drivers.sunspec.errors import ModbusExceptionError
from drivers.sunspec.pdu import octets_of
from drivers.sunspec.registers import MapPoll, Refusals
from drivers.sunspec.relearning import RELEARN_S
from tests.drivers.sunspec.fakes import FakeDevice, address_of, common, definition, device_of
from tests.drivers.sunspec.maps import filled

MODELS = (103, 701, 704)
PATHS = {
    103: ("A", "W", "Hz", "WH", "DCV", "TmpCab", "St", "Evt1"),
    701: ("W", "Hz", "LNV", "TotWhInj", "VL1", "VL2", "VL3", "Alrm", "TmpCab"),
    704: ("WMaxLimPct", "WSet", "WSetPct", "VarSet", "AntiIslEna"),
}
FIRST, LAST = 40070, 40070 + 52 + 155 + 67


class Counted:
    """Reads of a device, and how many of them it refused."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.refused = 0

    async def __call__(self, address: int, count: int) -> Words:
        try:
            return Words(octets_of(self.device.read(address, count)), 0.0, 0.0)
        except ModbusExceptionError:
            self.refused += 1
            raise


def mapped() -> FakeDevice:
    return device_of([common(), *(filled(number) for number in MODELS)])


def poll(device: FakeDevice, known: Refusals | None = None, since_s: float = 0.0) -> MapPoll:
    return MapPoll(
        (
            (
                layout(definition(number), device.registers[address_of(device, number, "L")]),
                address_of(device, number, "ID"),
                PATHS[number],
            )
            for number in MODELS
        ),
        (),
        since_s,
        known,
    )


@given(st.sets(st.integers(FIRST, LAST), max_size=25))
async def test_a_second_poll_reads_the_same_with_what_the_first_has_learned(hidden: set[int]) -> None:
    device = mapped()
    device.unreadable = hidden
    first, read = poll(device), Counted(device)
    for _ in range(3):  # what is torn is found out at the second look
        look = await first.read(read, 1.0)
    again = Counted(device)
    second = await poll(device, first.refusals).read(again, 2.0)
    assert second.values == look.values
    assert 2 * again.refused <= read.refused


@given(st.sets(st.integers(FIRST, LAST), min_size=1, max_size=25))
async def test_what_was_learned_is_tried_again_after_a_while(hidden: set[int]) -> None:
    device = mapped()
    device.unreadable = hidden
    first = poll(device)
    for _ in range(3):
        await first.read(Counted(device), 1.0)
    device.unreadable = set()
    second = poll(device, first.refusals, since_s=2.0)
    later = await second.read(Counted(device), 2.0 + RELEARN_S)
    whole = await poll(device).read(Counted(device), 3.0)
    assert later.values == whole.values
    assert second.refusals == Refusals()


async def test_refusals_of_other_models_mean_nothing_to_a_poll() -> None:
    device = mapped()
    known = Refusals(frozenset({(50000, "W")}), frozenset({(50000, "Hz")}))
    seen = await poll(device, known).read(Counted(device), 1.0)
    assert seen.values == (await poll(device).read(Counted(device), 1.0)).values
