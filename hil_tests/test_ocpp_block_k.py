"""OCPP block K over TLS: what the driver orders is what a simulated charger passes, or it is said why not.

Use cases: K01 profiles, K08 composite schedule, K09 and K10 others' profiles, K11 to K13 external limits, K15 to K17
the car's needs and plans, K20 needs that change, K21 and K22 priority charging.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from ssl import SSLContext

import pytest

from drivers.device import DeadMan, DeviceRefusedError
from drivers.ocpp import obedience
from hil_tests.ocpp_station import until
from hil_tests.rig.charger.solo import CarSettings, SoloCharger
from hil_tests.rig.site.car import Car
from hil_tests.rig.site.charger import OCPP_21, OCPP_201
from hil_tests.rig.site.energy import Storage
from hil_tests.rig.site.profiles import MOST_PROFILES, rfc3339
from hil_tests.rig.site.smart_words import EVSE_ID, Raw
from hil_tests.v2g_parts import SHARE_W, TOKEN, V2X, Csms, band, csms, solo

VERSIONS = [pytest.param(OCPP_21, id="2.1"), pytest.param(OCPP_201, id="2.0.1")]
LEASE_S = 600.0
Pair = tuple[Csms, SoloCharger]
Tls = tuple[SSLContext, Path]


@pytest.fixture
async def pair(request: pytest.FixtureRequest, loopback_tls: Tls) -> AsyncIterator[Pair]:
    """Over the version that a test asks for, 2.1 where it does not."""
    tls, ca = loopback_tls
    version = getattr(request, "param", OCPP_21)
    async with csms(ssl=tls) as box, solo(box.server.port, version, ca=ca) as rig:
        await box.transaction()
        yield box, rig


async def passes(rig: SoloCharger, power_w: float) -> None:
    await until(lambda: abs(rig.evse.power_w - power_w) < 10, f"{power_w} W at the outlet")


def limit_now_w(rig: SoloCharger) -> float | None:
    return rig.charger.profiles.limit_w(time.time(), rig.charger.transaction_start_s)


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_k01_k08_a_cap_is_shown_metered_and_followed(pair: Pair) -> None:
    box, rig = pair
    await passes(rig, SHARE_W)  # until somebody says more
    await box.evse.apply(band(0, 8_000, LEASE_S))
    await passes(rig, 8_000)
    await until(lambda: box.samples[-1].power_w == 8_000, "the meter tells of it")
    assert box.status.follows is True
    await box.evse.apply(band(0, 0, LEASE_S))
    await passes(rig, 0)
    await box.evse.release()
    await passes(rig, SHARE_W)


async def test_k01_a_transaction_that_begins_later_finds_the_cap_waiting(version: str, loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    async with csms(ssl=tls) as box, solo(box.server.port, version, ca=ca, car=None) as rig:
        await until(lambda: box.status.capabilities is not None, "the charger is provisioned")
        await box.evse.apply(band(0, 6_000, LEASE_S))
        rig.charger.plug(Car(Storage(60_000, 30_000), max_charge_w=11_000))
        await passes(rig, 6_000)


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_k01_a_charger_that_does_not_follow_its_cap_is_said_to(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obedience, "PATIENCE_S", 2.0)
    box, rig = pair
    rig.charger.deaf = True
    await passes(rig, 11_000)
    await box.evse.apply(band(0, 2_000, LEASE_S))
    await until(lambda: box.status.follows is False, "it does not follow", 30)
    assert "does not follow" in box.status.detail
    await until(lambda: box.said("charger.disobeys"), "the event")
    rig.charger.deaf = False
    await until(lambda: box.status.follows is True, "it follows again")


async def test_k01_a_charger_with_no_room_for_a_profile_refuses_with_its_reason(pair: Pair) -> None:
    box, rig = pair
    held = len(rig.charger.profiles.matching(None, {}))
    for number in range(MOST_PROFILES - held):
        schedule = {"chargingRateUnit": "W", "chargingSchedulePeriod": [{"startPeriod": 0, "limit": 11_000}]}
        profile = {
            "id": 900 + number,
            "stackLevel": 0,
            "chargingProfilePurpose": "ChargingStationMaxProfile",
            "chargingProfileKind": "Absolute",
            "chargingSchedule": [schedule],
            "validFrom": rfc3339(2e9 + number),
            "validTo": rfc3339(2e9 + number + 1),
        }
        rig.charger.profiles.install(0, profile, transaction_id=None, now_s=time.time())
    with pytest.raises(DeviceRefusedError, match="TooManyProfiles"):
        await box.evse.apply(band(0, 8_000, LEASE_S))
    assert box.status.setpoint is None
    assert limit_now_w(rig) == SHARE_W


async def test_k01_a_charger_that_takes_amperes_only_is_told_in_amperes(version: str, loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    async with csms(ssl=tls) as box:
        rig = solo(box.server.port, version, ca=ca)
        entry = next(entry for key, entry in rig.charger.variables.all() if key[1] == "RateUnit")
        entry.value = "A"
        async with rig:
            await box.transaction()
            await box.evse.apply(band(0, 8_000, LEASE_S))
            await until(lambda: abs(rig.evse.power_w - 11.5 * 690) < 10, "11.5 A on three phases, 7935 W")


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_k09_k10_a_profile_that_an_earlier_csms_left_above_ours_is_found_and_cleared(pair: Pair) -> None:
    box, rig = pair
    period = {"startPeriod": 0, "limit": 11_000}
    schedule = {"id": 1, "chargingRateUnit": "W", "chargingSchedulePeriod": [period]}
    left = {
        "id": 777,
        "stackLevel": 8,
        "chargingProfilePurpose": "TxProfile",
        "chargingProfileKind": "Relative",
        "transactionId": rig.charger.transaction_id,
        "chargingSchedule": [schedule],
    }
    rig.charger.profiles.install(EVSE_ID, left, transaction_id=rig.charger.transaction_id, now_s=time.time())
    await passes(rig, 11_000)
    await box.evse.apply(band(0, 6_000, LEASE_S))
    await passes(rig, 6_000)
    assert 777 not in [profile.profile_id for profile in rig.charger.profiles.matching(None, {})]


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_k11_k12_k13_a_limit_from_outside_is_known_while_it_lasts(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    rig.charger.words.limit_from_outside(3_000)
    await passes(rig, 3_000)
    await until(lambda: any("'EMS'" in note for note in box.capabilities.notes), "who limits it")
    assert "no more than 3000 W" in box.said("charger.external_limit")[0]
    await box.evse.apply(band(0, 7_000, LEASE_S))  # it holds less than that, which is no disobedience
    rig.charger.words.limit_from_outside(None)
    await passes(rig, 7_000)
    await until(lambda: not any("'EMS'" in note for note in box.capabilities.notes), "nobody limits it")


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_k15_k20_what_the_car_needs_is_known_and_changes_when_it_tells_anew(pair: Pair) -> None:
    box, rig = pair
    car = rig.evse.car
    assert car is not None
    car.energy_needed_wh, car.departure_s = 12_000, time.time() + 7200
    rig.charger.words.needs()
    await until(lambda: box.vehicle is not None and box.vehicle.energy_needed_wh == 12_000, "what it needs")
    vehicle = box.vehicle
    assert vehicle is not None
    assert vehicle.departure_timestamp_us is not None
    assert abs(vehicle.departure_timestamp_us / 1e6 - car.departure_s) < 1
    assert vehicle.battery_capacity_wh == 60_000


async def test_k15_k16_a_car_that_plans_beyond_its_cap_is_told_the_cap_again(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 6_000, LEASE_S))
    rig.charger.profiles.clear(None, {"chargingProfilePurpose": "TxProfile"})
    period = {"startPeriod": 0, "limit": 11_000}
    schedule = {"id": 1, "chargingRateUnit": "W", "chargingSchedulePeriod": [period]}
    answers: list[dict[str, str]] = []
    told = {"timeBase": rfc3339(time.time()), "evseId": EVSE_ID, "chargingSchedule": schedule}
    rig.charger.say(Raw("NotifyEVChargingSchedule", told), answers.append)
    await until(lambda: answers, "an answer")
    assert answers == [{"status": "Rejected"}]
    await passes(rig, 6_000)  # K16: the profile was sent again


async def test_k17_a_car_that_plans_within_its_cap_is_let(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 6_000, LEASE_S))
    transaction = rig.charger.transaction
    assert transaction is not None
    await until(lambda: transaction.schedule_answer is not None, "an answer to its plan")
    assert transaction.schedule_answer == "Accepted"


async def test_k21_priority_that_we_ask_for_is_given_within_our_lease(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 6_000, LEASE_S))
    await passes(rig, 6_000)
    await box.evse.use_priority_charging(activate=True)
    assert rig.charger.profiles.priority
    assert box.vehicle is not None
    assert box.vehicle.charge_now
    await passes(rig, 6_000)
    await box.evse.apply(band(0, 9_000, LEASE_S))
    await passes(rig, 9_000)
    await box.evse.use_priority_charging(activate=False)
    await until(lambda: box.vehicle is not None and not box.vehicle.charge_now, "no longer")
    await passes(rig, 9_000)


async def test_k21_a_person_has_a_car_charged_now_and_no_longer(pair: Pair) -> None:
    box, rig = pair
    desk = box.server.chargers["CP-1"].desk
    assert await desk.order("charge-now", {"device": "car-1"}) == {"ok": True, "status": "Accepted"}
    assert rig.charger.profiles.priority
    assert box.vehicle is not None
    assert box.vehicle.charge_now
    await desk.order("charge-now", {"device": "car-1", "on": False})
    await until(lambda: not rig.charger.profiles.priority, "no longer")
    await until(lambda: box.vehicle is not None and not box.vehicle.charge_now, "the plan has the say again")
    with pytest.raises(ValueError, match="true or false"):
        await desk.order("charge-now", {"device": "car-1", "on": "yes"})


async def test_k22_a_driver_at_the_charger_who_wants_to_charge_now_is_heard(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(-5_000, -5_000, LEASE_S))
    await passes(rig, -5_000)
    rig.charger.words.press_priority(activated=True)
    await until(lambda: box.vehicle is not None and box.vehicle.charge_now, "charge now")
    await box.evse.apply(band(0, 10_000, LEASE_S))  # what the plan makes of it
    await passes(rig, 10_000)
    rig.charger.words.press_priority(activated=False)
    await until(lambda: box.vehicle is not None and not box.vehicle.charge_now, "no longer")


async def test_k21_a_charger_without_a_priority_profile_says_so(pair: Pair) -> None:
    box, rig = pair
    rig.charger.profiles.clear(None, {"chargingProfilePurpose": "PriorityCharging"})
    with pytest.raises(DeviceRefusedError, match="NoProfile"):
        await box.evse.use_priority_charging(activate=True)


@pytest.mark.parametrize("pair", [pytest.param(OCPP_201, id="2.0.1")], indirect=True)
async def test_k21_priority_is_not_asked_of_a_charger_of_2_0_1(pair: Pair) -> None:
    with pytest.raises(DeviceRefusedError, match="this charger speaks ocpp2"):
        await pair[0].evse.use_priority_charging(activate=True)


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_k06_without_us_a_transaction_goes_on_at_its_lease_and_then_at_its_share(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 8_000, 2.5))
    await passes(rig, 8_000)
    await box.server.__aexit__(None, None, None)
    await until(lambda: not rig.charger.online, "the charger is cut off")
    await passes(rig, SHARE_W)
    assert rig.charger.transaction_id is not None
    assert not rig.charger.online


async def test_k07_a_car_that_comes_while_we_are_away_gets_the_share(version: str, loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    async with csms(ssl=tls) as box, solo(box.server.port, version, ca=ca, car=None) as rig:
        await until(lambda: rig.charger.profiles.matching(None, {}), "the charger has its share")
        await until(lambda: box.status.capabilities is not None, "the charger is provisioned")
        await box.server.__aexit__(None, None, None)
        await until(lambda: not rig.charger.online, "the charger is cut off")
        rig.charger.plug(Car(Storage(60_000, 30_000), max_charge_w=11_000))
        rig.charger.start_transaction("Authorized", TOKEN)  # by its local list
        await passes(rig, SHARE_W)


async def test_k05_a_remote_start_finds_its_cap(version: str, loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    async with csms(ssl=tls) as box, solo(box.server.port, version, ca=ca, car=None) as rig:
        await until(lambda: box.status.capabilities is not None, "the charger is provisioned")
        await box.evse.apply(band(0, 5_000, LEASE_S))
        rig.evse.car = Car(Storage(60_000, 30_000), max_charge_w=11_000)
        desk = box.server.chargers["CP-1"].desk
        assert await desk.order("start", {"device": "car-1", "token": "APP-1"}) == {"ok": True, "status": "Accepted"}
        await passes(rig, 5_000)
        await until(lambda: (v := box.vehicle) is not None and v.token_id == "APP-1", "the token that we sent")
        with pytest.raises(DeviceRefusedError, match="refused RequestStartTransaction"):
            await desk.order("start", {"device": "car-1", "token": "APP-2"})  # one is running


async def test_k12_a_limit_from_outside_binds_the_next_car_too(version: str, loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    async with csms(ssl=tls) as box, solo(box.server.port, version, ca=ca, car=None) as rig:
        await until(lambda: box.status.capabilities is not None, "the charger is provisioned")
        rig.charger.words.limit_from_outside(2_000)
        await until(lambda: any("2000 W" in note for note in box.capabilities.notes), "who limits it")
        rig.charger.plug(Car(Storage(60_000, 30_000), max_charge_w=11_000))
        await passes(rig, 2_000)


@pytest.mark.parametrize("pair", VERSIONS, indirect=True)
async def test_k13_word_that_a_limit_has_gone_that_nobody_set_changes_nothing(pair: Pair) -> None:
    box, rig = pair
    answers: list[dict[str, str]] = []
    rig.charger.say(Raw("ClearedChargingLimit", {"chargingLimitSource": "SO"}), answers.append)
    await until(lambda: answers, "an answer")
    assert answers == [{}]
    assert not box.said("charger.external_limit")


async def test_k01_a_charger_without_a_share_of_its_own_waits_for_us(loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    no_share = replace(V2X, fallback_import_w=None)
    async with csms(no_share, ssl=tls) as box, solo(box.server.port, OCPP_21, ca=ca) as rig:
        await box.transaction()
        await until(lambda: rig.evse.limit_w == 0, "0 W until we say more")
        assert box.capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK
        assert box.capabilities.fallback_highest_w == 0


async def test_k15_a_small_car_is_never_counted_for_more_than_it_takes(loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    small = CarSettings(charge_w=3_600)
    async with csms(ssl=tls) as box, solo(box.server.port, OCPP_201, ca=ca, car=small, bidirectional=False) as rig:
        await box.transaction()
        await until(lambda: box.vehicle is not None and box.vehicle.max_charge_w == 3_450, "5 A on three phases")
        await box.evse.apply(band(0, 11_000, LEASE_S))
        await passes(rig, 3_600)
        assert box.status.follows is not False
