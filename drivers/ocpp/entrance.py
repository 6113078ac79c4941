"""Who gets in, and how far: the configured chargers that prove who they are, and guests that wait for an approval.

A guest is served by a charger object without devices: it is told Pending, may say what it is made of, and can be given
a password; nothing of it is measured or remembered beyond its record in the waiting room.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import structlog
from websockets.asyncio.server import ServerConnection

from drivers.device import DeviceError, Journal
from drivers.ocpp.charger import OcppCharger
from drivers.ocpp.credentials import Claim, certificate_names, proves, serial_of
from drivers.ocpp.errors import quoted
from drivers.ocpp.schemas import JsonObject
from drivers.ocpp.standing import Standing
from drivers.ocpp.waiting_room import DOOR_S, LOCKED_OUT, REVOKED, UNKNOWN, WaitingRoom

Adopt: TypeAlias = Callable[[str, str, int], Awaitable[None]]
"""Makes an approved charger one of the site, now and over restarts: its identity, where its password is kept, and how
many EVSEs it has. Raises ValueError, and what the gateway's store raises."""
MOST_GUESTS: Final = 8
MOST_EVSES: Final = 16
REMEMBER_EVERY_S: Final = 10.0
_KEY: Final = "waiting-room"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Admission:
    """How somebody is let in."""

    charger: OcppCharger
    guest: bool = False
    unproven: bool = False
    """A configured charger with the wrong password, to be given a new one because the installer said so."""


class NoJournal:
    """What is said of a guest is not kept."""

    async def remember(self, key: str, value: bytes) -> None: ...

    async def recall(self, key: str) -> bytes | None:
        return None


class Entrance:
    """The chargers by identity, and who waits outside."""

    def __init__(
        self,
        chargers: Mapping[str, OcppCharger],
        *,
        make_guest: Callable[[str], OcppCharger] | None,
        adopt: Adopt | None = None,
        journal: Journal,
        monotonic_s: Callable[[], float],
        wall_us: Callable[[], int],
    ) -> None:
        self._chargers = chargers
        self._make_guest = make_guest
        self._adopt = adopt
        self._journal = journal
        self._monotonic_s = monotonic_s
        self._wall_us = wall_us
        self._guests: dict[str, OcppCharger] = {}
        self._doors: dict[str, float] = {}  # charger id -> until, monotonic
        self._evses_of: dict[str, int] = {}  # of those, the ones that are not configured
        self._remembered_s = float("-inf")
        self.waiting = WaitingRoom()

    async def recall(self) -> None:
        """Go on from what was remembered before a restart."""
        kept = await self._journal.recall(_KEY)
        if kept is not None:
            try:
                self.waiting.restore(kept)
            except ValueError as error:
                _log.warning("ocpp_waiting_room_lost", problem=str(error))

    def find(self, charger_id: str) -> OcppCharger | None:
        """A configured charger, or a guest that is here."""
        return self._chargers.get(charger_id) or self._guests.get(charger_id)

    def certified(self, socket: ServerConnection, charger_id: str) -> str | None:
        """The serial number of the TLS client certificate, where it names this charger; None: it does not."""
        tls = socket.transport.get_extra_info("ssl_object")
        der = None if tls is None else tls.getpeercert(binary_form=True)
        return serial_of(der) if der is not None and certificate_names(der, charger_id) else None

    async def admit(self, socket: ServerConnection, claim: Claim) -> Admission | None:
        """How the claim is let in; None: it is not."""
        charger = self._chargers.get(claim.charger_id)
        address = str(socket.remote_address[0]) if socket.remote_address else "?"
        if charger is None:
            proves(claim, ())  # takes as long as a comparison
            return await self._guest(claim, address)
        why = LOCKED_OUT
        if charger.settings.security_profile == 3:
            serial = self.certified(socket, claim.charger_id)
            proven = serial is not None and charger.session.admits(serial)
            why = LOCKED_OUT if serial is None else REVOKED
        else:
            proven = charger.passwords.open or proves(claim, charger.passwords.good())
            if proven and await self._retires_old(charger, claim):
                text = "came with its new password; the old is good no more"
                charger.notice(claim.charger_id, "charger.password", text)
        if proven:
            self._doors.pop(claim.charger_id, None)
            if self.waiting.forget(claim.charger_id):
                await self._remember(now=True)
            return Admission(charger)
        if charger.settings.security_profile != 3 and self._doors.get(claim.charger_id, 0.0) > self._monotonic_s():
            return Admission(charger, unproven=True)
        if self.waiting.knock(claim.charger_id, why, address, self._wall_us()):
            await self._remember()
        return None

    async def approve(self, charger_id: str, evses: int = 1) -> JsonObject:
        """The installer's word on a charger; how many EVSEs an unknown one has. What happens now. Raises ValueError
        for one that nobody has seen, and DeviceError when a charger that is here does not take its password."""
        charger, knock = self._chargers.get(charger_id), self.waiting.find(charger_id)
        if charger is not None and charger.session.standing is not Standing.ACCEPTED:
            await charger.set_standing(Standing.ACCEPTED)
            return {"ok": True, "status": "accepted", "next": "the charger is asked to announce itself again"}
        if charger is not None and "only" in charger.session.certificate:
            charger.session.revoke_certificates(undo=True)
            await charger.remember()
            return {"ok": True, "status": "accepted", "next": "its certificates count again"}
        if charger is not None and knock is not None:
            self._doors[charger_id] = self._monotonic_s() + DOOR_S
            text = f"when it comes within {DOOR_S / 60:.0f} minutes, it is given a new password"
            return {"ok": True, "status": "door open", "next": text}
        if charger is not None:
            return {"ok": True, "status": "accepted", "next": "nothing; it was not waiting"}
        if knock is None:
            raise ValueError(f"no charger called {quoted(charger_id)} is configured or has come; see `chargers list`")
        if not 1 <= evses <= MOST_EVSES:
            raise ValueError(f"evses: 1 to {MOST_EVSES}")
        self.waiting.approve(charger_id)
        await self._remember(now=True)
        guest = self._guests.get(charger_id)
        if self._adopt is not None:
            return await self._approve_for_site(charger_id, guest, evses)
        told: JsonObject = {"ok": True, "status": "approved", "next": "add it to the configuration and restart"}
        if guest is not None and guest.taken:
            try:
                told = await guest.desk.change_password() | told
            except (DeviceError, ValueError) as error:
                return await self._not_let_in(charger_id, error)
        return told

    async def _not_let_in(self, charger_id: str, error: Exception) -> JsonObject:
        """It is here and did not take its password: it waits as before, and is not called approved."""
        self.waiting.approve(charger_id, undo=True)
        await self._remember(now=True)
        text = (
            f"it goes on waiting; approve it again, or give it the password of a [[device]] with {charger_id!a} by hand"
        )
        return {"ok": False, "status": "not let in", "problem": str(error), "next": text}

    async def _approve_for_site(self, charger_id: str, guest: OcppCharger | None, evses: int) -> JsonObject:
        if guest is None or not guest.taken:
            self._doors[charger_id] = self._monotonic_s() + DOOR_S
            self._evses_of[charger_id] = evses
            text = f"when it comes within {DOOR_S / 60:.0f} minutes, it is given a password and works"
            return {"ok": True, "status": "door open", "next": text}
        try:
            told = await self._take_in(guest, evses)
        except (DeviceError, ValueError) as error:
            return await self._not_let_in(guest.charger_id, error)
        return {**told, "status": "approved", "next": "it comes back with its new password, and works"}

    async def _take_in(self, guest: OcppCharger, evses: int) -> JsonObject:
        """Give a guest its password and make it a charger of the site. Raises DeviceError, ValueError, and what the
        gateway's store raises; it is a guest as before then, and the same password waits for it."""
        assert self._adopt is not None
        told = await guest.desk.change_password()
        await self._adopt(guest.charger_id, str(told["password_secret"]), evses)
        self._doors.pop(guest.charger_id, None)
        self._evses_of.pop(guest.charger_id, None)
        guest.hang_up()
        return told

    async def _greet(self, guest: OcppCharger) -> None:
        """A guest has announced itself: one that was approved while it was away is taken in."""
        until_s, evses = self._doors.get(guest.charger_id, 0.0), self._evses_of.get(guest.charger_id, 1)
        if self._adopt is None or until_s <= self._monotonic_s():
            return
        try:
            await self._take_in(guest, evses)
        except Exception as error:  # whatever the gateway's store raises: it goes on waiting
            _log.error("ocpp_not_adopted", charger=guest.charger_id, problem=str(error))

    async def lock(self, charger_id: str, standing: Standing) -> JsonObject:
        """Have a configured charger wait or be turned away, or forget one that knocked. Raises ValueError."""
        charger = self._chargers.get(charger_id)
        if charger is not None:
            await charger.set_standing(standing)
            return {"ok": True, "status": standing.value}
        if not self.waiting.forget(charger_id):
            raise ValueError(f"no charger called {quoted(charger_id)} is configured or has come; see `chargers list`")
        await self._remember(now=True)
        return {"ok": True, "status": "forgotten"}

    async def left(self, admission: Admission) -> None:
        """A socket ended."""
        charger = admission.charger
        if admission.guest:
            self._guests.pop(charger.charger_id, None)
            if self.waiting.says(charger.charger_id, charger.session.identity):
                await self._remember()

    def who_waits(self) -> list[JsonObject]:
        """For a person."""
        for charger_id, guest in self._guests.items():
            self.waiting.says(charger_id, guest.session.identity)
        return [{**each, "here": each["charger"] in self._guests} for each in self.waiting.as_json()]

    async def _retires_old(self, charger: OcppCharger, claim: Claim) -> bool:
        try:
            return await charger.passwords.came_with(claim.password)
        except Exception as error:  # a full disk must not lock a charger out that proved who it is
            _log.error("ocpp_password_not_kept", charger=claim.charger_id, problem=type(error).__name__)
            return False

    async def _guest(self, claim: Claim, address: str) -> Admission | None:
        if not claim.charger_id:
            return None
        if self.waiting.knock(claim.charger_id, UNKNOWN, address, self._wall_us()):
            await self._remember()
        if self._make_guest is None or self.waiting.find(claim.charger_id) is None:
            return None
        guest = self._guests.get(claim.charger_id)
        if guest is None:
            self._guests = {name: other for name, other in self._guests.items() if other.taken}
            if len(self._guests) >= MOST_GUESTS:
                return None
            guest = self._guests[claim.charger_id] = self._make_guest(claim.charger_id)
            guest.greet = functools.partial(self._greet, guest)
        return Admission(guest, guest=True)

    async def _remember(self, *, now: bool = False) -> None:
        """Strangers decide how often there is news: it is kept from time to time, what a person said at once."""
        if not now and self._monotonic_s() - self._remembered_s < REMEMBER_EVERY_S:
            return
        self._remembered_s = self._monotonic_s()
        try:
            await self._journal.remember(_KEY, self.waiting.encode())
        except Exception as error:  # whatever the gateway's store raises: who waits goes on waiting
            _log.error("ocpp_waiting_room_not_kept", problem=str(error))
