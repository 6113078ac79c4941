"""Whether a charger may work here: accepted, waiting for the installer's word, or turned away. Pure.

OCPP 2.0.1 part 2, B01 to B03.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

PENDING_INTERVAL_S: Final = 60
"""A charger that waits asks again so often; an approval makes it ask at once."""
REJECTED_INTERVAL_S: Final = 900
_WHILE_PENDING: Final = frozenset(
    {"BootNotification", "NotifyReport", "Heartbeat", "SecurityEventNotification", "SignCertificate"}
)
"""What we asked for or set up before the approval (B02), and what does no harm."""


class Standing(StrEnum):
    """RegistrationStatusEnumType."""

    ACCEPTED = "Accepted"
    PENDING = "Pending"
    REJECTED = "Rejected"

    def interval_s(self, heartbeat_s: int) -> int:
        """`interval` of the answer to a BootNotification, s."""
        if self is Standing.ACCEPTED:
            return heartbeat_s
        return PENDING_INTERVAL_S if self is Standing.PENDING else REJECTED_INTERVAL_S

    def hears(self, action: str) -> bool:
        """Whether such a message is taken; the others get a SecurityError (B02.FR.09, B03)."""
        if self is Standing.ACCEPTED:
            return True
        return action in _WHILE_PENDING if self is Standing.PENDING else action == "BootNotification"
