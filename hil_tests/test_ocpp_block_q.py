"""OCPP block Q over real WebSockets with TLS: cars discharge through the real driver, by 2.1 and by 2.0.1.

Power is what the simulated charger really passes, not what anybody says. Use cases: Q01 authorisation, Q02 charging
only first, Q03 central setpoint, Q08 local frequency, Q10 idle, Q11 going offline, Q12 resuming; K03 for 2.0.1. Q04 to
Q07 and Q09 are in `test_ocpp_block_q_modes`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from ssl import SSLContext

import pytest

from drivers.device import DeadMan, DeviceRefusedError, LinkState
from drivers.ocpp import obedience, profiles
from drivers.ocpp.v2x import Mode, Period
from hil_tests.ocpp_station import MemoryJournal, until
from hil_tests.rig.charger.solo import CarSettings, SoloCharger
from hil_tests.rig.site.charger import OCPP_21, OCPP_201
from hil_tests.v2g_parts import NEGATIVE, SHARE_W, V2X, Csms, band, csms, solo

VERSIONS = [pytest.param(OCPP_21, id="2.1"), pytest.param(OCPP_201, id="2.0.1")]
CURVE = ((49_800, -6_000), (50_200, 6_000))
LEASE_S = 600.0
Tls = tuple[SSLContext, Path]
NEVER = replace(V2X, discharge="never")


@dataclass
class Pair:
    """The driver and a charger that is connected to it."""

    box: Csms
    rig: SoloCharger
    tls: SSLContext
    ca: Path
    journal: MemoryJournal

    @property
    def power_w(self) -> float:
        return self.rig.evse.power_w

    async def passes(self, power_w: float, seconds: float = 10.0) -> None:
        await until(lambda: abs(self.power_w - power_w) < 10, f"{power_w} W at the outlet", seconds)


@pytest.fixture
async def pair(request: pytest.FixtureRequest, loopback_tls: Tls) -> AsyncIterator[Pair]:
    """Over the version that a test asks for, 2.1 where it does not."""
    version = getattr(request, "param", OCPP_21)
    tls, ca = loopback_tls
    journal = MemoryJournal()
    async with (
        csms(V2X if version == OCPP_21 else NEGATIVE, journal, ssl=tls) as box,
        solo(box.server.port, version, ca=ca) as rig,
    ):
        await box.transaction()
        yield Pair(box, rig, tls, ca, journal)


def exported_wh(pair: Pair) -> float:
    return pair.rig.evse.energy.export_milliwatt_hours / 1000


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_q03_k03_a_car_discharges_measurably_and_charges_again(pair: Pair) -> None:
    box = pair.box
    assert box.capabilities.rated_export_w == 10_000
    assert box.capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK
    await box.evse.apply(band(-5_000, -5_000, LEASE_S))
    await pair.passes(-5_000)
    before_wh = exported_wh(pair)
    await until(lambda: exported_wh(pair) > before_wh + 2, "2 Wh out of the car")
    await until(lambda: box.samples[-1].power_w == -5_000, "the meter tells of it")
    registers = [s.export_register_milliwatt_hours for s in box.samples if s.export_register_milliwatt_hours]
    assert registers[-1] > registers[0]
    assert box.status.follows is True
    charger_mode = pair.rig.charger.transaction
    assert charger_mode is not None
    assert charger_mode.mode == ("CentralSetpoint" if pair.rig.charger.extended else "ChargingOnly")
    await box.evse.apply(band(0, 7_400, LEASE_S))
    await pair.passes(7_400)
    assert not box.said("charger.disobeys")


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_q03_k01_the_lease_of_a_discharge_ends_in_the_charger_at_the_static_share(pair: Pair) -> None:
    await pair.box.evse.apply(band(-5_000, -5_000, 3.0))
    await pair.passes(-5_000)
    await pair.passes(SHARE_W)
    assert pair.box.status.setpoint is None


async def test_q01_the_car_says_what_it_can_give_and_is_allowed_to(pair: Pair) -> None:
    vehicle = pair.box.vehicle
    assert vehicle is not None
    assert (vehicle.max_charge_w, vehicle.max_discharge_w) == (11_000, 10_000)
    assert vehicle.battery_capacity_wh == 60_000
    assert vehicle.state_of_charge_permille is not None
    await until(lambda: pair.rig.charger.energy_transfer is not None, "the charger is told what is allowed")
    assert pair.rig.charger.energy_transfer == frozenset({"DC", "DC_BPT"})


async def test_q01_where_the_owner_never_permits_it_the_car_is_told_to_charge_only(loopback_tls: Tls) -> None:
    async with csms(NEVER, ssl=loopback_tls[0]) as box, solo(box.server.port, OCPP_21, ca=loopback_tls[1]) as rig:
        await box.transaction()
        await until(lambda: rig.charger.energy_transfer == frozenset({"DC"}), "charging only is allowed")
        await until(lambda: box.vehicle is not None and box.vehicle.max_discharge_w == 0, "the car offers nothing")
        with pytest.raises(DeviceRefusedError, match="not permitted"):
            await box.evse.apply(band(-5_000, -5_000))
        assert rig.evse.power_w >= 0


async def test_q01_values_of_each_phase_are_ordered_shown_and_obeyed(loopback_tls: Tls) -> None:
    async with (
        csms(ssl=loopback_tls[0]) as box,
        solo(box.server.port, OCPP_21, ca=loopback_tls[1], per_phase=True) as rig,
    ):
        await box.transaction()
        await until(lambda: box.vehicle is not None and box.vehicle.max_discharge_w == 9_999, "limits by phase, summed")
        await box.evse.apply(band(-6_000, -6_000, LEASE_S))
        await until(lambda: abs(rig.evse.power_w + 6_000) < 10, "the sum of the phases")


async def test_q02_a_2_1_charger_charges_before_and_between_discharges(pair: Pair) -> None:
    for power_w in (6_000, -3_000, 0, 4_000):
        await pair.box.evse.apply(band(min(power_w, 0), power_w, LEASE_S))
        await pair.passes(power_w)


async def test_q03_a_2_1_charger_never_takes_a_limit_below_zero_and_2_0_1_needs_one(loopback_tls: Tls) -> None:
    async with csms(V2X, ssl=loopback_tls[0]) as box, solo(box.server.port, OCPP_201, ca=loopback_tls[1]):
        await box.transaction()
        with pytest.raises(DeviceRefusedError, match=r"OCPP 2\.1 only"):
            await box.evse.apply(band(-5_000, -5_000))
        assert box.capabilities.rated_export_w == 0
        assert any("needs OCPP 2.1" in note for note in box.capabilities.notes)


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_q03_a_charger_that_confirms_and_does_not_obey_is_found_out_by_its_meter(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obedience, "WRONG_WAY_S", 1.0)
    pair.rig.charger.deaf = True
    await pair.box.evse.apply(band(-5_000, -5_000, LEASE_S))  # it shows the setpoint, and charges on
    await until(lambda: pair.box.said("charger.disobeys"), "the meter says otherwise", 15)
    (text,) = pair.box.said("charger.disobeys")
    assert "charges with" in text
    assert "back to 0 W" in text
    await until(lambda: (s := pair.box.status.setpoint) is not None and s.highest_w == 0, "0 W in the charger")
    assert pair.rig.charger.profiles.limit_w(time.time(), pair.rig.charger.transaction_start_s) == 0
    with pytest.raises(DeviceRefusedError, match="not told to discharge again"):
        await pair.box.evse.apply(band(-5_000, -5_000, LEASE_S))
    assert pair.box.capabilities.rated_export_w == 0


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_q03_k08_a_charger_that_loses_the_sign_is_found_out_by_its_schedule_before_it_charges(pair: Pair) -> None:
    await pair.box.evse.apply(band(0, 0, LEASE_S))
    await pair.passes(0)
    pair.rig.charger.profiles.loses_sign = True
    with pytest.raises(DeviceRefusedError, match=r"was told -5000 W and holds 5000 W .* it went back to 0 W"):
        await pair.box.evse.apply(band(-5_000, -5_000, LEASE_S))
    await pair.passes(0)
    assert pair.box.capabilities.rated_export_w == 0
    assert pair.box.said("charger.disobeys")


async def test_q03_a_car_that_gives_nothing_is_not_left_ordered_to_discharge(
    loopback_tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obedience, "PROOF_S", 4.0)
    empty = CarSettings(discharge_w=10_000, state_of_charge_percent=19.0, minimum_percent=20.0)
    async with (
        csms(NEGATIVE, ssl=loopback_tls[0]) as box,
        solo(box.server.port, OCPP_201, ca=loopback_tls[1], car=empty) as rig,
    ):
        await box.transaction()
        await box.evse.apply(band(-5_000, -5_000, LEASE_S))
        await until(lambda: box.said("charger.disobeys"), "no export is metered", 20)
        assert "0 W are metered" in box.said("charger.disobeys")[0]
        await until(lambda: rig.evse.limit_w == 0, "back to 0 W")


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_q12_k03_a_lost_connection_in_the_middle_of_a_discharge_ends_with_the_setpoint_sent_again(
    pair: Pair,
) -> None:
    pair.rig.charger.settings = replace(pair.rig.charger.settings, forgets_profiles=True)
    await pair.box.evse.apply(band(-5_000, -5_000, LEASE_S))
    await pair.passes(-5_000)
    transaction_id = pair.rig.charger.transaction_id
    pair.rig.session.drop(1.0)
    await until(lambda: pair.rig.evse.limit_w is None, "the charger has forgotten all")
    await until(lambda: pair.rig.session.connections == 2, "it is back")
    await pair.passes(-5_000)
    assert pair.rig.charger.transaction_id == transaction_id
    assert pair.box.status.setpoint is not None


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_q12_b11_a_reboot_in_the_middle_of_a_discharge_ends_it_and_the_next_order_begins_another(
    pair: Pair,
) -> None:
    box = pair.box
    await box.evse.apply(band(-5_000, -5_000, LEASE_S))
    await pair.passes(-5_000)
    first = pair.rig.charger.transaction_id
    pair.rig.charger.profiles.forget_all()
    pair.rig.charger.reset(immediate=True)
    await until(lambda: pair.rig.charger.transaction_id not in (None, first), "another transaction", 20)
    await pair.passes(SHARE_W)  # nobody has ordered anything for this one
    assert box.status.setpoint is None

    await until(lambda: box.vehicle is not None and box.vehicle.transaction_id not in (None, first), "it is known", 20)
    await box.evse.apply(band(-5_000, -5_000, LEASE_S))
    await pair.passes(-5_000)


async def test_q11_without_us_a_2_1_charger_falls_to_its_static_share_and_a_discharge_never_comes_back_by_itself(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "MOST_OFFLINE_S", 3)
    await pair.box.evse.apply(band(-5_000, -5_000, LEASE_S))  # by its duration it would go on for ten minutes
    await pair.passes(-5_000)
    port = pair.box.server.port
    await pair.box.server.__aexit__(None, None, None)
    await until(lambda: not pair.rig.charger.online, "the charger is cut off")
    profiles_held, start_s = pair.rig.charger.profiles, pair.rig.charger.transaction_start_s
    cut_off_s = profiles_held.offline_since_s
    assert cut_off_s is not None
    # A short fault takes nothing away.
    limits = [profiles_held.limit_w(cut_off_s + after, start_s) for after in (0.0, 2.9, 3.0, 500.0)]
    assert limits == [-5_000, -5_000, SHARE_W, SHARE_W]
    await pair.passes(SHARE_W)
    assert not pair.rig.charger.online
    async with csms(V2X, pair.journal, port=port, ssl=pair.tls) as again:
        await until(lambda: again.status.link is LinkState.ONLINE, "the gateway is back", 15)
        await again.transaction()
        await pair.passes(SHARE_W)
        assert again.capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK


async def test_q11_a_2_0_1_charger_falls_to_its_static_share_when_the_lease_has_ended(loopback_tls: Tls) -> None:
    async with csms(NEGATIVE, ssl=loopback_tls[0]) as box, solo(box.server.port, OCPP_201, ca=loopback_tls[1]) as rig:
        await box.transaction()
        await box.evse.apply(band(-5_000, -5_000, 4.0))
        await until(lambda: abs(rig.evse.power_w + 5_000) < 10, "discharge")
        await box.server.__aexit__(None, None, None)
        await until(lambda: abs(rig.evse.power_w - SHARE_W) < 10, "the static share")
        assert not rig.charger.online


async def test_q08_a_curve_moves_the_power_with_the_grid_s_frequency_and_ends_with_its_lease(pair: Pair) -> None:
    curve = Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE, limit_w=6_000, discharge_w=-6_000)
    await pair.box.evse.hold_mode(curve, 8.0, "test")
    assert pair.box.capabilities.own_droop
    for hertz, power_w in ((49.9, -3_000), (50.15, 4_500), (49.0, -6_000)):
        pair.rig.grid.frequency_hz = hertz
        await pair.passes(power_w)
    await pair.passes(SHARE_W)
    assert not pair.box.capabilities.own_droop


async def test_q10_idle_takes_and_gives_nothing(pair: Pair) -> None:
    await pair.box.evse.hold_mode(Period(mode=Mode.IDLE), LEASE_S, "test")
    await pair.passes(0)
    transaction = pair.rig.charger.transaction
    assert transaction is not None
    await until(lambda: transaction.mode == "Idle", "the charger says so")


async def test_q05_a_mode_that_the_charger_does_not_support_is_refused_with_its_reason(pair: Pair) -> None:
    with pytest.raises(DeviceRefusedError, match="UnsupportedMode"):
        await pair.box.evse.hold_mode(Period(mode=Mode.EXTERNAL_SETPOINT, limit_w=5_000), LEASE_S, "test")


async def test_a_charger_of_both_versions_is_spoken_to_in_2_1(loopback_tls: Tls) -> None:
    async with csms(ssl=loopback_tls[0]) as box, solo(box.server.port, ca=loopback_tls[1]) as rig:
        await box.transaction()
        assert rig.charger.version == OCPP_21
        await box.evse.apply(band(-2_000, -2_000, LEASE_S))
        await until(lambda: abs(rig.evse.power_w + 2_000) < 10, "discharge")
