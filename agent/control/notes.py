"""How the book of commands lies in the store: one note for each command, one for each replay window, and few more.

Written in the same transaction as the receipts of the change, so that a receipt and the state that it tells of are
never apart. Keys: "command/entry/HASH" and "command/window/..." in hex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from agent.control.book import Book
from agent.control.command import decode_body, encode_body
from agent.control.entry import Entry
from agent.control.errors import CommandFormatError, RestoreError
from agent.control.order import Order, Rank
from agent.control.ordered import Ordered
from agent.control.replay import ReplayWindow, decode_window
from agent.control.tally import tally_of
from agent.evidence import cbor, statements
from agent.evidence.errors import EvidenceError

PREFIX: Final = "command/"
DEVICES_KEY: Final = PREFIX + "devices"
"""Names of the devices that hold an order of ours: after a restart they are given back."""
BOUNDS_KEY: Final = PREFIX + "bounds"
"""What the local bounds have counted."""
HOLD_PREFIX: Final = PREFIX + "hold/"
"""Devices that somebody holds by hand."""
_ENTRY: Final = PREFIX + "entry/"
_WINDOW: Final = PREFIX + "window/"
_ORDERED: Final = PREFIX + "ordered/"


def entry_key(order_hash: bytes) -> str:
    """Key of a command's note."""
    return _ENTRY + order_hash.hex()


def encode_names(names: frozenset[str]) -> bytes:
    """For DEVICES_KEY."""
    return cbor.encode([1, *sorted(names)])


def decode_names(note: bytes | None) -> frozenset[str]:
    """The names of a note; none where it is missing or damaged, which costs a release, not the start."""
    if note is None:
        return frozenset()
    try:
        value = cbor.decode(note, what="devices note")
    except EvidenceError:
        return frozenset()
    match value:
        case [1, *names]:
            return frozenset(name for name in names if isinstance(name, str))
    return frozenset()


def changed_notes(before: Book, after: Book) -> dict[str, bytes]:
    """The notes to write when one book has become another.

    Registers that only moved on are no change: the mark from the start of an account gives the same difference later.
    """
    notes = {}
    for order_hash, entry in after.entries.items():
        old = before.entries.get(order_hash)
        if old is not entry and (old is None or _worth_writing(old) != _worth_writing(entry)):
            notes[entry_key(order_hash)] = encode_entry(entry)
    for key, window in after.windows.items():
        if before.windows.get(key) != window:
            notes[window_key(window)] = window.encode()
    for issuer in after.forgotten.keys() | before.forgotten.keys():
        hours = after.forgotten.get(issuer, {})
        if before.forgotten.get(issuer, {}) != hours:
            sums: list[cbor.Value] = [[hour, *part] for hour, part in sorted(hours.items())]
            notes[_ORDERED + hashlib.sha256(issuer).hexdigest()[:32]] = cbor.encode([2, issuer, sums])
    return notes


def _decode_ordered(note: bytes) -> tuple[bytes, dict[int, Ordered]]:
    try:
        value = cbor.decode(note, what="ordered note")
    except EvidenceError as error:
        raise RestoreError(str(error)) from error
    match value:
        case [2, bytes(issuer), list(items)]:
            hours = {}
            for item in items:
                match item:
                    case [int(hour), int(energy_wh), int(value_micro)]:
                        hours[hour] = Ordered(energy_wh, value_micro)
                    case _:
                        raise RestoreError("ordered note: an hour is not laid out as version 2")
            return issuer, hours
        case [1, bytes(), list()]:
            return b"", {}  # Of an earlier release, by key: a day at most, and nobody knows whose it was.
    raise RestoreError("ordered note: not laid out as version 2")


def _worth_writing(entry: Entry) -> tuple[object, ...]:
    accounts = {device: (a.meter_id, a.first_milliwatt_hours) for device, a in entry.tally.accounts.items()}
    return (entry.receipts, entry.tally.first_us, entry.tally.closed_milliwatt_hours, accounts)


def window_key(window: ReplayWindow) -> str:
    return _WINDOW + window.issuer_key.hex()[:32] + "/" + hashlib.sha256(window.audience.encode()).hexdigest()[:32]


def encode_entry(entry: Entry) -> bytes:
    """One command with its receipts."""
    order = entry.order
    receipts: list[cbor.Value] = [statements.encode(receipt) for receipt in entry.receipts]
    return cbor.encode([
        1, order.hash, order.command_id, encode_body(order.command), order.issuer_key, int(order.rank),
        order.received_us, order.authorization, receipts, entry.tally.value(),
    ])  # fmt: skip


def decode_entry(note: bytes) -> Entry:
    """A stored command. Raises RestoreError."""
    try:
        value = cbor.decode(note, what="command note")
        match value:
            case [
                1, bytes(order_hash), str(command_id), bytes(body), bytes(issuer_key), int(rank), int(received_us),
                bytes(authorization), list(receipts), tally,
            ]:  # fmt: skip
                order = Order(
                    hash=order_hash,
                    command_id=command_id,
                    command=decode_body(body),
                    issuer_key=issuer_key,
                    rank=Rank(rank),
                    received_us=received_us,
                    authorization=authorization,
                )
                return Entry(order=order, receipts=_receipts(receipts), tally=tally_of(tally))
    except (EvidenceError, CommandFormatError, ValueError) as error:
        raise RestoreError(f"command note: {error}") from error
    raise RestoreError("command note: not laid out as version 1")


def _receipts(values: list[cbor.Value]) -> tuple[statements.CommandReceipt, ...]:
    receipts = []
    for value in values:
        receipt = statements.decode(value) if isinstance(value, bytes) else None
        if not isinstance(receipt, statements.CommandReceipt):
            raise RestoreError("command note: holds something that is no receipt")
        receipts.append(receipt)
    if not receipts:
        raise RestoreError("command note: has no receipt")
    return tuple(receipts)


def restore(notes: Mapping[str, bytes]) -> tuple[Book, tuple[str, ...]]:
    """The book of these notes, and a sentence for each note that could not be read. One bad note costs one command."""
    entries: dict[bytes, Entry] = {}
    windows: dict[tuple[bytes, str], ReplayWindow] = {}
    forgotten: dict[bytes, dict[int, Ordered]] = {}
    faults = []
    for key, note in sorted(notes.items()):
        try:
            if key.startswith(_ENTRY):
                entry = decode_entry(note)
                entries[entry.order.hash] = entry
            elif key.startswith(_WINDOW):
                window = decode_window(note)
                windows[window.issuer_key, window.audience] = window
            elif key.startswith(_ORDERED):
                issuer, hours = _decode_ordered(note)
                if hours:
                    forgotten[issuer] = hours
        except RestoreError as error:
            faults.append(f"{key}: {error}")
    return Book(entries, windows, forgotten), tuple(faults)
