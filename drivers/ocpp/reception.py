"""All chargers for people: who is here, who waits, what each is made of, and orders to any of them by name.

A name is an OCPP identity or a device id. Everything that comes in is what somebody typed; everything that goes out is
JSON without secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from drivers.device import DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp import orders
from drivers.ocpp.charger import OcppCharger
from drivers.ocpp.entrance import Entrance
from drivers.ocpp.errors import quoted
from drivers.ocpp.schemas import Json, JsonObject
from drivers.ocpp.standing import Standing
from drivers.ocpp.station_limit import MOST_W

MOST_LISTED: Final = 5000


class Reception:
    """The chargers of a site, for the local interface."""

    def __init__(self, chargers: Mapping[str, OcppCharger], entrance: Entrance) -> None:
        self._chargers = chargers
        self._entrance = entrance

    def list(self) -> JsonObject:
        """Everybody at one moment."""
        return {
            "chargers": cast(Json, [self._look(charger) for charger in self._chargers.values()]),
            "waiting": cast(Json, self._entrance.who_waits()),
        }

    def look(self, name: str) -> JsonObject:
        """One charger at this moment. Raises ValueError when there is none of that name."""
        return self._look(self.find(name)[0])

    def variables(self, name: str, text: str = "") -> Sequence[JsonObject]:
        """Its device model, as far as names contain the text. Raises ValueError."""
        found = self.find(name)[0].session.reports.model.variables(text)
        return [variable.as_json() for variable in found[:MOST_LISTED]]

    def find(self, name: str) -> tuple[OcppCharger, str | None]:
        """The charger of that identity, or that the device belongs to, and the device. Raises ValueError."""
        for charger in self._chargers.values():
            for evse in charger.evses.values():
                if evse.device_id == name:
                    return charger, name
        charger_or_guest = self._entrance.find(name)
        if charger_or_guest is None:
            raise ValueError(f"no charger and no device is called {quoted(name)}; see `v2g-gateway chargers list`")
        return charger_or_guest, None

    async def order(self, name: str, order: str, arguments: JsonObject) -> JsonObject:
        """Carry out an order. Raises ValueError for what was asked wrongly, and DeviceError."""
        if order == "approve":
            return await self._entrance.approve(name, orders.whole({"evses": 1, **arguments}, "evses"))
        if order in ("hold", "reject"):
            standing = Standing.PENDING if order == "hold" else Standing.REJECTED
            return await self._entrance.lock(name, standing)
        charger, device = self.find(name)
        if device is not None:
            arguments = {"device": device, **arguments}
        if charger.guest and order not in _FOR_GUESTS:
            raise DeviceRefusedError(f"{quoted(name)} waits for an approval: v2g-gateway chargers approve {name}")
        if order == "limit":
            return await self._limit(charger, arguments)
        if order == "station-limit":
            return await self._limit_station(charger, arguments)
        if order == "revoke":
            return await self._revoke(charger)
        return await charger.desk.order(order, arguments)

    async def _limit(self, charger: OcppCharger, arguments: JsonObject) -> JsonObject:
        """The owner's own bound on an EVSE: the plan never gives it more. Holds over restarts, until it is taken away;
        watts null takes it away."""
        watts = None if arguments.get("watts") is None else orders.whole(arguments, "watts")
        if watts is not None and watts < 0:
            raise ValueError("watts: 0 or more; the limit bounds charging and discharging alike")
        devices = [evse for evse in charger.evses.values() if arguments.get("device") in (None, evse.device_id)]
        if not devices:
            raise ValueError(f"device {arguments.get('device')!a} is not of this charger")
        problems: list[str] = []
        for evse in devices:
            evse.limit(watts)
        await charger.remember()
        for evse in devices:
            try:
                # The share for our silence is bounded by it, too.
                await evse.install_static_share()
            except (DeviceRefusedError, DeviceUnreachableError) as error:
                problems.append(str(error))
        told: JsonObject = {"ok": True, "status": "lifted" if watts is None else f"at most {watts} W"}
        return told | ({"note": "; ".join(problems)} if problems else {})

    async def _limit_station(self, charger: OcppCharger, arguments: JsonObject) -> JsonObject:
        """The owner's bound on a station with all its EVSEs (K04); watts "none" takes it away."""
        watts = None if arguments.get("watts") == "none" else orders.whole(arguments, "watts")
        if watts is not None and not 0 <= watts <= MOST_W:
            raise ValueError(f"watts: 0 to {MOST_W}, or none; the most that the whole station may take")
        charger.session.limit_w = watts
        await charger.remember()
        told: JsonObject = {"ok": True, "status": "lifted" if watts is None else f"at most {watts} W"}
        try:
            note = await charger.station_limit.hold()
        except (DeviceRefusedError, DeviceUnreachableError) as error:
            # It is kept, and put into the charger when it comes again.
            note, told["ok"] = str(error), False
        return told | ({"note": note} if note else {})

    async def _revoke(self, charger: OcppCharger) -> JsonObject:
        try:
            await charger.revoke_certificates()
        except Exception as error:  # whatever the gateway's store raises
            raise OSError(f"revoked for now, but not over a restart: {error}") from error
        lets_in = charger.settings.security_profile == 3
        told: JsonObject = {"ok": True, "status": "revoked"}
        if not lets_in:
            told["note"] = "its password lets it in as before (security_profile is not 3)"
        return told

    def _look(self, charger: OcppCharger) -> JsonObject:
        link, detail = charger.link()
        told = charger.desk.look()
        for each in cast(list[JsonObject], told["evses"]):
            status = charger.evses[cast(int, each["evse"])].status()
            each["limit_w"] = charger.evses[cast(int, each["evse"])].limited_to_w
            each["power_w"] = None if status.last_sample is None else status.last_sample.power_w
            each["reason"] = "" if status.setpoint is None else status.setpoint.reason
        certificate: JsonObject = {key: value for key, value in charger.session.certificate.items() if key != "only"}
        if "only" in charger.session.certificate:
            certificate["revoked"] = "all before the newest of the site's CA"
        origin = "it came by itself and waits for an approval" if charger.guest else charger.settings.origin
        told["limit_w"] = charger.session.limit_w
        return {**told, "link": link.value, "detail": detail, "known_from": origin, "certificate": certificate}


_FOR_GUESTS: Final = frozenset({"get", "report", "reset", "trigger"})
