"""Which key of the token is for what: CKA_ID by use. One key, one use."""

from __future__ import annotations

from typing import Final

EVIDENCE_KEY: Final = b"evidence"
"""Signs batches. Its did:key is the gateway's identifier, unless there is a history (history.py)."""
UPLINK_KEY: Final = b"uplink-tls"
"""Client key of the mutual TLS with the platform."""

SITE_CA_KEY: Final = b"site-ca"
"""Certifies the site's chargers (OCPP security profile 3)."""

COUNTERSIGN_WRAP_KEY: Final = b"countersign-wrap"
"""Opens the file of the ML-DSA key that countersigns batches: no token of today holds such a key itself."""


def device_key(device_id: str) -> bytes:
    """The key of one settled device: it signs that device's channel."""
    return f"device:{device_id}".encode()


def evidence_key(epoch: int) -> bytes:
    """The evidence key of a key epoch, from 1."""
    return EVIDENCE_KEY if epoch == 1 else EVIDENCE_KEY + f"-{epoch}".encode()
