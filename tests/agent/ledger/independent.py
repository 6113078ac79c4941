"""The platform's side of a channel, written from proto/CHANNELS.md sections 2 to 5 and 8 alone: no code of agent/.

Encoding, statements, the tree and the EIP-712 digest come from the stranger's verifiers of evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cryptography.exceptions import InvalidSignature

from tests.agent.evidence import independent as evidence
from tests.agent.evidence.independent import RefusedError, field, refuse_unless
from tests.agent.evidence.independent_files import check_low_s, digest_of

ISLANDED, ESTIMATED, DEVICE_TIME, CLOCK_UNTRUSTED, HELD = 1, 4, 8, 32, 256
STATE = (
    *("ordinal", "b20", "b32", "b20", "b20", "b32", "ordinal", "ordinal", "b32"),
    *("count", "count", "count", "count", "int", "count", "b32", "count", "flag", "int", "b32"),
)
"""Section 4, behind the version."""
CHANNEL, INCARNATION, VERSION, PREVIOUS, START, END, IMPORT, EXPORT, NET, EPOCH, ROOT, QUALITY, FINAL, ALG, KEY = (
    3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
)  # fmt: skip


def state_of(encoded: bytes) -> list[Any]:
    """Section 4."""
    refuse_unless(len(encoded) <= 4096, "size")
    value = evidence.strict(encoded)
    refuse_unless(isinstance(value, list) and len(value) == 21, "layout")
    refuse_unless(type(value[0]) is int and value[0] == 1, "version")
    for item, kind in zip(value[1:], STATE, strict=True):
        if kind == "flag":
            refuse_unless(isinstance(item, bool), kind)
        else:
            field(item, kind)
    refuse_unless(value[EPOCH] < 2**32 and value[QUALITY] < 2**32 and -(2**31) <= value[ALG] < 2**31, "range")
    refuse_unless(value[START] < value[END] and value[NET] == value[IMPORT] - value[EXPORT], "times or net")
    return list(value)


@dataclass(frozen=True)
class Terms:
    """Section 3."""

    gateway_id: str
    device_id: str
    rest: tuple[int, bytes, bytes, bytes, bytes]
    """chain id, contract, participant, counterparty, agreement hash."""

    @property
    def channel_id(self) -> bytes:
        return evidence.sha256(
            evidence.dump(["v2g-gateway/channel", 1, self.gateway_id, self.device_id, *self.rest], 0)
        )

    def are_of(self, state: list[Any]) -> bool:
        return (state[1], state[2], state[4], state[5], state[6]) == self.rest and state[CHANNEL] == self.channel_id


@dataclass(frozen=True)
class Channel:
    """What a platform knows of one."""

    terms: Terms
    device_key: tuple[int, bytes]
    platform_key: tuple[int, bytes]

    def signed_by_gateway(self, state: list[Any], signature: bytes) -> bool:
        alg, spki = self.device_key
        return (state[ALG], state[KEY]) == (alg, evidence.sha256(spki)) and holds(spki, alg, state, signature)


def holds(spki: bytes, alg: int, state: list[Any], signature: bytes) -> bool:
    try:
        check_low_s(spki, alg, digest_of(state), signature)
    except (RefusedError, InvalidSignature):
        return False
    return True


def windows_of(statements: list[bytes], device_id: str) -> list[tuple[bytes, list[Any]]]:
    found = []
    for encoded in dict.fromkeys(statements):
        value = evidence.statement(encoded)
        refuse_unless(value[0] == 3 and value[2] == device_id, "no window of the device")
        refuse_unless(value[4] < value[5] and value[7] >= 0 and value[8] >= 0, "times or energy")
        found.append((encoded, value))
    return found


def judge(channel: Channel, held: bytes | None, encoded: bytes, signature: bytes, statements: list[bytes]) -> str:
    """Section 8, rules 1 to 5: countersign, repeat, wait, refuse, or fork."""
    try:
        state = state_of(encoded)
    except Exception:
        return "refuse"
    if not channel.terms.are_of(state) or not channel.signed_by_gateway(state, signature):
        return "refuse"
    before = None if held is None else state_of(held)
    if before is not None:
        if (state[INCARNATION], state[VERSION]) == (before[INCARNATION], before[VERSION]):
            return "repeat" if digest_of(state) == digest_of(before) else "fork"
        if state[INCARNATION] < before[INCARNATION] or state[VERSION] <= before[VERSION] or before[FINAL]:
            return "refuse"
    from_us = state[START] if before is None else before[END]
    inside = [
        (raw, w) for raw, w in windows_of(statements, channel.terms.device_id) if from_us <= w[4] and w[5] <= state[END]
    ]
    added = sorted(
        (
            (raw, w)
            for raw, w in inside
            if not any(other[3] > w[3] and other[4] < w[5] and w[4] < other[5] for _, other in inside)
        ),
        key=lambda item: int(item[1][4]),
    )
    if not added or added[-1][1][5] < state[END]:
        return "wait"
    if any(after[4] < w[5] for (_, w), (_, after) in pairwise(added)):
        return "refuse"
    quality = 0
    for _, w in added:
        quality |= w[15]
    energy = [
        (0 if before is None else before[at]) + sum(w[of] for _, w in added) for at, of in ((IMPORT, 7), (EXPORT, 8))
    ]
    expected = {
        PREVIOUS: bytes(32) if before is None else digest_of(before),
        START: added[0][1][4],
        END: added[-1][1][5],
        IMPORT: energy[0],
        EXPORT: energy[1],
        NET: energy[0] - energy[1],
        EPOCH: added[-1][1][14],
        ROOT: evidence.root_of([raw for raw, _ in added]),
        QUALITY: quality,
    }
    return "countersign" if all(state[at] == value for at, value in expected.items()) else "refuse"


def adopts(channel: Channel, held: bytes | None, question: tuple[bytes, bytes, bytes]) -> bool:
    """Section 8, rule 6: whether a platform takes back a state that it has lost. Raises for one that does not hold."""
    encoded, gateway_signature, platform_signature = question
    if not platform_signature:
        return False
    state = state_of(encoded)
    alg, spki = channel.platform_key
    refuse_unless(channel.terms.are_of(state), "terms")
    refuse_unless(channel.signed_by_gateway(state, gateway_signature), "gateway's signature")
    refuse_unless(holds(spki, alg, state, platform_signature), "our signature")
    return held is None or state[VERSION] > state_of(held)[VERSION]


# -- section 2: windows


@dataclass
class Standing:
    at_us: int
    epoch: int
    imported: int | None
    exported: int | None


def check_windows(readings: list[bytes], windows: list[bytes], tolerance_us: int) -> None:
    """That windows in order are what rules 1 to 5 make of a device's readings, from its first one on."""
    left = [(raw, evidence.statement(raw)) for raw in readings]
    last, standing, end = 0, None, None
    for encoded in windows:
        w = evidence.statement(encoded)
        refuse_unless(end is None or w[4] == end, "time between windows")
        end = w[5]
        count = w[12]
        taken, left = left[:count], left[count:]
        check_due([r for _, r in taken], [r for _, r in left], end)
        sequences = [r[5] for _, r in taken]
        refuse_unless((w[10], w[11]) == ((sequences[0], sequences[-1]) if taken else (None, None)), "sequences")
        refuse_unless(w[13] == evidence.root_of([raw for raw, _ in taken]), "root")
        quality = 0 if sequences == list(range(last + 1, last + 1 + count)) else ESTIMATED
        quality |= 0 if standing is not None and standing.at_us >= w[4] - tolerance_us else ESTIMATED
        imported = exported = 0
        for _, r in taken:
            quality |= r[15]
            if r[8] is None and r[9] is None:
                continue
            if standing is None or standing.epoch != r[10]:
                quality |= 0 if standing is None else ESTIMATED
                standing = Standing(r[6], r[10], r[8], r[9])
                continue
            registers = []
            for before, now in ((standing.imported, r[8]), (standing.exported, r[9])):
                if before is not None and now is not None and now < before:
                    quality |= HELD | ESTIMATED
                registers.append(now if before is None or (now is not None and now >= before) else before)
            if not r[15] & ISLANDED:
                imported += step_wh(standing.imported, registers[0])
                exported += step_wh(standing.exported, registers[1])
            standing = Standing(max(standing.at_us, r[6]), r[10], registers[0], registers[1])
        quality |= 0 if standing is not None and standing.at_us >= end - tolerance_us else ESTIMATED
        refuse_unless((w[7], w[8], w[9]) == (imported, exported, imported - exported), "energy")
        refuse_unless(w[14] == (0 if standing is None else standing.epoch), "meter epoch")
        refuse_unless(w[15] == quality, "quality")
        last = sequences[-1] if taken else last
    refuse_unless(not left, "readings in no window")


def check_due(taken: list[Any], left: list[Any], end_us: int) -> None:
    """Rule 1: up to the last reading at or before the end, before the first one whose own time is after it."""
    own = [r[6] > end_us and not r[15] & (DEVICE_TIME | CLOCK_UNTRUSTED) for r in taken]
    refuse_unless(not any(own), "a reading of a later window")
    refuse_unless(not taken or taken[-1][6] <= end_us, "ends with a reading of a later window")
    for r in left:
        if r[6] > end_us and not r[15] & (DEVICE_TIME | CLOCK_UNTRUSTED):
            break
        refuse_unless(r[6] > end_us, "a reading was left out")


def step_wh(before: int | None, now: int | None) -> int:
    return 0 if before is None or now is None else now // 1000 - before // 1000
