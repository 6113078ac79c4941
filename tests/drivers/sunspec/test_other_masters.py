"""Another master writes to the same device: that is noticed and told, and what it restricts is never loosened by us."""

from __future__ import annotations

import pytest

from drivers.device import DeviceKind, DeviceUnreachableError
from drivers.sunspec.device import REVERSION_GRACE_S
from drivers.sunspec.errors import NoAnswerError
from tests.drivers.sunspec.fakes import FakeDevice, FakeLine, point, pv, set_point
from tests.drivers.sunspec.orders import Rig, older_pv

RENEWAL_S = 20


def limit(device: FakeDevice) -> tuple[int, int]:
    """(switch, tenths of a percent) of model 704."""
    return point(device, 704, "WMaxLimPctEna"), point(device, 704, "WMaxLimPct")


def told(rig: Rig) -> str:
    found = rig.device.status().capabilities
    assert found is not None
    return "; ".join(found.notes)


async def disturbed(theirs: int, fallback_export_w: int | None = None) -> Rig:
    """50 % of ours in force, and then another limit in its place, tenths of a percent."""
    shares = {} if fallback_export_w is None else {"fallback_export_w": fallback_export_w}
    rig = await Rig(pv(), DeviceKind.PV, journal=None, line=FakeLine, **shares).ready()
    await rig.hold(-4000, None)
    assert limit(rig.fake) == (1, 500)
    set_point(rig.fake, 704, "WMaxLimPct", theirs)
    rig.time.now_s += RENEWAL_S
    return rig


async def test_a_stricter_limit_of_another_master_stays_over_all_renewals_and_is_told() -> None:
    rig = await disturbed(123)
    for _ in range(3):
        await rig.hold(-4000, None)
        assert limit(rig.fake) == (1, 123)
        assert "another master" in rig.device.status().detail
        rig.time.now_s += RENEWAL_S
    await rig.hold(-400, None)
    assert limit(rig.fake) == (1, 50), "what restricts more is ours to order"
    rig.time.now_s += RENEWAL_S
    await rig.hold(-6000, None)
    assert limit(rig.fake) == (1, 123), "and goes back to theirs at most"


@pytest.mark.parametrize(("path", "raw"), [("WMaxLimPct", 1000), ("WMaxLimPctEna", 0)])
async def test_once_the_other_master_lifts_its_limit_ours_holds_again(path: str, raw: int) -> None:
    rig = await disturbed(123)
    await rig.hold(-4000, None)
    set_point(rig.fake, 704, path, raw)
    rig.time.now_s += RENEWAL_S
    await rig.hold(-4000, None)
    assert limit(rig.fake) == (1, 500)
    rig.time.now_s += RENEWAL_S
    await rig.hold(-4000, None)
    assert "another master" not in rig.device.status().detail
    await rig.device.release()
    assert limit(rig.fake) == (0, 1000), "as found"


@pytest.mark.parametrize("theirs", [123, 900], ids=["stricter", "looser"])
async def test_releasing_ours_leaves_the_limit_of_another_master_in_force(theirs: int) -> None:
    rig = await disturbed(theirs)
    await rig.hold(-4000, None)
    assert limit(rig.fake) == (1, min(theirs, 500))
    await rig.device.release()
    assert limit(rig.fake) == (1, theirs)
    await rig.hold(-7900, None)
    assert limit(rig.fake) == (1, theirs), "nor does the next order go above it"


async def test_a_limit_that_was_never_overwritten_is_left_untouched_and_told_at_the_release() -> None:
    rig = await disturbed(123)
    rig.fake.writes.clear()
    await rig.device.release()
    assert rig.fake.writes == []
    await rig.device.look()
    assert "from 500 to 123" in told(rig)
    await rig.device.release()
    assert rig.fake.writes == [], "nothing of ours stands there any more"


async def test_the_end_of_a_lease_does_not_lift_what_another_master_ordered_on_an_older_inverter() -> None:
    rig = await Rig(older_pv(), DeviceKind.PV).ready()
    await rig.hold(-4000, None)
    set_point(rig.fake, 123, "WMaxLimPct", 12)
    rig.fake.writes.clear()
    rig.time.now_s += 60 + REVERSION_GRACE_S
    await rig.device.end_leases()
    assert rig.fake.writes == []
    await rig.device.look()
    assert "WMaxLimPct from 50 to 12" in told(rig)


async def test_what_a_timer_reverted_to_before_its_time_is_nobodys_limit() -> None:
    rig = await disturbed(250, fallback_export_w=2000)
    assert point(rig.fake, 704, "WMaxLimPctRvrt") == 250, "the share: the device's clock is fast"
    await rig.hold(-4000, None)
    assert limit(rig.fake) == (1, 500)


async def test_an_order_of_ours_that_failed_half_way_is_not_taken_for_theirs() -> None:
    rig = await disturbed(123)
    await rig.hold(-4000, None)
    rig.time.now_s += RENEWAL_S

    def lose_the_switch(fake: FakeDevice, address: int, words: tuple[int, ...]) -> None:
        if len(words) == 1:
            raise NoAnswerError("lost")
        fake.store(address, words)

    rig.fake.on_write = lose_the_switch
    with pytest.raises(DeviceUnreachableError):
        await rig.hold(-400, None)
    assert limit(rig.fake) == (1, 50), "ours, and the answer to the last write was lost"
    rig.fake.on_write = None
    await rig.hold(-4000, None)
    assert limit(rig.fake) == (1, 123)
