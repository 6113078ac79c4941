"""The judge of copies finds each violation when it is planted, and nothing where two lives differ as they must."""

from __future__ import annotations

import pytest

from agent.evidence.batch import SealedBatch
from agent.evidence.statements import encode
from hil_tests.faults.clone_judge import contradicts_copy, look
from hil_tests.faults.judge import AtPlatform, Held, Judge, Rule
from hil_tests.test_faults_judge import BOOT, GATEWAY_ID, OTHER_BOOT, reading, sealed

FIRST = sealed(1, None, reading(1))
SINCE = (1, 1)
OURS = sealed(2, FIRST, reading(2), reading(3))
THEIRS = sealed(2, FIRST, reading(2, boot_id=OTHER_BOOT), boot_id=OTHER_BOOT)


def rules(
    one: SealedBatch, other: SealedBatch, *, first: SealedBatch = FIRST, queued: bytes | None = None
) -> set[Rule]:
    """What the judge finds where the platform has the one."""
    ours = Held([FIRST.encode(), one.encode()], [])
    theirs = Held([first.encode(), other.encode()], [] if queued is None else [queued])
    there = AtPlatform([FIRST.encode(), one.encode()], [], complete=False)
    return {each.rule for each in look(Judge(GATEWAY_ID), SINCE, ours, theirs, there)}


def test_the_same_numbers_under_another_boot_are_no_fault_of_the_copy() -> None:
    assert rules(OURS, THEIRS) == set()


def test_two_readings_of_one_identity_are_found_sealed_or_queued() -> None:
    wrong = sealed(2, FIRST, reading(2, boot_id=BOOT, power_w=1), boot_id=OTHER_BOOT)
    assert rules(OURS, wrong) == {Rule.EQUIVOCATION}
    assert rules(OURS, THEIRS, queued=encode(reading(3, power_w=1))) == {Rule.EQUIVOCATION}
    assert rules(OURS, THEIRS, queued=encode(reading(3))) == set(), "the same reading is not another one"


def test_two_batches_of_one_number_and_boot_are_found() -> None:
    assert rules(OURS, sealed(2, FIRST, reading(2))) == {Rule.BATCH_REUSED}


def test_what_was_sealed_before_the_copy_is_the_same_in_both() -> None:
    other = sealed(1, None, reading(1, boot_id=OTHER_BOOT), boot_id=OTHER_BOOT)
    assert rules(OURS, THEIRS, first=other) == {Rule.BATCH_REUSED}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("equivocation: batch 2 of incarnation 1 was delivered before with another content", True),
        ("equivocation: batch 1 of incarnation 1 was delivered before with another content", False),
        ("equivocation: reading 4 of meter-a, incarnation 1: one sequence in two boots (00, 01)", True),
        ("equivocation: reading 4 of meter-a, incarnation 1: two contents (00, 01)", False),
        ("chain: batch 3 follows root 00, but batch 2 has root 01", True),
        ("signature: does not hold", False),
    ],
)
def test_only_what_a_copy_must_look_like_is_explained_by_it(text: str, expected: bool) -> None:
    assert contradicts_copy(text, SINCE) is expected
