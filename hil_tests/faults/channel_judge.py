"""What must be true of a settlement channel after any fault: one version, one state, and nothing that was kept is gone.

Pure, as `judge.py`: what the store had promised, what it holds, and what the platform has countersigned -> violations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.ledger.errors import ChannelError
from agent.ledger.state import decode_signed
from hil_tests.faults.judge import ChannelStage, Rule, Violation


def look(told: Sequence[ChannelStage], held: Sequence[ChannelStage], countersigned: Iterable[bytes]) -> list[Violation]:
    """Everything that is wrong with the one channel of a world."""
    found = [Violation(Rule.CHANNEL_LOST, each.text) for each in told if each not in set(held)]
    digests: dict[tuple[int, int], bytes] = {}
    for whose, encoded in [
        *(("kept", each.encoded) for each in (*told, *held)),
        *(("the platform's", each) for each in countersigned),
    ]:
        try:
            state = decode_signed(encoded).state
        except ChannelError as error:
            found.append(Violation(Rule.CHANNEL_FORK, f"{whose}: {error}"))
            continue
        if digests.setdefault(state.order, state.digest) != state.digest:
            found.append(Violation(Rule.CHANNEL_FORK, f"{whose}: {state} has two contents"))
    return list(dict.fromkeys(found))
