"""What the status page shows of each part, and what a person is told to look at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.clock import ClockQuality, Instant
from agent.config import Settings
from agent.control.input_watch import InputState
from agent.control.snapshot import CommandControl, ControlSnapshot, DeviceControl
from agent.evidence.statements import CommandState
from agent.roads import overview
from agent.roads.overview import Parts
from agent.status import EvidenceLine, PartLine, Problem, Verdict
from agent.token.cryptoki import TokenNames
from agent.token.token import TokenState, TokenStatus
from agent.uplink.status import Carrier, UplinkStatus
from drivers.device import DeviceKind, DeviceStatus, LinkState, Sample, VehicleSession
from tests.agent.control.support import capabilities
from tests.agent.roads.readings import reading

SAMPLE = Sample(device_id="pv-1", monotonic_s=1.0, power_w=-4_200, state_of_charge_permille=567)
ONLINE = DeviceStatus(
    device_id="pv-1", kind=DeviceKind.PV, link=LinkState.ONLINE, detail="an inverter", last_sample=SAMPLE
)
ORDER = DeviceControl(
    device_id="pv-1",
    lowest_w=-2_000,
    highest_w=None,
    reason="export limit",
    bound_by=(),
    confirmed=True,
    trouble="",
)
CONTROL = ControlSnapshot(
    stopped_by=None,
    safe_mode=None,
    islanded=False,
    time_known=True,
    restored=True,
    connection_w=0,
    house_w=0,
    devices=(),
    commands=(),
    refused=0,
    unrecorded=0,
    store_trouble="",
)


def test_a_device_shows_its_power_its_whole_watt_hours_and_its_order() -> None:
    counted = replace(reading(1), import_register_milliwatt_hours=12_999, export_register_milliwatt_hours=None)
    line = overview.device_line(ONLINE, settled=True, reading=counted, control=ORDER)
    assert (line.power_w, line.import_wh, line.export_wh) == (-4_200, 12, None)
    assert (line.lowest_w, line.highest_w, line.reason) == (-2_000, None, "export limit")
    assert line.state_of_charge_percent == 56
    assert line.settled


def test_an_input_that_acts_and_one_that_cannot_be_read_are_told() -> None:
    wired = (
        InputState(name="ripple", active=True, text="export at most 0 W", trouble=""),
        InputState(name="button", active=False, text="local STOP", trouble="no chip"),
        InputState(name="quiet", active=False, text="local STOP", trouble=""),
    )
    found = overview.control_problems(replace(CONTROL, inputs=wired))
    assert [(p.subject, p.severity) for p in found] == [("ripple", Verdict.ATTENTION), ("button", Verdict.TROUBLE)]


def test_a_silent_device_shows_no_power() -> None:
    line = overview.device_line(replace(ONLINE, link=LinkState.SILENT), settled=False, reading=None, control=None)
    assert (line.power_w, line.import_wh, line.reason) == (None, None, "")


def test_a_cars_charge_comes_from_the_car_where_the_charger_does_not_tell() -> None:
    car = VehicleSession(transaction_id="1", token_id="04A1", state_of_charge_permille=421)
    status = replace(ONLINE, kind=DeviceKind.CHARGER, last_sample=None, vehicle=car)
    line = overview.device_line(status, settled=False, reading=None, control=None)
    assert (line.state_of_charge_percent, line.vehicle) == (42, "a car of 04A1")


def test_a_car_is_described_in_one_phrase() -> None:
    def phrase(car: VehicleSession | None) -> str:
        return overview.device_line(replace(ONLINE, vehicle=car), settled=False, reading=None, control=None).vehicle

    assert phrase(None) == ""
    assert "not authorised" in phrase(VehicleSession(transaction_id=None, token_id=None))
    assert phrase(VehicleSession(transaction_id="1", token_id=None)) == "a car"


def test_a_device_that_is_well_is_no_problem() -> None:
    assert overview.device_problems(ONLINE, ORDER) == []


def test_a_silent_device_is_one_problem_with_the_drivers_sentence() -> None:
    silent = replace(ONLINE, link=LinkState.SILENT, detail="does not answer")
    [problem] = overview.device_problems(silent, replace(ORDER, trouble="no answer either"))
    assert (problem.severity, problem.subject, problem.sentence) == (Verdict.ATTENTION, "pv-1", "does not answer")


def test_an_order_that_a_device_does_not_carry_out_is_shown() -> None:
    [problem] = overview.device_problems(ONLINE, replace(ORDER, trouble="refused the limit"))
    assert problem.sentence == "refused the limit"


def test_a_charger_that_never_connected_is_shown_and_one_that_starts_again_is_not() -> None:
    starting = replace(ONLINE, kind=DeviceKind.CHARGER, link=LinkState.STARTING)
    [problem] = overview.device_problems(starting, None)
    assert "not connected yet" in problem.sentence
    assert overview.device_problems(replace(starting, capabilities=capabilities(11_000, 0)), None) == []


def test_control_in_order_is_no_problem() -> None:
    assert overview.control_problems(CONTROL) == []


def test_stop_safe_mode_untrusted_time_and_a_failing_store_are_each_shown() -> None:
    bad = replace(CONTROL, stopped_by="somebody", safe_mode="no meter", time_known=False, store_trouble="disk full")
    problems = overview.control_problems(bad)
    assert [p.subject for p in problems] == ["stop", "safe mode", "clock", "store"]
    assert [p.severity for p in problems] == [*[Verdict.ATTENTION] * 3, Verdict.TROUBLE]
    assert "somebody" in problems[0].sentence


def test_a_token_that_starts_is_no_trouble_yet_and_one_that_is_away_is() -> None:
    def problems(state: TokenState, **faults: str) -> list[tuple[Verdict, str]]:
        status = TokenStatus(state=state, detail="no such token", key_faults={k.encode(): v for k, v in faults.items()})
        return [(p.severity, p.sentence) for p in overview.token_problems(status)]

    waits = "no such token; readings are stored and wait for their signature"
    assert problems(TokenState.READY) == []
    assert problems(TokenState.STARTING) == [(Verdict.ATTENTION, waits)]
    assert problems(TokenState.ABSENT) == [(Verdict.TROUBLE, waits)]
    assert problems(TokenState.READY, evidence="another key") == [(Verdict.TROUBLE, "another key")]


def test_keys_in_files_that_are_said_to_be_in_a_module_are_trouble() -> None:
    def problems(model: str, said: str) -> list[Verdict]:
        status = TokenStatus(state=TokenState.READY, detail="", names=TokenNames("t", "01", model))
        return [problem.severity for problem in overview.protection_problems(status, said)]

    assert problems("SoftHSM v2", "software") == problems("TPM2 PKCS#11", "tpm") == []
    assert problems("SoftHSM v2", "tpm") == problems("SoftHSM v2", "certified") == [Verdict.TROUBLE]
    assert overview.protection_problems(TokenStatus(state=TokenState.STARTING, detail=""), "tpm") == []


def test_a_link_that_is_down_needs_a_look_and_none_at_all_does_not() -> None:
    def status(carrier: Carrier) -> UplinkStatus:
        return UplinkStatus(carrier=carrier, endpoint="p:443", detail="refused", since_monotonic_s=0.0)

    assert overview.link_problems(None, 12.0) == []
    assert overview.link_problems(status(Carrier.GATEWAY_LINK), 12.0) == []
    [problem] = overview.link_problems(status(Carrier.NONE), 12.0)
    assert (problem.severity, problem.sentence) == (
        Verdict.ATTENTION,
        "no link to the platform for 12 s; readings wait, and stored commands are obeyed",
    )


def test_what_the_platform_said_that_cannot_be_right_is_shown_though_the_link_is_up() -> None:
    status = UplinkStatus(
        carrier=Carrier.GATEWAY_LINK, endpoint="p:443", detail="connected", since_monotonic_s=0.0,
        oddity="the platform acknowledges batch 99", oddity_monotonic_s=5.0,
    )  # fmt: skip
    [problem] = overview.link_problems(status, 12.0)
    assert (problem.severity, problem.subject) == (Verdict.ATTENTION, "platform")
    assert problem.sentence.startswith("the platform acknowledges batch 99 (7 s ago")


def test_a_command_shows_its_state_in_words() -> None:
    command = CommandControl(
        command_id="c-1",
        command_hash=bytes(32),
        text="CHARGE 5 kW",
        issuer="operator",
        state=CommandState.EXECUTING,
        start_us=1,
        end_us=2,
        targets=(),
        in_force=True,
        reason="",
        requested_w=5_000,
        planned_w=5_000,
        metered_w=None,
        delivered_wh=None,
        receipts=(),
    )
    line = overview.command_line(command)
    assert (line.command_id, line.state, line.in_force) == ("c-1", "executing", True)


def parts(**changes: object) -> Parts:
    """What all parts say when all is well."""
    device = {"id": "pv-1", "kind": "pv", "driver": "sunspec", "address": "tcp://inverter:502", "settled": True}
    well = Parts(
        settings=Settings.model_validate({"token": {"label": "t"}, "device": [device]}),
        version="1",
        gateway_id="did:key:zExample",
        incarnation=1,
        boot_id=bytes(16),
        started_s=100.0,
        now=Instant(1_800_000_000_000_000, 160.0, ClockQuality.SYNCED, 1_000),
        control=replace(CONTROL, devices=(ORDER,)),
        control_progress_s=159.5,
        token=TokenStatus(state=TokenState.READY, detail="a token"),
        link=None,
        evidence=EvidenceLine(readings=1, queued=0, sealed=1, acknowledged=1, batches_waiting=0),
        latest={"pv-1": reading(1)},
        store_trouble="",
        encrypted=False,
        trust=None,
        trust_trouble="",
        identity_trouble="",
        settling=None,
        devices=[ONLINE],
        unmade={},
        down={},
        noted=[],
    )
    return replace(well, **changes)  # type: ignore[arg-type]  # fields of Parts


def test_certificates_have_a_line_where_there_are_any() -> None:
    line = PartLine(name="certificates", ok=True, state="good", detail="uplink until 2027-01-01")
    assert line in overview.snapshot(parts(certificates=line)).parts
    assert "certificates" not in {part.name for part in overview.snapshot(parts()).parts}


def test_a_gateway_in_order_says_so() -> None:
    shown = overview.snapshot(parts())
    assert (shown.verdict, shown.problems) == (Verdict.WELL, ())
    assert (shown.uptime_s, shown.control_age_s) == (60.0, 0.5)
    assert [(d.device_id, d.settled, d.lowest_w) for d in shown.devices] == [("pv-1", True, -2_000)]


@pytest.mark.parametrize(
    ("changes", "verdict", "subject"),
    [
        ({"store_trouble": "disk full"}, Verdict.TROUBLE, "store"),
        ({"unmade": {"car-1": "no password"}}, Verdict.TROUBLE, "car-1"),
        ({"down": {"uplink": "OSError"}}, Verdict.TROUBLE, "uplink"),
        ({"trust_trouble": "an older list"}, Verdict.ATTENTION, "trust list"),
        ({"identity_trouble": "an order waits"}, Verdict.ATTENTION, "identity"),
        ({"control": replace(CONTROL, stopped_by="somebody")}, Verdict.ATTENTION, "stop"),
        ({"token": TokenStatus(state=TokenState.ABSENT, detail="gone")}, Verdict.TROUBLE, "token"),
        ({"devices": [replace(ONLINE, link=LinkState.SILENT, detail="silent")]}, Verdict.ATTENTION, "pv-1"),
        (
            {"noted": [Problem(severity=Verdict.ATTENTION, subject="web", sentence="port taken")]},
            Verdict.ATTENTION,
            "web",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_kind_of_problem_decides_the_verdict_and_is_the_headline(
    changes: dict[str, object], verdict: Verdict, subject: str
) -> None:
    shown = overview.snapshot(parts(**changes))
    assert shown.verdict is verdict
    assert [problem.subject for problem in shown.problems] == [subject]
    assert shown.sentence.startswith(f"{subject}: ")


def test_a_store_that_fails_is_no_part_that_is_well() -> None:
    for failing in (parts(store_trouble="full"), parts(control=replace(CONTROL, store_trouble="full"))):
        [store] = [part for part in overview.snapshot(failing).parts if part.name == "store"]
        assert (store.ok, store.detail) == (False, "full")


def test_a_gateway_without_a_platform_lacks_no_link() -> None:
    [link] = [part for part in overview.snapshot(parts(link=None)).parts if part.name == "link"]
    assert (link.ok, link.detail) == (True, "there is no platform")


def test_the_page_says_whose_commands_are_obeyed() -> None:
    device = {"id": "pv-1", "kind": "pv", "driver": "sunspec", "address": "tcp://inverter:502"}
    platform = {
        "endpoints": ["p:443"],
        "ca_file": "a",
        "certificate_file": "b",
        "platform_key_file": "c",
        "trust_root_file": "d",
        "trust_list_file": "e",
    }

    def said(unsigned: str) -> tuple[bool, str, str]:
        settings = Settings.model_validate(
            {
                "token": {"label": "t"},
                "device": [device],
                "platform": platform,
                "control": {"unsigned_commands": unsigned},
            }
        )
        line = next(part for part in overview.snapshot(parts(settings=settings)).parts if part.name == "commands")
        return line.ok, line.state, line.detail

    assert said("restrictive")[:2] == (True, "unsigned ones are obeyed where they only restrict")
    assert said("refuse")[:2] == (True, "unsigned ones are refused")
    assert said("all")[:2] == (False, "UNSIGNED ONES ARE OBEYED")
    assert "no trust list" in said("refuse")[2]


def test_a_second_signature_is_shown_with_how_its_key_is_kept() -> None:
    assert not [p for p in overview.snapshot(parts()).parts if p.name == "countersignature"]
    twice = Settings.model_validate({"token": {"label": "t"}, "evidence": {"countersign": "ml-dsa-65"}})
    (line,) = (p for p in overview.snapshot(parts(settings=twice)).parts if p.name == "countersignature")
    assert (line.ok, line.state) == (True, "ml-dsa-65")
    assert "in a file, encrypted under a key of the token" in line.detail
    wrong = Problem(severity=Verdict.ATTENTION, subject="countersignature", sentence="is damaged")
    (line,) = (p for p in overview.snapshot(parts(settings=twice, noted=[wrong])).parts if p.name == "countersignature")
    assert (line.ok, line.detail) == (False, "is damaged")


def test_the_page_says_how_fast_the_token_signs_while_it_does() -> None:
    ready = TokenStatus(state=TokenState.READY, detail="token 'v2g'", signature_s=0.0214)
    assert overview.token_detail(ready) == "token 'v2g'; signs in 21.4 ms"
    assert overview.token_detail(replace(ready, signature_s=None)) == "token 'v2g'"
    able = replace(ready, mechanisms=("ECDSA", "RSA-OAEP"))
    assert overview.token_detail(able) == "token 'v2g'; has ECDSA, RSA-OAEP; signs in 21.4 ms"
    assert overview.token_detail(replace(able, state=TokenState.ABSENT)) == "token 'v2g'"
    assert overview.token_detail(replace(ready, state=TokenState.ABSENT, detail="gone")) == "gone"


def test_the_store_says_whether_it_is_encrypted() -> None:
    for encrypted, told in ((True, "encrypted"), (False, "")):
        (line,) = [line for line in overview.snapshot(parts(encrypted=encrypted)).parts if line.name == "store"]
        assert (line.state, line.detail) == ("ready", told)
