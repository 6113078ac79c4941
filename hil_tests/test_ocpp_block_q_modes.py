"""OCPP 2.1 block Q over TLS: who moves the power, we, others, or the charger by itself, and what the plan counts on.

Use cases: Q04 setpoints that change all the time, Q05 an energy management system within our bounds, Q06 one that we
did not ask, Q07 our answer to the grid's frequency, Q09 load balancing by the charger's own meter. The plan steers by
setpoint, so it orders Q04 and Q07 by itself, understands Q06, and never asks for Q05, Q08 or Q09: those are for whoever
holds a device (`OcppEvse.hold_mode`). Setpoints of Q04 replace the running profile, which chargers without dynamic
profiles take too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from ssl import SSLContext
from typing import cast

import pytest

from drivers.device import DeviceRefusedError, Setpoint
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.v2x import Mode, Period
from hil_tests.ocpp_station import until
from hil_tests.rig.site.charger import OCPP_21
from hil_tests.rig.site.schedule import Mode as RigMode
from hil_tests.rig.site.schedule import Step
from hil_tests.test_ocpp_block_q import LEASE_S, Pair
from hil_tests.v2g_parts import SHARE_W, band, csms, solo

EXTERNAL = Step(mode=RigMode.EXTERNAL_SETPOINT, setpoint_w=2_000, limit_w=6_000, discharge_w=-3_000)


@pytest.fixture
async def pair(loopback_tls: tuple[SSLContext, Path]) -> AsyncIterator[Pair]:
    tls, ca = loopback_tls
    async with csms(ssl=tls) as box, solo(box.server.port, OCPP_21, ca=ca) as rig:
        await box.transaction()
        yield Pair(box, rig, tls, ca, box.journal)


@pytest.fixture
def every_mode(pair: Pair) -> Pair:
    """Its charger knows them all."""
    profiles = pair.rig.charger.profiles
    profiles.outlet = replace(profiles.outlet, modes=frozenset(RigMode))
    return pair


def answer_to_frequency(power_w: int) -> Setpoint:
    return Setpoint(lowest_w=power_w, highest_w=power_w, lease_s=LEASE_S, reason="test", for_frequency=True)


def mode_of(pair: Pair) -> str:
    transaction = pair.rig.charger.transaction
    assert transaction is not None
    return transaction.mode.value


# Q04


async def test_q04_setpoints_that_change_all_the_time_are_followed_in_one_profile(pair: Pair) -> None:
    for power_w in (-2_000, -6_000, -3_500, -500):
        await pair.box.evse.apply(band(power_w, power_w, LEASE_S))
        await pair.passes(power_w)
    ours = [profile.profile_id for profile in pair.rig.charger.profiles.matching(1, {})]
    assert len(ours) == len(set(ours)) == 3  # the share, priority's share, and the one that runs
    assert not pair.box.said("charger.disobeys")


async def test_q04_a_setpoint_beyond_the_rating_is_refused_and_the_one_before_goes_on(pair: Pair) -> None:
    await pair.box.evse.apply(band(-4_000, -4_000, LEASE_S))
    await pair.passes(-4_000)
    with pytest.raises(DeviceRefusedError, match="its rating is 10000 W"):
        await pair.box.evse.apply(band(-12_000, -12_000, LEASE_S))
    await pair.passes(-4_000)


# Q05


async def test_q05_an_energy_management_system_moves_the_power_within_our_bounds_until_we_take_it_back(
    every_mode: Pair,
) -> None:
    pair = every_mode
    bounds = Period(mode=Mode.EXTERNAL_SETPOINT, limit_w=5_000, discharge_w=-4_000)
    await pair.box.evse.hold_mode(bounds, LEASE_S, "test")
    for wanted_w, power_w in ((3_000, 3_000), (-8_000, -4_000), (9_000, 5_000)):
        pair.rig.charger.profiles.beside_w = wanted_w
        await pair.passes(power_w)
    await until(lambda: mode_of(pair) == "ExternalSetpoint", "the charger says so")
    assert pair.box.capabilities.follows_setpoint  # we gave it away, and take it back with the next order
    await pair.box.evse.release()
    await pair.passes(SHARE_W)


# Q06


async def test_q06_what_others_move_is_not_ours_to_order_and_our_cap_still_holds(pair: Pair) -> None:
    box, words = pair.box, pair.rig.charger.words
    assert box.capabilities.follows_setpoint
    words.move_from_outside(EXTERNAL)
    await pair.passes(2_000)
    await until(lambda: not box.capabilities.follows_setpoint, "the plan counts on caps alone")
    assert (box.capabilities.rated_import_w, box.capabilities.rated_export_w) == (6_000, 0)
    assert box.capabilities.fallback_lowest_w == -10_000, "they may discharge it while we are silent"
    assert any("is in ExternalSetpoint" in note for note in box.capabilities.notes)
    [shown] = cast("list[JsonObject]", box.server.chargers["CP-1"].desk.look()["evses"])
    assert (shown["mode"], shown["limited_by"]) == ("ExternalSetpoint", ["'EMS' limits it to no more than 6000 W"])

    await box.evse.apply(band(0, 1_500, LEASE_S))
    await pair.passes(1_500)
    with pytest.raises(DeviceRefusedError, match="is in ExternalSetpoint by its composite schedule; it went back to 0"):
        await box.evse.apply(band(-5_000, -5_000, LEASE_S))
    await pair.passes(0)

    words.move_from_outside(None)
    await until(lambda: box.capabilities.follows_setpoint, "it is ours again")
    assert box.capabilities.rated_import_w == 11_000
    await box.evse.apply(band(0, 7_000, LEASE_S))
    await pair.passes(7_000)


async def test_q06_a_charger_under_others_limits_is_counted_at_no_more_and_at_its_rating_once_it_is_away(
    pair: Pair,
) -> None:
    box, words = pair.box, pair.rig.charger.words
    words.move_from_outside(Step(mode=RigMode.EXTERNAL_LIMITS, limit_w=3_000, discharge_w=-1_000))
    await pair.passes(3_000)
    await until(lambda: box.capabilities.rated_import_w == 3_000, "it cannot be raised above that")
    assert not box.capabilities.follows_setpoint
    pair.rig.session.drop(2.0)
    # Who is not heard may be let go by others meanwhile.
    await until(lambda: box.capabilities.rated_import_w == 11_000, "its rating counts")
    await until(lambda: box.capabilities.rated_import_w == 3_000, "it is back and still limited")


# Q07


async def test_q07_our_answer_to_the_grid_s_frequency_is_told_as_such(pair: Pair) -> None:
    for power_w in (-3_000, 2_500):
        await pair.box.evse.apply(answer_to_frequency(power_w))
        await pair.passes(power_w)
        await until(lambda: mode_of(pair) == "CentralFrequency", "the charger knows what it is for")
    await pair.box.evse.apply(band(-3_000, -3_000, LEASE_S))
    await until(lambda: mode_of(pair) == "CentralSetpoint", "it is over")
    assert not pair.box.said("charger.disobeys")


async def test_q07_a_charger_that_refuses_the_mode_answers_the_frequency_by_plain_setpoints(pair: Pair) -> None:
    profiles = pair.rig.charger.profiles
    profiles.outlet = replace(profiles.outlet, modes=profiles.outlet.modes - {RigMode.CENTRAL_FREQUENCY})
    await pair.box.evse.apply(answer_to_frequency(-3_000))
    await pair.passes(-3_000)
    assert mode_of(pair) == "CentralSetpoint"
    await pair.box.evse.apply(answer_to_frequency(2_500))
    await pair.passes(2_500)
    assert mode_of(pair) == "ChargingOnly"


# Q09


async def test_q09_a_charger_balances_loads_by_its_own_meter_within_our_bounds(every_mode: Pair) -> None:
    pair = every_mode
    bounds = Period(mode=Mode.LOCAL_LOAD_BALANCING, limit_w=6_000, discharge_w=-2_000)
    await pair.box.evse.hold_mode(bounds, LEASE_S, "test")
    for house_w, power_w in ((1_500, -1_500), (5_000, -2_000), (-4_000, 4_000)):
        pair.rig.charger.profiles.beside_w = -house_w
        await pair.passes(power_w)
    assert pair.box.status.setpoint is not None
    assert (pair.box.status.setpoint.lowest_w, pair.box.status.setpoint.highest_w) == (-2_000, 6_000)
    await pair.box.evse.release()
    await pair.passes(SHARE_W)


@pytest.mark.parametrize("mode", [Mode.EXTERNAL_LIMITS, Mode.LOCAL_LOAD_BALANCING])
async def test_q09_q06_a_mode_that_the_charger_does_not_support_is_refused_with_its_reason(
    pair: Pair, mode: Mode
) -> None:
    with pytest.raises(DeviceRefusedError, match="UnsupportedMode"):
        await pair.box.evse.hold_mode(Period(mode=mode, limit_w=5_000), LEASE_S, "test")
    await pair.passes(SHARE_W)
