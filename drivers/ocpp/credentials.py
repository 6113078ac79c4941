"""Who a charger says it is, and whether it proves it: the opening handshake's path and basic auth. Pure.

OCPP 2.0.1 part 2, A (security profile 1): the user name is the charger's identity, the password is shared.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

LONGEST_IDENTITY: Final = 48
_NOBODY: Final = "no charger has this password, it only takes the time of a comparison"


@dataclass(frozen=True, slots=True)
class Claim:
    """What an opening handshake claims."""

    charger_id: str
    """"" where the path names none."""
    user: str
    password: str | None
    """None: no readable credentials were sent."""


def read_claim(path: str, authorization: str | None) -> Claim:
    """The claim in a request's path and Authorization header."""
    try:
        charger_id = unquote(urlsplit(path).path.rstrip("/").rpartition("/")[2], errors="strict")
    except ValueError:
        charger_id = ""
    if len(charger_id) > LONGEST_IDENTITY or not charger_id.isprintable():
        charger_id = ""
    user, password = _basic(authorization)
    return Claim(charger_id, user, password)


def proves(claim: Claim, known: bool, password: str | None) -> bool:
    """Whether a claim is good. `password` None means that this charger needs none.

    An identity that nobody knows takes as long as a wrong password.
    """
    if known and password is None:
        return True
    expected = password if known and password is not None else _NOBODY
    same = hmac.compare_digest((claim.password or "").encode(), expected.encode())
    return same and known and claim.user == claim.charger_id


def _basic(authorization: str | None) -> tuple[str, str | None]:
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return "", None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", None
    return (user, password) if colon else ("", None)
