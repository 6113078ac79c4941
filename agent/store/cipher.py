"""What makes content unreadable to whoever holds the disk: AES-256-GCM, each value bound to its place in the tables.

A value as it is kept: nonce (12 bytes: epoch, then a number that rises), ciphertext, tag (16). An epoch is one life of
a writer: its key comes from the database's own and 16 random bytes, so that neither a restart nor a copy of the file
ever uses a nonce twice under one key (NIST SP 800-38D section 8.2.1). The associated data names table, column and row:
a value that is moved to another row does not open.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import count
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.store.errors import StoreCorruptError, StoreError, StoreFullError

KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
_NONCE: Final = struct.Struct(">IQ")
OVERHEAD_BYTES: Final = _NONCE.size + 16
_EPOCH_INFO: Final = b"v2g-gateway store epoch 1:"


class Content(Protocol):
    """How content is kept: as it is, or encrypted."""

    @property
    def is_plain(self) -> bool: ...

    def seal(self, context: bytes, plain: bytes) -> bytes:
        """For the disk, at the place that `context` names."""
        ...

    def open(self, context: bytes, kept: bytes) -> bytes:
        """What was given. Raises StoreCorruptError: damaged, or not from this place."""
        ...


class Plain:
    """Content as it is."""

    is_plain: Final = True

    def seal(self, context: bytes, plain: bytes) -> bytes:
        return plain

    def open(self, context: bytes, kept: bytes) -> bytes:
        return kept


PLAIN: Final = Plain()


class Cipher:
    """Content under a database's key. Writes in one epoch, and reads those of all."""

    is_plain: Final = False

    def __init__(self, master: bytes, salts: Mapping[int, bytes], writes: int | None) -> None:
        """`salts`: by epoch; `writes`: the epoch that is this process's alone, None for who only reads."""
        self._master = master
        self._salts = dict(salts)
        self._writes = writes
        self._numbers = count(1)
        self._opened: dict[int, AESGCM] = {}
        self._writing = None if writes is None else self._key(writes)

    def __repr__(self) -> str:
        return "Cipher()"

    @property
    def has_begun(self) -> bool:
        """Whether it writes."""
        return self._writing is not None

    def begin(self, epoch: int, salt: bytes) -> None:
        """Write from now on, in an epoch that was durably begun and is this process's alone."""
        self._salts[epoch] = salt
        self._writes, self._writing = epoch, self._key(epoch)

    def seal(self, context: bytes, plain: bytes) -> bytes:
        """For the disk. Raises StoreFullError before `begin`: a disk without room has none for an epoch either."""
        if self._writing is None:
            raise StoreFullError("no space left on the disk to begin to write in: free some")
        nonce = _NONCE.pack(self._writes, next(self._numbers))
        return nonce + self._writing.encrypt(nonce, plain, context)

    def open(self, context: bytes, kept: bytes) -> bytes:
        """What was given. Raises StoreCorruptError; StoreError for what a writer of after wrote."""
        nonce = kept[: _NONCE.size]
        try:
            epoch = _NONCE.unpack(nonce)[0]
            if self._writes is None and epoch > max(self._salts, default=0):
                raise StoreError("the agent has begun anew since this was opened: ask again")
            return self._key(epoch).decrypt(nonce, kept[_NONCE.size :], context)
        except (InvalidTag, struct.error, KeyError) as error:
            where = context.partition(b":")[0].decode()
            raise StoreCorruptError(
                f"an encrypted value of {where} does not open: it was altered, moved or damaged"
            ) from error

    def _key(self, epoch: int) -> AESGCM:
        found = self._opened.get(epoch)
        if found is None:
            found = AESGCM(derived(self._master, self._salts[epoch], _EPOCH_INFO + str(epoch).encode()))
            self._opened[epoch] = found
        return found


def derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes for one use (HKDF-SHA256, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key)


def of_note(key: str) -> bytes:
    """The place of a note's value, as the others below."""
    return b"note.value:" + key.encode()


def of_body(place: int) -> bytes:
    return b"body.encoded:%d" % place


def of_kept(place: int) -> bytes:
    return b"kept.encoded:%d" % place


def of_chunk(first: int, last: int) -> bytes:
    return b"chunk.encoded:%d-%d" % (first, last)


def of_channel(channel_id: bytes, incarnation: int, version: int, stage: int) -> bytes:
    return b"channel_state.encoded:%s/%d/%d/%d" % (channel_id.hex().encode(), incarnation, version, stage)
