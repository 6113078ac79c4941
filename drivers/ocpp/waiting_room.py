"""Who knocked and was not let in: identities that no configuration names, and chargers that lost their password. Pure.

Anybody on the chargers' network can knock under any name, so what is kept is bounded: a new name pushes out the oldest
that nobody approved.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass, replace
from typing import Final

import orjson

from drivers.ocpp.schemas import JsonObject

MOST_RECORDS: Final = 64
DOOR_S: Final = 900.0
"""After an approval, a charger with a wrong password may come and be given a new one for so long."""
UNKNOWN: Final = "is not in the configuration"
LOCKED_OUT: Final = "came without the right password"
REVOKED: Final = "came with a revoked certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """One identity, as it came last."""

    charger_id: str
    why: str
    address: str
    first_us: int
    last_us: int
    times: int = 1
    says: str = ""
    """Vendor, model and serial number, where it was let in as far as to say so."""
    approved: bool = False


class WaitingRoom:
    """The record of who waits."""

    def __init__(self) -> None:
        self._knocks: OrderedDict[str, Knock] = OrderedDict()

    def all(self) -> list[Knock]:
        """Newest last."""
        return list(self._knocks.values())

    def find(self, charger_id: str) -> Knock | None:
        return self._knocks.get(charger_id)

    def knock(self, charger_id: str, why: str, address: str, now_us: int) -> bool:
        """Somebody came. Whether that is news that must survive a restart."""
        known = self._knocks.get(charger_id)
        if known is None:
            if len(self._knocks) >= MOST_RECORDS:
                out = next((name for name, knock in self._knocks.items() if not knock.approved), None)
                if out is None:
                    return False
                del self._knocks[out]
            known = Knock(charger_id=charger_id, why=why, address=address, first_us=now_us, last_us=now_us)
            self._knocks[charger_id] = known
            return True
        news = (known.why, known.address) != (why, address)
        self._knocks[charger_id] = replace(known, why=why, address=address, last_us=now_us, times=known.times + 1)
        self._knocks.move_to_end(charger_id)
        return news

    def says(self, charger_id: str, text: str) -> bool:
        """What it says it is. Whether that is news."""
        known = self._knocks.get(charger_id)
        if known is None or known.says == text:
            return False
        self._knocks[charger_id] = replace(known, says=text)
        return True

    def approve(self, charger_id: str, *, undo: bool = False) -> None:
        """The installer's word; `undo`: it came to nothing. Raises KeyError."""
        self._knocks[charger_id] = replace(self._knocks[charger_id], approved=not undo)

    def forget(self, charger_id: str) -> bool:
        """It is inside, or unwanted. Whether it was here."""
        return self._knocks.pop(charger_id, None) is not None

    def encode(self) -> bytes:
        """What must survive a restart."""
        return orjson.dumps([asdict(knock) for knock in self._knocks.values()])

    def restore(self, remembered: bytes) -> None:
        """Go on from what `encode` gave. Raises ValueError when it is damaged."""
        try:
            knocks = [Knock(**each) for each in orjson.loads(remembered)]
        except (ValueError, TypeError) as error:
            raise ValueError(f"the record of unknown chargers is damaged: {error}") from error
        self._knocks = OrderedDict((knock.charger_id, knock) for knock in knocks[-MOST_RECORDS:])

    def as_json(self) -> list[JsonObject]:
        """For a person."""
        return [
            {
                "charger": knock.charger_id,
                "why": knock.why,
                "address": knock.address,
                "says": knock.says,
                "times": knock.times,
                "last_us": knock.last_us,
                "approved": knock.approved,
            }
            for knock in self._knocks.values()
        ]
