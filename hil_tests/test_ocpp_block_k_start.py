"""OCPP 2.0.1 and 2.1 K05 over TLS: a transaction that is started from here is limited from its first moment.

K02 is what comes next: the plan's limit for that transaction, by its number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pytest

from drivers.device import DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp import ChargerSettings
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, Silence, TlsSite, token
from hil_tests.ocpp_station import until
from hil_tests.rig.site.car import Car
from hil_tests.rig.site.energy import Storage
from hil_tests.v2g_parts import band, csms, solo

Tls = tuple[SSLContext, Path]
SHARE_W = 4_200
SETTINGS = [
    ChargerSettings(
        device_id="car-1", charger_id="CP-1", password="secret-1", fallback_import_w=SHARE_W, rated_import_w=11_000,
        discharge="negative_limit", rated_export_w=10_000,
    )
]  # fmt: skip


def profile(reason: str) -> Payload:
    return {"status": "Rejected", "statusInfo": {"reasonCode": reason}}


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, SETTINGS, version=version, options={"call_timeout_s": 1.0}).running() as site:
        yield site


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    async with site.charger() as charger:
        charger.answers["RequestStartTransaction"] = {"status": "Accepted"}
        await charger.ready()
        yield charger


async def start(site: TlsSite) -> Payload:
    return await site.order("start", device="car-1", token="APP-1")


async def test_k05_the_first_second_is_within_the_limit_by_the_start_alone(version: str, loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    async with csms(ssl=tls) as box, solo(box.server.port, version, ca=ca, car=None) as rig:
        await until(lambda: box.status.capabilities is not None, "the charger is provisioned")
        await box.evse.apply(band(0, 5_000, 600))
        # Nothing but what comes with the start bounds this car.
        rig.charger.profiles.clear(None, {"chargingProfilePurpose": "TxDefaultProfile"})
        rig.evse.car = Car(Storage(60_000, 30_000), max_charge_w=11_000)
        await box.server.chargers["CP-1"].desk.order("start", {"device": "car-1", "token": "APP-1"})
        await until(lambda: abs(rig.evse.power_w - 5_000) < 10, "5000 W at the outlet")
        assert max(sample.power_w or 0 for sample in box.samples) <= 5_010
        (held,) = rig.charger.profiles.matching(None, {"chargingProfilePurpose": "TxProfile"})
        assert held.transaction_id == rig.charger.transaction_id
        assert held.profile_id == 13


async def test_k05_the_limit_in_force_goes_along_without_a_transaction(charger: RawCharger, site: TlsSite) -> None:
    await site.server.devices["car-1"].apply(band(0, 0))  # what a raw charger shows is 0 W
    assert await start(site) == {"ok": True, "status": "Accepted"}
    (request,) = charger.calls("RequestStartTransaction")
    given = request["chargingProfile"]
    assert (given["chargingProfilePurpose"], given["chargingProfileKind"]) == ("TxProfile", "Absolute")
    assert "transactionId" not in given
    schedule = given["chargingSchedule"][0]
    assert schedule["chargingSchedulePeriod"][0]["limit"] == 0
    assert datetime.fromisoformat(schedule["startSchedule"]).timestamp() > 0
    assert 55 <= schedule["duration"] <= 65  # what is left of the lease


async def test_k05_without_an_order_the_static_share_goes_along(charger: RawCharger, site: TlsSite) -> None:
    await start(site)
    given = charger.calls("RequestStartTransaction")[0]["chargingProfile"]
    assert given["chargingProfilePurpose"] == "TxProfile"
    assert given["chargingSchedule"][0]["chargingSchedulePeriod"][0]["limit"] == SHARE_W
    assert "duration" not in given["chargingSchedule"][0]


async def test_k05_k02_the_limit_of_the_plan_follows_by_the_number_of_the_transaction(
    charger: RawCharger, site: TlsSite
) -> None:
    await start(site)
    await charger.event("Started", 0, trigger="RemoteStart", idToken=token("APP-1", "Central"))
    await site.server.devices["car-1"].apply(band(0, 0))
    told = charger.calls("SetChargingProfile")[-1]
    assert (told["evseId"], told["chargingProfile"]["chargingProfilePurpose"]) == (1, "TxProfile")
    assert told["chargingProfile"]["transactionId"] == "T1"
    assert told["chargingProfile"]["id"] == charger.calls("RequestStartTransaction")[0]["chargingProfile"]["id"]


async def test_k05_k02_a_stop_between_the_order_and_the_start_holds_for_the_transaction_too(
    charger: RawCharger, site: TlsSite
) -> None:
    await start(site)  # with the static share, which goes before any limit that is of no transaction
    await site.server.devices["car-1"].apply(band(0, 0))
    before = len(charger.calls("SetChargingProfile"))
    await charger.event("Started", 0, trigger="RemoteStart", idToken=token("APP-1", "Central"))
    told = (await charger.hear("SetChargingProfile", before + 1))["chargingProfile"]
    assert (told["chargingProfilePurpose"], told["transactionId"]) == ("TxProfile", "T1")
    assert told["chargingSchedule"][0]["chargingSchedulePeriod"][0]["limit"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        profile("InvalidProfile"),
        profile("UnsupportedParam"),
        {"status": "Rejected"},
        AnsweredError("NotSupported"),
        AnsweredError("FormatViolation", "chargingProfile"),
    ],
    ids=["invalid", "parameter", "no reason", "not supported", "format"],
)
async def test_k05_a_charger_that_takes_no_profile_starts_without_and_gets_it_afterwards(
    charger: RawCharger, site: TlsSite, answer: Any
) -> None:
    def answers(payload: Payload) -> Any:
        return answer if "chargingProfile" in payload else {"status": "Accepted"}

    charger.answers["RequestStartTransaction"] = answers
    assert (await start(site))["ok"] is True
    first, second = charger.calls("RequestStartTransaction")
    assert {**first, "chargingProfile": None} == {**second, "chargingProfile": None}
    await start(site)
    assert "chargingProfile" not in charger.calls("RequestStartTransaction")[-1]  # it is remembered
    await charger.event("Started", 0, trigger="RemoteStart", idToken=token("APP-1", "Central"))
    await site.server.devices["car-1"].apply(band(0, 0))
    assert charger.calls("SetChargingProfile")[-1]["chargingProfile"]["transactionId"] == "T1"


@pytest.mark.parametrize("reason", ["TxInProgress", "NoCable", "UnknownEvse"])
async def test_k05_a_start_that_is_refused_for_itself_is_not_tried_without(
    charger: RawCharger, site: TlsSite, reason: str
) -> None:
    charger.answers["RequestStartTransaction"] = profile(reason)
    with pytest.raises(DeviceRefusedError, match=f"refused RequestStartTransaction.*{reason}"):
        await start(site)
    assert len(charger.calls("RequestStartTransaction")) == 1
    charger.answers["RequestStartTransaction"] = {"status": "Accepted"}
    await start(site)
    assert "chargingProfile" in charger.calls("RequestStartTransaction")[-1]


async def test_k05_a_start_without_an_answer_is_not_repeated(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["RequestStartTransaction"] = Silence()
    with pytest.raises(DeviceUnreachableError):
        await start(site)
    assert len(charger.calls("RequestStartTransaction")) == 1


async def test_k05_after_a_boot_a_profile_is_tried_again(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["RequestStartTransaction"] = lambda payload: (
        profile("InvalidProfile") if "chargingProfile" in payload else {"status": "Accepted"}
    )
    await start(site)
    await start(site)
    assert ["chargingProfile" in call for call in charger.calls("RequestStartTransaction")] == [True, False, False]
    await charger.boot()
    await start(site)
    assert "chargingProfile" in charger.calls("RequestStartTransaction")[3]


async def test_k02_a_limit_for_a_transaction_that_has_ended_meanwhile_is_not_held(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.event("Started", 0, trigger="RemoteStart", idToken=token("APP-1", "Central"))
    charger.answers["SetChargingProfile"] = profile("TxNotFound")
    with pytest.raises(DeviceRefusedError, match="TxNotFound"):
        await site.server.devices["car-1"].apply(band(0, 0))
    assert site.server.devices["car-1"].status().setpoint is None
    charger.answers["SetChargingProfile"] = {"status": "Accepted"}
    await charger.event("Ended", 1, info={"stoppedReason": "Local"})
    await charger.event("Started", 0, transaction="T2", trigger="RemoteStart", idToken=token("APP-1", "Central"))
    await site.server.devices["car-1"].apply(band(0, 0))
    assert charger.calls("SetChargingProfile")[-1]["chargingProfile"]["transactionId"] == "T2"
