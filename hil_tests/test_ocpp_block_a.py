"""OCPP 2.0.1 and 2.1 block A, security: profiles, passwords, who waits outside, events; both paths, over TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from agent.config import read_secret
from agent.roads.charger_passwords import ChargerPasswords
from drivers.device import DeviceRefusedError, DeviceUnreachableError, LinkState, ValueSource
from drivers.ocpp import ChargerSettings
from drivers.ocpp import charger as charger_module
from drivers.ocpp import server as server_module
from drivers.ocpp.entrance import MOST_GUESTS
from drivers.ocpp.waiting_room import MOST_RECORDS
from hil_tests.ocpp_raw import AnsweredError, Authority, RawCharger, Silence, TlsSite, write_pair
from hil_tests.ocpp_station import stamp, until

SETTINGS = [
    ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1"),
    ChargerSettings(device_id="car-3", charger_id="CP-3", security_profile=3),
]


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> AsyncIterator[TlsSite]:
    monkeypatch.setattr(charger_module, "SILENT_START_S", 0.05)
    monkeypatch.setattr(charger_module, "PING_TIMEOUT_S", 0.3)
    monkeypatch.setattr(server_module, "REFUSAL_DELAY_S", 0.02)
    keeper = ChargerPasswords(tmp_path / "state" / "chargers")
    async with TlsSite(
        tmp_path, SETTINGS, options={"keeper": keeper, "guests": True}, version=version
    ).running() as site:
        yield site


async def refused_with(
    site: TlsSite, status: int, identity: str, password: str | None, pair: Path | None = None
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await site.open(identity, password, pair=pair)
    assert refused.value.response.status_code == status


def certificate(site: TlsSite, name: str, *, by: Authority | None = None, days: int = 30) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    return write_pair(site.folder, f"client-{name}", (by or site.authority).issue(name, key, days=days), key)


def password_set(charger: RawCharger) -> str | None:
    for call in charger.calls("SetVariables"):
        for entry in call["setVariableData"]:
            if entry["variable"]["name"] == "BasicAuthPassword":
                return str(entry["attributeValue"])
    return None


# A00: profiles


async def test_a00_profile_2_the_right_password_over_tls_gets_in(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
        session = site.server.chargers["CP-1"].session
        assert session.source is ValueSource.AUTHENTICATED_LINK


@pytest.mark.parametrize("password", ["wrong", "", None])
async def test_a00_profile_2_any_other_password_is_turned_away_and_said(site: TlsSite, password: str | None) -> None:
    await refused_with(site, 401, "CP-1", password)
    assert site.codes() == ["charger.refused"]
    assert [(k.charger_id, k.why) for k in site.server.entrance.waiting.all()] == [
        ("CP-1", "came without the right password")
    ]


async def test_a00_profile_2_a_charger_that_does_not_trust_us_does_not_send_its_password(site: TlsSite) -> None:
    site.authority = Authority("Somebody else")
    with pytest.raises(ssl.SSLCertVerificationError):
        await site.open()


async def test_a00_profile_3_a_certificate_of_the_site_gets_its_charger_in(site: TlsSite) -> None:
    async with site.charger("CP-3", None, pair=certificate(site, "CP-3")) as charger:
        await charger.ready()
        assert site.server.devices["car-3"].status().link is LinkState.ONLINE
        assert site.server.chargers["CP-3"].session.source is ValueSource.AUTHENTICATED_LINK


async def test_a00_profile_3_no_certificate_or_that_of_another_charger_is_turned_away(site: TlsSite) -> None:
    await refused_with(site, 401, "CP-3", "secret-1")
    await refused_with(site, 401, "CP-3", None, pair=certificate(site, "CP-1"))


@pytest.mark.parametrize("days", [30, -1], ids=["of somebody else", "expired"])
async def test_a00_profile_3_a_certificate_that_does_not_hold_ends_the_handshake(site: TlsSite, days: int) -> None:
    by = Authority("Somebody") if days > 0 else site.authority
    with pytest.raises((ssl.SSLError, ConnectionError, InvalidMessage, ConnectionClosed)):
        await site.open("CP-3", None, pair=certificate(site, "CP-3", by=by, days=days))


# A01: password change


async def test_a01_a_password_is_changed_and_the_old_one_good_until_the_new_was_used(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
        assert (await site.order("password"))["ok"] is True
        new = password_set(charger)
        assert new is not None
        assert 16 <= len(new) <= 40
    kept = site.folder / "state" / "chargers" / "CP-1.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    async with site.charger(password="secret-1") as charger:  # it has not taken it yet
        await charger.ready()
    async with site.charger(password=new) as charger:
        await charger.ready()
    await refused_with(site, 401, "CP-1", "secret-1")
    again = site.make_server()
    await again.chargers["CP-1"].recall()
    assert again.chargers["CP-1"].passwords.good() == (new,)
    assert all(new.encode() not in value for value in site.journal.kept.values())
    assert all(new not in text for _, _, text in site.events)


async def test_a01_a_refused_password_is_good_no_more(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
        charger.answers["SetVariables"] = lambda asked: {
            "setVariableResult": [
                {"component": e["component"], "variable": e["variable"], "attributeStatus": "Rejected"}
                for e in asked["setVariableData"]
            ]
        }
        with pytest.raises(DeviceRefusedError, match="does not take a new password: Rejected"):
            await site.order("password")
        new = password_set(charger)
    await refused_with(site, 401, "CP-1", new)


async def test_a01_a_charger_that_did_not_answer_gets_in_with_either(tmp_path: Path) -> None:
    options = {"keeper": ChargerPasswords(tmp_path / "state" / "chargers"), "call_timeout_s": 0.5}
    async with TlsSite(tmp_path, SETTINGS, options=options).running() as site:
        async with site.charger() as charger:
            await charger.ready()
            charger.answers["SetVariables"] = Silence()
            with pytest.raises(DeviceUnreachableError):
                await site.order("password")
            new = password_set(charger)
        assert new is not None
        for password in ("secret-1", new):
            async with site.charger(password=password) as charger:
                await charger.ready()


async def test_a01_a_full_disk_locks_no_charger_out(site: TlsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site.charger() as charger:
        await charger.ready()
        await site.order("password")
        new = password_set(charger)

    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ChargerPasswords, "keep", full)
    for password in (new, "secret-1"):  # which of them is retired could not be kept
        async with site.charger(password=password) as charger:
            await charger.ready()
            with pytest.raises(OSError, match="No space"):
                await site.order("password")
            assert password_set(charger) is None


# Who waits outside (B02 with A)


async def test_b02_an_unknown_charger_waits_and_is_recorded_with_what_it_says(site: TlsSite) -> None:
    async with site.charger("NEW-1", "whatever") as charger:
        assert (await charger.boot("S9"))["status"] == "Pending"
        with pytest.raises(AnsweredError) as refused:
            await charger.event("Started", 0)
        assert refused.value.code == "SecurityError"
        (knock,) = site.server.entrance.who_waits()
        assert (knock["charger"], knock["here"], knock["why"]) == ("NEW-1", True, "is not in the configuration")
        assert "Raw" in str(knock["says"])
        assert "S9" in str(knock["says"])
        assert "NEW-1" not in site.server.devices
        assert charger.heard == []
    assert site.events == []


async def test_b02_an_approved_unknown_charger_is_given_a_password_for_the_configuration(site: TlsSite) -> None:
    async with site.charger("NEW-1", None) as charger:
        await charger.boot()
        told = await site.server.entrance.approve("NEW-1")
        assert told["status"] == "approved"
        kept = read_secret(str(told["password_secret"]))  # refuses a file that others may read
        assert password_set(charger) == kept
        # Asked again, the charger gets the same one: what waits for the installer is not replaced.
        await site.server.entrance.approve("NEW-1")
        assert [
            entry["attributeValue"] for call in charger.calls("SetVariables") for entry in call["setVariableData"]
        ] == [
            kept,
            kept,
        ]


async def test_b02_a_name_cannot_lead_a_password_out_of_its_folder(site: TlsSite) -> None:
    async with site.charger("..%2f..%2fetc%2fpasswd", None) as charger:
        await charger.boot()
        told = await site.server.entrance.approve("../../etc/passwd")
        file = Path(str(told["password_secret"]).removeprefix("file:"))
        assert file.parent == site.folder / "state" / "chargers"


async def test_b02_strangers_are_bounded_in_number_and_in_what_is_kept_of_them(site: TlsSite) -> None:
    sockets = [await site.open(f"X-{number}", None) for number in range(MOST_GUESTS)]
    try:
        await until(
            lambda: sum(1 for knock in site.server.entrance.who_waits() if knock["here"]) == MOST_GUESTS, "guests"
        )
        await until(
            lambda: all(site.server.entrance.find(f"X-{number}").taken for number in range(MOST_GUESTS)),  # type: ignore[union-attr]
            "guests to be served",
        )
        await refused_with(site, 401, "X-more", None)
        async with site.charger() as charger:
            await charger.ready()  # others are not affected
    finally:
        for socket in sockets:
            await socket.close()
    for number in range(2 * MOST_RECORDS):
        site.server.entrance.waiting.knock(f"Y-{number}", "came", "192.0.2.1", 0)
    assert len(site.server.entrance.waiting.all()) == MOST_RECORDS


async def test_b02_a_locked_out_charger_is_let_in_by_the_installer_and_given_a_new_password(site: TlsSite) -> None:
    await refused_with(site, 401, "CP-1", "factory")
    assert (await site.server.entrance.approve("CP-1"))["status"] == "door open"
    async with site.charger(password="factory") as charger:
        assert (await charger.boot())["status"] == "Pending"
        with pytest.raises(AnsweredError):
            await charger.event("Started", 0)
        await until(lambda: password_set(charger), "a new password")
        new = password_set(charger)
        await until(lambda: charger.socket.state.name == "CLOSED", "the socket to be closed")
        assert charger.calls("SetChargingProfile") == []
    async with site.charger(password=new) as charger:
        await charger.ready()
    assert site.server.entrance.waiting.all() == []
    await refused_with(site, 401, "CP-1", "factory")
    await refused_with(site, 401, "CP-1", "secret-1")


async def test_b02_nobody_is_approved_whom_nobody_has_seen(site: TlsSite) -> None:
    with pytest.raises(ValueError, match="chargers list"):
        await site.server.entrance.approve("GHOST")


async def test_b02_who_waits_is_remembered_over_our_restart(site: TlsSite) -> None:
    async with site.charger("NEW-1", None) as charger:
        await charger.boot()
        await site.server.entrance.approve("NEW-1")
    again = site.make_server()
    await again.entrance.recall()
    (knock,) = again.entrance.waiting.all()
    assert (knock.charger_id, knock.approved) == ("NEW-1", True)


async def test_b02_without_a_waiting_room_an_unknown_charger_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "REFUSAL_DELAY_S", 0.02)
    async with TlsSite(tmp_path, SETTINGS).running() as site:
        await refused_with(site, 401, "NEW-1", None)
        assert site.codes() == ["charger.refused"]


# A04: security events


async def test_a04_a_security_event_becomes_an_event_of_ours(site: TlsSite) -> None:
    async with site.charger() as charger:
        await charger.ready()
        event = {"type": "TamperDetectionActivated", "timestamp": stamp(), "techInfo": "lid\nopen"}
        assert await charger.ask("SecurityEventNotification", event) == {}
        (code, subject, text) = site.events[0]
        assert (code, subject) == ("charger.security_event", "CP-1")
        assert "TamperDetectionActivated" in text
        assert "\n" not in text
        with pytest.raises(AnsweredError) as refused:
            await charger.ask("SecurityEventNotification", event | {"type": "x" * 51})
        assert refused.value.code == "PropertyConstraintViolation"


async def test_a01_no_log_has_a_password_or_a_token(site: TlsSite) -> None:
    with structlog.testing.capture_logs() as logs:
        async with site.charger() as charger:
            await charger.ready()
            await charger.ask("Authorize", {"idToken": {"idToken": "TOPSECRET-99", "type": "ISO14443"}})
            await site.order("password")
            new = password_set(charger)
    assert new is not None
    assert any(line["event"] == "ocpp_sent" for line in logs)
    assert new not in str(logs)
    assert "TOPSECRET" not in str(logs)
