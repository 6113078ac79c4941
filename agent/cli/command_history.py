"""`v2g-gateway commands`: what was ordered and what became of it, by the receipts in the store; no agent is needed."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from agent.cli.asking import settings_of, store_of
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, table
from agent.cli.override import seconds_of
from agent.config import DEFAULT_PATH, Settings
from agent.control.notes import PREFIX, restore
from agent.control.order import Order
from agent.control.rules.targets import sentence
from agent.evidence import statements
from agent.evidence.errors import EvidenceError
from agent.evidence.kinds import Kind
from agent.evidence.statements import CommandReceipt, CommandState
from agent.store import StoreError

MOST: Final = 10_000
_STATES: Final = ", ".join(state.name.lower() for state in CommandState)


@dataclass(frozen=True, slots=True)
class History:
    """One command, with its receipts in order."""

    command_id: str
    command_hash: bytes
    text: str
    """What was ordered; empty where only the receipts are kept."""
    order: Order | None
    receipts: tuple[CommandReceipt, ...]

    @property
    def state(self) -> CommandState:
        return self.receipts[-1].state

    @property
    def first_us(self) -> int:
        return self.receipts[0].timestamp_us

    def as_json(self) -> dict[str, object]:
        command = None if self.order is None else self.order.command
        return {
            "command_id": self.command_id,
            "command_hash": self.command_hash.hex(),
            "text": self.text or None,
            "issuer": None if command is None else command.issuer,
            "start_us": None if command is None else command.start_us,
            "end_us": None if command is None else command.end_us,
            "targets": None if command is None else list(command.targets),
            "state": self.state.name.lower(),
            "receipts": [
                {
                    "state": receipt.state.name.lower(),
                    "timestamp_us": receipt.timestamp_us,
                    "reason": receipt.reason,
                    "delivered_energy_wh": receipt.delivered_energy_wh,
                }
                for receipt in self.receipts
            ],
        }

    def rows(self) -> list[list[str]]:
        rows = []
        for number, receipt in enumerate(self.receipts):
            energy = "" if receipt.delivered_energy_wh is None else f"{receipt.delivered_energy_wh} Wh"
            what = (self.text or self.command_hash.hex()[:16]) if number == 0 else ""
            named = self.command_id if number == 0 else ""
            rows.append([named, what, moment(receipt.timestamp_us), receipt.state.name.lower(), energy, receipt.reason])
        return rows


def commands(
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="From then on: 2h (ago), 7d, or 2026-03-01T12:00Z; all.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Up to then; now.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help=f"Only those now in it; may be repeated: {_STATES}.")
    ] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Commands with their receipts, the newest first.

    What was asked, what was answered, what was delivered. Works without an agent.
    """
    now_us = time.time_ns() // 1000
    from_us = 0 if since is None else moment_of(since, now_us, "--since", as_json)
    to_us = 2**62 if until is None else moment_of(until, now_us, "--until", as_json)
    states = _states_of(state or [], as_json)
    settings = settings_of(config, as_json)
    try:
        found = asyncio.run(history(settings, from_us, to_us))
    except StoreError as error:
        fail(str(error), as_json=as_json)
    shown = [one for one in found if not states or one.state in states][:MOST]
    if as_json:
        emit_json({"ok": True, "commands": [one.as_json() for one in shown]})
        return
    if not shown:
        console.print("No command is kept that this asks for.")
        return
    rows = [row for one in shown for row in one.rows()]
    columns = ("command", "what", "when", "state", "delivered", "reason")
    console.print(table("", columns, rows, right=("delivered",)))


async def history(settings: Settings, from_us: int, to_us: int) -> list[History]:
    """The commands that had a receipt within the time, the newest first. Raises StoreError."""
    async with store_of(settings) as store:
        book, _ = restore(await store.notes(PREFIX))
        stored = await store.statements(None, Kind.COMMAND_RECEIPT, from_us, to_us)
    receipts: dict[bytes, dict[CommandReceipt, None]] = {}
    for entry in book.entries.values():
        kept = [receipt for receipt in entry.receipts if from_us < receipt.timestamp_us <= to_us]
        if kept:
            receipts[entry.order.hash] = dict.fromkeys(entry.receipts)
    for receipt in _decoded(stored):
        if receipt.command_hash not in book.entries:
            receipts.setdefault(receipt.command_hash, {})[receipt] = None
    orders = {entry.order.hash: entry.order for entry in book.entries.values()}
    found = [_history(order_hash, tuple(said), orders) for order_hash, said in receipts.items()]
    return sorted(found, key=lambda one: (-one.first_us, one.command_hash))


def _history(order_hash: bytes, said: Sequence[CommandReceipt], orders: Mapping[bytes, Order]) -> History:
    order = orders.get(order_hash)
    return History(said[0].command_id, order_hash, "" if order is None else sentence(order), order, tuple(said))


def _decoded(stored: Iterable[bytes]) -> Iterable[CommandReceipt]:
    for encoded in stored:
        try:
            statement = statements.decode(encoded)
        except EvidenceError:
            continue  # `verify` says what is wrong with evidence
        if isinstance(statement, CommandReceipt):
            yield statement


def moment(timestamp_us: int) -> str:
    """For people."""
    return datetime.fromtimestamp(timestamp_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def moment_of(text: str, now_us: int, option: str, as_json: bool) -> int:
    """Unix microseconds of "2h" (ago) or an ISO time; the end of the command for anything else."""
    ago_s = seconds_of(text)
    if ago_s is not None:
        return now_us - round(ago_s * 1e6)
    try:
        at = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except ValueError:
        fail(f"{option} {text!r} is no time: 2h (ago), 7d, or 2026-03-01T12:00Z", as_json=as_json, code=2)
    return round((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1e6)


def _states_of(names: Sequence[str], as_json: bool) -> set[CommandState]:
    unknown = [name for name in names if name.strip().upper() not in CommandState.__members__]
    if unknown:
        fail(f"--state {unknown[0][:80]!r} is none of {_STATES}", as_json=as_json, code=2)
    return {CommandState[name.strip().upper()] for name in names}
