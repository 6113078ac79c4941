"""When we fall silent, stop or start again: timers, shares, leases, and giving back what was found (SAFETY 2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivers.device import DeadMan, DeviceKind, DeviceRefusedError, DeviceUnreachableError
from drivers.sunspec.contact import SLOW_PERIOD_S
from drivers.sunspec.device import REVERSION_GRACE_S
from tests.drivers.sunspec.fakes import (
    FakeDevice,
    MemoryJournal,
    address_of,
    battery,
    point,
    pv,
    real_device,
    set_point,
)
from tests.drivers.sunspec.orders import Rig, older_battery, older_pv, registers_of


async def test_a_limit_carries_its_timer_and_revert_target_in_the_same_write() -> None:
    rig = await Rig(pv(), DeviceKind.PV, fallback_export_w=4000).ready()
    await rig.hold(-2000, None, lease_s=59.5)
    first_write = rig.fake.writes[0]
    # Ena, 25.0 %, target 50.0 %, target on, 60 s in two registers: one request, so nothing is in force without them.
    assert first_write == (address_of(rig.fake, 704, "WMaxLimPctEna"), (1, 250, 500, 1, 0, 60))
    assert rig.fake.writes[1] == (address_of(rig.fake, 704, "WMaxLimPctEna"), (1,)), "a Fronius acts on this one"


async def test_renewing_the_same_band_writes_timer_and_switch_again() -> None:
    rig = await Rig(pv(), DeviceKind.PV).ready()
    await rig.hold(-2000, None)
    once = list(rig.fake.writes)
    rig.fake.writes.clear()
    rig.time.now_s += 20
    await rig.hold(-2000, None)
    assert rig.fake.writes == once
    rig.time.now_s += 59
    assert rig.device.status().setpoint is not None


async def test_a_battery_with_a_share_reverts_to_rest_and_says_so() -> None:
    rig = await Rig(battery(), DeviceKind.BATTERY, fallback_export_w=0).ready()
    await rig.hold(-3000, -3000)
    assert (point(rig.fake, 704, "WSetEnaRvrt"), point(rig.fake, 704, "WSetRvrt")) == (1, 0)
    found = rig.device.status().capabilities
    assert found is not None
    assert found.dead_man is DeadMan.REVERTS_TO_FALLBACK
    assert (found.fallback_lowest_w, found.fallback_highest_w) == (0, 0)


async def test_a_battery_without_a_share_reverts_to_its_own_control() -> None:
    rig = await Rig(battery(), DeviceKind.BATTERY).ready()
    await rig.hold(-3000, -3000)
    assert point(rig.fake, 704, "WSetEnaRvrt") == 0
    found = rig.device.status().capabilities
    assert found is not None
    assert found.dead_man is DeadMan.REVERTS_UNLIMITED
    assert (found.fallback_lowest_w, found.fallback_highest_w) == (-10000, 10000)


async def test_a_battery_that_may_charge_freely_keeps_its_own_control_within_an_export_limit() -> None:
    rig = await Rig(battery(), DeviceKind.BATTERY).ready()
    await rig.hold(-3000, -3000)
    rig.fake.writes.clear()
    await rig.hold(-2000, None)
    assert (point(rig.fake, 704, "WMaxLimPct"), point(rig.fake, 704, "WSetEna")) == (200, 0)
    addresses = [address for address, _ in rig.fake.writes]
    limit, setpoint = (address_of(rig.fake, 704, path) for path in ("WMaxLimPctEna", "WSetEna"))
    assert addresses.index(limit) < addresses.index(setpoint), "what comes is engaged before what goes is released"


async def test_release_puts_back_what_was_found_and_writes_nothing_when_nothing_changed() -> None:
    rig = await Rig(pv(WMaxLimPct=950, WMaxLimPctRvrtTms=7), DeviceKind.PV).ready()
    before = dict(rig.fake.registers)
    await rig.device.release()
    assert rig.fake.writes == []
    await rig.hold(-1000, None)
    await rig.device.release()
    assert rig.fake.registers == before
    assert rig.device.status().setpoint is None


@pytest.mark.parametrize(
    ("make", "kind", "model", "window"),
    [
        (older_pv, DeviceKind.PV, 123, "WMaxLimPct_WinTms"),
        (older_battery, DeviceKind.BATTERY, 124, "InOutWRte_WinTms"),
    ],
)
async def test_an_order_is_not_delayed_at_random_by_the_devices_time_window(
    make: Callable[[], FakeDevice], kind: DeviceKind, model: int, window: str
) -> None:
    rig = Rig(make(), kind)
    set_point(rig.fake, model, window, 300)
    await rig.ready()
    await rig.hold(-1000, 0)
    assert point(rig.fake, model, window) == 0
    await rig.device.release()
    assert point(rig.fake, model, window) == 300


async def test_a_band_without_a_limit_gives_the_limit_back() -> None:
    rig = await Rig(pv(WMaxLimPct=950), DeviceKind.PV).ready()
    before = dict(rig.fake.registers)
    await rig.hold(-1000, None)
    assert rig.fake.registers != before
    await rig.hold(None, None)
    assert rig.fake.registers == before


async def test_what_was_found_survives_a_restart_in_the_middle_of_an_order() -> None:
    rig = await Rig(pv(), DeviceKind.PV).ready()
    before = dict(rig.fake.registers)
    await rig.hold(-1000, None)
    again = await Rig(rig.fake, DeviceKind.PV, journal=rig.journal).ready()
    await again.device.release()
    assert rig.fake.registers == before


async def test_a_legal_cap_that_was_found_is_never_exceeded() -> None:
    rig = await Rig(pv(WMaxLimPctEna=1, WMaxLimPct=700), DeviceKind.PV, fallback_export_w=8000).ready()
    await rig.hold(-8000, None)
    assert (point(rig.fake, 704, "WMaxLimPct"), point(rig.fake, 704, "WMaxLimPctRvrt")) == (700, 700)
    found = rig.device.status().capabilities
    assert found is not None
    assert found.dead_man is DeadMan.REVERTS_TO_FALLBACK
    assert found.fallback_lowest_w == -5600
    assert "found limited to 5600 W export: that stays the most" in found.notes
    await rig.device.release()
    assert (point(rig.fake, 704, "WMaxLimPctEna"), point(rig.fake, 704, "WMaxLimPct")) == (1, 700)


async def test_an_order_works_while_the_journal_is_away_and_what_was_found_is_recorded_later() -> None:
    journal = MemoryJournal()
    journal.broken = True
    rig = await Rig(pv(), DeviceKind.PV, journal=journal).ready()
    await rig.hold(-1000, None)
    journal.broken = False
    rig.time.now_s += 10
    await rig.device.look()
    found = bytes((0, 0, 3, 232, 3, 232, 0, 0, 0, 0, 0, 0))
    assert journal.kept["found/Maker/Model X/S-1/704/WMaxLimPctEna"] == found
    await rig.device.release()
    assert point(rig.fake, 704, "WMaxLimPctEna") == 0


async def test_a_timer_that_the_device_does_not_keep_is_no_dead_man() -> None:
    device = pv()
    timers = registers_of(device, 704, ["WMaxLimPctRvrtTms"])

    def forgets_timers(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        fake.store(address, words)
        fake.store(min(timers), (0, 0))

    device.on_write = forgets_timers
    rig = await Rig(device, DeviceKind.PV, fallback_export_w=4000).ready()
    before = rig.device.status().capabilities
    assert before is not None
    assert before.dead_man is DeadMan.REVERTS_TO_FALLBACK
    await rig.hold(-2000, None)
    after = rig.device.status().capabilities
    assert after is not None
    assert after.dead_man is DeadMan.NONE
    assert any("no device-side dead man" in note for note in after.notes)
    assert after.fallback_lowest_w == -8000, "counted at its nameplate"


async def test_an_unimplemented_timer_is_left_alone_and_said() -> None:
    rig = await Rig(older_pv(WMaxLimPct_RvrtTms=0xFFFF), DeviceKind.PV).ready()
    await rig.hold(-2000, None)
    assert point(rig.fake, 123, "WMaxLimPct_RvrtTms") == 0xFFFF
    assert point(rig.fake, 123, "WMaxLimPct") == 25
    found = rig.device.status().capabilities
    assert found is not None
    assert found.dead_man is DeadMan.NONE


async def test_model_123_reverts_to_no_limit_at_all() -> None:
    rig = await Rig(older_pv(), DeviceKind.PV, fallback_export_w=3000).ready()
    found = rig.device.status().capabilities
    assert found is not None
    assert found.dead_man is DeadMan.REVERTS_UNLIMITED
    assert found.fallback_lowest_w == -8000


async def test_a_lease_that_ends_unrenewed_puts_the_share_into_a_device_that_would_not_hold_it() -> None:
    rig = await Rig(older_pv(), DeviceKind.PV, fallback_export_w=3000).ready()
    await rig.hold(-7000, None)
    rig.time.now_s += 60
    assert rig.device.status().setpoint is None
    await rig.device.end_leases()
    assert (point(rig.fake, 123, "WMaxLimPct"), point(rig.fake, 123, "WMaxLim_Ena")) == (37, 1)
    assert point(rig.fake, 123, "WMaxLimPct_RvrtTms") == 0


async def test_a_lease_that_ends_unrenewed_gives_a_device_without_share_back() -> None:
    rig = await Rig(older_pv(WMaxLimPct_RvrtTms=0xFFFF), DeviceKind.PV).ready()
    before = dict(rig.fake.registers)
    await rig.hold(-1000, None)
    rig.time.now_s += 61
    rig.fake.deaf = True
    await rig.device.end_leases()
    rig.fake.deaf = False
    await rig.device.end_leases()
    assert rig.fake.registers == before


async def test_a_device_that_reverts_to_its_fallback_by_itself_is_not_written_to_at_the_end_of_a_lease() -> None:
    rig = await Rig(pv(), DeviceKind.PV, fallback_export_w=3000).ready()
    await rig.hold(-7000, None)
    rig.fake.writes.clear()
    set_point(rig.fake, 704, "WMaxLimPct", point(rig.fake, 704, "WMaxLimPctRvrt"))  # as its timer does
    rig.time.now_s += 60 + REVERSION_GRACE_S
    await rig.device.end_leases()
    assert rig.fake.writes == []
    assert rig.device.status().setpoint is None


async def test_a_timer_that_does_nothing_is_found_out_at_the_end_of_a_lease_and_not_counted_on_again() -> None:
    rig = await Rig(pv(), DeviceKind.PV, fallback_export_w=3000).ready()
    await rig.hold(-7000, None)
    rig.time.now_s += 61
    await rig.device.end_leases()
    assert point(rig.fake, 704, "WMaxLimPct") == 875, "a moment of grace: its timer began after ours"
    rig.time.now_s += REVERSION_GRACE_S
    await rig.device.end_leases()
    assert (point(rig.fake, 704, "WMaxLimPct"), point(rig.fake, 704, "WMaxLimPctEna")) == (375, 1), "the share"
    assert dead_man_of(rig) is DeadMan.NONE
    rig.time.now_s += SLOW_PERIOD_S
    await rig.device.look()
    again = await Rig(rig.fake, DeviceKind.PV, journal=rig.journal, fallback_export_w=3000).ready()
    assert dead_man_of(again) is DeadMan.NONE, "over a restart too"


async def test_what_somebody_else_ordered_meanwhile_is_not_undone_at_the_end_of_a_lease() -> None:
    rig = await Rig(pv(), DeviceKind.PV, fallback_export_w=3000).ready()
    await rig.hold(-7000, None)
    set_point(rig.fake, 704, "WMaxLimPct", 123)
    rig.fake.writes.clear()
    rig.time.now_s += 60 + REVERSION_GRACE_S
    await rig.device.end_leases()
    assert rig.fake.writes == []
    assert dead_man_of(rig) is DeadMan.REVERTS_TO_FALLBACK, "and says nothing about the timer"


@pytest.mark.parametrize(("remaining", "expected"), [(40, DeadMan.REVERTS_TO_FALLBACK), (60, DeadMan.NONE)])
async def test_a_remaining_time_that_does_not_move_until_the_renewal_is_no_dead_man(
    remaining: int, expected: DeadMan
) -> None:
    device = pv(WMaxLimPctRvrtRem=60)
    rig = await Rig(device, DeviceKind.PV, fallback_export_w=3000).ready()
    await rig.hold(-7000, None)
    assert dead_man_of(rig) is DeadMan.REVERTS_TO_FALLBACK
    rig.time.now_s += 20
    set_point(device, 704, "WMaxLimPctRvrtRem", remaining)
    await rig.hold(-7000, None)
    assert dead_man_of(rig) is expected


async def test_a_remaining_time_is_not_judged_when_somebody_else_ended_the_order() -> None:
    device = pv(WMaxLimPctRvrtRem=60)
    rig = await Rig(device, DeviceKind.PV, fallback_export_w=3000).ready()
    await rig.hold(-7000, None)
    rig.time.now_s += 20
    set_point(device, 704, "WMaxLimPctEna", 0)
    await rig.hold(-7000, None)
    assert dead_man_of(rig) is DeadMan.REVERTS_TO_FALLBACK


async def test_what_was_found_is_taken_anew_only_while_nothing_of_ours_stands() -> None:
    rig = await Rig(pv(), DeviceKind.PV).ready()
    await rig.hold(-1000, None)
    second = await Rig(rig.fake, DeviceKind.PV, journal=rig.journal).ready()
    await second.device.release()
    assert point(rig.fake, 704, "WMaxLimPctEna") == 0
    set_point(rig.fake, 704, "WMaxLimPctEna", 1)  # the installer sets a legal cap
    set_point(rig.fake, 704, "WMaxLimPct", 700)
    third = await Rig(rig.fake, DeviceKind.PV, journal=rig.journal).ready()
    await third.hold(-8000, None)
    assert point(rig.fake, 704, "WMaxLimPct") == 700
    await third.hold(-1000, None)
    fourth = await Rig(rig.fake, DeviceKind.PV, journal=rig.journal).ready()
    await fourth.device.release()
    assert (point(rig.fake, 704, "WMaxLimPctEna"), point(rig.fake, 704, "WMaxLimPct")) == (1, 700)


async def test_a_passing_order_of_another_master_does_not_become_what_was_found() -> None:
    rig = await Rig(pv(), DeviceKind.PV).ready()
    for path, raw in (("WMaxLimPctEna", 1), ("WMaxLimPct", 100), ("WMaxLimPctRvrtTms", 60)):
        set_point(rig.fake, 704, path, raw)
    again = await Rig(rig.fake, DeviceKind.PV, journal=rig.journal).ready()
    await again.hold(-8000, None)
    assert point(rig.fake, 704, "WMaxLimPct") == 1000, "no legal cap"


def dead_man_of(rig: Rig) -> DeadMan:
    found = rig.device.status().capabilities
    assert found is not None
    return found.dead_man


async def test_an_order_of_unknown_fate_is_ended_too() -> None:
    device = older_pv(WMaxLimPct_RvrtTms=0xFFFF)
    rig = await Rig(device, DeviceKind.PV).ready()
    before = dict(device.registers)

    def goes_deaf(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        fake.store(address, words)
        fake.deaf = True

    device.on_write = goes_deaf
    with pytest.raises(DeviceUnreachableError):
        await rig.hold(0, 0)
    device.deaf, device.on_write = False, None
    rig.time.now_s += 61
    await rig.device.end_leases()
    assert device.registers == before


async def test_a_device_that_refuses_unimplemented_registers_is_written_around_them_timer_first() -> None:
    device = older_pv()
    device.refuses_writes_across = registers_of(device, 123, ["WMaxLimPct_RmpTms"])
    rig = await Rig(device, DeviceKind.PV).ready()
    await rig.hold(-2000, None)
    order = [address for address, _ in device.writes]
    timer, value, switch = (
        address_of(device, 123, path) for path in ("WMaxLimPct_RvrtTms", "WMaxLimPct", "WMaxLim_Ena")
    )
    assert order.index(timer) < order.index(value) < order.index(switch)
    assert not device.written_registers() & device.refuses_writes_across


async def test_an_inverter_that_reads_as_limited_to_nothing_is_not_controlled() -> None:
    device, _, _ = real_device("sma-sb3.6-2025-06")
    rig = await Rig(device, DeviceKind.PV).ready()
    found = rig.device.status().capabilities
    assert found is not None
    assert not found.limits_export
    assert any("cannot be read, so it could not be put back" in note for note in found.notes)
    assert not any(key.startswith("found/") for key in rig.journal.kept)
    with pytest.raises(DeviceRefusedError, match="cannot be limited"):
        await rig.hold(-1000, None)


async def test_our_own_stop_is_not_taken_for_such_a_reading_after_a_restart() -> None:
    rig = await Rig(pv(), DeviceKind.PV).ready()
    await rig.hold(0, 0)
    again = await Rig(rig.fake, DeviceKind.PV, journal=rig.journal).ready()
    await again.device.release()
    assert (point(rig.fake, 704, "WMaxLimPctEna"), point(rig.fake, 704, "WMaxLimPct")) == (0, 1000)


async def test_another_masters_write_is_told_at_the_next_renewal_and_not_fought_before() -> None:
    rig = await Rig(pv(), DeviceKind.PV).ready()
    await rig.hold(-2000, None)
    set_point(rig.fake, 704, "WMaxLimPct", 900)
    rig.fake.writes.clear()
    await rig.device.look()
    assert not rig.fake.writes, "not before its time"
    rig.time.now_s += 20
    await rig.hold(-2000, None)
    assert "WMaxLimPct from 250 to 900" in rig.device.status().detail
    found = rig.device.status().capabilities
    assert found is not None
    assert any("another master" in note for note in found.notes)
    rig.time.now_s += 20
    await rig.hold(-2000, None)
    assert "another master" not in rig.device.status().detail, "it left us alone since"


async def test_what_the_devices_own_timer_changed_is_nobody_elses_write() -> None:
    rig = await Rig(pv(), DeviceKind.PV).ready()
    await rig.hold(-2000, None, lease_s=60)
    set_point(rig.fake, 704, "WMaxLimPctEna", 0)
    rig.time.now_s += 61
    await rig.hold(-2000, None)
    assert "another master" not in rig.device.status().detail


async def test_how_a_device_takes_writes_is_learned_once_and_known_after_a_restart() -> None:
    journal = MemoryJournal()
    fake = pv()
    fake.refuses_writes_across = set(registers_of(fake, 704, ["WMaxLimPct"]))
    first = await Rig(fake, DeviceKind.PV, journal=journal).ready()
    await first.hold(-2000, None)
    first.time.now_s += SLOW_PERIOD_S
    await first.device.look()
    fake.writes.clear()
    again = await Rig(fake, DeviceKind.PV, journal=journal).ready()
    fake.refuses_writes_across = set()  # a run would be taken now: it is not even tried
    await again.hold(-2000, None)
    assert fake.writes
    assert all(len(words) <= 2 for _, words in fake.writes)
