"""Who may charge: the tokens that the site's owner allows, and what is to be said of one that is shown. Pure.

OCPP 2.0.1 part 2, block C. Case does not matter in an idToken (identifierString). A token that is kept as a hash only
is recognised when it is shown, but cannot be put into a charger's local list: the charger compares plain text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from drivers.ocpp.contracts import plain_contract

LONGEST_TOKEN: Final = 255
"""In OCPP 2.1; the schema of 2.0.1 allows 36."""
NOBODY: Final = "NoAuthorization"
"""Type of the token of a charger that is set up to ask nobody (C02)."""
CENTRAL: Final = "Central"
"""Type of a token that a CSMS made up: remote starts, groups."""


EMAID: Final = "eMAID"
"""The type of a contract for plug and charge."""


class TokenStatus(StrEnum):
    """AuthorizationStatusEnumType, as far as a site can tell."""

    ACCEPTED = "Accepted"
    BLOCKED = "Blocked"
    EXPIRED = "Expired"
    INVALID = "Invalid"
    NOT_HERE = "NotAtThisLocation"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteToken:
    """One token that the owner knows. Has exactly one of `name` and `sha256`."""

    name: str = ""
    """The idToken as the owner writes it."""
    sha256: str = ""
    """Hexadecimal SHA-256 of the idToken in upper case."""
    kind: str = ""
    """Its OCPP type (ISO14443, eMAID, ...); empty: any."""
    group: str = ""
    """Tokens of one group may end each other's transactions (C09)."""
    expires_us: int | None = None
    blocked: bool = False
    device_ids: frozenset[str] = frozenset()
    """EVSEs where it may charge; empty: all."""

    @property
    def key(self) -> str:
        return token_digest(self.name) if self.name else self.sha256.lower()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a token that was shown."""

    status: TokenStatus
    name: str | None = None
    """How the owner spells it; the shown spelling where only the hash is known; None: not accepted, or nobody."""
    group: str = ""
    expires_us: int | None = None
    device_ids: frozenset[str] = frozenset()
    """EVSEs where it is good; empty: all."""

    @property
    def accepted(self) -> bool:
        return self.status is TokenStatus.ACCEPTED


@dataclass(slots=True)
class SiteTokens:
    """The owner's tokens. Shared by all chargers; `replace` takes effect with the next token that is shown."""

    master_group: str = ""
    """Group whose tokens end any transaction and start none (C16); empty: none."""
    _by_key: dict[str, SiteToken] = field(default_factory=dict)
    _by_contract: dict[str, SiteToken] = field(default_factory=dict)

    def replace(self, tokens: Iterable[SiteToken]) -> None:
        """Forget the old, know these. Of two with one idToken the later counts."""
        known = list(tokens)
        self._by_key = {token.key: token for token in known}
        self._by_contract = {plain_contract(token.name): token for token in known if token.kind == EMAID and token.name}

    def all(self) -> Sequence[SiteToken]:
        return tuple(self._by_key.values())

    def find(self, shown: str, kind: str = "") -> SiteToken | None:
        """A contract is the same with and without its hyphens and check digit."""
        found = self._by_key.get(token_digest(shown))
        if found is None and kind == EMAID:
            found = self._by_contract.get(plain_contract(shown))
        return found


def token_digest(name: str) -> str:
    """What a token is compared and hashed by."""
    return hashlib.sha256(name.upper().encode()).hexdigest()


def masked(name: str) -> str:
    """A token for a log or a screen: enough to tell two apart, too little to copy one."""
    return f"...{name[-2:]}" if len(name) > 4 else "..."
