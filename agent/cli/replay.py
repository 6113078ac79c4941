"""`v2g-gateway replay FROM TO`: the recorded inputs of a time through the same core again, byte for byte."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from agent.cli.asking import settings_of, store_of
from agent.cli.command_history import moment, moment_of
from agent.cli.logs import silenced
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain
from agent.config import DEFAULT_PATH, Settings
from agent.control.audit import Audited, audit, statements_of
from agent.control.decision_log import CODE, RECORD, segments
from agent.evidence import statements
from agent.evidence.errors import EvidenceError
from agent.evidence.kinds import Kind
from agent.evidence.statements import Alarm
from agent.store import Content, StoreError

MOST_FAULTS: Final = 20


def replay(
    from_: Annotated[str, typer.Argument(metavar="FROM", help="2h (ago), 7d, or 2026-03-01T12:00Z.")],
    to: Annotated[str, typer.Argument(metavar="TO", help="The same; 0s is now.")],
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Let a time happen again, and compare every byte.

    From what came then: signed messages, people's orders, what the devices measured, the time. Exit code 1 when
    something comes out otherwise, or when the record is not what was signed. Needs no running agent.
    """
    now_us = time.time_ns() // 1000
    from_us, to_us = moment_of(from_, now_us, "FROM", as_json), moment_of(to, now_us, "TO", as_json)
    if to_us < from_us:
        fail("TO is before FROM", as_json=as_json, code=2)
    settings = settings_of(config, as_json)
    state_dir = settings.gateway.state_dir
    try:
        paths = segments(state_dir / RECORD)
        alarms, receipts, content = asyncio.run(_evidence(settings, from_us, to_us))
        with silenced():
            found = audit(_of_the_time(paths, from_us, to_us), statements_of(alarms), from_us, to_us, receipts, content)
    except StoreError as error:
        fail(str(error), as_json=as_json)
    except OSError as error:
        fail(os_error(error, state_dir / RECORD), as_json=as_json)
    if not found.decisions and not found.faults:
        fail(f"no decision of that time is recorded in {state_dir / RECORD}", as_json=as_json)
    if as_json:
        emit_json(_as_json(found))
    else:
        _tell(found)
    raise typer.Exit(0 if found.holds else 1)


def _of_the_time(paths: list[Path], from_us: int, to_us: int) -> list[Path]:
    """Segments by the time at which they begin: the one that began before FROM may hold its first decisions."""
    begun = [int(path.name.partition(".")[0]) for path in paths]
    return [
        path
        for path, start_us, next_us in zip(paths, begun, [*begun[1:], 2**63], strict=True)
        if start_us <= to_us and next_us >= from_us
    ]


async def _evidence(settings: Settings, from_us: int, to_us: int) -> tuple[list[Alarm], frozenset[bytes], Content]:
    """What was stated about the record, the receipts of the time, and how the record is kept."""
    async with store_of(settings) as store:
        stored = await store.statements(None, Kind.ALARM, 0, 2**62)
        receipts = await store.statements(None, Kind.COMMAND_RECEIPT, from_us - 1, to_us)
    found = []
    for encoded in stored:
        try:
            statement = statements.decode(encoded)
        except EvidenceError:
            continue
        if isinstance(statement, Alarm) and statement.code == CODE:
            found.append(statement)
    return found, frozenset(receipts), store.content


def _as_json(found: Audited) -> dict[str, object]:
    first = found.first_difference
    return {
        "ok": found.holds,
        "decisions": found.decisions,
        "same": found.same,
        "signed": found.signed,
        "events": found.events,
        "messages": found.messages,
        "answers": found.answers,
        "answers_in_evidence": found.stated,
        "made_alone": found.alone,
        "not_again": found.not_again,
        "first_us": found.first_us,
        "last_us": found.last_us,
        "first_difference": None
        if first is None
        else {"at_us": first.at_us, "segment": first.segment, "number": first.number, "what": first.what},
        "faults": found.faults,
        "gaps": [{"from_us": a, "to_us": b} for a, b in found.gaps],
        "software": sorted(found.software),
    }


def _tell(found: Audited) -> None:
    def say(text: str) -> None:
        console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    if found.first_us is not None and found.last_us is not None:
        say(f"{found.decisions} decisions from {moment(found.first_us)} to {moment(found.last_us)}.")
    first = found.first_difference
    if first is None and found.same == found.decisions:
        say(f"All {found.same} come out the same, byte for byte.")
    elif first is None:
        say(f"{found.same} come out the same, byte for byte; the others could not be made again.")
    else:
        say(f"{found.same} come out the same. The first difference, at {moment(first.at_us)}: {first.what}")
    if found.events:
        say(
            f"{found.messages} messages of the platform were judged again, with the same {found.answers} receipts, "
            f"byte for byte; {found.stated} of them are among the evidence of this box."
        )
    if found.not_again:
        say(f"{found.not_again} events could not happen again, after what came out otherwise or cannot be read.")
    if found.alone:
        say(
            f"{found.alone} decisions were made again from what their plan saw alone: an earlier release recorded them."
        )
    say(f"{found.signed} of them are in the part of the record that signed statements vouch for.")
    for from_us, to_us in found.gaps[:MOST_FAULTS]:
        say(f"Nothing is recorded from {moment(from_us)} to {moment(to_us)}.")
    for fault in found.faults[:MOST_FAULTS]:
        say(f"Does not hold: {fault}")
    if len(found.faults) > MOST_FAULTS:
        say(f"And {len(found.faults) - MOST_FAULTS} more of these; --json has them all.")
    if len(found.software) > 1:
        say(f"Several versions decided: {', '.join(sorted(found.software))}.")
