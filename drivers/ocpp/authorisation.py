"""Judges the tokens that are shown at one charger, with nobody else to ask: the platform may be away for days. Pure.

Known are the tokens of the configuration (per EVSE), those of the site's token file, and those that remote starts were
ordered with. A charger may keep our answer in its cache (C10): it says for how long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from drivers.ocpp.messages import IdToken
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.timestamps import format_timestamp
from drivers.ocpp.tokens import CENTRAL, EMAID, LONGEST_TOKEN, NOBODY, SiteToken, SiteTokens, TokenStatus, Verdict

REMEMBERED_REMOTE_TOKENS: Final = 16
CACHE_US: Final = 86_400_000_000
"""For so long a charger may trust an answer in its cache without asking again."""


@dataclass(slots=True)
class LocalList:
    """What was put into one charger. `version` 0: nothing."""

    version: int = 0
    entries: dict[str, str] = field(default_factory=dict)
    """Type, tab and name in upper case of a token -> digest of its entry."""

    def encode(self) -> JsonObject:
        return {"version": self.version, "entries": dict(self.entries)}

    def restore(self, kept: Mapping[str, Json]) -> None:
        """Raises what damaged values raise (ValueError, TypeError, ...)."""
        self.version = int(cast(int, kept["version"]))
        # An earlier version kept no types: its entries are sent anew, since they could not be told from others.
        self.entries = {str(k): str(v) for k, v in cast(dict[str, Json], kept["entries"]).items() if "\t" in str(k)}


class Authority:
    """Says who may charge at the EVSEs of one charger."""

    def __init__(self, evses: Iterable[ChargerSettings], site: SiteTokens) -> None:
        self._evses: Mapping[str, ChargerSettings] = {evse.device_id: evse for evse in evses}
        self._site = site
        self._remote: deque[str] = deque(maxlen=REMEMBERED_REMOTE_TOKENS)
        self._local: dict[str, tuple[str, set[str]]] = {}
        for evse in self._evses.values():
            for name in evse.local_tokens:
                self._local.setdefault(name.upper(), (name, set()))[1].add(evse.device_id)

    @property
    def master_group(self) -> str:
        return self._site.master_group

    def expect(self, token_id: str) -> None:
        """A remote start was ordered with this token: the charger may come back with it."""
        self._remote.append(token_id)

    def judge(self, token: IdToken, at: Collection[str], now_us: int, *, starts: bool = False) -> Verdict:
        """Of a token shown at the EVSEs `at` (device ids). `starts`: a transaction begins with it."""
        shown = token["idToken"]
        if token["type"] == NOBODY:
            return Verdict(TokenStatus.ACCEPTED)  # there is no token to judge (C02)
        if not shown or len(shown) > LONGEST_TOKEN:
            return Verdict(TokenStatus.INVALID)
        for name in self._remote:
            if name.upper() == shown.upper():
                return Verdict(TokenStatus.ACCEPTED, name)
        known = self._site.find(shown, token["type"])
        name, devices = self._local.get(shown.upper(), (shown, set()))
        if known is None and not devices:
            return Verdict(TokenStatus.UNKNOWN)
        if known is not None:
            refusal = self._refusal(known, token["type"], now_us, starts=starts)
            if refusal is not None:
                return Verdict(refusal)
            name = known.name or name
            here = known.device_ids & set(self._evses) if known.device_ids else set(self._evses)
            devices = devices | here
        if not devices & set(at):
            return Verdict(TokenStatus.NOT_HERE)
        everywhere = devices >= set(self._evses)
        return Verdict(
            TokenStatus.ACCEPTED,
            name,
            group="" if known is None else known.group,
            expires_us=None if known is None else known.expires_us,
            device_ids=frozenset() if everywhere else frozenset(devices),
        )

    @property
    def knows_contracts(self) -> bool:
        """Whether any token of the site is a contract for plug and charge."""
        return any(known.kind == EMAID for known in self._site.all())

    def local_list(self, now_us: int) -> list[JsonObject]:
        """What a charger may accept while it does not hear us: AuthorizationData (D01), in a steady order."""
        kinds = {name.upper(): (name, "") for name, _ in self._local.values()}
        kinds |= {known.name.upper(): (known.name, known.kind) for known in self._site.all() if known.name}
        entries: list[JsonObject] = []
        for _, (name, kind) in sorted(kinds.items()):
            # Without a type a charger cannot compare; cards are what people hold against a reader.
            token: IdToken = {"idToken": name, "type": kind or "ISO14443"}
            verdict = self.judge(token, self._evses, now_us)
            master = bool(verdict.group) and verdict.group == self.master_group  # is known by its group (C16)
            if verdict.status not in (TokenStatus.UNKNOWN, TokenStatus.NOT_HERE) and not master:
                entries.append(
                    {"idToken": cast(JsonObject, token), "idTokenInfo": self.info(verdict, now_us, cached=False)}
                )
        return entries

    def info(self, verdict: Verdict, now_us: int, *, cached: bool = True) -> JsonObject:
        """IdTokenInfo."""
        told: JsonObject = {"status": verdict.status.value}
        if verdict.group:
            told["groupIdToken"] = {"idToken": verdict.group, "type": CENTRAL}
        if verdict.device_ids:
            told["evseId"] = cast(Json, sorted(self._evses[device].evse_id for device in verdict.device_ids))
        if cached and verdict.accepted and verdict.name is not None:
            until_us = now_us + CACHE_US
            if verdict.expires_us is not None:
                until_us = min(until_us, verdict.expires_us)
            told["cacheExpiryDateTime"] = format_timestamp(until_us)
        elif not cached and verdict.expires_us is not None:
            told["cacheExpiryDateTime"] = format_timestamp(verdict.expires_us)
        return told

    def _refusal(self, known: SiteToken, kind: str, now_us: int, *, starts: bool) -> TokenStatus | None:
        if known.kind and known.kind != kind:
            return TokenStatus.UNKNOWN
        if known.blocked:
            return TokenStatus.BLOCKED
        if known.expires_us is not None and known.expires_us <= now_us:
            return TokenStatus.EXPIRED
        if starts and known.group and known.group == self._site.master_group:
            return TokenStatus.INVALID  # a master pass ends transactions and starts none (C16)
        return None
