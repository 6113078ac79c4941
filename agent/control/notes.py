"""How the book of commands lies in the store: one note for each command, one for each replay window.

Written in the same transaction as the receipts of the change, so that a receipt and the state that it tells of are
never apart. Keys: "command/entry/HASH" and "command/window/..." in hex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from agent.control.book import Book, Entry
from agent.control.command import decode_body, encode_body
from agent.control.errors import CommandFormatError, RestoreError
from agent.control.order import Order, Rank
from agent.control.replay import ReplayWindow, decode_window
from agent.control.tally import tally_of
from agent.evidence import cbor, statements
from agent.evidence.errors import EvidenceError

PREFIX: Final = "command/"
_ENTRY: Final = PREFIX + "entry/"
_WINDOW: Final = PREFIX + "window/"


def entry_key(order_hash: bytes) -> str:
    """Key of a command's note."""
    return _ENTRY + order_hash.hex()


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
            notes[_window_key(window)] = window.encode()
    return notes


def _worth_writing(entry: Entry) -> tuple[object, ...]:
    accounts = {device: (a.meter_id, a.first_milliwatt_hours) for device, a in entry.tally.accounts.items()}
    return (entry.receipts, entry.tally.first_us, entry.tally.closed_milliwatt_hours, accounts)


def _window_key(window: ReplayWindow) -> str:
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
    faults = []
    for key, note in sorted(notes.items()):
        try:
            if key.startswith(_ENTRY):
                entry = decode_entry(note)
                entries[entry.order.hash] = entry
            elif key.startswith(_WINDOW):
                window = decode_window(note)
                windows[window.issuer_key, window.audience] = window
        except RestoreError as error:
            faults.append(f"{key}: {error}")
    return Book(entries, windows), tuple(faults)
