"""What makes a record or a key unreadable."""

from __future__ import annotations


class OcmfError(Exception):
    """Root: the message says what was wrong, and quotes what a peer sent cut and escaped."""


class RecordError(OcmfError):
    """Not a readable OCMF record, or not one within its bounds."""


class MeterKeyError(OcmfError):
    """Not a public key that we can read; says what would be one."""
