"""Bodies of batches on the disk: deflated, where that is shorter. Readings of one second are much alike.

An encoded batch begins with the head of a CBOR array and a zlib stream with its own, so that either is known by its
first byte: bodies of before are read as they are.
"""

from __future__ import annotations

import zlib
from typing import Final

from agent.store.errors import StoreCorruptError

LEVEL: Final = 1
"""What higher ones save in space they cost in time: a batch is packed before it is acknowledged to anybody."""
_HEAD: Final = 0x78
"""Of a zlib stream with the usual window (RFC 1950)."""


def pack(encoded: bytes) -> bytes:
    """For the disk."""
    packed = zlib.compress(encoded, LEVEL)
    return packed if len(packed) < len(encoded) or encoded[:1] == bytes([_HEAD]) else encoded


def unpack(body: bytes) -> bytes:
    """The batch as it was encoded. Raises StoreCorruptError."""
    if body[:1] != bytes([_HEAD]):
        return body
    try:
        return zlib.decompress(body)
    except zlib.error as error:
        raise StoreCorruptError(f"a batch is damaged ({error}): restart to have the store checked") from error
