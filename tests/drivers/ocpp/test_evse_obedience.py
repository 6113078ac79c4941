"""Discharges that are proved or taken back over both versions of OCPP, and what is told again."""

from __future__ import annotations

import pytest

from drivers.device import (
    DeviceRefusedError,
    DeviceUnreachableError,
    Sample,
    SampleFlag,
)
from drivers.ocpp import obedience
from drivers.ocpp.errors import CallTimeoutError
from drivers.ocpp.evse import TRUST_AGAIN_S, OcppEvse
from drivers.ocpp.rpc import Priority
from drivers.ocpp.schemas import Version
from drivers.ocpp.session import Transaction
from drivers.ocpp.v2x import Mode, Period
from tests.drivers.ocpp.v2x_charger import (
    CURVE,
    Charger,
    band,
    charger,
    evse,
    evse_at,
    export_w,
    lives,
)

__all__ = ["charger", "evse"]


@pytest.fixture(params=[Version.V21, Version.V201])
async def giving(request: pytest.FixtureRequest) -> tuple[OcppEvse, Charger]:
    """An EVSE that was told to discharge, and confirmed it."""
    charger = Charger(request.param)
    evse = evse_at(charger, "v2x" if request.param is Version.V21 else "negative_limit")
    await evse.install_static_share()
    await evse.apply(band(-5_000, -5_000, lease_s=600.0))
    charger.calls.clear()
    return evse, charger


async def test_a_discharge_that_the_meter_shows_goes_on(giving: tuple[OcppEvse, Charger]) -> None:
    evse, charger = giving
    await lives(evse, charger, -4_950, 120)
    assert evse.status().follows is True
    assert not charger.notices
    assert not charger.all("SetChargingProfile")


@pytest.mark.parametrize("power_w", [0, 60, None])
async def test_a_discharge_that_the_meter_does_not_show_goes_back_to_0_with_the_reason(
    giving: tuple[OcppEvse, Charger], power_w: int | None
) -> None:
    evse, charger = giving
    await lives(evse, charger, power_w, int(obedience.PROOF_S) - 1)
    assert not charger.all("SetChargingProfile")
    await lives(evse, charger, power_w, 2)
    assert charger.last_period()["limit"] == 0
    assert charger.calls[0][2] is Priority.URGENT
    held = evse.status().setpoint
    assert held is not None
    assert (held.lowest_w, held.highest_w) == (0, 0)
    assert "back to 0 W" in held.reason
    assert any(code == "charger.disobeys" and "goes back to 0 W" in text for code, text in charger.notices)
    assert export_w(evse) == 0
    capabilities = evse.status().capabilities
    assert capabilities is not None
    assert any("not told to discharge" in note for note in capabilities.notes)
    with pytest.raises(DeviceRefusedError, match="not told to discharge again"):
        await evse.apply(band(-5_000, -5_000))
    await evse.apply(band(0, 7_400))  # it may charge


async def test_a_charger_that_charges_in_place_of_discharging_is_stopped_within_seconds(
    giving: tuple[OcppEvse, Charger],
) -> None:
    evse, charger = giving
    await lives(evse, charger, 5_000, int(obedience.WRONG_WAY_S) + 3)
    assert charger.last_period()["limit"] == 0
    assert "charges with 5000 W" in charger.notices[0][1]


async def test_going_back_to_0_is_tried_until_the_charger_has_heard_it(giving: tuple[OcppEvse, Charger]) -> None:
    evse, charger = giving
    await lives(evse, charger, 5_000, 5)
    charger.fails["SetChargingProfile"] = CallTimeoutError("no answer", sent=True)
    for _ in range(3):
        with pytest.raises(DeviceUnreachableError):
            await lives(evse, charger, 5_000, 3)
    del charger.fails["SetChargingProfile"]
    await lives(evse, charger, 5_000, 1)
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == 0
    assert len([code for code, text in charger.notices if "goes back" in text]) == 1


@pytest.mark.parametrize("another_car", [True, False])
async def test_trust_comes_back_with_another_transaction_or_with_time(
    giving: tuple[OcppEvse, Charger], another_car: bool
) -> None:
    evse, charger = giving
    await lives(evse, charger, 5_000, 10)
    assert export_w(evse) == 0
    if another_car:
        evse.session.transaction = Transaction(transaction_id="T2")
    else:
        charger.now_s += TRUST_AGAIN_S
    assert export_w(evse) == 10_000
    await evse.apply(band(-5_000, -5_000))


async def test_values_that_were_queued_or_carried_forward_prove_nothing(giving: tuple[OcppEvse, Charger]) -> None:
    evse, charger = giving
    for flags in (SampleFlag.QUEUED, SampleFlag.ESTIMATED):
        evse.take(Sample(device_id="car-1", monotonic_s=charger.now_s + 1, power_w=-5_000, flags=flags))
    assert evse.status().follows is None


async def test_a_charger_above_its_cap_does_not_follow_and_says_so_once(evse: OcppEvse, charger: Charger) -> None:
    await evse.apply(band(0, 6_000, lease_s=600.0))
    await lives(evse, charger, 11_000, int(obedience.PATIENCE_S) + 5)
    status = evse.status()
    assert status.follows is False
    assert "does not follow" in status.detail
    assert [code for code, _ in charger.notices] == ["charger.disobeys"]
    await lives(evse, charger, 6_000, 2)
    assert evse.status().follows is True


async def test_after_a_reconnect_the_setpoint_is_sent_again_and_judged_anew(
    giving: tuple[OcppEvse, Charger],
) -> None:
    evse, charger = giving
    await lives(evse, charger, -5_000, 10)
    charger.now_s += 300  # away
    await evse.install_static_share()
    await evse.hold_again()
    await lives(evse, charger, -5_000, 5)
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == -5_000
    assert not charger.notices


async def test_q12_a_discharge_is_not_told_again_to_the_transaction_that_comes_after_a_reboot_and_a_cap_is(
    giving: tuple[OcppEvse, Charger],
) -> None:
    evse, charger = giving
    evse.profiles_lost()
    await evse.install_static_share()
    evse.session.transaction = Transaction(transaction_id="T2", token_id="RFID-1")
    charger.calls.clear()
    await evse.hold_again()
    assert not charger.all("SetChargingProfile")
    evse.session.transaction = Transaction(transaction_id="T1", token_id="RFID-1")
    await evse.hold_again()
    assert evse.status().setpoint is None  # not later either: that session is over

    await evse.apply(band(0, 0, lease_s=600.0))
    evse.session.transaction = Transaction(transaction_id="T3", token_id="RFID-2")
    await evse.hold_again()
    held = evse.status().setpoint
    assert held is not None
    assert held.highest_w == 0


async def test_q12_a_curve_that_may_discharge_is_not_told_again_in_another_transaction(charger: Charger) -> None:
    evse = evse_at(charger)
    evse.session.transaction = Transaction(transaction_id="T1", token_id="RFID-1")
    curve = Period(mode=Mode.LOCAL_FREQUENCY, curve=CURVE, limit_w=6_000, discharge_w=-6_000)
    await evse.install_static_share()
    await evse.hold_mode(curve, 600.0, "test")
    evse.session.transaction = Transaction(transaction_id="T2", token_id="RFID-1")
    charger.calls.clear()
    await evse.hold_again()
    assert not charger.calls


async def test_k22_a_discharge_is_not_told_to_a_car_whose_driver_wants_to_charge_now(
    evse: OcppEvse, charger: Charger
) -> None:
    await evse.apply(band(-5_000, -5_000, lease_s=600.0))
    charger.priority = True
    evse.session.priority("T1", activated=True)
    charger.calls.clear()
    await evse.tend()
    assert not charger.all("SetChargingProfile")
    assert evse.status().setpoint is None  # it follows its driver: neither held nor disobeyed
    with pytest.raises(DeviceRefusedError, match="its driver wants it to charge now"):
        await evse.apply(band(-5_000, -5_000, lease_s=600.0))
    assert not charger.all("SetChargingProfile")
    await evse.apply(band(0, 9_000, lease_s=600.0))
    assert charger.last_profile()["chargingProfilePurpose"] == "PriorityCharging"
