"""OCPP 2.0.1 and 2.1 block K over TLS: who else has a say beside the site's CSMS, use case by use case.

    K03  local smart charging           the gateway is the local controller: each EVSE holds its own part, here
    K04  internal load balancing        the station's own maximum, here; how it shares it is the station's affair
    K14  limits by a local controller   with K24: a limit that reaches the gateway (a grid operator's relay, a command)
                                        is a clamp of its plan (hil_tests/test_control_inputs), and what a station says
                                        of one is K11 and K12; handing it on to an operator's CSMS is the relay, which
                                        the gateway does not have
    K16  renegotiation by the CSMS      here, and K15 in test_ocpp_block_k_words
    K19  dynamic control of ISO 15118-20, what the car tells: test_ocpp_block_k_words; limits follow by K01 and K28
    K20  needs that change              here
    K23  an EMS at the station          here (2.1 by name; 2.0.1 says it with the same messages)
    K24  an EMS at the local controller as K14: the gateway and its plan are that EMS
    K25  an EMS as the local controller this is the gateway
    K26  an EMS here and one far away   the platform's commands over the gateway's plan: no OCPP (test_control_*)
    K27  an EMS with local generation   here (2.1)
    K28  dynamic profiles of the CSMS   test_ocpp_block_k_dynamic
    K29  dynamic profiles of others     here: heard, bounded, never updated or cleared by us

K02 and K05 are in test_ocpp_block_k_start, K08 wherever a limit is believed (test_ocpp_block_k).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pytest

from drivers.device import DeviceRefusedError
from drivers.ocpp import ChargerSettings
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, Silence, TlsSite, token
from hil_tests.ocpp_station import band, stamp, until
from hil_tests.v2g_parts import SHARE_W, csms, solo

Tls = tuple[SSLContext, Path]
SETTINGS = [
    ChargerSettings(
        device_id=f"car-{number}", charger_id="CP-1", evse_id=number, password="secret-1", local_tokens=("RFID-1",),
        fallback_import_w=SHARE_W, rated_import_w=11_000,
    )
    for number in (1, 2)
]  # fmt: skip


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    async with TlsSite(tmp_path, SETTINGS, version=version, options={"call_timeout_s": 1.0}).running() as site:
        yield site


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    """Both EVSEs charge."""
    async with site.charger() as charger:
        await charger.ready()
        for number in (1, 2):
            told = {"transaction": f"T{number}", "evse": number, "idToken": token("RFID-1")}
            await charger.event("Started", 0, **told, info={"chargingState": "Charging"})
        yield charger


def notes(site: TlsSite, device_id: str = "car-1") -> str:
    capabilities = site.server.devices[device_id].status().capabilities
    assert capabilities is not None
    return str(capabilities.notes)


def schedule(limit: float, unit: str = "W") -> Payload:
    return {"id": 1, "chargingRateUnit": unit, "chargingSchedulePeriod": [{"startPeriod": 0, "limit": limit}]}


def shows(limits: dict[int, float]) -> Any:
    """The composite schedules of a station that holds these."""

    def answer(payload: Payload) -> Payload:
        period = {"startPeriod": 0, "limit": limits[payload["evseId"]]}
        told = {
            "evseId": payload["evseId"], "duration": payload["duration"], "scheduleStart": stamp(),
            "chargingRateUnit": "W", "chargingSchedulePeriod": [period],
        }  # fmt: skip
        return {"status": "Accepted", "schedule": told}

    return answer


# K03


async def test_k03_each_evse_holds_its_own_part(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["GetCompositeSchedule"] = shows({1: 3_000, 2: 2_000})
    for number, limit_w in ((1, 3_000), (2, 2_000)):
        await site.server.devices[f"car-{number}"].apply(band(0, limit_w))
    told = {call["evseId"]: call["chargingProfile"] for call in charger.calls("SetChargingProfile")}
    limits = {n: p["chargingSchedule"][0]["chargingSchedulePeriod"][0]["limit"] for n, p in told.items()}
    assert limits == {1: 3_000, 2: 2_000}
    assert {n: p["transactionId"] for n, p in told.items()} == {1: "T1", 2: "T2"}


async def test_k03_an_evse_that_holds_the_part_of_the_other_is_not_believed(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["GetCompositeSchedule"] = shows({1: 3_000, 2: 3_000})
    await site.server.devices["car-1"].apply(band(0, 3_000))
    with pytest.raises(DeviceRefusedError, match="was told 2000 W and holds 3000 W"):
        await site.server.devices["car-2"].apply(band(0, 2_000))
    assert site.server.devices["car-1"].status().setpoint is not None
    assert site.server.devices["car-2"].status().setpoint is None


# K04


async def limit_station(site: TlsSite, **arguments: Any) -> Payload:
    return await site.server.reception.order("CP-1", "station-limit", arguments)


def station_profiles(charger: RawCharger) -> list[Payload]:
    return [call["chargingProfile"] for call in charger.calls("SetChargingProfile") if call["evseId"] == 0]


async def test_k04_the_maximum_of_a_station_is_set_kept_and_set_again_until_it_is_lifted(
    charger: RawCharger, site: TlsSite
) -> None:
    charger.answers["GetCompositeSchedule"] = shows({0: 9_000, 1: 0, 2: 0})
    assert await limit_station(site, watts=9_000) == {"ok": True, "status": "at most 9000 W"}
    (profile,) = station_profiles(charger)
    assert (profile["chargingProfilePurpose"], profile["chargingProfileKind"]) == (
        "ChargingStationMaxProfile",
        "Absolute",
    )
    assert profile["chargingSchedule"][0]["chargingSchedulePeriod"] == [
        {"startPeriod": 0, "limit": 9_000, "numberPhases": 3}
    ]
    assert "duration" not in profile["chargingSchedule"][0]
    await charger.socket.close()
    site.server.chargers["CP-1"].session.limit_w = None
    await site.server.chargers["CP-1"].recall()  # as after a restart of ours
    async with site.charger() as again:
        await again.ready()
        assert [p["chargingProfilePurpose"] for p in station_profiles(again)] == ["ChargingStationMaxProfile"]
        assert (await limit_station(site, watts="none"))["status"] == "lifted"
        assert {"chargingProfileId": profile["id"]} in again.calls("ClearChargingProfile")


@pytest.mark.parametrize(
    ("answers", "ok", "why"),
    [
        ({"SetChargingProfile": {"status": "Rejected"}}, False, "refused a limit of the station"),
        ({"SetChargingProfile": AnsweredError("NotSupported")}, False, "NotSupported"),
        ({"SetChargingProfile": Silence()}, False, "no answer"),
        ({"GetCompositeSchedule": shows({0: 22_000})}, False, "took a limit of 9000 W for the station and shows 22000"),
        ({"GetCompositeSchedule": {"status": "Rejected"}}, True, "does not show what the station holds"),
        ({"GetCompositeSchedule": AnsweredError("InternalError")}, True, "does not show what the station holds"),
    ],
)
async def test_k04_a_maximum_that_is_not_taken_or_not_shown_is_said_to_be(
    charger: RawCharger, site: TlsSite, answers: dict[str, Any], ok: bool, why: str
) -> None:
    charger.answers |= answers
    told = await limit_station(site, watts=9_000)
    assert told["ok"] is ok
    assert why in told["note"]


@pytest.mark.parametrize("watts", [-1, 10_000_001, "much", 1.5, True, None])
async def test_k04_a_maximum_that_is_none_is_refused_before_anybody_is_told(
    charger: RawCharger, site: TlsSite, watts: Any
) -> None:
    with pytest.raises(ValueError, match="watts"):
        await limit_station(site, watts=watts)
    with pytest.raises(ValueError, match="watts"):
        await limit_station(site)
    assert station_profiles(charger) == []
    assert site.server.chargers["CP-1"].session.limit_w is None


async def test_k04_a_station_shares_its_maximum_below_what_the_plan_allows(version: str, loopback_tls: Tls) -> None:
    tls, ca = loopback_tls
    async with csms(ssl=tls) as box, solo(box.server.port, version, ca=ca) as rig:
        await box.transaction()
        await box.evse.apply(band(0, 8_000, 600))
        told = await box.server.reception.order("CP-1", "station-limit", {"watts": 5_000})
        assert told == {"ok": True, "status": "at most 5000 W"}
        await until(lambda: abs(rig.evse.power_w - 5_000) < 10, "5000 W at the outlet")
        await box.evse.apply(band(0, 7_000, 600))  # it holds less than that, which is no disobedience
        await box.server.reception.order("CP-1", "station-limit", {"watts": "none"})
        await until(lambda: abs(rig.evse.power_w - 7_000) < 10, "7000 W at the outlet")
        assert rig.charger.profiles.matching(0, {}) == []


# K16, K20


async def test_k16_a_car_that_goes_on_planning_beyond_its_cap_is_told_it_and_not_listened_to(
    charger: RawCharger, site: TlsSite
) -> None:
    await site.server.devices["car-1"].apply(band(0, 0))
    told = {"timeBase": stamp(), "evseId": 1, "chargingSchedule": schedule(11_000)}
    before = len(charger.calls("SetChargingProfile"))
    for _ in range(20):
        assert (await charger.ask("NotifyEVChargingSchedule", told))["status"] == "Rejected"
    await charger.hear("SetChargingProfile", before + 1)
    await charger.ask("NotifyEVChargingSchedule", told | {"chargingSchedule": schedule(0)})
    assert len(charger.calls("SetChargingProfile")) <= before + 3  # once a second at most, not once a plan
    assert charger.calls("SetChargingProfile")[-1]["evseId"] == 1


async def test_k20_needs_that_change_are_the_new_ones_and_what_is_none_changes_nothing(
    charger: RawCharger, site: TlsSite
) -> None:
    def needs(energy: Any) -> Payload:
        ac = {"energyAmount": energy, "evMinCurrent": 6, "evMaxCurrent": 16, "evMaxVoltage": 230}
        return {"evseId": 2, "chargingNeeds": {"requestedEnergyTransfer": "AC_three_phase", "acChargingParameters": ac}}

    def needed_wh() -> int | None:
        vehicle = site.server.devices["car-2"].status().vehicle
        assert vehicle is not None
        return vehicle.energy_needed_wh

    for energy in (9_000, 4_000, 20_000):
        assert await charger.ask("NotifyEVChargingNeeds", needs(energy)) == {"status": "Processing"}
        assert needed_wh() == energy
    for wrong in ("much", None, [1]):
        with pytest.raises(AnsweredError):
            await charger.ask("NotifyEVChargingNeeds", needs(wrong))
    assert needed_wh() == 20_000
    other = site.server.devices["car-1"].status().vehicle
    assert other is not None
    assert other.energy_needed_wh is None


# K23, K27, K29


async def test_k23_what_an_ems_set_at_the_station_is_heard_and_left_there(charger: RawCharger, site: TlsSite) -> None:
    """Somebody's profile rules over ours: those of a CSMS go, those of an EMS stay."""

    def report(payload: Payload) -> Payload:
        assert payload["chargingProfile"] == {"chargingLimitSource": ["CSO"]}  # an EMS's are not even asked for
        found.append(payload["requestId"])
        return {"status": "Accepted"}

    found: list[int] = []
    limit = {"chargingLimitSource": "EMS", "isGridCritical": False}
    await charger.ask(
        "NotifyChargingLimit", {"evseId": 1, "chargingLimit": limit, "chargingSchedule": [schedule(5_000)]}
    )
    assert "'EMS' limits it to no more than 5000 W" in notes(site)
    charger.answers |= {"GetCompositeSchedule": shows({1: 5_000, 2: 0}), "GetChargingProfiles": report}
    profile = {
        "stackLevel": 3, "chargingProfileKind": "Absolute",
        "chargingSchedule": [schedule(5_000) | {"startSchedule": stamp()}],
    }  # fmt: skip
    reported = [
        profile | {"id": -5, "chargingProfilePurpose": "ChargingStationExternalConstraints"},
        profile | {"id": 900, "chargingProfilePurpose": "TxDefaultProfile"},
    ]
    order = site.server.devices["car-1"].apply(band(0, 2_000))

    async def tell() -> None:
        await until(lambda: found, "it was asked for profiles")
        told = {"requestId": found[0], "chargingLimitSource": "CSO", "evseId": 1, "chargingProfile": reported}
        await charger.ask("ReportChargingProfiles", told)

    telling = asyncio.create_task(tell())
    with pytest.raises(DeviceRefusedError, match="was told 2000 W and holds 5000 W"):
        await order
    await telling
    cleared = [call.get("chargingProfileId") for call in charger.calls("ClearChargingProfile")]
    assert 900 in cleared
    assert -5 not in cleared


async def test_k27_local_generation_is_no_limit_and_gives_no_car_more_than_the_plan(
    charger: RawCharger, site: TlsSite
) -> None:
    limit = {"chargingLimitSource": "EMS", "isLocalGeneration": True}
    told = {"evseId": 1, "chargingLimit": limit, "chargingSchedule": [schedule(4_000)]}
    if site.version == "ocpp2.0.1":
        with pytest.raises(AnsweredError):
            await charger.ask("NotifyChargingLimit", told)
        return
    assert await charger.ask("NotifyChargingLimit", told) == {}
    assert "'EMS' tells of 4000 W generated beside it" in notes(site)
    assert "limits it" not in notes(site)
    await charger.ask("NotifyChargingLimit", told | {"chargingLimit": {"chargingLimitSource": "EMS"}})
    assert "limits it to no more than 4000 W" in notes(site)
    charger.answers["GetCompositeSchedule"] = shows({1: 6_000, 2: 0})  # 2000 W of ours and 4000 W of the roof
    with pytest.raises(DeviceRefusedError, match="was told 2000 W and holds 6000 W"):
        await site.server.devices["car-1"].apply(band(0, 2_000))
    await charger.ask("ClearedChargingLimit", {"chargingLimitSource": "EMS", "evseId": 1})
    assert "'EMS'" not in notes(site)


async def test_k29_a_limit_that_somebody_moves_all_the_time_is_known_and_not_told_each_time(
    charger: RawCharger, site: TlsSite
) -> None:
    for number in range(60):
        limit_w = 6_000 + 10 * (number % 7)
        told = {"chargingLimit": {"chargingLimitSource": "EMS"}, "chargingSchedule": [schedule(limit_w)], "evseId": 1}
        await charger.ask("NotifyChargingLimit", told)
        assert f"no more than {limit_w} W" in notes(site)
    assert site.codes().count("charger.external_limit") == 1
    await charger.ask("NotifyChargingLimit", told | {"chargingSchedule": [schedule(1_000)]})
    assert site.codes().count("charger.external_limit") == 2
    assert "charger.flood" not in site.codes()


async def test_k29_a_dynamic_profile_of_others_is_not_pulled_from_us(charger: RawCharger, site: TlsSite) -> None:
    if site.version == "ocpp2.0.1":
        with pytest.raises(AnsweredError, match="NotImplemented"):
            await charger.ask("PullDynamicScheduleUpdate", {"chargingProfileId": -5})
        return
    answer = await charger.ask("PullDynamicScheduleUpdate", {"chargingProfileId": -5})
    assert answer["status"] == "Rejected"
    assert charger.calls("UpdateDynamicSchedule") == []
