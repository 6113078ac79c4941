"""Answers to messages: repeated no more often than is of use, and bounded whatever comes."""

from __future__ import annotations

from agent.control.answers import (
    MOST_REFUSALS_KEPT,
    REFUSALS_AT_ONCE,
    REFUSALS_PER_S,
    REPEAT_RECEIPTS_S,
    Answers,
)
from agent.evidence.statements import CommandReceipt, CommandState

RECEIPT = CommandReceipt(
    timestamp_us=1,
    command_hash=b"h" * 32,
    command_id="c",
    state=CommandState.REJECTED,
    reason="no",
    delivered_energy_wh=0,
)


def test_a_receipt_is_due_again_after_a_while() -> None:
    answers = Answers(0.0)
    assert answers.is_due(b"a", 0.0)
    answers.note(b"a", 0.0)
    assert not answers.is_due(b"a", REPEAT_RECEIPTS_S - 0.1)
    assert answers.is_due(b"a", REPEAT_RECEIPTS_S)


def test_refusals_are_rationed_and_the_ration_comes_back() -> None:
    answers = Answers(0.0)
    assert sum(answers.may_refuse(0.0) for _ in range(3 * REFUSALS_AT_ONCE)) == REFUSALS_AT_ONCE
    assert sum(answers.may_refuse(1.0) for _ in range(REFUSALS_AT_ONCE)) == REFUSALS_PER_S


def test_the_oldest_refusal_is_forgotten_first() -> None:
    answers = Answers(0.0)
    for number in range(MOST_REFUSALS_KEPT + 1):
        answers.keep_refusal(number.to_bytes(4), RECEIPT)
    assert answers.refusal((0).to_bytes(4)) is None
    assert answers.refusal((1).to_bytes(4)) == RECEIPT
