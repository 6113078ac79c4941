"""OCPP 2.0.1 and 2.1 block C, authorisation: good and error path of each use case, over TLS.

Prepaid cards, payment terminals, settlement and web payments (C17 to C25 of 2.1) need prices and somebody who takes
money: a site has neither (block I), so their messages are answered NotSupported and their tokens are nobody's. A
cancellation before or after the start (C19, C20) is the end of a transaction as any other (block E).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from drivers.device import DeviceRefusedError
from drivers.ocpp import ChargerSettings
from drivers.ocpp.tokens import SiteToken, SiteTokens
from hil_tests.ocpp_raw import AnsweredError, Authority, RawCharger, TlsSite, pem, token
from hil_tests.ocpp_station import stamp, until
from hil_tests.ocpp_suite import HOUR_US, NOW_US, TOKENS

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


# C04 to C06: other kinds of tokens


@pytest.mark.parametrize("kind", ["KeyCode", "Central", "Local", "MacAddress", "ISO15693"])
async def test_c04_c05_c06_a_token_of_any_kind_is_accepted_where_the_owner_names_it_so(
    charger: RawCharger, site: TlsSite, kind: str
) -> None:
    site.tokens.replace([SiteToken(name="4711", kind=kind)])
    assert (await shown(charger, "4711", kind))["status"] == "Accepted"
    assert (await shown(charger, "4712", kind))["status"] == "Unknown"
    assert (await shown(charger, "4711", "eMAID"))["status"] == "Unknown"


async def test_c06_2_1_names_its_kinds_freely_and_2_0_1_does_not(charger: RawCharger, site: TlsSite) -> None:
    if site.version == "ocpp2.1":
        assert (await shown(charger, "X", "DirectPayment"))["status"] == "Unknown"
        return
    with pytest.raises(AnsweredError) as refused:
        await shown(charger, "X", "DirectPayment")
    assert refused.value.code == "PropertyConstraintViolation"


# C10, C12 to C15: what the charger knows by itself


async def test_c10_nothing_is_cached_beyond_its_own_end(charger: RawCharger, site: TlsSite) -> None:
    site.tokens.replace([SiteToken(name="SOON-1", expires_us=NOW_US + HOUR_US)])
    until_when = datetime.fromisoformat(str((await shown(charger, "SOON-1"))["cacheExpiryDateTime"]))
    assert abs(until_when.timestamp() - (NOW_US + HOUR_US) / 1e6) < 1
    assert "cacheExpiryDateTime" not in await shown(charger, "NOBODY")


@pytest.mark.parametrize(("name", "status"), [("LOCAL-1", "Accepted"), ("NOBODY", "Unknown"), ("04BBBBBB", "Blocked")])
async def test_c12_c13_c15_what_a_charger_let_in_by_itself_is_judged_when_it_tells(
    charger: RawCharger, site: TlsSite, name: str, status: str
) -> None:
    answer = await charger.event("Started", 0, idToken=token(name), offline=True, timestamp=stamp(100))
    assert answer["idTokenInfo"]["status"] == status
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert vehicle.token_id == (name if status == "Accepted" else None)


async def test_c14_a_token_that_was_blocked_meanwhile_is_refused_online_and_in_the_list(
    charger: RawCharger, site: TlsSite
) -> None:
    assert (await shown(charger, "04AABBCC"))["status"] == "Accepted"
    site.tokens.replace([SiteToken(name="04AABBCC", kind="ISO14443", blocked=True)])
    assert (await shown(charger, "04AABBCC"))["status"] == "Blocked"
    await charger.hear("SendLocalList")
    assert (await site.order("local-list"))["ok"] is True
    listed = {
        entry["idToken"]["idToken"]: entry.get("idTokenInfo", {}).get("status")
        for entry in charger.calls("SendLocalList")[-1]["localAuthorizationList"]
    }
    assert listed["04AABBCC"] == "Blocked"


# C03, C05: whoever pays or orders elsewhere has the transaction started from here


async def test_c03_c05_a_token_of_the_site_s_own_starts_where_it_was_ordered(
    charger: RawCharger, site: TlsSite
) -> None:
    charger.answers["RequestStartTransaction"] = {"status": "Accepted"}
    assert (await site.order("start", device="car-2", token="PAID-1"))["ok"] is True
    assert charger.calls("RequestStartTransaction")[0]["idToken"] == token("PAID-1", "Central")
    assert (await shown(charger, "PAID-1", "Central"))["status"] == "Accepted"
    answer = await charger.event("Started", 0, evse=2, trigger="RemoteStart", idToken=token("PAID-1", "Central"))
    assert answer["idTokenInfo"]["status"] == "Accepted"
    vehicle = site.server.devices["car-2"].status().vehicle
    assert vehicle is not None
    assert vehicle.token_id == "PAID-1"


async def test_c03_c05_a_token_that_nobody_ordered_or_that_was_refused_starts_nothing(
    charger: RawCharger, site: TlsSite
) -> None:
    assert (await shown(charger, "PAID-2", "Central"))["status"] == "Unknown"
    charger.answers["RequestStartTransaction"] = {"status": "Rejected"}
    with pytest.raises(DeviceRefusedError, match="refused RequestStartTransaction"):
        await site.order("start", device="car-1", token="PAID-2")
    answer = await charger.event("Started", 0, trigger="RemoteStart", idToken=token("PAID-3", "Central"))
    assert answer["idTokenInfo"]["status"] == "Unknown"


# C08: a card that is shown while charger and car speak ISO 15118


async def test_c08_a_card_is_judged_as_ever_while_the_car_tells_its_needs(charger: RawCharger, site: TlsSite) -> None:
    info = await shown(charger, "04AABBCC")
    assert (info["status"], "certificateStatus" in info) == ("Accepted", False)
    await charger.event("Started", 0, idToken=token("04AABBCC"))
    needs = {"requestedEnergyTransfer": "DC", "dcChargingParameters": {"evMaxCurrent": 100, "evMaxVoltage": 400}}
    answer = await charger.ask("NotifyEVChargingNeeds", {"evseId": 1, "chargingNeeds": needs})
    assert answer["status"] == "Processing"
    vehicle = site.server.devices["car-1"].status().vehicle
    assert vehicle is not None
    assert vehicle.token_id == "04AABBCC"


@pytest.mark.parametrize(("name", "status"), [("NOBODY", "Unknown"), ("04BBBBBB", "Blocked")])
async def test_c08_a_card_that_nobody_knows_is_refused_without_a_word_on_certificates(
    charger: RawCharger, name: str, status: str
) -> None:
    assert await shown(charger, name) == {"status": status}


# C17 to C25 (2.1): who pays


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        (
            "NotifySettlement",
            {"pspRef": "P-1", "status": "Settled", "settlementAmount": 7.5, "settlementTime": stamp()},
        ),
        ("VatNumberValidation", {"vatNumber": "DE123456789"}),
        ("NotifyWebPaymentStarted", {"evseId": 1, "timeout": 60}),
    ],
)
async def test_c18_c21_c25_payments_are_refused_and_the_charger_goes_on(
    charger: RawCharger, site: TlsSite, action: str, payload: dict[str, object]
) -> None:
    with pytest.raises(AnsweredError) as refused:
        await charger.ask(action, payload)
    assert refused.value.code == ("NotSupported" if site.version == "ocpp2.1" else "NotImplemented")
    assert (await shown(charger, "LOCAL-1"))["status"] == "Accepted"


async def test_c17_a_prepaid_card_is_nobody_s(charger: RawCharger) -> None:
    assert (await shown(charger, "PREPAID-1"))["status"] == "Unknown"
