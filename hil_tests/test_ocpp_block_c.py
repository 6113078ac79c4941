"""OCPP 2.0.1 and 2.1 block C and D, authorisation and local list: good and error path of each use case, over TLS."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from drivers.device import DeviceRefusedError
from drivers.ocpp import ChargerSettings
from drivers.ocpp.tokens import SiteToken, SiteTokens, token_digest
from hil_tests.ocpp_raw import AnsweredError, Authority, RawCharger, Silence, TlsSite, pem, token
from hil_tests.ocpp_station import until

NOW_US = time.time_ns() // 1000
HOUR_US = 3_600_000_000
TOKENS = [
    SiteToken(name="04AABBCC", kind="ISO14443", group="FAMILY"),
    SiteToken(name="04EEEEEE", kind="ISO14443", expires_us=NOW_US - HOUR_US),
    SiteToken(name="04BBBBBB", blocked=True),
    SiteToken(name="ONLY-2", device_ids=frozenset({"car-2"})),
    SiteToken(sha256=token_digest("HASHED-1")),
    SiteToken(name="MASTER-1", group="MASTERS"),
    SiteToken(name="DE-ABC-C12345678-9", kind="eMAID"),
    SiteToken(name="DEXYZC00000001", kind="eMAID", blocked=True),
]
ROOT = Authority("Mobility operator root")
SUB = Authority("Mobility operator sub", parent=ROOT)


@pytest.fixture
async def site(tmp_path: Path, version: str) -> AsyncIterator[TlsSite]:
    tokens = SiteTokens("MASTERS")
    tokens.replace(TOKENS)
    settings = [
        ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1", local_tokens=("LOCAL-1",)),
        ChargerSettings(device_id="car-2", charger_id="CP-1", password="secret-1", evse_id=2),
    ]
    made = TlsSite(tmp_path, settings, tokens, options={"contract_roots": [ROOT.certificate]}, version=version)
    async with made.running():
        yield made


@pytest.fixture
async def charger(site: TlsSite) -> AsyncIterator[RawCharger]:
    async with site.charger() as charger:
        await charger.boot()
        yield charger


async def shown(charger: RawCharger, name: str, kind: str = "ISO14443", **more: object) -> dict[str, object]:
    answer = await charger.ask("Authorize", {"idToken": token(name, kind), **more})
    info = answer["idTokenInfo"]
    assert isinstance(info, dict)
    return info | {"certificateStatus": answer["certificateStatus"]} if "certificateStatus" in answer else info


# C01, C03 to C06: a token is shown


@pytest.mark.parametrize("name", ["LOCAL-1", "local-1", "04aabbcc", "hashed-1"])
async def test_c01_a_known_token_is_accepted_in_any_case_and_for_a_day_at_most(charger: RawCharger, name: str) -> None:
    info = await shown(charger, name)
    assert info["status"] == "Accepted"
    assert "cacheExpiryDateTime" in info


@pytest.mark.parametrize(
    ("name", "status"),
    [("NOBODY", "Unknown"), ("04EEEEEE", "Expired"), ("04BBBBBB", "Blocked"), ("", "Invalid")],
)
async def test_c01_any_other_token_is_refused_with_its_reason(charger: RawCharger, name: str, status: str) -> None:
    assert await shown(charger, name) == {"status": status}


async def test_c01_a_token_of_another_kind_is_another_token(charger: RawCharger) -> None:
    assert (await shown(charger, "04AABBCC", "eMAID"))["status"] == "Unknown"


async def test_c01_a_token_longer_than_the_specification_allows_is_a_call_error(
    charger: RawCharger, site: TlsSite
) -> None:
    longest = 255 if site.version == "ocpp2.1" else 36
    assert (await shown(charger, "x" * longest))["status"] == "Unknown"
    with pytest.raises(AnsweredError) as refused:
        await shown(charger, "x" * (longest + 1))
    assert refused.value.code == "PropertyConstraintViolation"


async def test_c02_a_charger_that_asks_nobody_is_served(charger: RawCharger) -> None:
    assert (await shown(charger, "", "NoAuthorization"))["status"] == "Accepted"


async def test_c01_a_token_of_one_evse_says_so(charger: RawCharger) -> None:
    assert (await shown(charger, "ONLY-2"))["evseId"] == [2]
    assert (await charger.event("Started", 0, idToken=token("ONLY-2")))["idTokenInfo"] == {
        "status": "NotAtThisLocation"
    }
    answer = await charger.event("Started", 0, idToken=token("ONLY-2"), evse=2, transaction="T2")
    assert answer["idTokenInfo"]["status"] == "Accepted"


# C09, C16: groups and the master pass


async def test_c09_a_group_is_told(charger: RawCharger) -> None:
    assert (await shown(charger, "04AABBCC"))["groupIdToken"] == {"idToken": "FAMILY", "type": "Central"}


async def test_c16_a_master_pass_is_put_into_the_charger_and_known_by_its_group(charger: RawCharger) -> None:
    await until(
        lambda: any(
            entry["variable"]["name"] == "MasterPassGroupId" and entry["attributeValue"] == "MASTERS"
            for call in charger.calls("SetVariables")
            for entry in call["setVariableData"]
        ),
        "the master pass group to be set",
    )
    info = await shown(charger, "MASTER-1")
    assert (info["status"], info["groupIdToken"]) == ("Accepted", {"idToken": "MASTERS", "type": "Central"})


async def test_c16_a_master_pass_starts_no_transaction_and_ends_any(charger: RawCharger, site: TlsSite) -> None:
    answer = await charger.event("Started", 0, idToken=token("MASTER-1"))
    assert answer["idTokenInfo"]["status"] == "Invalid"
    await charger.event("Started", 0, idToken=token("LOCAL-1"), transaction="T2")
    answer = await charger.event(
        "Ended",
        1,
        idToken=token("MASTER-1"),
        transaction="T2",
        trigger="StopAuthorized",
        info={"stoppedReason": "MasterPass"},
    )
    assert answer["idTokenInfo"]["status"] == "Accepted"
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is None or vehicle.transaction_id is None


# C07: plug and charge


def contract(name: str = "DEABCC12345678", *, days: int = 30, by: Authority = SUB) -> str:
    chain = [by.issue(name, ec.generate_private_key(ec.SECP256R1()), days=days)]
    return pem(*chain, *([by.certificate] if by is SUB else []))


async def test_c07_a_contract_from_a_known_root_that_the_owner_names_is_accepted(charger: RawCharger) -> None:
    info = await shown(charger, "DE-ABC-C12345678-9", "eMAID", certificate=contract())
    assert (info["status"], info["certificateStatus"]) == ("Accepted", "Accepted")


@pytest.mark.parametrize(
    ("chain", "status"),
    [
        (contract(days=-1), "CertificateExpired"),
        (contract(by=Authority("Somebody")), "CertChainError"),
        (contract(by=Authority("Mobility operator root")), "SignatureError"),
        (contract("DEABCC99999999"), "CertChainError"),
        ("no certificate", "NoCertificateAvailable"),
    ],
    ids=["expired", "unknown root", "forged root", "of another contract", "nothing"],
)
async def test_c07_a_contract_that_does_not_hold_is_refused(charger: RawCharger, chain: str, status: str) -> None:
    info = await shown(charger, "DE-ABC-C12345678-9", "eMAID", certificate=chain)
    assert info == {"status": "Invalid", "certificateStatus": status}


async def test_c07_a_contract_that_the_owner_has_blocked_is_cancelled(charger: RawCharger) -> None:
    info = await shown(charger, "DEXYZC00000001", "eMAID", certificate=contract("DEXYZC00000001"))
    assert info == {"status": "Blocked", "certificateStatus": "ContractCancelled"}


# C11, C10: cache


async def test_c11_the_charger_forgets_its_cache_when_told(charger: RawCharger, site: TlsSite) -> None:
    charger.answers["ClearCache"] = {"status": "Accepted"}
    assert (await site.order("clear-cache"))["ok"] is True
    charger.answers["ClearCache"] = {"status": "Rejected"}
    assert (await site.order("clear-cache"))["ok"] is False


async def test_c11_a_charger_without_a_cache_is_an_error_and_no_more(charger: RawCharger, site: TlsSite) -> None:
    with pytest.raises(DeviceRefusedError, match="NotImplemented"):
        await site.order("clear-cache")
    assert (await charger.ask("Heartbeat", {}))["currentTime"]


# D01, D02: local list


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
    assert [(e["idToken"]["idToken"], "idTokenInfo" in e) for e in difference["localAuthorizationList"]] == [
        ("NEW-1", True),
        ("04AABBCC", False),
    ]


async def test_d01_a_charger_that_lost_its_list_gets_all_of_it(charger: RawCharger, site: TlsSite) -> None:
    await charger.hear("SendLocalList")
    charger.list_version = 0
    assert (await site.order("local-list"))["ok"] is True
    assert charger.calls("SendLocalList")[1]["updateType"] == "Full"
    assert charger.list_version == 2


async def test_d01_the_list_is_sent_in_parts_of_what_the_charger_takes(charger: RawCharger, site: TlsSite) -> None:
    await charger.hear("SendLocalList")
    charger.list_version = 0
    charger.answers["GetVariables"] = lambda asked: {
        "getVariableResult": [{**asked["getVariableData"][0], "attributeStatus": "Accepted", "attributeValue": "3"}]
    }
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
