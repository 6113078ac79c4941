"""The simulated chargers keep their promises, told over a real WebSocket to a CSMS made of the `ocpp` package."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from ocpp.v201 import ChargePoint, call, call_result
from websockets.asyncio.server import ServerConnection, serve

from hil_tests.rig.site.charger import ChargerSettings
from hil_tests.rig.site.orders import Order, OrderError
from hil_tests.rig.site.profiles import ProfileStore, Purpose, rfc3339, unix_s
from hil_tests.rig.site.schedule import Outlet, ProfileRefusedError, Step
from hil_tests.rig.site.site import PLAIN, V2G, Site, SiteSettings
from hil_tests.rig.site.world import PlantSettings

NOW_S = 1_800_000_000.0
OUTLET = Outlet(1, 11_000.0, 11_000.0, 3, 230.0)
ONE_WAY = Outlet(1, 11_000.0, 0.0, 3, 230.0)


def profile(
    limits: Mapping[int, float],
    *,
    purpose: Purpose = Purpose.TX_DEFAULT,
    profile_id: int = 1,
    stack_level: int = 0,
    start_s: float | None = NOW_S,
    duration: int | None = None,
    unit: str = "W",
    kind: str = "Absolute",
    **more: object,
) -> dict[str, Any]:
    """A profile as it comes over the wire."""
    schedule: dict[str, Any] = {
        "id": 1,
        "chargingRateUnit": unit,
        "chargingSchedulePeriod": [{"startPeriod": at, "limit": limit} for at, limit in limits.items()],
    }
    if start_s is not None:
        schedule["startSchedule"] = rfc3339(start_s)
    if duration is not None:
        schedule["duration"] = duration
    return {
        "id": profile_id,
        "stackLevel": stack_level,
        "chargingProfilePurpose": purpose.value,
        "chargingProfileKind": kind,
        "chargingSchedule": [schedule],
        **more,
    }


def watts(composite: Iterable[tuple[int, Step]]) -> tuple[tuple[int, float | None], ...]:
    return tuple((offset, step.power_w(50.0)) for offset, step in composite)


def test_highest_stack_level_leads_until_its_duration_ends_then_the_default_holds() -> None:
    store = ProfileStore(OUTLET)
    store.install(1, profile({0: 4_000}), transaction_id=None, now_s=NOW_S)
    limited = profile({0: -5_000, 10: 2_000}, profile_id=2, purpose=Purpose.TX, duration=30, transactionId="t")
    store.install(1, limited, transaction_id="t", now_s=NOW_S)
    limits = [store.limit_w(NOW_S + after, NOW_S) for after in (0, 9.9, 10, 29.9, 30, 1000)]
    assert limits == [-5_000, -5_000, 2_000, 2_000, 4_000, 4_000]


def test_composite_schedule_tells_what_will_be_in_force() -> None:
    store = ProfileStore(OUTLET)
    store.install(0, profile({0: 9_000}, purpose=Purpose.STATION_MAX), transaction_id=None, now_s=NOW_S)
    relative = profile(
        {0: 20_000, 20: -20_000}, profile_id=2, purpose=Purpose.TX, kind="Relative", start_s=None, duration=40,
        transactionId="t",
    )  # fmt: skip
    store.install(1, relative, transaction_id="t", now_s=NOW_S)
    assert watts(store.composite(NOW_S, 60, NOW_S - 100)) == ((0, 9_000.0), (20, -11_000.0), (40, 9_000.0))
    assert watts(ProfileStore(OUTLET).composite(NOW_S, 60, None)) == ((0, 11_000.0),)


def test_recurring_profile_comes_back_every_day() -> None:
    store = ProfileStore(OUTLET)
    daily = profile({0: 0}, kind="Recurring", recurrencyKind="Daily", duration=3600)
    store.install(1, daily, transaction_id=None, now_s=NOW_S)
    assert [store.limit_w(NOW_S + h * 3600, None) for h in (0.5, 1.5, 24.5, 25.5)] == [0.0, None, 0.0, None]


def test_amperes_count_on_the_phases_in_use() -> None:
    store = ProfileStore(OUTLET)
    store.install(1, profile({0: 16}, unit="A"), transaction_id=None, now_s=NOW_S)
    assert store.limit_w(NOW_S, None) == 16 * 3 * 230


@pytest.mark.parametrize(
    ("outlet", "evse_id", "wire", "reason"),
    [
        (ONE_WAY, 1, profile({0: -1}), "InvalidSchedule"),
        (OUTLET, 1, profile({5: 1}), "InvalidSchedule"),
        (OUTLET, 1, profile({0: 1}, start_s=None, kind="Recurring", recurrencyKind="Daily"), "InvalidSchedule"),
        (OUTLET, 7, profile({0: 1}), "UnknownEvse"),
        (OUTLET, 1, profile({0: 1}, stack_level=10), "InvalidStackLevel"),
        (OUTLET, 1, profile({0: 1}, profile_id=9), "DuplicateProfile"),
        (OUTLET, 1, profile({0: 1}, purpose=Purpose.TX, transactionId="other"), "TxNotFound"),
        (OUTLET, 1, profile({0: 1}, purpose=Purpose.STATION_MAX), "InvalidProfile"),
    ],
)
def test_profile_that_cannot_hold_is_refused_with_its_reason(
    outlet: Outlet, evse_id: int, wire: dict[str, Any], reason: str
) -> None:
    store = ProfileStore(outlet)
    store.install(1, profile({0: 2_000}), transaction_id=None, now_s=NOW_S)
    with pytest.raises(ProfileRefusedError) as refused:
        store.install(evse_id, wire, transaction_id="t", now_s=NOW_S)
    assert refused.value.reason == reason
    assert store.limit_w(NOW_S, None) == 2_000


@dataclass
class Csms:
    """Answers everything with yes, and writes down what it was told."""

    tokens: frozenset[str] = frozenset({"TOKEN-V2G", "TOKEN-PLAIN"})
    heard: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """(charger, action, fields)."""
    peers: dict[str, Any] = field(default_factory=dict)
    credentials: list[str] = field(default_factory=list)

    def routes(self, charger: str) -> dict[str, dict[str, Any]]:
        now = rfc3339(time.time())
        answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "BootNotification": lambda _: call_result.BootNotification(now, 300, "Accepted"),
            "StatusNotification": lambda _: call_result.StatusNotification(),
            "Heartbeat": lambda _: call_result.Heartbeat(now),
            "Authorize": lambda m: call_result.Authorize(
                {"status": "Accepted" if m["id_token"]["id_token"] in self.tokens else "Invalid"}
            ),
            "TransactionEvent": lambda _: call_result.TransactionEvent(),
            "MeterValues": lambda _: call_result.MeterValues(),
            "NotifyEVChargingNeeds": lambda _: call_result.NotifyEVChargingNeeds("Accepted"),
            "NotifyReport": lambda _: call_result.NotifyReport(),
            "ReportChargingProfiles": lambda _: call_result.ReportChargingProfiles(),
            "NotifyChargingLimit": lambda _: call_result.NotifyChargingLimit(),
            "ClearedChargingLimit": lambda _: call_result.ClearedChargingLimit(),
        }

        def handler(action: str) -> Callable[..., Any]:
            def heard(**fields: Any) -> Any:
                self.heard.append((charger, action, fields))
                return answers[action](fields)

            return heard

        return {action: {"_on_action": handler(action)} for action in answers}

    async def converse(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        charger = socket.request.path.rsplit("/", 1)[-1]
        self.credentials.append(socket.request.headers.get("Authorization", ""))
        peer = ChargePoint(charger, socket, response_timeout=5)
        peer.route_map = self.routes(charger)
        self.peers[charger] = peer
        await peer.start()

    def all(self, charger: str, action: str) -> list[dict[str, Any]]:
        return [fields for who, what, fields in self.heard if (who, what) == (charger, action)]

    def events(self, charger: str, trigger: str | None = None) -> list[dict[str, Any]]:
        found = self.all(charger, "TransactionEvent")
        return [e for e in found if trigger is None or e["trigger_reason"] == trigger]

    async def ask(self, charger: str, request: Any) -> Any:
        async with asyncio.timeout(10):
            return await self.peers[charger].call(request, suppress=False)


async def until(condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


def charger_settings(name: str, port: int, token: str) -> ChargerSettings:
    return ChargerSettings(
        charger_id=name, csms_url=f"ws://127.0.0.1:{port}/ocpp", password="sesame", token_id=token, serial=f"S-{name}"
    )


@pytest.fixture
def csms() -> Csms:
    return Csms()


@pytest.fixture
async def site(csms: Csms) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(csms.converse, "127.0.0.1", 0, subprotocols=["ocpp2.0.1"]))  # type: ignore[list-item]  # a NewType of str
        port = next(iter(server.sockets)).getsockname()[1]
        yield await stack.enter_async_context(
            Site(
                SiteSettings(
                    plant=PlantSettings(ramp_s=0.3),
                    v2g=charger_settings(V2G, port, "TOKEN-V2G"),
                    plain=charger_settings(PLAIN, port, "TOKEN-PLAIN"),
                )
            )
        )


async def transaction_of(csms: Csms, charger: str) -> str:
    await until(lambda: csms.events(charger), f"{charger} starts a transaction")
    return str(csms.events(charger)[0]["transaction_info"]["transaction_id"])


def tx_profile(transaction_id: str, limit: float, duration: int) -> dict[str, Any]:
    schedule = {
        "id": 1,
        "startSchedule": rfc3339(time.time()),
        "duration": duration,
        "chargingRateUnit": "W",
        "chargingSchedulePeriod": [{"startPeriod": 0, "limit": limit}],
    }
    return {
        "id": 5,
        "stackLevel": 3,
        "chargingProfilePurpose": "TxProfile",
        "chargingProfileKind": "Absolute",
        "transactionId": transaction_id,
        "chargingSchedule": [schedule],
    }


def set_interval(seconds: int) -> Any:
    data = {
        "component": {"name": "SampledDataCtrlr"},
        "variable": {"name": "TxUpdatedInterval"},
        "attributeValue": str(seconds),
    }
    return call.SetVariables(set_variable_data=[data])


async def test_charger_boots_authorises_and_tells_needs_and_meter_values(csms: Csms, site: Site) -> None:
    await transaction_of(csms, V2G)
    assert f"Basic {base64.b64encode(b'charger-1:sesame').decode()}" in csms.credentials
    assert csms.all(V2G, "BootNotification")[0]["charging_station"]["serial_number"] == "S-charger-1"
    assert abs(unix_s(csms.all(V2G, "StatusNotification")[0]["timestamp"]) - time.time()) < 60
    started = csms.events(V2G)[0]
    assert (started["event_type"], started["seq_no"], started["offline"]) == ("Started", 0, False)
    await until(lambda: csms.all(V2G, "NotifyEVChargingNeeds"), "charging needs")
    needs = csms.all(V2G, "NotifyEVChargingNeeds")[0]["charging_needs"]
    assert needs["dc_charging_parameters"]["ev_energy_capacity"] == 60_000
    assert "departure_time" in needs
    answer = await csms.ask(V2G, set_interval(1))
    assert answer.set_variable_result[0]["attribute_status"] == "Accepted"
    await until(lambda: len(csms.events(V2G, "MeterValuePeriodic")) >= 3, "a sample each second")
    samples = csms.events(V2G, "MeterValuePeriodic")[-1]["meter_value"][0]["sampled_value"]
    values = {sample["measurand"]: sample["value"] for sample in samples}
    assert values["Power.Active.Import"] == pytest.approx(11_000, abs=1)
    assert values["Energy.Active.Import.Register"] > 640_000
    assert values["Energy.Active.Export.Register"] == 212_000
    assert values["SoC"] == pytest.approx(70, abs=0.1)
    assert values["Frequency"] == pytest.approx(50, abs=0.1)
    sequences = [event["seq_no"] for event in csms.events(V2G)]
    assert sequences == list(range(len(sequences)))


async def test_negative_limit_discharges_the_v2g_car_until_the_profile_ends(csms: Csms, site: Site) -> None:
    transaction_id = await transaction_of(csms, V2G)
    request = call.SetChargingProfile(evse_id=1, charging_profile=tx_profile(transaction_id, -5_000, 2))
    assert (await csms.ask(V2G, request)).status == "Accepted"
    composite = await csms.ask(V2G, call.GetCompositeSchedule(duration=60, evse_id=1, charging_rate_unit="W"))
    periods = [(p["start_period"], p["limit"]) for p in composite.schedule["charging_schedule_period"]]
    assert periods[0] == (0, -5_000)
    assert periods[1][1] == 11_000
    await until(lambda: site.world.v2g.power_w == -5_000, "discharge")
    exported = site.world.v2g.energy.export_milliwatt_hours
    await until(lambda: site.world.v2g.power_w == 11_000, "permission lapses in the charger")
    assert site.world.v2g.energy.export_milliwatt_hours > exported


async def test_plain_charger_refuses_to_discharge(csms: Csms, site: Site) -> None:
    transaction_id = await transaction_of(csms, PLAIN)
    request = call.SetChargingProfile(evse_id=1, charging_profile=tx_profile(transaction_id, -5_000, 20))
    answer = await csms.ask(PLAIN, request)
    assert (answer.status, answer.status_info["reason_code"]) == ("Rejected", "InvalidSchedule")


async def test_profiles_are_reported_and_cleared(csms: Csms, site: Site) -> None:
    transaction_id = await transaction_of(csms, PLAIN)
    await csms.ask(PLAIN, call.SetChargingProfile(evse_id=1, charging_profile=tx_profile(transaction_id, 0, 60)))
    await until(lambda: site.world.plain.power_w == 0, "stopped by limit")
    await until(
        lambda: csms.events(PLAIN)[-1]["transaction_info"]["charging_state"] == "SuspendedEVSE", "state is told"
    )
    criterion = {"chargingProfilePurpose": "TxProfile"}
    answer = await csms.ask(PLAIN, call.GetChargingProfiles(request_id=4, charging_profile=criterion, evse_id=1))
    assert answer.status == "Accepted"
    await until(lambda: csms.all(PLAIN, "ReportChargingProfiles"), "report")
    reported = csms.all(PLAIN, "ReportChargingProfiles")[0]
    assert (reported["request_id"], reported["charging_profile"][0]["id"]) == (4, 5)
    assert (await csms.ask(PLAIN, call.ClearChargingProfile(charging_profile_id=5))).status == "Accepted"
    assert (await csms.ask(PLAIN, call.ClearChargingProfile(charging_profile_id=5))).status == "Unknown"
    await until(lambda: site.world.plain.power_w == 11_000, "charges again")


async def test_events_of_a_lost_connection_arrive_later_marked_offline_without_a_gap(csms: Csms, site: Site) -> None:
    await transaction_of(csms, V2G)
    await csms.ask(V2G, set_interval(1))
    status = await csms.ask(V2G, call.GetTransactionStatus(transaction_id=await transaction_of(csms, V2G)))
    assert status.ongoing_indicator is True
    site.order(Order.parse('{"do":"drop","device":"charger-1","seconds":2.5}'))
    before = len(csms.events(V2G))
    await until(lambda: sum(event["offline"] for event in csms.events(V2G)[before:]) >= 2, "queued events")
    await until(lambda: not csms.events(V2G)[-1]["offline"], "live events again")
    sequences = sorted({event["seq_no"] for event in csms.events(V2G)})
    assert sequences == list(range(len(sequences)))
    assert len(csms.all(V2G, "BootNotification")) == 1


async def test_silent_charger_answers_nothing_and_recovers(csms: Csms, site: Site) -> None:
    await transaction_of(csms, PLAIN)
    site.order(Order.parse('{"do":"silence","device":"charger-2"}'))
    question = asyncio.create_task(csms.ask(PLAIN, call.TriggerMessage(requested_message="Heartbeat")))
    _, waiting = await asyncio.wait({question}, timeout=0.5)
    assert waiting
    site.order(Order.parse('{"do":"restore","device":"charger-2"}'))
    assert (await question).status == "Accepted"


async def test_remote_stop_ends_and_remote_start_begins_a_transaction(csms: Csms, site: Site) -> None:
    transaction_id = await transaction_of(csms, PLAIN)
    assert (await csms.ask(PLAIN, call.RequestStopTransaction(transaction_id=transaction_id))).status == "Accepted"
    await until(lambda: csms.events(PLAIN, "RemoteStop"), "ended")
    ended = csms.events(PLAIN, "RemoteStop")[0]
    assert (ended["event_type"], ended["transaction_info"]["stopped_reason"]) == ("Ended", "Remote")
    assert site.world.plain.power_w == 0
    token = {"idToken": "REMOTE", "type": "Central"}
    started = call.RequestStartTransaction(id_token=token, remote_start_id=77, evse_id=1)
    assert (await csms.ask(PLAIN, started)).status == "Accepted"
    await until(lambda: csms.events(PLAIN, "RemoteStart"), "started")
    assert csms.events(PLAIN, "RemoteStart")[0]["transaction_info"]["remote_start_id"] == 77
    assert (await csms.ask(PLAIN, started)).status == "Rejected"


async def test_reset_ends_the_transaction_boots_again_and_charges_again(csms: Csms, site: Site) -> None:
    await transaction_of(csms, PLAIN)
    assert (await csms.ask(PLAIN, call.Reset(type="Immediate"))).status == "Accepted"
    await until(lambda: len(csms.all(PLAIN, "BootNotification")) == 2, "second boot")
    assert csms.all(PLAIN, "BootNotification")[1]["reason"] == "RemoteReset"
    await until(lambda: len([e for e in csms.events(PLAIN) if e["event_type"] == "Started"]) == 2, "starts again")


async def test_unplugged_car_ends_its_transaction_and_returns(csms: Csms, site: Site) -> None:
    await transaction_of(csms, V2G)
    site.order(Order.parse('{"do":"unplug","device":"charger-1"}'))
    await until(lambda: csms.events(V2G, "EVCommunicationLost"), "ended")
    await until(lambda: csms.all(V2G, "StatusNotification")[-1]["connector_status"] == "Available", "available")
    with pytest.raises(OrderError):
        site.order(Order.parse('{"do":"unplug","device":"charger-1"}'))
    site.order(Order.parse('{"do":"plug","device":"charger-1"}'))
    await until(lambda: len([e for e in csms.events(V2G) if e["event_type"] == "Started"]) == 2, "starts again")


async def test_a_charger_can_be_made_deaf_and_be_limited_from_outside(csms: Csms, site: Site) -> None:
    await transaction_of(csms, PLAIN)
    site.order(Order.parse('{"do":"limit","device":"charger-2","power_w":6000}'))
    await until(lambda: csms.all(PLAIN, "NotifyChargingLimit"), "it says who limits it")
    await until(lambda: site.world.plain.power_w == 6_000, "limited")
    site.order(Order.parse('{"do":"deaf","device":"charger-2"}'))
    await until(lambda: site.world.plain.power_w == 11_000, "as it likes")
    site.order(Order.parse('{"do":"deaf","device":"charger-2","on":false}'))
    await until(lambda: site.world.plain.power_w == 6_000, "limited again")
    site.order(Order.parse('{"do":"limit","device":"charger-2","power_w":null}'))
    await until(lambda: csms.all(PLAIN, "ClearedChargingLimit"), "nobody limits it")
    with pytest.raises(OrderError):
        site.order(Order.parse('{"do":"limit","device":"charger-2","power_w":-5}'))


async def test_unknown_token_does_not_charge(csms: Csms, site: Site) -> None:
    csms.tokens = frozenset()
    site.order(Order.parse('{"do":"reboot","device":"charger-2"}'))
    await until(lambda: len(csms.all(PLAIN, "BootNotification")) == 2, "booted with no token known")
    started = len([e for e in csms.events(PLAIN) if e["event_type"] == "Started"])
    boots = [i for i, (who, what, _) in enumerate(csms.heard) if (who, what) == (PLAIN, "BootNotification")]
    await until(
        lambda: any((who, what) == (PLAIN, "Authorize") for who, what, _ in csms.heard[boots[1] :]), "asks again"
    )
    # The refusal is on its way: an exchange after it tells that it has arrived.
    await csms.ask(PLAIN, call.TriggerMessage(requested_message="Heartbeat"))
    await until(lambda: csms.all(PLAIN, "Heartbeat"), "an exchange after the refusal")
    assert len([e for e in csms.events(PLAIN) if e["event_type"] == "Started"]) == started
    assert site.world.plain.power_w == 0


async def test_triggered_messages_and_base_report_come(csms: Csms, site: Site) -> None:
    await transaction_of(csms, V2G)
    for wanted in ("MeterValues", "StatusNotification", "TransactionEvent", "BootNotification"):
        assert (await csms.ask(V2G, call.TriggerMessage(requested_message=wanted))).status == "Accepted"
    assert (await csms.ask(V2G, call.TriggerMessage(requested_message="LogStatusNotification"))).status == (
        "NotImplemented"
    )
    await until(lambda: csms.all(V2G, "MeterValues") and csms.events(V2G, "Trigger"), "triggered messages")
    await until(lambda: csms.all(V2G, "BootNotification")[-1]["reason"] == "Triggered", "triggered boot")
    answer = await csms.ask(V2G, call.GetBaseReport(request_id=9, report_base="FullInventory"))
    assert answer.status == "Accepted"
    await until(
        lambda: any(not part.get("tbc", False) for part in csms.all(V2G, "NotifyReport")), "last part of the report"
    )
    wanted_variable = {"component": {"name": "SmartChargingCtrlr"}, "variable": {"name": "Enabled"}}
    unknown = {"component": {"name": "Nonsense"}, "variable": {"name": "Enabled"}}
    values = await csms.ask(V2G, call.GetVariables(get_variable_data=[wanted_variable, unknown]))
    assert [v["attribute_status"] for v in values.get_variable_result] == ["Accepted", "UnknownComponent"]
