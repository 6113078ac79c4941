"""Enrolment as people do it: fingerprints that can be read out, and certificates looked at before they are used."""

from __future__ import annotations

import hashlib
from base64 import b32encode
from typing import Final

_GROUPS: Final = 4
_GROUP: Final = 4


def fingerprint_words(text: str) -> str:
    """A name in 16 letters and digits that can be read out over a telephone: 80 bits of its SHA-256.

    Base32 (RFC 4648: no 0, 1, 8, 9), in groups of four.
    """
    return _grouped(hashlib.sha256(text.encode()).digest())


def _grouped(digest: bytes) -> str:
    letters = b32encode(digest[:10]).decode()
    return "-".join(letters[i : i + _GROUP] for i in range(0, _GROUPS * _GROUP, _GROUP))
