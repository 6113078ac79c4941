"""One EVSE: transactions, samples and the car, whatever order the charger tells it in."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.device import Sample, SampleFlag, ValueSource
from drivers.ocpp.messages import ChargingNeeds, MeterValue, TransactionEvent
from drivers.ocpp.sequence import REMEMBERED_EVENTS
from drivers.ocpp.session import EvseSession, Moment, Outcome
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.timestamps import format_timestamp

WALL_US = 1_767_323_000_000_000
START_S = 5_000.0


def at(seconds: float) -> Moment:
    return Moment(START_S + seconds, WALL_US + round(seconds * 1e6))


def stamp(seconds: float) -> str:
    return format_timestamp(WALL_US + round(seconds * 1e6))


def session() -> EvseSession:
    settings = ChargerSettings(device_id="car-1", charger_id="CP")
    return EvseSession(settings, meter_id="ocpp/CP/1", source=ValueSource.AUTHENTICATED_LINK)


def values(seconds: float, wh: float, *, watts: float | None = None, soc: float | None = None) -> MeterValue:
    sampled: list[dict[str, object]] = [{"value": wh, "measurand": "Energy.Active.Import.Register"}]
    if watts is not None:
        sampled.append({"value": watts, "measurand": "Power.Active.Import"})
    if soc is not None:
        sampled.append({"value": soc, "measurand": "SoC", "unitOfMeasure": {"unit": "Percent"}})
    return cast(MeterValue, {"timestamp": stamp(seconds), "sampledValue": sampled})


def event(
    kind: str,
    number: int,
    seconds: float,
    *meter: MeterValue,
    transaction: str = "T1",
    offline: bool = False,
) -> TransactionEvent:
    built: dict[str, object] = {
        "eventType": kind,
        "timestamp": stamp(seconds),
        "triggerReason": "MeterValuePeriodic",
        "seqNo": number,
        "offline": offline,
        "transactionInfo": {"transactionId": transaction, "chargingState": "Charging"},
    }
    if meter:
        built["meterValue"] = list(meter)
    return cast(TransactionEvent, built)


def take(evse: EvseSession, message: TransactionEvent, seconds: float, token_id: str | None = None) -> Outcome:
    return evse.transaction_event(message, token_id=token_id, now=at(seconds))


def one(outcome: Outcome) -> Sample:
    (sample,) = outcome.samples
    return sample


def test_a_transaction_begins_goes_on_and_ends() -> None:
    evse = session()
    assert evse.vehicle() is None
    take(evse, event("Started", 0, 0), 0, token_id="RFID-1")
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert (vehicle.transaction_id, vehicle.token_id) == ("T1", "RFID-1")
    sample = one(take(evse, event("Updated", 1, 5, values(5, 1000, watts=7400, soc=50)), 5))
    assert sample.power_w == 7400
    assert sample.import_register_milliwatt_hours == 1_000_000
    assert sample.monotonic_s == START_S + 5
    assert sample.flags == SampleFlag.NONE
    assert sample.source is ValueSource.AUTHENTICATED_LINK
    take(evse, event("Ended", 2, 9), 9)
    assert evse.transaction is None
    assert evse.vehicle() is None


def test_a_plugged_car_without_transaction_is_a_vehicle_that_nobody_authorised() -> None:
    evse = session()
    evse.connector_status(1, "Occupied")
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert vehicle.transaction_id is None
    evse.connector_status(1, "Available")
    assert evse.vehicle() is None


def test_a_repeated_event_counts_once() -> None:
    evse = session()
    message = event("Updated", 3, 5, values(5, 1000))
    assert len(take(evse, message, 5).samples) == 1
    again = take(evse, message, 8)
    assert again.repeated
    assert not again.samples


def test_what_is_remembered_of_events_is_bounded_and_the_newest_are_kept() -> None:
    evse = session()
    for number in range(2 * REMEMBERED_EVENTS):
        take(evse, event("Updated", number, number), number)
    assert len(evse.sequence._seen) == REMEMBERED_EVENTS
    first_kept = REMEMBERED_EVENTS
    assert take(evse, event("Updated", first_kept, first_kept), 2 * REMEMBERED_EVENTS).repeated


def test_the_token_that_ends_a_transaction_does_not_become_its_owner() -> None:
    evse = session()
    take(evse, event("Started", 0, 0), 0, token_id="OWNER")
    take(evse, event("Updated", 1, 5), 5, token_id="NEIGHBOUR")
    assert evse.transaction is not None
    assert evse.transaction.token_id == "OWNER"


def test_queued_events_carry_the_chargers_time_and_say_so() -> None:
    evse = session()
    sample = one(take(evse, event("Updated", 1, -600, values(-600, 1000), offline=True), 0))
    assert sample.monotonic_s == START_S - 600
    assert sample.flags == SampleFlag.QUEUED | SampleFlag.DEVICE_TIME


def test_a_queued_event_from_the_future_was_measured_now_at_the_latest() -> None:
    evse = session()
    sample = one(take(evse, event("Updated", 1, 900, values(900, 1000), offline=True), 0))
    assert sample.monotonic_s == START_S


def test_a_queued_event_that_comes_after_live_ones_leaves_no_sample_behind_them() -> None:
    evse = session()
    take(evse, event("Updated", 9, 100, values(100, 2000)), 100)
    late = take(evse, event("Updated", 3, 50, values(50, 1500), offline=True), 101)
    assert not late.samples
    assert evse.import_register_milliwatt_hours == 2_000_000


def test_a_queued_event_of_an_earlier_transaction_does_not_displace_the_running_one() -> None:
    evse = session()
    take(evse, event("Started", 0, 100, transaction="T2"), 100)
    take(evse, event("Updated", 4, 50, transaction="T1", offline=True), 101)
    take(evse, event("Ended", 5, 60, transaction="T1", offline=True), 101)
    assert evse.transaction is not None
    assert evse.transaction.transaction_id == "T2"


def test_a_new_transaction_ends_one_whose_end_was_lost() -> None:
    evse = session()
    take(evse, event("Started", 0, 0, values(0, 0, soc=80), transaction="T1"), 0)
    take(evse, event("Started", 0, 50, transaction="T2"), 50)
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert vehicle.transaction_id == "T2"
    assert vehicle.state_of_charge_permille is None  # that was another session
    take(evse, event("Ended", 7, 40, transaction="T1", offline=True), 60)
    assert evse.transaction is not None


def test_a_late_event_does_not_bring_an_ended_transaction_back() -> None:
    evse = session()
    take(evse, event("Started", 0, 0), 0)
    take(evse, event("Ended", 2, 20), 20)
    take(evse, event("Updated", 1, 10, offline=True), 30)
    assert evse.transaction is None


def test_a_charger_with_a_wrong_clock_still_has_its_live_values_in_our_time() -> None:
    evse = session()
    decade = -10 * 365 * 86_400.0
    outcome = take(evse, event("Updated", 1, decade, values(decade - 30, 900), values(decade, 1000)), 0)
    older, newer = outcome.samples
    assert newer.monotonic_s == START_S
    assert older.monotonic_s == START_S - 30
    assert older.flags == SampleFlag.DEVICE_TIME
    assert [notice.code for notice in outcome.notices] == ["charger.clock"]
    again = take(evse, event("Updated", 2, decade + 5, values(decade + 5, 1001)), 5)
    assert not again.notices  # said once
    aligned = evse.meter_values([values(decade + 9, 1002)], at(9))  # has no flag of its own, and the clock is known
    assert one(aligned).flags == SampleFlag.NONE


@pytest.mark.parametrize("years", [-20, 20])
def test_a_clock_that_is_years_off_and_set_right_does_not_hide_the_next_transaction(years: int) -> None:
    evse, off_s = session(), years * 365.25 * 86_400
    take(evse, event("Started", 0, off_s), 0)
    take(evse, event("Ended", 9, off_s - 100, transaction="T0", offline=True), 1)  # queued, by the same clock
    assert evse.transaction is not None
    assert evse.transaction.transaction_id == "T1"
    take(evse, event("Updated", 1, off_s + 2), 2)
    take(evse, event("Started", 0, 1.9, transaction="T2"), 3)  # set right by the heartbeat, or nearly so
    assert evse.transaction.transaction_id == "T2"


def test_meter_values_that_are_clearly_old_are_queued_ones() -> None:
    evse = session()
    sample = one(evse.meter_values([values(-3_600, 1000)], at(0)))
    assert sample.flags == SampleFlag.QUEUED | SampleFlag.DEVICE_TIME
    assert sample.monotonic_s == START_S - 3_600


def test_a_register_that_goes_back_is_passed_on_and_said_once() -> None:
    evse = session()
    take(evse, event("Updated", 1, 0, values(0, 1000)), 0)
    outcome = take(evse, event("Updated", 2, 5, values(5, 10)), 5)
    assert one(outcome).import_register_milliwatt_hours == 10_000  # what to make of it is decided in measure
    assert [notice.code for notice in outcome.notices] == ["charger.register_back"]
    assert not take(evse, event("Updated", 3, 9, values(9, 5)), 9).notices


def test_an_export_register_that_goes_back_is_said_too() -> None:
    evse = session()

    def gave(seconds: float, wh: float) -> MeterValue:
        sampled = [{"value": wh, "measurand": "Energy.Active.Export.Register"}]
        return cast(MeterValue, {"timestamp": stamp(seconds), "sampledValue": sampled})

    take(evse, event("Updated", 1, 0, gave(0, 1000)), 0)
    outcome = take(evse, event("Updated", 2, 5, gave(5, 10)), 5)
    assert [notice.code for notice in outcome.notices] == ["charger.register_back"]
    assert outcome.notices[0].text.startswith("export register")


def test_state_of_charge_counts_for_its_session_only() -> None:
    evse = session()
    evse.connector_status(1, "Occupied")
    take(evse, event("Started", 0, 0, values(0, 0, soc=61)), 0)
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert (vehicle.state_of_charge_permille, vehicle.state_of_charge_monotonic_s) == (610, START_S)
    take(evse, event("Ended", 1, 5, values(5, 10, soc=63)), 5)
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert vehicle.state_of_charge_permille is None


def test_charging_needs_of_a_dc_car() -> None:
    evse = session()
    evse.connector_status(1, "Occupied")
    needs: ChargingNeeds = {
        "requestedEnergyTransfer": "DC",
        "departureTime": stamp(3600),
        "dcChargingParameters": {
            "evMaxCurrent": 100,
            "evMaxVoltage": 500,
            "energyAmount": 20_000,
            "evMaxPower": 40_000,
            "stateOfCharge": 70,
            "evEnergyCapacity": 60_000,
        },
    }
    evse.charging_needs(needs, at(1))
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert vehicle.departure_timestamp_us == WALL_US + 3_600_000_000
    assert (vehicle.energy_needed_wh, vehicle.battery_capacity_wh, vehicle.max_charge_w) == (20_000, 60_000, 40_000)
    assert (vehicle.state_of_charge_permille, vehicle.state_of_charge_monotonic_s) == (700, START_S + 1)
    assert vehicle.max_discharge_w is None  # OCPP 2.0.1 has no word for it


def test_charging_needs_of_a_single_phase_car_and_absurd_ones() -> None:
    evse = session()
    evse.connector_status(1, "Occupied")
    ac = {"energyAmount": 0, "evMinCurrent": 6, "evMaxCurrent": 16, "evMaxVoltage": 230}
    needs = cast(ChargingNeeds, {"requestedEnergyTransfer": "AC_single_phase", "acChargingParameters": ac})
    evse.charging_needs(needs, at(1))
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert (vehicle.max_charge_w, vehicle.energy_needed_wh) == (3_680, None)
    ac["evMaxCurrent"] = 10**30
    evse.charging_needs(needs, at(2))
    vehicle = evse.vehicle()
    assert vehicle is not None
    assert vehicle.max_charge_w is None


def test_while_nothing_runs_the_registers_stand_and_say_that_they_are_carried_forward() -> None:
    evse = session()
    assert evse.idle_sample(at(0)) is None
    take(evse, event("Ended", 2, 0, values(0, 1000)), 0)
    sample = evse.idle_sample(at(10))
    assert sample is not None
    assert (sample.power_w, sample.import_register_milliwatt_hours) == (0, 1_000_000)
    assert sample.flags == SampleFlag.ESTIMATED


def test_nothing_is_carried_forward_while_it_is_unknown_whether_a_transaction_runs() -> None:
    evse = session()
    take(evse, event("Ended", 2, 0, values(0, 1000)), 0)
    evse.connection_began()
    assert evse.idle_sample(at(10)) is None
    evse.connector_status(1, "Occupied")
    assert evse.idle_sample(at(10)) is None
    evse.connector_status(1, "Available")
    assert evse.idle_sample(at(10)) is not None
    take(evse, event("Started", 0, 20, transaction="T2"), 20)
    assert evse.idle_sample(at(21)) is None


def test_a_faulted_connector_is_reported_once() -> None:
    evse = session()
    assert [n.code for n in evse.connector_status(1, "Faulted").notices] == ["charger.faulted"]
    assert not evse.connector_status(1, "Faulted").notices
    assert evse.trouble == "Faulted"


@given(st.permutations(list(range(8))), st.lists(st.integers(0, 7), max_size=6), st.integers(0, 8))
def test_in_whatever_order_and_how_often_events_come_samples_leave_in_order_of_time(
    order: list[int], repeats: list[int], live_from: int
) -> None:
    evse = session()
    messages = [
        event("Updated", number, float(number), values(number, 1000 + number), offline=number < live_from)
        for number in range(8)
    ]
    emitted = [sample for number in order + repeats for sample in take(evse, messages[number], 100 + number).samples]
    times = [sample.monotonic_s for sample in emitted]
    assert times == sorted(times)
    assert len(emitted) <= 8
