"""The live conversation with one charger for people to read: calls, answers and refusals, with secrets masked.

Nothing is made while nobody listens. A listener that is slow loses the oldest lines and is told how many; it never
holds up the conversation.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from drivers.ocpp.device_model import SECRET_VARIABLES
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.tokens import masked

MOST_LISTENERS: Final = 4
MOST_WAITING: Final = 500
LONGEST_TEXT: Final = 300
_MASK: Final = "***"
_TOKENS: Final = frozenset({"idtoken", "emaid", "customeridentifier"})
_SECRETS: Final = frozenset({"password", "basicauthpassword", "apnpassword", "simpin", "key", "user", "apnusername"})
_LONG: Final = frozenset(
    {"certificate", "certificatechain", "csr", "exirequest", "exiresponse", "signedmeterdata", "ocspresult"}
)
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]*@")


@dataclass(slots=True)
class Ear:
    """One who listens."""

    lines: deque[JsonObject] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    missed: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, line: JsonObject) -> None:
        if len(self.lines) == MOST_WAITING:
            self.missed += 1
        self.lines.append(line)
        self.arrived.set()

    def take(self) -> list[JsonObject]:
        """What has come, oldest first."""
        taken, missed = list(self.lines), self.missed
        self.lines.clear()
        self.missed = 0
        self.arrived.clear()
        return [{"kind": "missed", "count": missed}, *taken] if missed else taken


class Tap:
    """The tap of one charger."""

    def __init__(self, wall_us: Callable[[], int]) -> None:
        self._wall_us = wall_us
        self._ears: list[Ear] = []

    @property
    def listened(self) -> bool:
        """Whether anybody listens."""
        return bool(self._ears)

    @contextmanager
    def listen(self) -> Iterator[Ear]:
        """Raises ValueError when too many listen."""
        if len(self._ears) >= MOST_LISTENERS:
            raise ValueError(f"{MOST_LISTENERS} listen to this charger already")
        ear = Ear()
        self._ears.append(ear)
        try:
            yield ear
        finally:
            self._ears.remove(ear)

    def say(self, by: str, kind: str, action: str, content: JsonObject | str) -> None:
        """`by`: charger or gateway. `kind`: call, answer, error or note."""
        if not self._ears:
            return
        if action == "NotifyCustomerInformation" and not isinstance(content, str) and "data" in content:
            content = {**content, "data": _MASK}  # what is known about a person is for who asked for it
        try:
            shown: Json = _cut(content) if isinstance(content, str) else mask(content)
        except RecursionError:  # typed by somebody here: what chargers send is never so deep
            shown = "<nested too deep to be shown>"
        line: JsonObject = {
            "time_us": self._wall_us(), "by": by, "kind": kind, "action": _cut(action), "content": shown,
        }  # fmt: skip
        for ear in self._ears:
            ear.put(line)


def mask(content: Json) -> Json:
    """The same without secrets: tokens, passwords and whoever logs in where are not shown, long blobs only counted.
    The depth is that of a frame that was taken, which is bounded."""
    if isinstance(content, list):
        return [mask(each) for each in content]
    if isinstance(content, str):
        return _cut(_USERINFO.sub("***@", content))
    if not isinstance(content, dict):
        return content
    secret = _names_a_secret(content)
    shown: JsonObject = {}
    for key, value in content.items():
        name = key.casefold()
        if isinstance(value, str) and name in _TOKENS:
            shown[key] = masked(value)
        elif name in _SECRETS or (secret and name in ("attributevalue", "value", "actualvalue", "variableattribute")):
            shown[key] = _MASK
        elif isinstance(value, str) and name in _LONG:
            shown[key] = f"<{len(value)} characters>"
        else:
            shown[key] = mask(value)
    return shown


def _names_a_secret(content: JsonObject) -> bool:
    variable = content.get("variable")
    name = variable.get("name") if isinstance(variable, dict) else None
    # Beside the specification's own, whatever a maker calls so.
    lowered = str(name).casefold()
    return lowered in SECRET_VARIABLES or "password" in lowered or "secret" in lowered


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"
