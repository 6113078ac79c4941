"""What a charger falls to when nothing of ours holds any more, as its composite schedules show it (SAFETY 2)."""

from __future__ import annotations

from collections.abc import Callable

from drivers.device import DeadMan
from drivers.ocpp.profiles import Held, is_share
from drivers.ocpp.settings import ChargerSettings


class DeadManWatch:
    """Of one EVSE. `say` is told what a person must know, each thing once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.found: DeadMan | None = None
        """None: no contact yet."""
        self.note = ""
        """For a person; empty: it is as it should be."""

    def no_share(self, why: str) -> None:
        """It took no static share."""
        self.found = DeadMan.REVERTS_UNLIMITED
        self._tell(f"no static share: {why}")

    def judge(self, in_the_end_w: int, settings: ChargerSettings) -> None:
        """By what it says to hold in the end."""
        before = self.found
        if is_share(in_the_end_w, settings):
            self.found, self.note = DeadMan.REVERTS_TO_FALLBACK, ""
            return
        self.found = DeadMan.NONE
        if before is not DeadMan.NONE:
            share_w = settings.static_share_w
            self._tell(
                f"no dead man: its composite schedule goes on at {in_the_end_w} W, its static share is {share_w} W"
            )

    def _tell(self, text: str) -> None:
        if text != self.note:
            self.note = text
            self._say(text)


def in_the_end_w(held: Held) -> int:
    """What holds after the lease; where a schedule does not reach so far, what holds now."""
    return held.now_w if held.after_lease_w is None else held.after_lease_w
