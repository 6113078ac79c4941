"""Days in seconds: the scenario's lines, the physics, and that control comes out of it as it would at a site."""

from __future__ import annotations

import json
from datetime import datetime
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.picture import draw
from agent.cli.simulate import as_values, span_of
from agent.config import Settings
from agent.control.scenario import CommandLine, ScenarioError, ScheduleLine, read_scenario
from agent.control.simulation import Outcome, Simulation

KINDS = {"grid": "meter", "pv-1": "pv", "battery-1": "battery", "car-1": "charger"}
SITE = Settings.model_validate(
    {
        "token": {"label": "t"},
        "site": {"import_limit_w": 11_000, "export_limit_w": 6_000, "discharge_permitted": True},
        "control": {"mandate": [{"token_id": "OWNER", "minimum_soc_percent": 30}]},
        "device": [
            {"id": "grid", "kind": "meter", "driver": "sunspec", "address": "tcp://192.0.2.1:502"},
            {"id": "pv-1", "kind": "pv", "driver": "sunspec", "address": "tcp://192.0.2.2:502", "parent": "grid"},
            {"id": "battery-1", "kind": "battery", "driver": "sunspec", "address": "tcp://192.0.2.3:502",
             "parent": "grid"},
            {"id": "car-1", "kind": "charger", "driver": "ocpp", "charger_id": "CS-1", "parent": "grid",
             "day": "surplus", "discharge": "v2x"},
        ],
    }
)  # fmt: skip
DAY = "2027-06-01"


def _line(at: str, **what: object) -> str:
    return json.dumps({"at": f"{DAY}T{at}Z", **what})


def run(*lines: str, hours: float | None = None, step_s: float = 10.0, site: Settings = SITE) -> Outcome:
    events = read_scenario(lines, KINDS)
    from_us, until_us = span_of(events, hours)
    return Simulation(site, events, from_us=from_us, until_us=until_us, step_s=step_s).run()


def _at(outcome: Outcome, at: str) -> dict[str, int]:
    """Powers at a moment of the day."""
    at_us = round(datetime.fromisoformat(f"{DAY}T{at}Z").timestamp() * 1e6)
    point = max((p for p in outcome.points if p.at_us <= at_us), key=lambda p: p.at_us)
    return {**point.powers_w, "connection": point.connection_w}


CAR = {"device": "car-1", "soc_percent": 40, "token": "OWNER", "discharge_w": 11_000}


def test_a_command_is_obeyed_and_its_receipts_and_energy_come_out() -> None:
    command = {"id": "c1", "type": "DISCHARGE", "power_w": 3_000, "duration_s": 1_800, "targets": ["battery-1"]}
    outcome = run(_line("20:00:00", command={**command, "start_in_s": 600}))
    life = outcome.commands[0]
    assert life.states == ("RECEIVED", "ACCEPTED", "EXECUTING", "COMPLETED")
    assert life.delivered_wh == pytest.approx(-1_500, abs=10)
    assert _at(outcome, "20:20:00")["battery-1"] == -3_000
    assert [round((b - a) / 1e6) for a, b in life.forced] == [1_800]
    assert outcome.said == ()


def test_what_the_configuration_says_of_wear_decides_who_carries_a_command() -> None:
    command = {"id": "c1", "type": "DISCHARGE", "power_w": 3_000, "duration_s": 1_800}
    lines = (
        _line("20:00:00", car=CAR | {"stays_s": 40_000}),
        _line("20:00:10", command={**command, "targets": ["battery-1", "car-1"]}),
    )
    worn = [d.model_copy(update={"wear_wh_per_kwh": 400}) if d.id == "battery-1" else d for d in SITE.device]
    powers = [
        _at(run(*lines, hours=0.5, site=site), "20:20:00") for site in (SITE, SITE.model_copy(update={"device": worn}))
    ]
    assert [(found["battery-1"], found["car-1"]) for found in powers] == [(-3_000, 0), (0, -3_000)]


def test_what_converting_loses_is_counted() -> None:
    command = {"id": "c1", "type": "DISCHARGE", "power_w": 5_000, "duration_s": 1_800, "targets": ["battery-1"]}
    outcome = run(_line("20:00:00", command=command), hours=0.5)
    assert outcome.export_wh["battery-1"] == pytest.approx(2_500, abs=20)
    assert outcome.lost_wh["battery-1"] == pytest.approx(2_500 * 0.065, abs=2)  # 93.5 % at its rating of 5 kW
    assert outcome.lost_wh["pv-1"] == outcome.lost_wh["car-1"] == 0


def test_a_car_charges_from_the_sun_and_leaves_at_a_zero_meter() -> None:
    outcome = run(_line("10:00:00", world={"sun_percent": 90, "house_w": 500}), _line("10:00:00", car=CAR), hours=1)
    seen = _at(outcome, "10:45:00")
    assert 6_000 <= seen["car-1"] <= 6_700
    assert abs(seen["connection"]) < 200


def test_a_departure_is_kept_although_the_sun_is_away() -> None:
    outcome = run(_line("20:00:00", car={**CAR, "needs_wh": 11_000, "stays_s": 3 * 3_600}), hours=3.2)
    assert outcome.import_wh["car-1"] >= 11_000
    assert _at(outcome, "20:30:00")["car-1"] == 0


def test_a_schedule_is_followed_and_reckoned() -> None:
    schedule = {"targets": ["battery-1"], "steps": [-2_000, -2_000, None], "price_micro_per_kwh": 200_000}
    outcome = run(_line("20:00:00", schedule=schedule), hours=1)
    assert _at(outcome, "20:20:00")["battery-1"] == -2_000
    assert outcome.deviations.quarters == 2
    assert outcome.deviations.under_wh <= 10


def test_stop_and_a_silent_battery_are_as_at_a_site() -> None:
    outcome = run(
        _line("12:00:00", world={"sun_percent": 50}),
        _line("12:10:00", stop=True),
        _line("12:20:00", stop=False),
        _line("12:30:00", fault={"device": "grid"}),
        hours=1,
    )
    assert _at(outcome, "12:15:00")["pv-1"] == 0
    assert _at(outcome, "12:25:00")["pv-1"] < 0
    assert any("safe mode" in line for line in outcome.said)


def test_limits_hold_while_everything_wants_more() -> None:
    lines = [
        _line("12:00:00", world={"sun_percent": 100, "house_w": 100}),
        _line("12:00:00", command={"id": "a", "type": "DISCHARGE", "power_w": 5_000, "duration_s": 3_000}),
        _line("13:00:00", world={"sun_percent": 0, "house_w": 6_000}),
        _line("13:00:00", car={**CAR, "charge_now": True}),
        _line("13:00:00", command={"id": "b", "type": "CHARGE", "power_w": 20_000, "duration_s": 3_000}),
    ]
    outcome = run(*lines)
    # A step to obey for each change of the world.
    assert outcome.over_export_s <= 30
    assert outcome.over_import_s <= 30


@settings(max_examples=8)
@given(
    st.lists(
        st.builds(
            lambda at, type_, power_w, s: _line(
                f"{at // 60 + 10:02}:{at % 60:02}:00",
                command={
                    "id": f"{at}-{s}",
                    "type": type_,
                    "power_w": 0 if type_ == "IDLE" else power_w,
                    "duration_s": s,
                },
            ),
            st.integers(0, 119),
            st.sampled_from(["CHARGE", "DISCHARGE", "IDLE", "CURTAIL"]),
            st.integers(0, 15_000),
            st.integers(1, 3_600),
        ),
        max_size=6,
        unique=True,
    )
)
def test_whatever_is_ordered_ends_in_one_final_receipt_and_the_same_again(commands: list[str]) -> None:
    lines = [_line("10:00:00", car=CAR), *commands]
    outcome = run(*lines, hours=4, step_s=30)
    finals = {"COMPLETED", "SUPERSEDED", "EXPIRED", "FAILED"}
    for life in outcome.commands:
        assert len(finals & set(life.states)) == 1, life
        assert life.states[-1] in finals
    assert outcome == run(*lines, hours=4, step_s=30)
    assert json.dumps(as_values(outcome))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: "),
        ("[]", "is no object"),
        ('{"at": "2027-06-01T00:00:00", "stop": true}', "has no zone"),
        ('{"at": "soon", "stop": true}', "line 1"),
        (_line("00:00:00", stop=1), "true or false"),
        (_line("00:00:00", dance={}), "none of command"),
        (_line("00:00:00", world={"sun_percent": 101}), "outside 0 to 100"),
        (_line("00:00:00", world={"moon": 1}), "unknown keys"),
        (_line("00:00:00", car={"device": "pv-1"}), "no charger"),
        (_line("00:00:00", car={"device": "toaster"}), "not in the configuration"),
        (_line("00:00:00", car={"device": "car-1", "soc_percent": 200}), "outside"),
        (_line("00:00:00", fault={"silent": True}), "'device' is missing"),
        (_line("00:00:00", command={"id": "x", "type": "DISCHARGE", "power_w": 1}), "'duration_s' is missing"),
        (_line("00:00:00", command={"id": "x", "type": "EXPLODE", "duration_s": 1}), "none of CHARGE"),
        (_line("00:00:00", command={"id": "x", "type": "CHARGE", "power_w": -1, "duration_s": 1}), "power_w"),
        (_line("00:00:00", command={"id": "x", "type": "CHARGE", "power_w": 1e300, "duration_s": 1}), "meant"),
        ('{"at": "2027-06-01T00:00:00Z", "world": {"house_w": NaN}}', "meant"),
        (_line("00:00:00", car={"device": "car-1", "charge_w": -1}), "charge_w -1 is below 0"),
        (_line("00:00:00", car={"device": "car-1", "capacity_wh": 0}), "capacity_wh 0 is below 1"),
        (_line("00:00:00", car={"device": "car-1", "stays_s": -60}), "stays_s -60 is below 1"),
        (_line("00:00:00", world={"house_w": -1}), "house_w -1 is below 0"),
        ('{"at": "9999-12-31T00:00:00Z", "stop": true}', "after 2255"),
        ('{"at": "1969-12-31T00:00:00Z", "stop": true}', "before 1970"),
        ("[" * 100_000, "line 1: "),
        (_line("00:00:00", schedule={"steps": [1.5]}), "whole watts"),
        (_line("00:00:00", schedule={"steps": []}), "steps"),
        ("", "no line in it"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(line: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        read_scenario([line], KINDS)


def test_one_id_stands_for_one_command() -> None:
    line = _line("12:00:00", command={"id": "x", "type": "IDLE", "duration_s": 60})
    with pytest.raises(ScenarioError, match="line 2: command id 'x' stands for another one above"):
        read_scenario([line, line], KINDS)


def test_it_runs_to_the_end_of_a_schedule_and_of_a_cars_stay() -> None:
    schedule = read_scenario([_line("12:00:00", schedule={"steps": [None] * 8})], KINDS)
    car = read_scenario([_line("12:00:00", car={**CAR, "stays_s": 7_200})], KINDS)
    for events in (schedule, car):
        from_us, until_us = span_of(events, None)
        assert until_us - from_us == 3 * 3_600_000_000


def test_a_car_leaves_when_its_stay_is_over() -> None:
    outcome = run(_line("08:00:00", car={**CAR, "charge_now": True, "stays_s": 1_800}), hours=1)
    assert _at(outcome, "08:20:00")["car-1"] > 0
    assert _at(outcome, "08:40:00")["car-1"] == 0
    assert "car-1" not in outcome.points[-1].soc_permille


@pytest.mark.parametrize("step_s", [10.0, 60.0])
def test_the_local_bounds_of_the_configuration_hold(step_s: float) -> None:
    bound = SITE.model_copy(update={"bounds": SITE.bounds.model_copy(update={"energy_per_day_wh": 1_000})})
    ordered = {"id": "a", "type": "DISCHARGE", "power_w": 4_000, "duration_s": 3_600, "targets": ["battery-1"]}
    events = read_scenario([_line("20:00:00", command=ordered)], KINDS)
    from_us, until_us = span_of(events, None)
    outcome = Simulation(bound, events, from_us=from_us, until_us=until_us, step_s=step_s).run()
    (life,) = outcome.commands
    assert "PARTIAL" in life.states
    forced_s = sum(until - since for since, until in life.forced) / 1e6
    moved_s = sum(outcome.step_s for point in outcome.points if point.powers_w["battery-1"] == -4_000)
    assert forced_s > 0
    assert abs(moved_s - 900) <= 2 * step_s


def test_a_class_stands_for_the_devices_of_the_configuration() -> None:
    lines = [
        _line("12:00:00", command={"id": "x", "type": "IDLE", "duration_s": 60, "targets": ["class:battery", "car-1"]}),
        _line("12:00:00", schedule={"steps": [-1_000], "targets": ["class:charger"]}),
    ]
    command, schedule = (event.what for event in read_scenario(lines, KINDS))
    assert isinstance(command, CommandLine)
    assert isinstance(schedule, ScheduleLine)
    assert command.command.targets == ("battery-1", "car-1")
    assert schedule.schedule.targets == ("car-1",)


def test_a_class_of_which_there_is_none_is_named() -> None:
    line = _line("12:00:00", command={"id": "x", "type": "IDLE", "duration_s": 60, "targets": ["class:battery"]})
    with pytest.raises(ScenarioError, match="of which there is none"):
        read_scenario([line], {"grid": "meter"})


@given(st.text(max_size=80))
def test_no_text_is_a_fault(text: str) -> None:
    try:
        read_scenario([text], KINDS)
    except ScenarioError:
        return


def test_the_picture_is_xml_and_shows_powers_limits_charge_and_commands() -> None:
    command = {"id": "<&>", "type": "DISCHARGE", "power_w": 3_000, "duration_s": 1_800, "targets": ["battery-1"]}
    outcome = run(_line("20:00:00", command=command), _line("20:00:00", car=CAR))
    svg = draw(outcome, title="<b>Our & house</b>", zone=ZoneInfo("Europe/Berlin"))
    tree = ElementTree.fromstring(svg)
    texts = "".join(tree.itertext())
    for shown in ("<b>Our & house</b>", "connection", "battery-1", "state of charge", "DISCHARGE 3000 W", "22:00"):
        assert shown in texts
    assert len([e for e in tree.iter() if e.tag.endswith("path")]) >= 6


def test_an_empty_site_can_be_drawn() -> None:
    alone = SITE.model_copy(update={"device": [SITE.device[0]]})
    events = read_scenario([_line("12:00:00", world={})], {"grid": "meter"})
    from_us, until_us = span_of(events, 0.2)
    outcome = Simulation(alone, events, from_us=from_us, until_us=until_us, step_s=10).run()
    assert "none" in draw(outcome, title="t", zone=ZoneInfo("UTC"))
