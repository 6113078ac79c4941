"""Orders: own registers only, in the device's own signs and units, confirmed by read-back (SAFETY 4)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.device import DeviceKind, DeviceRefusedError, DeviceUnreachableError
from drivers.sunspec.controls import scaled_raw
from tests.drivers.sunspec.fakes import (
    FakeDevice,
    address_of,
    battery,
    capacity_702,
    common,
    device_of,
    inverter_701,
    meter,
    point,
    pv,
    set_point,
)
from tests.drivers.sunspec.orders import Rig, older_battery, older_pv, registers_of

LIMIT_704 = ("WMaxLimPctEna", "WMaxLimPct", "WMaxLimPctRvrt", "WMaxLimPctEnaRvrt", "WMaxLimPctRvrtTms")
SETPOINT_704 = (
    *("WSetEna", "WSetMod", "WSet", "WSetRvrt", "WSetPct", "WSetPctRvrt"),
    *("WSetEnaRvrt", "WSetRvrtTms"),
)
LIMIT_123 = ("WMaxLimPct", "WMaxLimPct_WinTms", "WMaxLimPct_RvrtTms", "WMaxLimPct_RmpTms", "WMaxLim_Ena")
STORAGE_124 = (
    *("OutWRte", "InWRte", "InOutWRte_WinTms", "InOutWRte_RvrtTms", "InOutWRte_RmpTms"),
    "StorCtl_Mod",
)


async def test_nothing_is_written_at_start() -> None:
    for device, kind in ((pv(), DeviceKind.PV), (battery(), DeviceKind.BATTERY), (meter(), DeviceKind.METER)):
        rig = await Rig(device, kind, fallback_export_w=0).ready()
        await rig.device.look()
        assert device.writes == []


@pytest.mark.parametrize(
    ("device", "kind", "model", "own"),
    [
        (pv(), DeviceKind.PV, 704, LIMIT_704),
        (older_pv(), DeviceKind.PV, 123, LIMIT_123),
        (battery(), DeviceKind.BATTERY, 704, (*LIMIT_704, *SETPOINT_704)),
        (older_battery(), DeviceKind.BATTERY, 124, STORAGE_124),
    ],
)
async def test_no_register_but_the_functions_own_is_ever_written(
    device: FakeDevice, kind: DeviceKind, model: int, own: Sequence[str]
) -> None:
    before = dict(device.registers)
    rig = await Rig(device, kind, fallback_export_w=1000).ready()
    for band in ((-2000, None), (0, 0), (-500, 0), (None, None)):
        await rig.hold(*band)
    if kind is DeviceKind.BATTERY:
        await rig.hold(-3000, -3000)
        await rig.hold(2500, 2500)
    rig.time.now_s += 1000
    await rig.device.end_leases()
    await rig.device.release()
    assert device.writes
    allowed = registers_of(device, model, own)
    assert device.written_registers() <= allowed
    assert {at: word for at, word in device.registers.items() if at not in allowed} == {
        at: word for at, word in before.items() if at not in allowed
    }


@given(st.integers(0, 20_000), st.integers(1, 20_000), st.integers(-4, 2))
def test_a_limit_in_percent_is_never_above_the_limit_in_watts(limit_w: int, reference_w: int, factor: int) -> None:
    raw = scaled_raw(limit_w, reference_w, factor)
    assert raw * 10.0**factor * reference_w / 100 <= limit_w + 1e-6


@given(st.integers(-20_000, 20_000), st.one_of(st.none(), st.integers(1, 20_000)), st.integers(-4, 4))
def test_rounding_is_toward_zero_on_both_sides(watts: int, reference_w: int | None, factor: int) -> None:
    assert scaled_raw(watts, reference_w, factor) == -scaled_raw(-watts, reference_w, factor)


async def test_a_setpoint_is_generation_positive_in_the_register() -> None:
    rig = await Rig(battery(), DeviceKind.BATTERY).ready()
    await rig.hold(-3000, -3000)
    assert (point(rig.fake, 704, "WSetEna"), point(rig.fake, 704, "WSet")) == (1, 3000)
    assert (point(rig.fake, 704, "WSetMod"), point(rig.fake, 704, "WSetRvrtTms")) == (1, 60)
    await rig.hold(2500, 2500)
    assert point(rig.fake, 704, "WSet") == -2500


async def test_a_device_that_takes_setpoints_only_in_percent_gets_them_so() -> None:
    device = battery()
    ignored = registers_of(device, 704, ["WSet"])

    def ignores_watts(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        fake.registers.update({address + i: word for i, word in enumerate(words) if address + i not in ignored})

    device.on_write = ignores_watts
    rig = await Rig(device, DeviceKind.BATTERY).ready()
    await rig.hold(-2500, -2500)
    assert (point(device, 704, "WSetMod"), point(device, 704, "WSetPct")) == (0, 250)


@pytest.mark.parametrize(
    ("band", "held_w"),
    [
        ((-2000, 3000), 0),
        ((0, 7400), 0),
        ((1000, 7400), 1000),
        ((-8000, -1000), -1000),
        ((None, 0), 0),
        ((500, None), 500),
    ],
)
async def test_a_band_that_no_register_can_hold_is_held_by_its_point_nearest_to_rest(
    band: tuple[int | None, int | None], held_w: int
) -> None:
    rig = await Rig(battery(), DeviceKind.BATTERY).ready()
    await rig.hold(*band)
    assert (point(rig.fake, 704, "WSetEna"), point(rig.fake, 704, "WSet")) == (1, -held_w)


@pytest.mark.parametrize(
    ("band", "outward", "inward", "mode"),
    [
        ((-5000, -5000), 5000, -5000, 3),
        ((4000, 4000), -4000, 4000, 3),
        ((-2000, None), 2000, 10000, 2),
        ((0, 7000), 0, 7000, 3),
    ],
)
async def test_model_124_holds_a_band_natively(
    band: tuple[int | None, int | None], outward: int, inward: int, mode: int
) -> None:
    rig = await Rig(older_battery(), DeviceKind.BATTERY).ready()
    await rig.hold(*band)
    assert point(rig.fake, 124, "OutWRte") == outward
    assert point(rig.fake, 124, "InWRte") == inward
    assert point(rig.fake, 124, "StorCtl_Mod") == mode
    assert point(rig.fake, 124, "InOutWRte_RvrtTms") == 60
    addresses = [address for address, _ in rig.fake.writes]
    assert addresses.index(address_of(rig.fake, 124, "OutWRte")) < addresses.index(
        address_of(rig.fake, 124, "StorCtl_Mod")
    ), "values and timer before the switch"


async def test_a_read_back_that_differs_is_a_refusal_that_names_the_register() -> None:
    device = pv()
    device.on_write = lambda fake, address, words: None
    rig = await Rig(device, DeviceKind.PV).ready()
    with pytest.raises(DeviceRefusedError, match="WMaxLimPct holds 1000 instead of 250"):
        await rig.hold(-2000, None)
    assert rig.device.status().setpoint is None


async def test_a_value_kept_in_a_coarser_resolution_is_a_confirmation() -> None:
    device = pv()
    at = address_of(device, 704, "WMaxLimPct")

    def rounds(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        fake.store(address, words)
        fake.registers[at] = fake.registers[at] // 10 * 10

    device.on_write = rounds
    rig = await Rig(device, DeviceKind.PV).ready()
    await rig.hold(-2017, None)
    assert rig.device.status().setpoint is not None


@pytest.mark.parametrize("model", [704, 123])
async def test_a_device_that_refuses_function_16_is_written_by_function_6(model: int) -> None:
    device = pv() if model == 704 else older_pv()
    device.refused_functions = {16}
    rig = await Rig(device, DeviceKind.PV, fallback_export_w=4000).ready()
    await rig.hold(-2000, None)
    assert all(len(words) == 1 for _, words in device.writes)
    assert device.writes[-1][0] == address_of(device, model, "WMaxLimPctEna" if model == 704 else "WMaxLim_Ena")


async def test_a_time_out_is_no_refusal_and_teaches_nothing() -> None:
    rig = await Rig(pv(), DeviceKind.PV).ready()
    rig.fake.deaf = True
    with pytest.raises(DeviceUnreachableError, match="no answer"):
        await rig.hold(-2000, None)
    rig.fake.deaf = False
    rig.time.now_s += 10
    await rig.hold(-2000, None)
    assert len(rig.fake.writes[0][1]) == 6, "still one run of registers"


@pytest.mark.parametrize(
    ("kind", "band", "message"),
    [
        (DeviceKind.PV, (1000, None), "cannot import 1000 W"),
        (DeviceKind.PV, (None, -500), "cannot be made to export 500 W"),
        (DeviceKind.BATTERY, (11_000, 11_000), "its most is 10000 W"),
        (DeviceKind.BATTERY, (-12_000, -11_000), "its most is 10000 W"),
        (DeviceKind.METER, (0, 0), "nothing to control"),
    ],
)
async def test_a_band_that_the_device_cannot_take_is_refused_in_words(
    kind: DeviceKind, band: tuple[int | None, int | None], message: str
) -> None:
    device = {DeviceKind.PV: pv, DeviceKind.BATTERY: battery, DeviceKind.METER: meter}[kind]()
    rig = await Rig(device, kind).ready()
    with pytest.raises(DeviceRefusedError, match=message):
        await rig.hold(*band)
    assert device.writes == []


async def test_the_installers_bound_below_the_nameplate_holds() -> None:
    rig = await Rig(battery(), DeviceKind.BATTERY, rated_export_w=4000).ready()
    with pytest.raises(DeviceRefusedError):
        await rig.hold(-5000, -5000)
    await rig.hold(-9000, None)
    assert point(rig.fake, 704, "WMaxLimPct") == 400


async def test_an_order_before_first_contact_is_unreachable_and_opens_nothing() -> None:
    rig = Rig(pv(), DeviceKind.PV)
    with pytest.raises(DeviceUnreachableError, match="not reached yet"):
        await rig.hold(0, 0)
    assert rig.line.connects == 0


async def test_a_scale_factor_that_moves_during_an_order_is_not_a_confirmation() -> None:
    device = pv()

    def moves(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        fake.store(address, words)
        set_point(fake, 704, "WMaxLimPct_SF", -2)

    device.on_write = moves
    rig = await Rig(device, DeviceKind.PV).ready()
    with pytest.raises(DeviceRefusedError, match="scale factor of WMaxLimPct moved from -1 to -2"):
        await rig.hold(-2000, None)


async def test_a_device_without_control_models_says_so() -> None:
    rig = await Rig(device_of([common(), inverter_701(), capacity_702()]), DeviceKind.PV).ready()
    found = rig.device.status().capabilities
    assert found is not None
    assert not found.limits_export
    assert "cannot be controlled: no usable model 704, 123 or 124" in found.notes
    await rig.hold(None, 0)
