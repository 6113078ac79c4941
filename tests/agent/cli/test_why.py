"""`why` in sentences: every state that a device or the site can be in has one."""

from __future__ import annotations

import pytest

from agent.cli.why import binding_sentences, sentence, site_sentences

DEVICE = {
    "device_id": "battery-1", "kind": "battery", "link": "online", "detail": "", "power_w": -4500,
    "lowest_w": -4500, "highest_w": -4500, "reason": "-4500 W of DISCHARGE 9000 W by grid until 12:00; bound by rating",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            "it is at -4500 W, it is held at -4500 W. -4500 W of DISCHARGE 9000 W by grid until 12:00; bound",
        ),
        ({"lowest_w": 0, "highest_w": 7000}, "it is held from 0 W to +7000 W."),
        ({"highest_w": None}, "it is held at -4500 W and up."),
        ({"lowest_w": None, "highest_w": 0}, "it is held up to 0 W."),
        ({"lowest_w": None, "highest_w": None, "reason": ""}, "nothing of ours holds it. It is left to itself."),
        ({"power_w": None}, "its power is not known, it is held"),
        ({"link": "silent", "detail": "no answer"}, "silent, it is at -4500 W: no answer."),
        ({"kind": "meter"}, "a meter only measures."),
    ],
)
def test_every_state_of_a_device_has_its_sentence(changes: dict[str, object], said: str) -> None:
    assert said in sentence({**DEVICE, **changes})


def test_the_site_says_what_holds_for_all_of_it() -> None:
    assert site_sentences({"commands": []}) == ["No command is in force."]
    in_force = {"text": "DISCHARGE 9000 W by grid", "in_force": True, "state": "executing", "reason": ""}
    waiting = {"text": "CURTAIL by grid", "in_force": False, "state": "accepted", "reason": "it begins at noon"}
    ended = {"text": "IDLE by grid", "in_force": False, "state": "completed", "reason": "its end"}
    said = site_sentences(
        {"stopped_by": "the installer", "safe_mode": "the meter is lost", "commands": [in_force, waiting, ended]}
    )
    assert [line.split()[0] for line in said] == ["Local", "Safe", "In", "Not"]
    assert "the installer" in said[0]
    assert "the meter is lost" in said[1]
    assert said[3] == "Not in force: CURTAIL by grid: it begins at noon."


def test_a_command_that_was_refused_or_is_over_is_not_told_as_one_that_waits() -> None:
    over = [
        {"text": "DISCHARGE by grid", "in_force": False, "state": state, "reason": "why"}
        for state in ("rejected", "completed", "superseded", "expired", "failed")
    ]
    assert site_sentences({"commands": over}) == ["No command is in force."]


def test_what_is_wired_is_named_and_does_not_stand_for_a_command() -> None:
    said = site_sentences({"inputs": ["relay: export at most 0 W"], "commands": []})
    assert said == [
        "A hard-wired input is active, above every command from the network: relay: export at most 0 W.",
        "No command is in force.",
    ]


def test_of_one_device_it_says_by_whom_and_until_when_a_limit_binds_it() -> None:
    limit = {"text": "export limit 2000 W at the connection by grid until 12:00", "in_force": True, "reason": ""}
    other = {"text": "DISCHARGE 900 W by grid until 12:00", "in_force": True, "reason": ""}
    status = {"commands": [limit, other], "inputs": ["relay: import at most 0 W"]}
    pv = {**DEVICE, "reason": "nobody commands: it produces what it can; bound by export limit by command"}
    assert binding_sentences(status, [pv]) == [f"In force: {limit['text']}."]
    wired = {**DEVICE, "reason": "nobody commands; bound by hard-wired input"}
    (said,) = binding_sentences(status, [wired])
    assert "relay" in said
    assert binding_sentences(status, [DEVICE]) == []
