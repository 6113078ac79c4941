"""`v2g-gateway prove`: one reading in its batch, its settlement window and the channel state, shown and as a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.asking import settings_of, store_of
from agent.cli.evidence import gateway_and_keys, private_file
from agent.cli.moments import moment_us
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, plain
from agent.config import DEFAULT_PATH
from agent.evidence import statements
from agent.evidence.errors import EvidenceError
from agent.evidence.partial import decode_any, numbered_leaves, receipts
from agent.evidence.plain import fields_of
from agent.evidence.proof import ChannelPart, ProofFile, Proven, WindowPart, path_in
from agent.evidence.proof import Path as MerklePath
from agent.evidence.statements import Kind, SettlementWindow, Thinning
from agent.identity.errors import HistoryError
from agent.identity.purposes import device_key
from agent.ledger.errors import LedgerError
from agent.ledger.settle import between, read_window
from agent.ledger.state import SignedState, decode_signed
from agent.measure.reading import Reading
from agent.roads.devices import channel_terms
from agent.store import ChannelRow, Reader, Stage, StoreError

LONGEST_WINDOW_US = 3_600_000_000
MOST_ROWS = 30_000
"""Of a channel, newest first: three to a state."""


class NotProvenError(Exception):
    """There is nothing to prove it with. Says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """A proof, and what it lacks."""

    file: ProofFile
    reading: Reading
    batch_number: int
    incarnation: int
    window: SettlementWindow | None
    state: SignedState | None
    lacking: tuple[str, ...]
    """In words: what could not be proven, and why."""


async def find_proof(
    store: Reader,
    device_id: str,
    sequence: int | None,
    at_us: int | None,
    channel_of: Callable[[str], bytes],
    keys: tuple[bytes, ...] = (),
) -> Found:
    """The proof of one reading, by sequence, or the first at or after a time.

    `channel_of` gives the channel id of the device at a gateway; `keys` go into the file.
    Raises NotProvenError, StoreError.
    """
    if sequence is None:
        sequence = await _sequence_at(store, device_id, at_us or 0)
    place = await store.batch_of(device_id, sequence)
    if place is None:
        raise NotProvenError(await _why_not(store, device_id, sequence))
    stored, index = place
    batch = decode_any(stored.encoded)
    leaf = dict(numbered_leaves(batch))[index]
    reading = statements.decode(leaf)
    assert isinstance(reading, Reading)
    lacking: list[str] = []
    window = await _window_part(store, reading, leaf, lacking)
    channel = None
    if window is not None:
        rows = await store.channel_rows(channel_of(batch.identity.gateway_id), newest=MOST_ROWS)
        channel = await _channel_part(store, reading.device_id, window[0], rows, lacking)
    file = ProofFile(
        batch.identity.gateway_id,
        keys,
        Proven(leaf, receipts(batch, [index])[0]),
        None if window is None else window[0],
        None if channel is None else channel[0],
    )
    return Found(
        file,
        reading,
        stored.number,
        stored.incarnation,
        None if window is None else window[1],
        None if channel is None else channel[1],
        tuple(lacking),
    )


async def _sequence_at(store: Reader, device_id: str, at_us: int) -> int:
    """Of the first reading at or after a time."""
    encoded = await store.statements(device_id, Kind.READING, at_us - 1, at_us + LONGEST_WINDOW_US)
    for leaf in encoded:
        reading = statements.decode(leaf)
        if isinstance(reading, Reading):
            return reading.sequence
    raise NotProvenError(f"{device_id} has no reading within an hour of that time here")


async def _why_not(store: Reader, device_id: str, sequence: int) -> str:
    for leaf in await store.statements(device_id, Kind.THINNING, 0, 1 << 62):
        thinning = statements.decode(leaf)
        if isinstance(thinning, Thinning):
            for slot in thinning.slots:
                if slot.first_sequence <= sequence <= slot.last_sequence:
                    return (
                        f"reading {sequence} of {device_id} was merged to save space: {slot.reading_count} readings "
                        f"from {slot.first_sequence} on have {slot.net_energy_wh:+d} Wh together, and are no longer "
                        "here one by one"
                    )
    if await store.statements_after(device_id, Kind.READING, sequence - 1, 1):
        return f"reading {sequence} of {device_id} is not sealed yet, or no longer kept"
    return f"{device_id} has no reading {sequence} here: it was never measured, or is no longer kept"


async def _window_part(
    store: Reader, reading: Reading, leaf: bytes, lacking: list[str]
) -> tuple[WindowPart, SettlementWindow] | None:
    t_us = reading.timestamp_us
    for encoded in await store.statements(
        reading.device_id, Kind.SETTLEMENT_WINDOW, max(0, t_us - 2 * LONGEST_WINDOW_US), t_us + LONGEST_WINDOW_US
    ):
        window = statements.decode(encoded)
        if not isinstance(window, SettlementWindow) or window.first_sequence is None or window.last_sequence is None:
            continue
        if not window.first_sequence <= reading.sequence <= window.last_sequence:
            continue
        proven = await _proven(store, reading.device_id, window, encoded)
        if proven is None:
            lacking.append("its window is closed and not sealed yet")
            return None
        of_device = await store.statements_after(
            reading.device_id, Kind.READING, window.first_sequence - 1, window.reading_count
        )
        if leaf not in of_device or len(of_device) != window.reading_count:
            lacking.append("other readings of its window are no longer here, and the path in it cannot be made")
            return None
        path = path_in(of_device, of_device.index(leaf))
        if path.root(leaf) != window.readings_root:
            lacking.append("the readings here are not those that its window's root is over")
            return None
        return WindowPart(proven, path), window
    lacking.append(
        "it is in no closed settlement window that is here: the device is not settled, or its window is open"
    )
    return None


async def _proven(store: Reader, device_id: str, window: SettlementWindow, encoded: bytes) -> Proven | None:
    """The window's statement with its receipt; None while it is queued."""
    for place in await store.places_of(device_id, window.window_start_us, window.window_start_us + 1):
        body = await store.body_at(place)
        batch = None if body is None else decode_any(body)
        for index, leaf in [] if batch is None else numbered_leaves(batch):
            if leaf == encoded and batch is not None:
                return Proven(leaf, receipts(batch, [index])[0])
    return None


async def _channel_part(
    store: Reader, device_id: str, part: WindowPart, rows: Sequence[ChannelRow], lacking: list[str]
) -> tuple[ChannelPart, SignedState] | None:
    """The newest channel state of the device that both signed and whose windows hold this one."""
    key = await store.note(f"journal/token/pin/{device_key(device_id).hex()}")
    statement = part.window.statement
    own = read_window(statement, device_id).window
    for row in reversed(rows):
        if row.stage is not Stage.COUNTERSIGNED:
            continue
        signed = decode_signed(row.encoded)
        state = signed.state
        if not state.window_start_us <= own.window_start_us < state.window_end_us:
            continue
        encoded = await store.statements(
            device_id, Kind.SETTLEMENT_WINDOW, state.window_start_us - 1, state.window_end_us
        )
        windows = [
            w.encoded
            for w in between((read_window(w, device_id) for w in encoded), state.window_start_us, state.window_end_us)
        ]
        if key is not None and statement in windows:
            path = path_in(windows, windows.index(statement))
            if path.root(statement) == state.windows_root:
                return ChannelPart(row.encoded, path, key), signed
    lacking.append("no channel state that both sides signed has its window here")
    return None


def prove(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Id of the device.")],
    sequence: Annotated[int | None, typer.Option(min=1, metavar="N", help="Sequence of the reading.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Or the first at or after this: 2026-05-01T12:00:00Z.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the proof, for `verify`.")] = None,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Show that one reading is in its batch, window and channel.

    The settlement window, and the channel state that both sides signed. Works while the agent runs.
    """
    if (sequence is None) == (at is None):
        fail("give --sequence or --at: which reading?", code=2, as_json=as_json)
    settings = settings_of(config, as_json)

    async def look() -> Found:
        at_us = None if at is None else moment_us(at)
        async with store_of(settings) as store:
            _, keys = await gateway_and_keys(store, settings.gateway.state_dir)
            return await find_proof(
                store,
                device,
                sequence,
                at_us,
                lambda gateway: channel_terms(settings, gateway, device).channel_id,
                keys,
            )

    try:
        found = asyncio.run(look())
        if out is not None:
            with private_file(out) as file:
                file.write(found.file.encode())
    except (NotProvenError, StoreError, EvidenceError, LedgerError, HistoryError) as error:
        fail(str(error), as_json=as_json)
    except ValueError as error:
        fail(str(error), code=2, as_json=as_json)
    except OSError as error:
        fail(os_error(error, out or settings.gateway.state_dir), as_json=as_json)
    if as_json:
        emit_json(_json(found, out))
        return
    for line in _lines(found):
        console.print(plain(line), markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        console.print(f"Written to {out}; v2g-gateway verify {out} --gateway {found.file.gateway_id}", markup=False,
                      highlight=False, soft_wrap=True)  # fmt: skip


def _json(found: Found, out: Path | None) -> dict[str, object]:
    w, c, state = found.file.window, found.file.channel, found.state
    return {
        "ok": True,
        "file": None if out is None else str(out),
        "gateway_id": found.file.gateway_id,
        "reading": fields_of(found.reading),
        "statement": found.file.reading.statement.hex(),
        "batch": {
            "incarnation": found.incarnation, "number": found.batch_number, "receipt": found.file.reading.receipt.hex(),
        },
        "window": None if w is None or found.window is None else {
            **fields_of(found.window), "receipt": w.window.receipt.hex(), "path": _path_json(w.path),
        },
        "channel": None if c is None or state is None else {
            "channel_id": state.state.channel_id.hex(), "incarnation": state.state.incarnation,
            "version": state.state.version, "digest": state.state.digest.hex(), "path": _path_json(c.path),
        },
        "lacking": list(found.lacking),
    }  # fmt: skip


def _path_json(path: MerklePath) -> dict[str, object]:
    return {"size": path.size, "index": path.index, "siblings": [sibling.hex() for sibling in path.siblings]}


def _lines(found: Found) -> list[str]:
    r, w, c = found.reading, found.window, found.state
    time = datetime.fromtimestamp(r.timestamp_us / 1e6, UTC).isoformat(timespec="milliseconds")
    lines = [
        f"Reading {r.sequence} of {r.device_id}, {time}: {r.net_energy_wh:+d} Wh, registers "
        f"{r.import_register_milliwatt_hours} / {r.export_register_milliwatt_hours} milliwatt-hours",
        f"  is in batch {found.batch_number} of incarnation {found.incarnation}, signed by {found.file.gateway_id}",
    ]
    if w is not None and found.file.window is not None:
        lines.append(
            f"  is one of {w.reading_count} under the root {w.readings_root.hex()} "
            f"of the window of {w.net_energy_wh:+d} Wh"
        )
        lines += [f"    {sibling.hex()}" for sibling in found.file.window.path.siblings]
    if c is not None:
        s = c.state
        lines.append(
            f"  which channel state {s.incarnation}.{s.version} of {s.channel_id.hex()} settles, signed by both"
        )
    return [*lines, *(f"  not proven: {text}" for text in found.lacking)]
