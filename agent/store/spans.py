"""Spans: which leaves of a batch belong to one device and kind, with their times and sequences.

One row per series and batch instead of one per reading. Each leaf costs about 5 bytes here: CBOR, flat, per leaf its
index in the batch, its time since the base and its sequence since the first (null: it has none).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cbor2

from agent.store.errors import StoreCorruptError


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where one statement is, and what it is found by."""

    index: int
    timestamp_us: int
    sequence: int | None


def encode(leaves: Sequence[Leaf]) -> bytes:
    """At least one leaf, in order of index."""
    base_us = leaves[0].timestamp_us
    first = next((leaf.sequence for leaf in leaves if leaf.sequence is not None), 0)
    flat: list[int | None] = [base_us, first]
    for leaf in leaves:
        flat += (leaf.index, leaf.timestamp_us - base_us, None if leaf.sequence is None else leaf.sequence - first)
    return cbor2.dumps(flat)


def decode(encoded: bytes) -> list[Leaf]:
    """Raises StoreCorruptError."""
    try:
        base_us, first, *flat = cbor2.loads(encoded)
        return [
            Leaf(index, base_us + time, None if step is None else first + step)
            for index, time, step in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]
    except (cbor2.CBORError, ValueError, TypeError) as error:
        raise StoreCorruptError(f"the index of a batch is damaged ({error}): restart to have the store checked") from (
            error
        )


def leaves_of(batch: bytes) -> list[bytes]:
    """The leaves in a batch's wire form, [1, signature, [leaf, ...]]. Raises StoreCorruptError.

    In a batch that lost leaves, [3, signature, [leaf or [count, hash], ...]], those are empty.
    """
    leaves: list[bytes] = []
    try:
        _, _, nodes = cbor2.loads(batch)
        if not isinstance(nodes, list):
            raise TypeError("it has no leaves")
        for node in nodes:
            if isinstance(node, bytes):
                leaves.append(node)
            else:
                leaves += [b""] * node[0]
    except (cbor2.CBORError, ValueError, TypeError, IndexError) as error:
        raise StoreCorruptError(f"a batch is damaged ({error}): restart to have the store checked") from error
    return leaves
