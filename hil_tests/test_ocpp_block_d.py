"""OCPP 2.0.1 and 2.1 block D, the list of tokens for the time without us: both paths of each use case, over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from drivers.device import DeviceRefusedError
from drivers.ocpp import ChargerSettings
from drivers.ocpp.tokens import SiteToken, SiteTokens
from hil_tests.ocpp_raw import AnsweredError, Payload, RawCharger, Silence, TlsSite
from hil_tests.ocpp_station import until
from hil_tests.ocpp_suite import HOUR_US, NOW_US, TOKENS


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    tokens = SiteTokens("MASTERS")
    tokens.replace(TOKENS)
    settings = [
        ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1", local_tokens=("LOCAL-1",)),
        ChargerSettings(device_id="car-2", charger_id="CP-1", password="secret-1", evse_id=2),
    ]
    async with TlsSite(tmp_path, settings, tokens, version=version).running() as site:
        yield site


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    async with site.charger() as charger:
        await charger.boot()
        yield charger


def entries(sent: Payload) -> list[tuple[str, str, bool]]:
    """(type, name, whether it is put in) of what was sent."""
    return [
        (entry["idToken"]["type"], entry["idToken"]["idToken"], "idTokenInfo" in entry)
        for entry in sent["localAuthorizationList"]
    ]


def takes_in_parts(charger: RawCharger, items: int) -> None:
    charger.answers["GetVariables"] = lambda asked: {
        "getVariableResult": [
            {**asked["getVariableData"][0], "attributeStatus": "Accepted", "attributeValue": str(items)}
        ]
    }


# D01: the list


async def test_d01_tokens_are_put_into_the_charger_for_the_time_without_us(charger: RawCharger, site: TlsSite) -> None:
    sent = await charger.hear("SendLocalList")
    assert (sent["updateType"], sent["versionNumber"]) == ("Full", 1)
    listed = {entry["idToken"]["idToken"]: entry["idTokenInfo"] for entry in sent["localAuthorizationList"]}
    # The charger cannot compare with a hash, and a master pass is known by its group.
    assert "MASTER-1" not in listed
    assert len(listed) == 7
    assert listed["04AABBCC"]["groupIdToken"]["idToken"] == "FAMILY"
    assert listed["04BBBBBB"]["status"] == "Blocked"
    assert listed["LOCAL-1"]["evseId"] == [1]


async def test_d01_a_change_is_sent_as_a_difference_and_no_change_not_at_all(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.hear("SendLocalList")
    assert (await site.order("local-list"))["sent"] is False
    site.tokens.replace([*TOKENS[1:], SiteToken(name="NEW-1")])
    assert await site.order("local-list") == {"ok": True, "status": "Accepted", "version": 2, "sent": True}
    difference = charger.calls("SendLocalList")[1]
    assert difference["updateType"] == "Differential"
    assert entries(difference) == [("ISO14443", "04AABBCC", False), ("ISO14443", "NEW-1", True)]


async def test_d01_a_charger_that_lost_its_list_gets_all_of_it(charger: RawCharger, site: TlsSite) -> None:
    await charger.hear("SendLocalList")
    charger.list_version = 0
    assert (await site.order("local-list"))["ok"] is True
    assert charger.calls("SendLocalList")[1]["updateType"] == "Full"
    assert charger.list_version == 2


async def test_d01_the_list_is_sent_in_parts_of_what_the_charger_takes(charger: RawCharger, site: TlsSite) -> None:
    await charger.hear("SendLocalList")
    charger.list_version = 0
    takes_in_parts(charger, 3)
    assert (await site.order("local-list"))["version"] == 4
    parts = charger.calls("SendLocalList")[1:]
    assert [len(part["localAuthorizationList"]) for part in parts] == [3, 3, 1]
    assert [part["updateType"] for part in parts] == ["Full", "Differential", "Differential"]


async def test_d01_a_refused_list_is_said_once_and_tried_with_the_next_connection(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.hear("SendLocalList")
    charger.list_version = 9
    charger.answers["SendLocalList"] = {"status": "Failed"}
    answer = await site.order("local-list")
    assert (answer["ok"], answer["status"]) == (False, "does not take the local list: Failed")


async def test_d02_the_version_of_the_list_can_be_asked(charger: RawCharger, site: TlsSite) -> None:
    await charger.hear("SendLocalList")
    assert (await site.order("local-list-version"))["versionNumber"] == 1


async def test_d01_the_list_survives_our_restart_and_is_not_sent_again(site: TlsSite, charger: RawCharger) -> None:
    await charger.hear("SendLocalList")
    await until(lambda: b'"version":1' in site.journal.kept["charger/CP-1"], "the version to be kept")
    again = site.make_server()
    await again.chargers["CP-1"].recall()
    assert again.chargers["CP-1"].session.local_list.version == 1


async def test_d01_a_charger_without_a_local_list_is_not_asked_for_it(site: TlsSite) -> None:
    async with site.charger() as charger:
        charger.answers["SetVariables"] = lambda asked: {
            "setVariableResult": [
                {"component": e["component"], "variable": e["variable"], "attributeStatus": "UnknownComponent"}
                for e in asked["setVariableData"]
            ]
        }
        await charger.ready()
        assert charger.calls("GetLocalListVersion") == []


async def test_d01_a_charger_that_does_not_answer_for_its_list_holds_up_the_line_once(tmp_path: Path) -> None:
    settings = [ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1", local_tokens=("LOCAL-1",))]
    async with TlsSite(tmp_path, settings, options={"call_timeout_s": 0.2}).running() as site:
        for asked in (1, 0):
            async with site.charger() as charger:
                charger.answers["GetLocalListVersion"] = Silence()
                await charger.boot()
                await charger.hear("GetLocalListVersion" if asked else "GetBaseReport")
                await until(lambda: site.server.chargers["CP-1"].desk.list_given_up, "the list to be given up")
                assert len(charger.calls("GetLocalListVersion")) == asked


async def test_d01_a_token_is_taken_out_by_its_own_kind(charger: RawCharger, site: TlsSite) -> None:
    await charger.hear("SendLocalList")
    site.tokens.replace([token for token in TOKENS if token.kind != "eMAID"])
    assert (await site.order("local-list"))["ok"] is True
    assert entries(charger.calls("SendLocalList")[1]) == [
        ("eMAID", "DE-ABC-C12345678-9", False),
        ("eMAID", "DEXYZC00000001", False),
    ]


async def test_d01_a_token_that_changes_its_kind_is_taken_out_before_it_is_put_in(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.hear("SendLocalList")
    site.tokens.replace([*TOKENS[1:], SiteToken(name="04AABBCC", kind="Central")])
    assert (await site.order("local-list"))["ok"] is True
    assert entries(charger.calls("SendLocalList")[1]) == [
        ("ISO14443", "04AABBCC", False),
        ("Central", "04AABBCC", True),
    ]


async def test_d01_a_list_that_loses_its_last_token_is_emptied(charger: RawCharger, site: TlsSite) -> None:
    await charger.hear("SendLocalList")
    site.tokens.replace([])
    assert (await site.order("local-list"))["ok"] is True
    put_in = [entry for entry in entries(charger.calls("SendLocalList")[1]) if entry[2]]
    assert put_in == []
    assert len(entries(charger.calls("SendLocalList")[1])) == 6  # all but what the configuration itself names


async def test_d01_the_end_of_a_token_is_told_and_one_that_has_ended_is_not_accepted(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.hear("SendLocalList")
    site.tokens.replace([*TOKENS, SiteToken(name="SOON-1", expires_us=NOW_US + HOUR_US)])
    await site.order("local-list")
    (soon,) = charger.calls("SendLocalList")[1]["localAuthorizationList"]
    assert soon["idTokenInfo"]["status"] == "Accepted"
    assert soon["idTokenInfo"]["cacheExpiryDateTime"]
    first = {
        e["idToken"]["idToken"]: e["idTokenInfo"] for e in charger.calls("SendLocalList")[0]["localAuthorizationList"]
    }
    assert first["04EEEEEE"]["status"] == "Expired"


async def test_d01_a_difference_that_the_charger_cannot_use_is_followed_by_the_whole(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.hear("SendLocalList")
    site.tokens.replace([*TOKENS, SiteToken(name="NEW-1")])

    def mismatch(payload: Payload) -> Payload:
        if payload["updateType"] == "Differential":
            return {"status": "VersionMismatch"}
        charger.list_version = payload["versionNumber"]
        return {"status": "Accepted"}

    charger.answers["SendLocalList"] = mismatch
    answer = await site.order("local-list")
    assert answer["ok"] is True
    assert [call["updateType"] for call in charger.calls("SendLocalList")[1:]] == ["Differential", "Full"]
    assert answer["version"] == charger.list_version


async def test_d01_a_list_that_failed_half_way_is_sent_as_a_whole_the_next_time(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.hear("SendLocalList")
    charger.list_version = 0
    takes_in_parts(charger, 3)
    good = charger.answers["SendLocalList"]
    assert callable(good)
    taken = iter([True, False])
    charger.answers["SendLocalList"] = lambda asked: good(asked) if next(taken) else {"status": "Failed"}
    assert (await site.order("local-list"))["ok"] is False
    charger.answers["SendLocalList"] = good
    before = len(charger.calls("SendLocalList"))
    assert (await site.order("local-list"))["ok"] is True
    parts = charger.calls("SendLocalList")[before:]
    assert [len(part["localAuthorizationList"]) for part in parts] == [3, 3, 1]
    numbers = [part["versionNumber"] for part in charger.calls("SendLocalList")]
    assert numbers == sorted(numbers)
    assert numbers[0] > 0


async def test_d01_a_list_whose_kinds_an_earlier_version_did_not_keep_is_sent_anew(
    charger: RawCharger, site: TlsSite
) -> None:
    await charger.hear("SendLocalList")
    await until(lambda: b'"version":1' in site.journal.kept["charger/CP-1"], "the version to be kept")
    kept: dict[str, Any] = orjson.loads(site.journal.kept["charger/CP-1"])
    kept["local_list"]["entries"] = {
        key.partition("\t")[2]: value for key, value in kept["local_list"]["entries"].items()
    }
    session = site.server.chargers["CP-1"].session
    session.restore(orjson.dumps(kept))
    assert (await site.order("local-list"))["ok"] is True
    assert all(put_in for _, _, put_in in entries(charger.calls("SendLocalList")[1]))


@pytest.mark.parametrize("code", ["NotImplemented", "InternalError"])
async def test_d02_a_charger_that_cannot_tell_its_version_is_an_error_and_no_more(
    charger: RawCharger, site: TlsSite, code: str
) -> None:
    await charger.hear("SendLocalList")
    charger.answers["GetLocalListVersion"] = AnsweredError(code)
    with pytest.raises(DeviceRefusedError, match=code):
        await site.order("local-list-version")
    answer = await site.order("local-list")
    assert (answer["ok"], "has no local list" in str(answer["status"])) == (False, True)
    assert (await charger.ask("Heartbeat", {}))["currentTime"]
