"""OCPP 2.1 K28 over TLS: leases that are dynamic profiles, moved by updates, pulled, and dead without us.

First against a simulated charger, then against answers that no good charger gives. K29 is the same kept up to date by
somebody else than the CSMS: what comes of it is an external limit (K12), and it is no profile of ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from ssl import SSLContext
from typing import Any, cast

import pytest

from drivers.device import DeadMan, DeviceUnreachableError
from drivers.ocpp import ChargerSettings, dynamic
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, Silence, TlsSite, token
from hil_tests.ocpp_station import until
from hil_tests.rig.charger.solo import SoloCharger
from hil_tests.rig.site.charger import OCPP_21, OCPP_201, Dynamic
from hil_tests.rig.site.profiles import Profile, Purpose
from hil_tests.v2g_parts import SHARE_W, Csms, band, csms, solo

LEASE_S = 600.0
Pair = tuple[Csms, SoloCharger]
Tls = tuple[SSLContext, Path]


@pytest.fixture
async def pair(request: pytest.FixtureRequest, loopback_tls: Tls) -> AsyncIterator[Pair]:
    """With what a test asks the charger to make of dynamic profiles, else a good one."""
    tls, ca = loopback_tls
    kind = getattr(request, "param", Dynamic.UPDATED)
    async with csms(ssl=tls) as box, solo(box.server.port, OCPP_21, ca=ca, dynamic=kind) as rig:
        await box.transaction()
        await until(lambda: interval_of(rig) == "1", "limits come before what else it is told on a new connection")
        yield box, rig


def interval_of(rig: SoloCharger) -> str | None:
    return rig.charger.variables.get("SampledDataCtrlr", "TxUpdatedInterval")[1]


async def passes(rig: SoloCharger, power_w: float) -> None:
    await until(lambda: abs(rig.evse.power_w - power_w) < 10, f"{power_w} W at the outlet")


def lease_of(rig: SoloCharger) -> Profile:
    """What the charger has for its transaction."""
    (found,) = [p for p in rig.charger.profiles.matching(None, {}) if p.purpose is Purpose.TX]
    return found


def kind_of(rig: SoloCharger) -> str:
    return str(lease_of(rig).source["chargingProfileKind"])


async def test_k28_a_limit_is_moved_by_an_update_and_followed(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    await passes(rig, 8_000)
    first = lease_of(rig)
    assert first.source["chargingProfileKind"] == "Dynamic"
    await box.evse.apply(band(0, 6_000, LEASE_S))
    await passes(rig, 6_000)
    moved = lease_of(rig)
    assert moved.received_s == first.received_s  # it was not set again
    assert moved.updated_s is not None
    assert first.updated_s is not None
    assert moved.updated_s > first.updated_s
    assert box.status.follows is not False
    await box.evse.release()
    await passes(rig, SHARE_W)


async def test_k28_q04_a_setpoint_is_moved_by_an_update_and_proved(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(-5_000, -5_000, LEASE_S))
    await passes(rig, -5_000)
    first = lease_of(rig)
    await box.evse.apply(band(-3_000, -3_000, LEASE_S))
    await passes(rig, -3_000)
    assert (kind_of(rig), lease_of(rig).received_s) == ("Dynamic", first.received_s)
    await box.evse.apply(band(0, 7_000, LEASE_S))  # another mode: no update makes it of the other
    await passes(rig, 7_000)
    assert lease_of(rig).received_s > first.received_s


async def test_k28_the_permission_ends_in_the_charger_half_a_lease_after_our_last_word(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic, "SHORTEST_LEASE_S", 6.0)
    box, rig = pair
    await box.evse.apply(band(0, 8_000, 6.0))
    held = lease_of(rig)
    await passes(rig, 8_000)
    assert box.capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK
    assert held.updated_s is not None
    assert held.duration_s == 3
    assert held.step(held.updated_s + 2.9, rig.charger.transaction_start_s) is not None
    assert held.step(held.updated_s + 3.1, rig.charger.transaction_start_s) is None
    await box.server.__aexit__(None, None, None)
    await until(lambda: not rig.charger.online, "the charger is cut off")
    await passes(rig, SHARE_W)


async def test_k28_a_lease_that_nobody_moves_is_refreshed_by_us(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic, "REFRESH_AT", 0.0)
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    first = lease_of(rig)
    await until(lambda: lease_of(rig).updated_s != first.updated_s, "it was refreshed", 30)
    assert lease_of(rig).received_s == first.received_s
    await passes(rig, 8_000)


async def test_k28_a_charger_that_pulls_gets_the_present_values(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    await box.evse.apply(band(0, 5_000, LEASE_S))
    moved = lease_of(rig)
    rig.charger.profiles.update(moved.profile_id, {"limit": 1_000}, moved.received_s)  # it got something wrong
    rig.charger.words.pull(moved.profile_id)
    await until(lambda: rig.charger.words.pulls_answered == 1, "an update by its pull")
    await passes(rig, 5_000)


async def test_k28_a_charger_that_missed_an_update_pulls_by_itself(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    held = lease_of(rig)
    assert held.pull_s == 255  # of 300 s
    assert rig.charger.profiles.to_pull(held.received_s + 254) == []
    # Its word of long ago: by its clock the interval has passed.
    rig.charger.profiles.update(held.profile_id, {}, time.time() - 256)
    await until(lambda: rig.charger.words.pulls_answered == 1, "an update by its pull")
    await passes(rig, 8_000)
    assert rig.charger.profiles.to_pull(time.time()) == []


@pytest.mark.parametrize("pair", [Dynamic.NEVER_UPDATED], indirect=True)
async def test_k28_a_charger_that_refuses_updates_is_told_by_profiles_from_then_on(pair: Pair) -> None:
    box, rig = pair
    for limit_w in (8_000, 7_000, 6_000):
        await box.evse.apply(band(0, limit_w, LEASE_S))
        await passes(rig, limit_w)
    assert kind_of(rig) == "Absolute"
    assert "refuses to update its dynamic profile ('NotEnabled'" in box.said("charger.dynamic_profile")[0]
    rig.session.drop(0.0)
    await until(lambda: rig.session.connections == 2, "it is back")
    await until(lambda: kind_of(rig) == "Absolute" and box.status.setpoint is not None, "it was told again")
    await box.evse.apply(band(0, 5_000, LEASE_S))
    await passes(rig, 5_000)
    assert len(box.said("charger.dynamic_profile")) == 1


@pytest.mark.parametrize("pair", [Dynamic.NEVER_UPDATED], indirect=True)
async def test_k28_a_refresh_that_is_refused_ends_in_a_profile_for_what_is_left(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic, "REFRESH_AT", 0.0)
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    await until(lambda: kind_of(rig) == "Absolute", "after two refusals it is told by the clock", 30)
    ends_s = (lease_of(rig).start_s or 0.0) + (lease_of(rig).duration_s or 0.0)
    assert ends_s <= time.time() + LEASE_S  # of the same lease
    assert box.status.setpoint is not None
    await passes(rig, 8_000)


@pytest.mark.parametrize("pair", [Dynamic.ENDLESS], indirect=True)
async def test_k28_a_charger_in_which_no_dynamic_profile_ends_gets_one_that_does(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    assert kind_of(rig) == "Absolute"
    assert "shows no end of a dynamic profile" in box.said("charger.dynamic_profile")[0]
    assert box.capabilities.dead_man is DeadMan.REVERTS_TO_FALLBACK
    await passes(rig, 8_000)


@pytest.mark.parametrize("offers", [OCPP_21, OCPP_201])
async def test_k28_a_charger_that_does_not_offer_them_gets_none(loopback_tls: Tls, offers: str) -> None:
    tls, ca = loopback_tls
    kind = Dynamic.NONE if offers == OCPP_21 else Dynamic.UPDATED
    async with csms(ssl=tls) as box, solo(box.server.port, offers, ca=ca, dynamic=kind) as rig:
        await box.transaction()
        await box.evse.apply(band(0, 8_000, LEASE_S))
        await passes(rig, 8_000)
        assert kind_of(rig) == "Absolute"
        assert not box.said("charger.dynamic_profile")


async def test_k28_after_a_reconnect_it_is_set_again_and_moved_again(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    before = lease_of(rig)
    rig.charger.profiles.forget_all()
    rig.session.drop(0.0)
    await until(lambda: rig.session.connections == 2, "it is back")
    await until(lambda: [p for p in rig.charger.profiles.matching(None, {}) if p.purpose is Purpose.TX], "it has it")
    again = lease_of(rig)
    assert kind_of(rig) == "Dynamic"
    assert again.received_s > before.received_s
    await passes(rig, 8_000)
    await box.evse.apply(band(0, 6_000, LEASE_S))
    await passes(rig, 6_000)


async def test_k28_a_profile_that_somebody_cleared_is_set_again(pair: Pair) -> None:
    box, rig = pair
    await box.evse.apply(band(0, 8_000, LEASE_S))
    rig.charger.profiles.clear(None, {"chargingProfilePurpose": "TxProfile"})
    await box.evse.apply(band(0, 6_000, LEASE_S))
    assert kind_of(rig) == "Dynamic"
    await passes(rig, 6_000)


# What no good charger answers: two EVSEs, raw words.

SETTINGS = [
    ChargerSettings(
        device_id=f"car-{number}", charger_id="CP-1", evse_id=number, password="secret-1", local_tokens=("RFID-1",),
        fallback_import_w=SHARE_W, rated_import_w=11_000,
    )
    for number in (1, 2)
]  # fmt: skip
LIMITS: dict[int, float] = {1: 8_000, 2: 6_000}


class Shown:
    """What a raw charger shows of itself: what it was told last at each EVSE, for so long."""

    def __init__(self) -> None:
        self.limits: dict[int, float] = {}
        self.durations: dict[int, int | None] = {}

    def take(self, payload: Payload) -> Payload:
        schedule, evse_id = payload["chargingProfile"]["chargingSchedule"][0], payload["evseId"]
        if payload["chargingProfile"]["chargingProfilePurpose"] != "PriorityCharging":
            self.limits[evse_id] = schedule["chargingSchedulePeriod"][0]["limit"]
            self.durations[evse_id] = schedule.get("duration")
        return {"status": "Accepted"}

    def update(self, payload: Payload) -> Payload:
        self.limits[payload["chargingProfileId"] // 10] = payload["scheduleUpdate"]["limit"]
        return {"status": "Accepted"}

    def clear(self, payload: Payload) -> Payload:
        evse_id, slot = divmod(payload["chargingProfileId"], 10)
        if slot == 3:
            self.limits[evse_id], self.durations[evse_id] = SHARE_W, None
        return {"status": "Accepted"}

    def composite(self, payload: Payload) -> Payload:
        evse_id = payload["evseId"]
        periods: list[Payload] = [{"startPeriod": 0, "limit": self.limits[evse_id]}]
        if (duration := self.durations[evse_id]) is not None:
            periods.append({"startPeriod": duration, "limit": SHARE_W})
        schedule = {
            "evseId": evse_id, "duration": payload["duration"], "scheduleStart": "2026-01-01T00:00:00Z",
            "chargingRateUnit": "W", "chargingSchedulePeriod": periods,
        }  # fmt: skip
        return {"status": "Accepted", "schedule": schedule}

    def answers(self) -> dict[str, Any]:
        return {
            "SetChargingProfile": self.take,
            "UpdateDynamicSchedule": self.update,
            "GetCompositeSchedule": self.composite,
            "ClearChargingProfile": self.clear,
            "GetVariables": says_dynamic("true"),
        }


def says_dynamic(value: str) -> Any:
    def answer(payload: Payload) -> Payload:
        return {
            "getVariableResult": [
                {"component": e["component"], "variable": e["variable"]}
                | (
                    {"attributeStatus": "Accepted", "attributeValue": value}
                    if e["variable"]["name"] == "SupportsDynamicProfiles"
                    else {"attributeStatus": "UnknownVariable"}
                )
                for e in payload["getVariableData"]
            ]
        }

    return answer


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[TlsSite]:
    options = {"call_timeout_s": 1.0}
    async with TlsSite(tmp_path, SETTINGS, version=OCPP_21, options=options).running() as site:
        yield site


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    """Both EVSEs charge, each with a dynamic profile of its own."""
    async with site.charger() as charger:
        charger.answers |= Shown().answers()
        await charger.ready()
        for number in (1, 2):
            told = {"transaction": f"T{number}", "evse": number, "idToken": token("RFID-1")}
            await charger.event("Started", 0, **told, info={"chargingState": "Charging"})
        for number in (1, 2):
            await apply(site, number, LIMITS[number])
        yield charger


async def apply(site: TlsSite, number: int, limit_w: float) -> None:
    await site.server.devices[f"car-{number}"].apply(band(0, int(limit_w), LEASE_S))


async def pull(charger: RawCharger, profile_id: int) -> Payload:
    return await charger.ask("PullDynamicScheduleUpdate", {"chargingProfileId": profile_id})


def kinds(charger: RawCharger) -> list[str]:
    """Of the profiles of transactions, as they came."""
    calls = [call["chargingProfile"] for call in charger.calls("SetChargingProfile")]
    return [profile["chargingProfileKind"] for profile in calls if profile["chargingProfilePurpose"] == "TxProfile"]


async def test_k28_each_evse_pulls_its_own_values(charger: RawCharger, site: TlsSite) -> None:
    assert kinds(charger) == ["Dynamic", "Dynamic"]
    for number, limit_w in LIMITS.items():
        answer = await pull(charger, number * 10 + 3)
        assert answer == {"status": "Accepted", "scheduleUpdate": {"limit": limit_w}}
    await apply(site, 2, 3_000)
    assert (await pull(charger, 13))["scheduleUpdate"] == {"limit": 8_000}
    assert (await pull(charger, 23))["scheduleUpdate"] == {"limit": 3_000}


@pytest.mark.parametrize("profile_id", [11, 12, 33, 0, -13, 777, 2**31])
async def test_k28_a_pull_of_what_is_no_dynamic_profile_of_ours_is_rejected(
    charger: RawCharger, profile_id: int
) -> None:
    answer = await pull(charger, profile_id)
    assert (answer["status"], answer["statusInfo"]["reasonCode"]) == ("Rejected", "InvalidProfile")
    assert "scheduleUpdate" not in answer


async def test_k28_a_pull_that_is_none_is_a_call_error(charger: RawCharger) -> None:
    for wrong in ({}, {"chargingProfileId": "13"}, {"chargingProfileId": 13, "more": 1}):
        with pytest.raises(AnsweredError) as refused:
            await charger.ask("PullDynamicScheduleUpdate", wrong)
        assert refused.value.code != "InternalError"
    assert (await pull(charger, 13))["status"] == "Accepted"


async def test_k28_pulls_give_nothing_after_the_transaction_or_the_release(charger: RawCharger, site: TlsSite) -> None:
    await site.server.devices["car-2"].release()
    assert (await pull(charger, 23))["status"] == "Rejected"
    await charger.event("Ended", 1, transaction="T1", info={"stoppedReason": "Local"})
    assert (await pull(charger, 13))["status"] == "Rejected"


async def test_k28_a_flood_of_pulls_is_slowed_down_and_moves_nothing(charger: RawCharger, site: TlsSite) -> None:
    answers = await asyncio.gather(*(pull(charger, 13 if number % 2 else 23) for number in range(240)))
    given = [answer["scheduleUpdate"]["limit"] for answer in answers]
    assert given == [6_000, 8_000] * 120
    assert "charger.flood" in site.codes()
    await apply(site, 2, 2_000)
    assert charger.calls("UpdateDynamicSchedule") == [
        {"chargingProfileId": 23, "scheduleUpdate": {"limit": 2_000}},
    ]


async def test_k28_a_pull_while_an_update_is_unanswered_gets_no_old_values(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["UpdateDynamicSchedule"] = Silence()
    order = asyncio.create_task(apply(site, 1, 1_000))
    await charger.hear("UpdateDynamicSchedule")
    assert (await pull(charger, 13))["status"] == "Rejected"
    with pytest.raises(DeviceUnreachableError):
        await order
    # Whether it took the update is not known: it is told all of it, and nothing is pulled until then.
    assert (await pull(charger, 13))["status"] == "Rejected"
    await apply(site, 1, 1_000)
    assert kinds(charger) == ["Dynamic"] * 3
    assert (await pull(charger, 13))["scheduleUpdate"] == {"limit": 1_000}


@pytest.mark.parametrize(
    "answer", [AnsweredError("NotImplemented"), AnsweredError("InternalError", "?" * 300), {"status": "Perhaps"}]
)
async def test_k28_an_update_that_is_not_understood_leads_to_profiles_that_end_by_the_clock(
    charger: RawCharger, site: TlsSite, answer: Any
) -> None:
    charger.answers["UpdateDynamicSchedule"] = answer
    await apply(site, 1, 5_000)
    assert kinds(charger) == ["Dynamic", "Dynamic", "Absolute"]
    await apply(site, 1, 4_500)
    assert kinds(charger)[-1] == "Absolute"
    assert len(charger.calls("UpdateDynamicSchedule")) == 1
    assert site.codes().count("charger.dynamic_profile") == 1
    await apply(site, 2, 4_500)  # another EVSE is tried by itself
    assert len(charger.calls("UpdateDynamicSchedule")) == 2


async def test_k28_an_update_that_is_accepted_and_not_shown_is_not_believed(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["UpdateDynamicSchedule"] = {"status": "Accepted"}
    await apply(site, 1, 5_000)
    assert kinds(charger) == ["Dynamic", "Dynamic", "Absolute"]
    assert site.server.devices["car-1"].status().setpoint is not None


async def test_k28_a_charger_that_refuses_the_kind_holds_the_limit_by_another(tmp_path: Path) -> None:
    shown = Shown()

    def take(payload: Payload) -> Payload:
        if payload["chargingProfile"]["chargingProfileKind"] == "Dynamic":
            return {"status": "Rejected", "statusInfo": {"reasonCode": "UnsupportedKind"}}
        return shown.take(payload)

    async with TlsSite(tmp_path, SETTINGS, version=OCPP_21).running() as site, site.charger() as charger:
        charger.answers |= shown.answers() | {"SetChargingProfile": take}
        await charger.ready()
        await charger.event("Started", 0, idToken=token("RFID-1"))
        await apply(site, 1, 5_000)
        await apply(site, 1, 4_800)
        assert "Dynamic" in kinds(charger)
        assert kinds(charger)[-2:] == ["Absolute", "Absolute"]
        assert "UnsupportedKind" in next(text for code, _, text in site.events if code == "charger.dynamic_profile")
        assert site.server.devices["car-1"].status().setpoint is not None


async def test_k28_a_charger_that_counts_from_the_first_word_is_seen_to(charger: RawCharger, site: TlsSite) -> None:
    def late(payload: Payload) -> Payload:
        """As if 200 of the 300 s were over."""
        answer: Payload = cast("Callable[[Payload], Payload]", shown)(payload)
        for period in answer["schedule"]["chargingSchedulePeriod"][1:]:
            period["startPeriod"] -= 200
        return answer

    shown = charger.answers["GetCompositeSchedule"]
    charger.answers["GetCompositeSchedule"] = late
    await apply(site, 1, 5_000)
    assert kinds(charger)[-1] == "Absolute"
    assert "after 100 s" in next(text for code, _, text in site.events if code == "charger.dynamic_profile")


async def test_k28_a_pull_right_after_a_reconnect_waits_until_we_have_said_anew_what_holds(
    charger: RawCharger, site: TlsSite
) -> None:
    assert (await pull(charger, 13))["status"] == "Accepted"
    await charger.socket.close()
    async with site.charger() as again:
        again.answers |= Shown().answers()
        assert (await pull(again, 13))["status"] == "Rejected"
        await until(lambda: kinds(again).count("Dynamic") == 2, "both EVSEs were told again")
        await again.hear("GetBaseReport")
        assert (await pull(again, 13))["scheduleUpdate"] == {"limit": 8_000}
        assert (await pull(again, 23))["scheduleUpdate"] == {"limit": 6_000}


@pytest.mark.parametrize("value", ["false", "", "TRUE-ish", "1" * 900])
async def test_k28_only_a_clear_yes_is_an_offer(tmp_path: Path, value: str) -> None:
    async with TlsSite(tmp_path, SETTINGS, version=OCPP_21).running() as site, site.charger() as charger:
        charger.answers |= Shown().answers() | {"GetVariables": says_dynamic(value)}
        await charger.ready()
        await charger.event("Started", 0, idToken=token("RFID-1"))
        await apply(site, 1, 5_000)
        assert kinds(charger) == ["Absolute"]
