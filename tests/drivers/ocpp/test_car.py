"""What a car tells: its limits both ways, energies and offers, by OCPP 2.1 and 2.0.1, and nothing that it did not."""

from __future__ import annotations

from typing import Any, cast

import orjson
import pytest

from drivers.ocpp.car import Car, read_needs
from drivers.ocpp.messages import ChargingNeeds
from drivers.ocpp.schemas import JsonObject

NOON_US = 1_767_268_800_000_000
NOON = "2026-01-01T12:00:00Z"
DC = {"evMaxCurrent": 25, "evMaxVoltage": 400, "evMaxPower": 11_000, "evEnergyCapacity": 60_000, "stateOfCharge": 70}


def told(car: Car | None = None, **needs: Any) -> Car:
    needs.setdefault("requestedEnergyTransfer", "DC_BPT")
    return read_needs(cast(ChargingNeeds, needs), car or Car(), 5.0, NOON_US)


def v2x(**parameters: Any) -> Car:
    return told(v2xChargingParameters=parameters, dcChargingParameters=DC)


def test_q01_limits_both_ways_and_the_energy_that_is_wanted() -> None:
    car = v2x(maxChargePower=11_000, maxDischargePower=9_000, evTargetEnergyRequest=6_000)
    assert (car.max_charge_w, car.max_discharge_w, car.energy_needed_wh) == (11_000, 9_000, 6_000)
    assert (car.battery_capacity_wh, car.state_of_charge_permille) == (60_000, 700)
    assert car.gives_w(NOON_US) == 9_000
    assert not car.per_phase


def test_limits_of_each_phase_are_added_up_and_remembered_as_such() -> None:
    car = v2x(maxDischargePower=3_000, maxDischargePower_L2=2_000, maxDischargePower_L3=1_000)
    assert (car.max_discharge_w, car.per_phase) == (6_000, True)


def test_a_discharge_written_below_zero_is_a_size_all_the_same() -> None:
    assert v2x(maxDischargePower=-9_000).max_discharge_w == 9_000


def test_current_and_voltage_do_where_no_power_is_told() -> None:
    assert v2x(maxDischargeCurrent=20, maxVoltage=400).max_discharge_w == 8_000


def test_q02_a_session_that_charges_only_gives_nothing_whatever_it_could() -> None:
    car = told(requestedEnergyTransfer="DC", v2xChargingParameters={"maxDischargePower": 9_000})
    assert car.max_discharge_w == 0
    assert told(requestedEnergyTransfer="DC", availableEnergyTransfer=["DC", "DC_BPT"]).max_discharge_w == 0


def test_a_car_of_2_0_1_has_not_said_whether_it_can() -> None:
    assert told(requestedEnergyTransfer="DC", dcChargingParameters=DC).max_discharge_w is None


def test_an_energy_offer_bounds_what_it_gives_and_when() -> None:
    entries = [{"duration": 60, "power": -3_000}, {"duration": 60, "power": 0}, {"duration": 60, "power": -20_000}]
    offer = {"evPowerSchedule": {"timeAnchor": NOON, "evPowerScheduleEntries": entries}}
    car = told(v2xChargingParameters={"maxDischargePower": 9_000}, evEnergyOffer=offer)
    moments = (-1, 0, 59, 60, 120, 179, 180)
    assert [car.gives_w(NOON_US + s * 1_000_000) for s in moments] == [0, 3_000, 3_000, 0, 9_000, 9_000, 0]
    assert car.gives_w(None) == 9_000
    again = told(car, v2xChargingParameters={"maxDischargePower": 9_000})
    assert again.gives_w(NOON_US + 60_000_000) == 9_000  # K20: new needs without an offer


def test_at_its_own_lowest_state_of_charge_a_car_gives_nothing() -> None:
    car = v2x(maxDischargePower=9_000, evMinV2XEnergyRequest=-6_000)
    assert car.gives_w(NOON_US) == 9_000
    assert car.charged_to(601, 6.0, NOON_US).gives_w(NOON_US) == 9_000
    car = car.charged_to(600, 6.0, NOON_US)  # a tenth of 60 kWh below where it told that 6 kWh are left
    assert car.gives_w(NOON_US) == 0
    assert v2x(maxDischargePower=9_000, evMinV2XEnergyRequest=10).gives_w(NOON_US) == 0


@pytest.mark.parametrize("value", [1e30, -1e30, 0])
def test_numbers_that_no_car_has_are_not_taken(value: float) -> None:
    car = v2x(maxChargePower=value, maxDischargePower=value, evTargetEnergyRequest=value, evMinV2XEnergyRequest=value)
    assert car.max_charge_w == 11_000
    assert car.max_discharge_w in (None, 0)
    assert car.energy_needed_wh in (None, 0)


def test_what_a_car_told_survives_a_restart() -> None:
    offer = {"evPowerSchedule": {"timeAnchor": NOON, "evPowerScheduleEntries": [{"duration": 60, "power": -3_000}]}}
    car = told(v2xChargingParameters={"maxDischargePower": 9_000}, evEnergyOffer=offer)
    assert restored(car) == car


def restored(car: Car, age_s: float | None = 1.0, wall_age_s: float = 1.0) -> Car:
    kept = orjson.loads(orjson.dumps(car.encode()))
    if age_s is None:
        return Car.restored(kept, None, None)
    return Car.restored(kept, 5.0 + age_s, NOON_US + round(wall_age_s * 1e6))


def test_a_state_of_charge_survives_a_restart_with_its_age() -> None:
    car = restored(v2x(maxDischargePower=9_000), 100.0, 101.0)
    assert (car.state_of_charge_permille, car.state_of_charge_monotonic_s) == (700, 5.0)


@pytest.mark.parametrize(
    ("age_s", "wall_age_s"),
    [(None, 0.0), (-1.0, -1.0), (2.0, 60.0), (60.0, 2.0)],
    ids=["no time at all", "from the future", "after a reboot", "the clock was set"],
)
def test_a_state_of_charge_whose_age_is_not_certain_does_not_count(age_s: float | None, wall_age_s: float) -> None:
    car = restored(v2x(maxDischargePower=9_000), age_s, wall_age_s)
    assert (car.state_of_charge_permille, car.state_of_charge_monotonic_s) == (None, None)
    assert car.max_discharge_w == 9_000


def test_what_an_earlier_version_kept_of_a_car_is_read() -> None:
    kept: JsonObject = {
        "battery_capacity_wh": 60_000,
        "transfer_modes": ["DC"],
        "offers": [[1, 2, 3]],
        "priority": True,
    }
    car = Car.restored(kept, 5.0, NOON_US)
    assert (car.battery_capacity_wh, car.transfer_modes, car.offers) == (60_000, ("DC",), ((1, 2, 3),))
    assert car.charge_now
