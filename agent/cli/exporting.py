"""`v2g-gateway export`: evidence out of the store, all of it as a chain, or one device and period of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from agent.cli.asking import settings_of, store_of
from agent.cli.evidence import gateway_and_keys, private_file
from agent.cli.moments import moment_us
from agent.cli.options import ConfigOption, JsonOption
from agent.cli.output import console, emit_json, fail, os_error, progress_bar
from agent.config import DEFAULT_PATH
from agent.evidence import statements
from agent.evidence.bundle import BundleHead, Scope, encode_batch_item
from agent.evidence.errors import EvidenceError
from agent.evidence.extract import JSON_TAIL, json_batch, json_head
from agent.evidence.partial import cut, decode_any, numbered_leaves
from agent.evidence.statements import Kind, SettlementWindow, SignedMeterValue, Statement, Thinning
from agent.identity.errors import HistoryError
from agent.measure.reading import Reading
from agent.store import Reader, StoreError

PAGE = 256
END_OF_TIME_US = 1 << 62
LONGEST_MERGED_US = 86_400_000_000
"""More than one thinning statement covers."""


class Format(StrEnum):
    """Of an export."""

    CBOR = "cbor"
    JSON = "json"


async def all_batches(store: Reader) -> AsyncIterator[bytes]:
    """Every batch that the store holds, in the order of the chain."""
    for incarnation in await store.incarnations():
        number = 1
        while page := await store.batches(number, PAGE, incarnation=incarnation):
            for batch in page:
                yield batch.encoded
            number = page[-1].number + 1


async def batches_of(store: Reader, scope: Scope) -> AsyncIterator[bytes]:
    """Batches with something of a device and period, without the rest; what outlived its batches comes first."""
    place = 0
    while page := await store.kept(scope.from_us, scope.to_us, place, PAGE):
        for _, encoded in page:
            left = _only(encoded, scope)
            if left is not None:
                yield left
        place = page[-1][0]
    places = set(await store.places_of(scope.device_id, scope.from_us, scope.to_us))
    # Merged readings stand under the time of their first slot, which may be before.
    merged_from_us = max(0, scope.from_us - LONGEST_MERGED_US)
    places.update(await store.places_of(scope.device_id, merged_from_us, scope.from_us, Kind.THINNING))
    for place in sorted(places):
        body = await store.body_at(place)
        left = None if body is None else _only(body, scope)
        if left is not None:
            yield left


def _only(encoded: bytes, scope: Scope) -> bytes | None:
    """The batch with what the scope names; None when there is nothing."""
    batch = decode_any(encoded)
    keep = {index for index, leaf in numbered_leaves(batch) if _belongs(statements.decode(leaf), scope)}
    return cut(batch, keep | {0}).encode() if keep else None


def _belongs(statement: Statement, scope: Scope) -> bool:
    match statement:
        case Reading() | SignedMeterValue():
            first_us = last_us = statement.timestamp_us
        case SettlementWindow():
            first_us, last_us = statement.window_start_us, statement.window_end_us - 1
        case Thinning():
            first_us = min(slot.first_us for slot in statement.slots)
            last_us = max(slot.first_us + slot.span_us for slot in statement.slots)
        case _:
            return False
    return statement.device_id == scope.device_id and first_us < scope.to_us and last_us >= scope.from_us


async def write_cbor(file: BinaryIO, head: BundleHead, batches: AsyncIterator[bytes]) -> AsyncIterator[int]:
    """A bundle; gives how many batches are written, after each."""
    file.write(head.encode())
    written = 0
    async for encoded in batches:
        file.write(encode_batch_item(encoded))
        written += 1
        yield written


async def write_json(file: BinaryIO, head: BundleHead, batches: AsyncIterator[bytes]) -> AsyncIterator[int]:
    """The same as one JSON object."""
    file.write(json_head(head).encode())
    written = 0
    async for encoded in batches:
        file.write((("," if written else "") + json_batch(encoded)).encode())
        written += 1
        yield written
    file.write(JSON_TAIL.encode())


def export(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")],
    device: Annotated[str | None, typer.Option(metavar="ID", help="Only this device.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="With --device: from here on, 2026-05-01T12:00:00Z.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="TIME", help="With --device: and before this.")] = None,
    form: Annotated[
        Format, typer.Option("--format", help="cbor, or json for people and other programs.")
    ] = Format.CBOR,
    config: ConfigOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Write the evidence that is held here to a file, for `verify`.

    Works while the agent runs. All of it is a run of the chain. Of one device and period it is an extract: each
    statement is proven by itself, and gaps in its readings' sequence show what is not there.
    """
    if device is None and (from_ is not None or to is not None):
        fail("--from and --to need --device: the whole chain has no period", code=2, as_json=as_json)
    settings = settings_of(config, as_json)

    async def write() -> tuple[int, str]:
        scope = None
        if device is not None:
            from_us = 0 if from_ is None else moment_us(from_)
            to_us = END_OF_TIME_US if to is None else moment_us(to)
            if to_us <= from_us:
                raise ValueError("--to is not after --from")
            scope = Scope(device, from_us, to_us)
        async with store_of(settings) as store:
            if scope is not None and scope.device_id not in await store.device_ids():
                raise StoreError(f"nothing is kept of a device {scope.device_id!r}")
            gateway_id, keys = await gateway_and_keys(store, settings.gateway.state_dir)
            head = BundleHead(gateway_id, keys, scope)
            batches = all_batches(store) if scope is None else batches_of(store, scope)
            written, bar = 0, progress_bar()
            with private_file(out) as file, bar:
                task = bar.add_task("batches")
                async for written in (write_json if form is Format.JSON else write_cbor)(file, head, batches):
                    if written % PAGE == 0:
                        bar.update(task, description=f"{written} batches")
            return written, head.gateway_id

    try:
        written, gateway_id = asyncio.run(write())
    except (StoreError, EvidenceError, HistoryError) as error:
        fail(str(error), as_json=as_json)
    except ValueError as error:
        fail(str(error), code=2, as_json=as_json)
    except OSError as error:
        fail(os_error(error, out), as_json=as_json)
    if as_json:
        emit_json({"ok": True, "file": str(out), "batches": written, "gateway_id": gateway_id})
    else:
        text = f"{out}: {written} batches of {gateway_id or 'a gateway that never signed'}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
