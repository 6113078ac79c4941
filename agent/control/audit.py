"""An auditor's proof: recorded inputs through the same core again, against what was decided and what was signed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.control import codec
from agent.control.authorization import decode_authorization
from agent.control.decisions import Decision, Header, again, plan_bytes, plan_of, read_segment
from agent.control.errors import CommandFormatError, RestoreError
from agent.control.plan import Plan
from agent.control.site import SiteView
from agent.evidence.errors import EvidenceError
from agent.evidence.statements import Alarm

GAP_US: Final = 60_000_000
"""Between two decisions; the gateway was off, or did not record."""
_STATED: Final = re.compile(r"segment (\S+): (\d+) decisions, SHA-256 ([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where what comes out now is not what was decided."""

    at_us: int
    segment: str
    number: int
    what: str


@dataclass(slots=True)
class Audited:
    """What a replay has found."""

    decisions: int = 0
    same: int = 0
    first_us: int | None = None
    last_us: int | None = None
    first_difference: Difference | None = None
    signed: int = 0
    """Of them, in the part of the record that signed statements vouch for."""
    faults: list[str] = field(default_factory=list)
    """What does not hold about the record itself."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    software: set[str] = field(default_factory=set)

    @property
    def holds(self) -> bool:
        return self.first_difference is None and not self.faults


def statements_of(alarms: Iterable[Alarm]) -> dict[str, dict[int, str]]:
    """What was signed: by segment, the digest after so many decisions."""
    found: dict[str, dict[int, str]] = {}
    for alarm in alarms:
        match = _STATED.fullmatch(alarm.text)
        if match is not None:
            found.setdefault(match[1], {})[int(match[2])] = match[3]
    return found


def audit(paths: Iterable[Path], stated: Mapping[str, Mapping[int, str]], from_us: int, to_us: int) -> Audited:
    """Let all decisions of the time be made again."""
    found = Audited()
    previous: bytes | None = None
    said: dict[bytes, str] = {}
    for path in paths:
        try:
            previous = _segment(path, stated.get(path.name, {}), previous, from_us, to_us, found, said)
        except (RestoreError, OSError) as error:
            found.faults.append(str(error))
            previous = None
    return found


def _segment(
    path: Path,
    stated: Mapping[int, str],
    previous: bytes | None,
    from_us: int,
    to_us: int,
    found: Audited,
    said: dict[bytes, str],
) -> bytes:
    digest, number, within, vouched = b"", 0, 0, 0
    for value, digest in read_segment(path):
        if isinstance(value, Header):
            found.software.add(value.software)
            if previous is not None and value.previous != previous:
                why = "does not follow the segment before it: something is missing or altered"
                found.faults.append(f"{path.name}: {why}")
            continue
        number += 1
        if from_us <= value.at_us <= to_us:
            within += 1
            _decision(value, path.name, number, found, said)
        if number in stated:
            if stated[number] == digest.hex():
                found.signed, vouched = found.signed + within - vouched, within
            else:
                found.faults.append(f"{path.name}: its first {number} decisions are not those that were signed")
    if stated and max(stated) > number:
        found.faults.append(f"{path.name}: {max(stated)} decisions were signed, {number} are there")
    return digest


def _decision(decision: Decision, segment: str, number: int, found: Audited, said: dict[bytes, str]) -> None:
    if found.last_us is not None and decision.at_us - found.last_us > GAP_US:
        found.gaps.append((found.last_us, decision.at_us))
    found.first_us = decision.at_us if found.first_us is None else found.first_us
    found.last_us = decision.at_us
    found.decisions += 1
    try:
        now = again(decision)
        view = codec.decode(SiteView, decision.view)
    except RestoreError as error:
        found.faults.append(f"{segment}, decision {number}: its input cannot be read: {error}")
        return
    for why in _unauthorised(view, said):
        found.faults.append(f"{segment}, decision {number}: {why}")
    if plan_bytes(now) == decision.plan:
        found.same += 1
    elif found.first_difference is None:
        found.first_difference = Difference(decision.at_us, segment, number, _what_differs(decision.plan, now))


def _unauthorised(view: SiteView, said: dict[bytes, str]) -> Iterator[str]:
    """Orders whose authorization does not say what the plan took them to say; each is told once."""
    for order in view.orders:
        if order.hash in said or not order.authorization:
            continue
        said[order.hash] = ""
        try:
            authorization = decode_authorization(order.authorization)
        except (CommandFormatError, EvidenceError) as error:
            yield f"command {order.command_id!r}: its authorization cannot be read: {error}"
            continue
        if authorization.hash != order.hash or authorization.command != order.command:
            yield f"command {order.command_id!r}: its authorization says something else"


def _what_differs(recorded: bytes, now: Plan) -> str:
    try:
        then = plan_of(recorded)
    except RestoreError as error:
        return f"what was decided cannot be read: {error}"
    for name in sorted(then.orders.keys() | now.orders.keys()):
        if then.orders.get(name) != now.orders.get(name):
            return f"{name}: then {_said(then, name)}; now {_said(now, name)}"
    for order_hash in sorted(then.commands.keys() | now.commands.keys()):
        before, after = then.commands.get(order_hash), now.commands.get(order_hash)
        if before != after:
            was = "not there" if before is None else before.reason or "as asked"
            is_ = "not there" if after is None else after.reason or "as asked"
            return f"command {order_hash.hex()[:16]}: then {was}; now {is_}"
    return "the same values in other bytes"


def _said(plan: Plan, name: str) -> str:
    order = plan.orders.get(name)
    return "nothing" if order is None else f"{order.lowest_w} to {order.highest_w} W ({order.reason})"
