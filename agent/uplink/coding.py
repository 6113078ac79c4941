"""Compression over MQTT: gzip (RFC 1952), unpacked only as far as a frame may be large. Pure.

gRPC does this itself. MQTT has nothing of the kind: each side says in a user property what it takes, and marks what it
has packed (proto/MQTT.md, Compression).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from google.protobuf.message import Message

from agent.uplink.errors import UplinkError
from proto.mqtt_topics import ACCEPT_ENCODING, CONTENT_ENCODING, GZIP

LEVEL: Final = 6
GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
"""zlib's word for the frame of gzip around the stream."""

UserProperties = Iterable[tuple[str, str]]


class CodingError(UplinkError):
    """A payload that is not what its user property says, or is larger than a frame may be."""


def packed(payload: bytes) -> bytes:
    """The payload as one gzip member, without a time or a name."""
    packing = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_WINDOW)
    return packing.compress(payload) + packing.flush()


def size_of(message: Message, *, compressed: bool) -> int:
    """Bytes of a message as gRPC sends it. It does not tell how small it made one: to know, that is packed again."""
    size = message.ByteSize()
    return min(size, len(packed(message.SerializeToString()))) if compressed else size


def unpacked(payload: bytes, most_bytes: int) -> bytes:
    """What one gzip member holds, at most `most_bytes`: of more, no byte beyond it is ever made. Raises CodingError."""
    unpacking = zlib.decompressobj(GZIP_WINDOW)
    try:
        plain = unpacking.decompress(payload, most_bytes + 1)
    except zlib.error as error:
        raise CodingError(f"the payload is marked as gzip and is none: {error}") from error
    if len(plain) > most_bytes:
        raise CodingError(f"{len(payload)} bytes of gzip unpack to more than the {most_bytes} of the largest frame")
    if not unpacking.eof:
        raise CodingError("the payload is gzip that breaks off")
    if unpacking.unused_data:
        raise CodingError("the payload is gzip with something behind it")
    return plain


def takes_gzip(properties: UserProperties) -> bool:
    """Whether who sent these user properties takes payloads in gzip."""
    return any(
        GZIP in (each.strip() for each in value.split(",")) for name, value in properties if name == ACCEPT_ENCODING
    )


def plain_payload(payload: bytes, properties: UserProperties, most_bytes: int) -> bytes:
    """A payload as it was before it was packed, if it was. Raises CodingError, also for a coding not known here."""
    codings = [value for name, value in properties if name == CONTENT_ENCODING]
    if not codings:
        return payload
    if codings != [GZIP]:
        raise CodingError(f"the payload is coded as {', '.join(codings)[:80]!r}; {GZIP} is known here")
    return unpacked(payload, most_bytes)
