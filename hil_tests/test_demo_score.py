"""The judge of the demo, on runs that were made up: one good one, and one for each way of not being good."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agent.measure.reading import Quality, Reading
from drivers.device import ValueSource
from hil_tests.rig.demo import score
from hil_tests.rig.demo.score import Evidence, Ordered, Run, Truth, digest_of, judge, summarise
from hil_tests.rig.demo.story import LEAST_RAMP_S, LEAST_SECONDS, Act, tell

GATEWAY = "did:key:test"
START_S = 1_800_000_000
SECONDS = 40
POWER_W = -3_600.0
"""1 Wh a second."""
Readings = dict[str, list[tuple[Reading, bytes]]]


@dataclasses.dataclass
class Made:
    """A run as the judge gets it; a test spoils one thing."""

    readings: Readings
    page: dict[str, Any]
    truth: list[Truth]
    chain_break: str = ""
    exit_code: int = 0
    sent: int = 1
    broken_off_s: float | None = None

    def judged(self) -> Mapping[str, object]:
        run = Run(
            gateway_id=GATEWAY,
            commands_sent=self.sent,
            cuts=((START_S + 20.0, START_S + 25.0),),
            ramp_s=4.0,
            window_s=6,
            seconds=SECONDS,
            shrunk=True,
            fresh_setup_seconds=None,
            gateway_exit_code=self.exit_code,
            broken_off_s=self.broken_off_s,
        )
        books: dict[str, object] = {"gateways": {GATEWAY: self.page}}
        return summarise(run, Evidence(self.readings, 3, self.chain_break), books, self.truth)


def reading(sequence: int) -> tuple[Reading, bytes]:
    made = Reading(
        device_id="battery-1",
        incarnation=1,
        boot_id=bytes(16),
        sequence=sequence,
        timestamp_us=(START_S + sequence) * 1_000_000,
        net_energy_wh=-1,
        import_register_milliwatt_hours=0,
        export_register_milliwatt_hours=sequence * 1_000,
        meter_epoch=1,
        power_w=round(POWER_W),
        voltage_millivolts=None,
        state_of_charge_permille=None,
        frequency_millihertz=None,
        quality=Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )
    return made, f"statement {sequence}".encode()


def look(second: int, power_w: float = POWER_W) -> Truth:
    return Truth(
        at_s=float(START_S + second),
        grid_w=power_w,
        power_w={"battery-1": power_w},
        net_milliwatt_hours={"battery-1": -1_000 * second},
    )


@pytest.fixture
def good() -> Made:
    readings = [reading(sequence) for sequence in range(1, SECONDS)]
    command = {
        "command_id": "command-1", "mode": "SETPOINT", "type": "DISCHARGE", "power_w": 3_600, "targets": ["battery-1"],
        "start_us": (START_S + 5) * 1_000_000, "end_us": (START_S + 30) * 1_000_000,
        "receipts": [{"state": state} for state in ("RECEIVED", "ACCEPTED", "EXECUTING", "COMPLETED")],
    }  # fmt: skip
    page: dict[str, Any] = {
        "devices": {"battery-1": {"readings": len(readings), "digest": digest_of(readings)}},
        "commands": [command],
        "channels": {"battery-1": {"countersigned": 2, "forks": 0, "newest": {"window_end_us": 12}}},
        "windows": {"battery-1": [[0, 6], [6, 12]]},
        "receipts_verified": 30,
        "receipts_rejected": 0,
        "batches_rejected": 0,
        "conflicts": [],
    }
    return Made({"battery-1": readings}, page, [look(second) for second in range(SECONDS + 1)])


def test_a_good_run_is_ok(good: Made) -> None:
    figures = good.judged()
    assert figures["ok"] is True
    assert (figures["readings_lost"], figures["commands_obeyed"], figures["windows_countersigned"]) == (0, 1, 2)
    assert figures["command_seconds_offline"] == 5


def wrong_power(made: Made) -> None:
    made.truth[:] = [look(second, POWER_W * 0.8) for second in range(SECONDS + 1)]


def obeyed_only_for_a_while(made: Made) -> None:
    made.truth[12:16] = [look(second, 0.0) for second in range(12, 16)]


def lost_on_the_way(made: Made) -> None:
    kept = made.readings["battery-1"][:-1]
    made.page["devices"]["battery-1"] = {"readings": len(kept), "digest": digest_of(kept)}


def lost_by_the_agent(made: Made) -> None:
    del made.readings["battery-1"][-1]


def hole_on_both_sides(made: Made) -> None:
    del made.readings["battery-1"][10]
    kept = made.readings["battery-1"]
    made.page["devices"]["battery-1"] = {"readings": len(kept), "digest": digest_of(kept)}


def doubled_sequence(made: Made) -> None:
    made.readings["battery-1"].insert(10, made.readings["battery-1"][9])
    both = made.readings["battery-1"]
    made.page["devices"]["battery-1"] = {"readings": len(both), "digest": digest_of(both)}


def flipped_digest(made: Made) -> None:
    digest = made.page["devices"]["battery-1"]["digest"]
    made.page["devices"]["battery-1"]["digest"] = f"{digest[:-1]}{int(digest[-1], 16) ^ 1:x}"


def a_device_that_was_never_read(made: Made) -> None:
    made.truth[:] = [
        dataclasses.replace(each, net_milliwatt_hours={**each.net_milliwatt_hours, "pv-1": 0}) for each in made.truth
    ]


def energy_mismatch(made: Made) -> None:
    made.truth[:] = [
        dataclasses.replace(each, net_milliwatt_hours={"battery-1": -1_200 * second})
        for second, each in enumerate(made.truth)
    ]


def missing_final_receipt(made: Made) -> None:
    del made.page["commands"][0]["receipts"][-1]


def two_final_receipts(made: Made) -> None:
    made.page["commands"][0]["receipts"].append({"state": "EXPIRED"})


def obeyed_but_called_failed(made: Made) -> None:
    made.page["commands"][0]["receipts"][-1] = {"state": "FAILED"}


def a_command_that_never_arrived(made: Made) -> None:
    made.sent = 2


def rejected_receipt(made: Made) -> None:
    made.page["receipts_rejected"] = 1


def rejected_batch(made: Made) -> None:
    made.page["batches_rejected"] = 1


def conflict(made: Made) -> None:
    made.page["conflicts"] = ["equivocation"]


def fork(made: Made) -> None:
    made.page["channels"]["battery-1"]["forks"] = 1


def no_countersigned_window(made: Made) -> None:
    made.page["channels"]["battery-1"]["newest"] = None


def broken_chain(made: Made) -> None:
    made.chain_break = "batch 2 is missing"


def unclean_end(made: Made) -> None:
    made.exit_code = -9


@pytest.mark.parametrize(
    "spoil",
    [
        wrong_power, obeyed_only_for_a_while, lost_on_the_way, lost_by_the_agent, hole_on_both_sides, doubled_sequence,
        flipped_digest, a_device_that_was_never_read, energy_mismatch, missing_final_receipt, two_final_receipts,
        obeyed_but_called_failed, a_command_that_never_arrived, rejected_receipt, rejected_batch, conflict, fork,
        no_countersigned_window, broken_chain, unclean_end,
    ],
)  # fmt: skip
def test_one_fault_is_enough_for_a_run_to_be_not_ok(good: Made, spoil: Callable[[Made], None]) -> None:
    spoil(good)
    assert good.judged()["ok"] is False


def broken_off(made: Made, after_s: float) -> Mapping[str, object]:
    """The same run, ended by a person while its command was in force and before any window closed."""
    made.broken_off_s = START_S + after_s
    made.page["commands"][0]["receipts"].pop()
    made.page["channels"] = {}
    return made.judged()


@pytest.mark.parametrize("after_s", [6.0, 20.0])
def test_who_breaks_a_good_run_off_is_told_that_it_was_good(good: Made, after_s: float) -> None:
    figures = broken_off(good, after_s)
    assert figures["ok"] is True
    assert (figures["commands_received"], figures["commands_obeyed"], figures["commands_unfinished"]) == (1, 0, 1)


def test_breaking_off_hides_no_command_that_was_disobeyed(good: Made) -> None:
    wrong_power(good)
    assert broken_off(good, 20.0)["ok"] is False


def test_a_command_without_a_final_receipt_is_a_fault_when_it_had_time_to_end(good: Made) -> None:
    assert broken_off(good, 35.0)["ok"] is False


def test_a_reading_that_is_lost_is_counted(good: Made) -> None:
    other = copy.deepcopy(good)
    lost_on_the_way(good)
    hole_on_both_sides(other)
    assert (good.judged()["readings_lost"], other.judged()["readings_lost"]) == (1, 1)


@pytest.mark.parametrize(
    ("power_w", "obeyed"), [(-3_600.0, True), (-3_421.0, True), (-3_419.0, False), (-3_781.0, False), (0.0, False)]
)
def test_a_setpoint_is_obeyed_within_five_percent(power_w: float, obeyed: bool) -> None:
    assert judge(order(limit=False), looks(power_w), ramp_s=4, cuts=()).obeyed is obeyed


@pytest.mark.parametrize(("power_w", "obeyed"), [(-3_700.0, True), (-3_900.0, False), (0.0, True), (5_000.0, True)])
def test_a_limit_is_obeyed_when_it_is_not_exceeded(power_w: float, obeyed: bool) -> None:
    assert judge(order(limit=True), looks(power_w), ramp_s=4, cuts=()).obeyed is obeyed


def test_the_ramp_and_what_follows_the_end_are_not_judged() -> None:
    truth = [look(second, POWER_W if 9 <= second < 30 else 0.0) for second in range(SECONDS)]
    found = judge(order(limit=False), truth, ramp_s=4, cuts=())
    assert (found.obeyed, found.share) == (True, 1.0)


def test_a_command_that_nobody_looked_at_is_not_obeyed() -> None:
    assert not judge(order(limit=False), [look(1)], ramp_s=4, cuts=()).obeyed


def order(*, limit: bool) -> Ordered:
    return Ordered(
        command_id="c",
        limit=limit,
        target_w=POWER_W,
        targets=() if limit else ("battery-1",),
        start_s=START_S + 5.0,
        end_s=START_S + 30.0,
        final_states=("COMPLETED",),
    )


def looks(power_w: float) -> list[Truth]:
    return [look(second, power_w) for second in range(SECONDS)]


@pytest.mark.parametrize("seconds", [LEAST_SECONDS, 45, 60, 120, 1_200, 3_600])
def test_a_story_of_any_length_has_room_for_all_that_it_shows(seconds: float) -> None:
    story = tell(seconds)
    at = {moment.act: moment.at_s for moment in story.moments}
    assert [moment.act for moment in story.moments] == [Act.DISCHARGE, Act.CURTAIL, Act.CUT, Act.RESTORE]
    assert story.moments == tuple(sorted(story.moments, key=lambda moment: moment.at_s))
    discharge_end_s = at[Act.DISCHARGE] + story.discharge_s
    curtail_start_s = at[Act.CURTAIL] + story.curtail_in_s
    assert at[Act.CUT] + 1 < discharge_end_s, "the DISCHARGE goes on without the link"
    assert discharge_end_s < curtail_start_s, "one command after the other"
    assert at[Act.CUT] < curtail_start_s + story.ramp_s < at[Act.RESTORE], "the CURTAIL starts without the link"
    assert curtail_start_s + story.curtail_s < seconds, "both commands end within the run"
    assert story.ramp_s < story.curtail_s - score.END_MARGIN_S, "something of the CURTAIL is left to judge"
    assert story.ramp_s >= LEAST_RAMP_S
    assert 900 % story.window_s == 0 or 3_600 % story.window_s == 0, "windows meet the hour"
    assert story.shrunk is (seconds < 4_500)


def test_a_story_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 30 s"):
        tell(LEAST_SECONDS - 1)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_story_without_a_length_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="no number of seconds"):
        tell(seconds)
