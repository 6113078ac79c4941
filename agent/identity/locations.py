"""Where a gateway's history is had, and what else a verifier lacks: proto/IDENTITY.md section 8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from agent.config import is_this_machine
from agent.identity.errors import IdentityError

WELL_KNOWN: Final = "/.well-known/v2g-gateway/"
"""Of a location that is a host alone; the agent's own listener has them here."""
SERVICE: Final = "V2gGatewayEvidence"
"""Type of the service in a DID document that names the location."""

DOCUMENT: Final = "did.json"
HISTORY: Final = "history.cbor"
NEWEST_BATCH: Final = "newest-batch.cbor"
ACKNOWLEDGEMENT: Final = "acknowledgement.cose"
TRUST_LIST: Final = "trust-list.cose"

CONTENT_TYPES: Final = {
    DOCUMENT: "application/json",
    HISTORY: "application/cbor",
    NEWEST_BATCH: "application/cbor",
    ACKNOWLEDGEMENT: "application/cose",
    TRUST_LIST: "application/cose",
}
MOST_URL: Final = 500


class LocationError(IdentityError):
    """Nothing can be fetched from there. Says what would be right."""


@dataclass(frozen=True, slots=True)
class Location:
    """A place that files are had from."""

    base: str
    """Without the last slash."""

    def url(self, name: str) -> str:
        """Of one of the files."""
        return f"{self.base}{WELL_KNOWN}{name}" if not urlsplit(self.base).path else f"{self.base}/{name}"


def location_of(url: str) -> Location:
    """Raises LocationError."""
    return Location(require_url(url).rstrip("/"))


def require_url(url: str) -> str:
    """The same URL: HTTPS, or HTTP on this machine itself, without a password, query or fragment. Raises LocationError.

    What comes over plain HTTP could be held back, or another one's older copy, by anybody on the way.
    """
    shown = url[:120]
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise LocationError(f"{shown!r} is no URL: {error}") from error
    printable = url.isascii() and url.isprintable() and " " not in url and len(url) <= MOST_URL
    if not printable or not host or parts.scheme not in ("https", "http"):
        raise LocationError(f"{shown!r} is no URL of a web server, such as https://gateway.example")
    if parts.username is not None or parts.query or parts.fragment:
        raise LocationError(f"{shown!r}: a location has no user, query or fragment")
    if parts.scheme == "http" and not is_this_machine(host):
        raise LocationError(f"{shown!r}: use https; http is for this machine itself (127.0.0.1)")
    return url
