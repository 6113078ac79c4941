"""The way to OCSP responders and lists of revoked certificates: one request, short, to hosts that the owner allowed."""

from __future__ import annotations

from typing import Final

from agent.roads.asking import ask

TIMEOUT_S: Final = 10.0
LARGEST: Final = 64 * 1024
LIST_TIMEOUT_S: Final = 30.0
LARGEST_LIST: Final = 1024 * 1024


async def post(url: str, request: bytes) -> bytes:
    """The responder's answer. Raises OSError, TimeoutError or ValueError."""
    headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    return await ask("POST", url, body=request, headers=headers, timeout_s=TIMEOUT_S, largest=LARGEST)


async def fetch_list(url: str) -> bytes:
    """A list of revoked certificates. Raises OSError, TimeoutError or ValueError."""
    headers = {"Accept": "application/pkix-crl"}
    return await ask("GET", url, headers=headers, timeout_s=LIST_TIMEOUT_S, largest=LARGEST_LIST)
