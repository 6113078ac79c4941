"""Judges two lives of one store, one of them a copy: what may be alike in both, and what must not.

Pure, as `judge.py`. Both go on with the same numbers, for neither knows of the other; the boot id in what they sign
tells them apart (proto/EVIDENCE.md, section 6), and that is what the platform notices and can prove.
"""

from __future__ import annotations

import re
from typing import Final

from agent.measure.reading import Reading
from hil_tests.faults.judge import AtPlatform, Held, Judge, Place, Rule, Violation
from hil_tests.faults.thinning_judge import read

_OF_A_BATCH: Final = re.compile(r"batch (\d+) of incarnation (\d+) was delivered before with another content")
_NEXT: Final = re.compile(r"chain: batch (\d+) (?:where batch \d+ is next|follows root)")
_OF_A_READING: Final = re.compile(r"incarnation \d+: one sequence in two boots")


def contradicts_copy(text: str, since: Place) -> bool:
    """Whether a platform says of a gateway what it must say of one whose copy, made after `since`, it has met."""
    if (batch := _OF_A_BATCH.search(text)) is not None:
        return (int(batch[2]), int(batch[1])) > since
    if (following := _NEXT.search(text)) is not None:
        return int(following[1]) > since[1]
    return _OF_A_READING.search(text) is not None


def look(judge: Judge, since: Place, one: Held, other: Held, platform: AtPlatform) -> list[Violation]:
    """Everything that is wrong with two lives that were one up to the batch `since`."""
    found: list[Violation] = []
    readings: dict[tuple[str, int, bytes, int], bytes] = {}
    batches: dict[tuple[int, bytes, int], bytes] = {}
    places: dict[Place, set[bytes]] = {}
    statements = [*one.queued, *other.queued]
    for encoded in (*one.batches, *other.batches, *platform.batches):
        batch = judge.verified(encoded)
        identity = batch.identity
        name = f"batch {identity.number} of incarnation {identity.incarnation}, boot {identity.boot_id.hex()[:8]}"
        if batches.setdefault((identity.incarnation, identity.boot_id, identity.number), batch.root) != batch.root:
            found.append(Violation(Rule.BATCH_REUSED, name))
        places.setdefault((identity.incarnation, identity.number), set()).add(batch.root)
        statements += [each.encoded for each in batch.statements]
    for encoded in statements:
        reading = read(encoded)
        if isinstance(reading, Reading):
            key = (reading.device_id, reading.incarnation, reading.boot_id, reading.sequence)
            if readings.setdefault(key, encoded) != encoded:
                text = f"{reading.device_id} {reading.incarnation}.{reading.sequence}, boot {reading.boot_id.hex()[:8]}"
                found.append(Violation(Rule.EQUIVOCATION, text))
    for place, roots in places.items():
        if len(roots) > 1 and place <= since:
            found.append(Violation(Rule.BATCH_REUSED, f"batch {place[1]} of incarnation {place[0]}, before the copy"))
    return found
