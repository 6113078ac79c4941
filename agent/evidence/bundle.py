"""A bundle: sealed batches of one gateway in a file, for an auditor. It carries evidence and vouches for nothing.

A CBOR sequence (RFC 8742), so that it is written and read a batch at a time: first the head
["v2g-gateway/bundle", 1, gateway_id, [public keys, SubjectPublicKeyInfo DER]], then each batch as a byte string.
The keys in the head are a help for finding out who signed; whether they are trusted the verifier must know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from agent.evidence import cbor
from agent.evidence.batch import MAX_BATCH_BYTES
from agent.evidence.errors import MalformedError, UnsupportedError
from agent.evidence.fields import Fields

MAGIC: Final = "v2g-gateway/bundle"
VERSION: Final = 1
EXTRACT_VERSION: Final = 2
"""Of a bundle that names device and period: its batches are no run of the chain, and have gaps."""
MAX_HEAD_BYTES: Final = 64 * 1024

# Of the first byte of a CBOR item (RFC 8949 section 3).
_BYTE_STRING: Final = 2
_SHORT: Final = 23
_LONGEST_HEAD: Final = 27


@dataclass(frozen=True, slots=True)
class Scope:
    """What an extract was asked for: from_us <= timestamp < to_us."""

    device_id: str
    from_us: int
    to_us: int

    def require_period(self) -> None:
        """Raises ValueError."""
        if not self.from_us < self.to_us:
            raise ValueError(f"a period from {self.from_us} to {self.to_us} has no time in it")


@dataclass(frozen=True, slots=True)
class BundleHead:
    """What a bundle says of itself."""

    gateway_id: str
    public_keys_der: tuple[bytes, ...]
    scope: Scope | None = None
    """None: a run of the chain."""

    def encode(self) -> bytes:
        """The first item of the sequence."""
        keys: list[cbor.Value] = list(self.public_keys_der)
        if self.scope is None:
            return cbor.encode([MAGIC, VERSION, self.gateway_id, keys])
        scope: list[cbor.Value] = [self.scope.device_id, self.scope.from_us, self.scope.to_us]
        return cbor.encode([MAGIC, EXTRACT_VERSION, self.gateway_id, keys, scope])


def encode_batch_item(encoded_batch: bytes) -> bytes:
    """One batch as an item of the sequence."""
    return cbor.encode(encoded_batch)


def read_bundle(file: BinaryIO) -> tuple[BundleHead, Iterator[bytes]]:
    """The head and the batches of a seekable file, read as they are asked for.

    Raises MalformedError, also while iterating; UnsupportedError.
    """
    what = "the head of the bundle"
    start = file.tell()
    value, size = cbor.decode_first(file.read(MAX_HEAD_BYTES), what=what)
    file.seek(start + size)
    if not isinstance(value, list) or value[:1] != [MAGIC]:
        raise MalformedError(f"not a bundle as `export` writes it: one begins with [{MAGIC}, {VERSION} or "
                             f"{EXTRACT_VERSION}, ...]")  # fmt: skip
    try:
        return _head(Fields(value[1:], 1)), _batches(file)
    except (ValueError, TypeError) as error:
        raise MalformedError(f"{what}: {error}") from error


def _head(f: Fields) -> BundleHead:
    """Raises ValueError, TypeError, UnsupportedError."""
    version = f.number()
    if version not in (VERSION, EXTRACT_VERSION):
        raise UnsupportedError(f"a bundle of version {version}, {VERSION} and {EXTRACT_VERSION} are known here")
    gateway_id = f.text()
    keys = tuple(Fields([key]).octets() for key in f.items())
    scope = None
    if version == EXTRACT_VERSION:
        s = Fields(f.items())
        scope = Scope(s.text(), s.count(), s.count())
        s.end()
        scope.require_period()
    f.end()
    return BundleHead(gateway_id, keys, scope)


def _batches(file: BinaryIO) -> Iterator[bytes]:
    place = 0
    while first := file.read(1):
        place += 1
        yield _byte_string(file, first, f"batch {place} of the bundle")


def _byte_string(file: BinaryIO, first: bytes, what: str) -> bytes:
    """The byte string whose head begins with `first`; its length is judged before it is read."""
    argument = first[0] & 0x1F
    if first[0] >> 5 != _BYTE_STRING or argument > _LONGEST_HEAD:
        raise MalformedError(f"{what} is not a byte string of at most {MAX_BATCH_BYTES}")
    more = file.read(1 << (argument - 24)) if argument > _SHORT else b""
    length = int.from_bytes(more) if argument > _SHORT else argument
    if length > MAX_BATCH_BYTES:
        raise MalformedError(f"{what} is not a byte string of at most {MAX_BATCH_BYTES}")
    content = file.read(length)
    if len(content) < length:
        raise MalformedError(f"{what}: the file ends in the middle of it")
    item = cbor.decode(first + more + content, what=what, most_bytes=MAX_BATCH_BYTES + 9)
    assert isinstance(item, bytes)
    return item
