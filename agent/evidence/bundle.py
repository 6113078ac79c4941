"""A bundle: sealed batches of one gateway in a file, for an auditor. It carries evidence and vouches for nothing.

A CBOR sequence (RFC 8742), so that it is written and read a batch at a time: first the head
["v2g-gateway/bundle", 1, gateway_id, [public keys, SubjectPublicKeyInfo DER]], then each batch as a byte string.
The keys in the head are a help for finding out who signed; whether they are trusted the verifier must know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import cbor2

from agent.evidence import cbor
from agent.evidence.batch import MAX_BATCH_BYTES
from agent.evidence.errors import MalformedError

MAGIC: Final = "v2g-gateway/bundle"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class BundleHead:
    """What a bundle says of itself."""

    gateway_id: str
    public_keys_der: tuple[bytes, ...]

    def encode(self) -> bytes:
        """The first item of the sequence."""
        return cbor.encode([MAGIC, VERSION, self.gateway_id, list(self.public_keys_der)])


def encode_batch_item(encoded_batch: bytes) -> bytes:
    """One batch as an item of the sequence."""
    return cbor.encode(encoded_batch)


def read_bundle(file: BinaryIO) -> tuple[BundleHead, Iterator[bytes]]:
    """The head and the batches of a seekable file, read as they are asked for.

    Raises MalformedError, also while iterating.
    """
    head = _next_item(file, "the head of the bundle")
    match head:
        case [str(magic), int(version), str(gateway_id), list(keys)] if magic == MAGIC and version == VERSION:
            if all(isinstance(key, bytes) for key in keys):
                return BundleHead(gateway_id, tuple(keys)), _batches(file)
    raise MalformedError(f"not a bundle: it does not begin with [{MAGIC!r}, {VERSION}, ...]")


def _batches(file: BinaryIO) -> Iterator[bytes]:
    place = 0
    while _more(file):
        place += 1
        item = _next_item(file, f"batch {place} of the bundle")
        if not isinstance(item, bytes) or len(item) > MAX_BATCH_BYTES:
            raise MalformedError(f"batch {place} of the bundle is not a byte string of at most {MAX_BATCH_BYTES}")
        yield item


def _more(file: BinaryIO) -> bool:
    here = file.tell()
    more = bool(file.read(1))
    file.seek(here)
    return more


def _next_item(file: BinaryIO, what: str) -> object:
    try:
        item: object = cbor2.CBORDecoder(file).decode()
    except cbor2.CBORDecodeEOF as error:
        raise MalformedError(f"{what}: the file ends in the middle of it") from error
    except (cbor2.CBORError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise MalformedError(f"{what}: {str(error)[:120]}") from error
    return item
