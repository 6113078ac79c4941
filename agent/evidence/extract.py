"""An extract: what there is of one device and period, for an auditor, as CBOR or JSON. Layouts: proto/EVIDENCE.md 13.

As CBOR it is a bundle whose head names device and period; its batches have gaps where others' statements were. As JSON
it holds the same batches in hexadecimal, and beside them what the statements say in words, which `read_json` compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO, Final

from agent.evidence import statements
from agent.evidence.bundle import MAGIC, BundleHead, Scope
from agent.evidence.errors import MalformedError
from agent.evidence.partial import decode_any, numbered_leaves
from agent.evidence.plain import Json, fields_of

JSON_VERSION: Final = 1
MOST_JSON_BYTES: Final = 1 << 29


def json_head(head: BundleHead) -> str:
    """The text before the first batch."""
    scope = head.scope
    beginning: dict[str, Json] = {
        "format": MAGIC,
        "version": JSON_VERSION,
        "gateway_id": head.gateway_id,
        "keys": [key.hex() for key in head.public_keys_der],
        "device_id": None if scope is None else scope.device_id,
        "from_us": None if scope is None else scope.from_us,
        "to_us": None if scope is None else scope.to_us,
    }
    return json.dumps(beginning, indent=1)[:-2] + ',\n "batches": ['


def json_batch(encoded: bytes) -> str:
    """One batch, on a line of its own; lines are joined by commas."""
    return "\n" + json.dumps(_batch(encoded))


JSON_TAIL: Final = "\n ]\n}\n"


def _batch(encoded: bytes) -> dict[str, Json]:
    batch = decode_any(encoded)
    i = batch.identity
    said: list[Json] = []
    for index, leaf in numbered_leaves(batch):
        statement = statements.decode(leaf)
        kind = statements.kind_of(statement).name.lower()
        said.append({"index": index, "kind": kind, **fields_of(statement)})
    return {"incarnation": i.incarnation, "number": i.number, "statements": said, "batch": encoded.hex()}


def read_json(file: BinaryIO) -> tuple[BundleHead, Iterator[bytes]]:
    """The head and the batches. Raises MalformedError, also while iterating: where words are not what is signed."""
    text = file.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise MalformedError(f"a JSON export of more than {MOST_JSON_BYTES >> 20} MiB: export it as CBOR")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {str(error)[:120]}") from error
    match value:
        case {
            "format": str(magic), "version": int(version), "gateway_id": str(gateway_id), "keys": list(keys),
            "device_id": str() | None as device_id, "from_us": int() | None as from_us,
            "to_us": int() | None as to_us, "batches": list(batches),
        } if magic == MAGIC and version == JSON_VERSION and len(value) == 8:  # fmt: skip
            pass
        case _:
            raise MalformedError(
                f"not an export of version {JSON_VERSION}: a field is missing, too much or of another type"
            )
    scope = None if device_id is None else Scope(device_id, from_us or 0, to_us or 0)
    head = BundleHead(gateway_id, tuple(_bytes(key, "a key") for key in keys), scope)
    return head, _batches(batches)


def _batches(listed: list[object]) -> Iterator[bytes]:
    for place, entry in enumerate(listed, start=1):
        what = f"batch {place} of the export"
        if not isinstance(entry, dict):
            raise MalformedError(f"{what} is not an object")
        encoded = _bytes(entry.get("batch"), what)
        if _batch(encoded) != entry:
            raise MalformedError(f"{what}: what it says in words is not what is in its signed bytes")
        yield encoded


def _bytes(value: object, what: str) -> bytes:
    try:
        if isinstance(value, str):
            return bytes.fromhex(value)
    except ValueError:
        pass
    raise MalformedError(f"{what} is not in hexadecimal")
