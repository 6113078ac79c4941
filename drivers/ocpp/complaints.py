"""What is told to people about one charger: each thing once in a while, however often a misbehaving charger does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from drivers.ocpp.pace import Pace
from drivers.ocpp.session import Notice

TROUBLE_AGAIN_S: Final = 300.0
"""Before the same trouble of a charger is told again: a statement each time would let it fill the store."""
NOTICES_PER_S, NOTICES_AT_ONCE = 0.1, 50.0
"""What a charger may have told to people (security events, faults); each becomes a statement."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Trouble:
    said_s: float
    since: int = 0
    """How often it came since it was told."""


class Complaints:
    """Of one charger. `on_event(code, subject, text)` must not block."""

    def __init__(
        self, charger_id: str, *, on_event: Callable[[str, str, str], None], monotonic_s: Callable[[], float]
    ) -> None:
        self._charger_id = charger_id
        self._on_event = on_event
        self._monotonic_s = monotonic_s
        self._troubles: dict[str, _Trouble] = {}
        self._pace = Pace(NOTICES_PER_S, NOTICES_AT_ONCE)

    def say(self, code: str, text: str, device_id: str = "") -> None:
        """Something that a person or auditor must know of; about an EVSE where its device is named."""
        subject = device_id or self._charger_id
        _log.warning("ocpp_notice", charger=self._charger_id, code=code, subject=subject, text=text)
        self._on_event(code, subject, text)

    def trouble(self, code: str, text: str) -> None:
        """Something that a misbehaving charger may do all the time: told at once, and then from time to time."""
        known, now_s = self._troubles.get(code), self._monotonic_s()
        if known is not None and now_s - known.said_s < TROUBLE_AGAIN_S:
            known.since += 1
            return
        more = f" ({known.since} more since the last word on it)" if known is not None and known.since else ""
        self._troubles[code] = _Trouble(now_s)
        self.say(code, text + more)

    def pass_on(self, notice: Notice) -> None:
        """What came of a message: told, as far as the charger has not too much to tell."""
        if self._pace.allows(1, self._monotonic_s()):
            self.say(notice.code, notice.text, notice.device_id)
        else:
            self.trouble("charger.flood", f"has so much to tell that some is left out; first {notice.code}")
