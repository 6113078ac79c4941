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
from agent.evidence.errors import MalformedError, UnsupportedError
from agent.evidence.partial import decode_any, numbered_leaves
from agent.evidence.plain import Json, fields_of

JSON_VERSION: Final = 1
MOST_JSON_BYTES: Final = 1 << 29
_FIELDS: Final = 8


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
    """The head and the batches.

    Raises MalformedError, also while iterating: where words are not what is signed; UnsupportedError.
    """
    text = file.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise MalformedError(f"a JSON export of more than {MOST_JSON_BYTES >> 20} MiB: export it as CBOR")
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON as `export` writes it: {str(error)[:120]}") from error
    if not isinstance(value, dict) or value.get("format") != MAGIC or type(value.get("version")) is not int:
        raise MalformedError(f"not an export: one says that its format is {MAGIC}, and its version")
    if value["version"] != JSON_VERSION:
        raise UnsupportedError(f"an export of version {value['version']}, {JSON_VERSION} is known here")
    match value:
        case {
            "gateway_id": str(gateway_id), "keys": list(keys), "device_id": None, "from_us": None, "to_us": None,
            "batches": list(batches),
        } if len(value) == _FIELDS:  # fmt: skip
            scope = None
        case {
            "gateway_id": str(gateway_id), "keys": list(keys), "device_id": str(device_id), "from_us": int(from_us),
            "to_us": int(to_us), "batches": list(batches),
        } if len(value) == _FIELDS and type(from_us) is type(to_us) is int and 0 <= from_us < to_us:  # fmt: skip
            scope = Scope(device_id, from_us, to_us)
        case _:
            raise MalformedError(
                f"not an export of version {JSON_VERSION}: a field is missing, too much or not what it should be"
            )
    head = BundleHead(gateway_id, tuple(_bytes(key, "a key") for key in keys), scope)
    return head, _batches(batches)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of two values under one name, one program would show the first and another the second."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice in one object")
    return found


def _batches(listed: list[object]) -> Iterator[bytes]:
    for place, entry in enumerate(listed, start=1):
        what = f"batch {place} of the export"
        if not isinstance(entry, dict):
            raise MalformedError(f"{what} is not an object")
        encoded = _bytes(entry.get("batch"), what)
        # As texts: to Python, true and 1.0 are the number 1.
        if json.dumps(_batch(encoded), sort_keys=True) != json.dumps(entry, sort_keys=True):
            raise MalformedError(f"{what}: what it says in words is not what is in its signed bytes")
        yield encoded


def _bytes(value: object, what: str) -> bytes:
    try:
        if isinstance(value, str) and (octets := bytes.fromhex(value)).hex() == value:
            return octets
    except ValueError:
        pass
    raise MalformedError(f"{what} is not in hexadecimal, small letters and nothing between")
