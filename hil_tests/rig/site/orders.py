"""Orders to a running site, as JSON lines: faults, weather, cars. `{"do": "drop", "device": "pv-1", "seconds": 5}`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .modbus import ModbusTcpServer
    from .serial_line import RtuUnit
    from .session import ChargerSession
    from .site import Site

FOR_GOOD_S: Final = 10.0**9


class OrderError(Exception):
    """An order that cannot be carried out: says which field, and what would be right."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order. `fields` is the whole JSON object."""

    name: str
    fields: Mapping[str, object]

    @classmethod
    def parse(cls, line: str) -> Order:
        """Raises OrderError."""
        try:
            fields = json.loads(line)
        except ValueError:
            raise OrderError(f"not JSON: {line[:80]!r}") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("do"), str):
            raise OrderError('an order is an object with "do"')
        if fields["do"] not in ORDERS:
            raise OrderError(f"unknown order {fields['do'][:40]!r}; known: {', '.join(sorted(ORDERS))}")
        return cls(fields["do"], fields)

    def carry_out(self, site: Site) -> None:
        ORDERS[self.name](self, site)

    def number(self, key: str, lowest: float, highest: float, default: float | None = None) -> float:
        value = self.fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            raise OrderError(f'{self.name} needs "{key}", {lowest:g} to {highest:g}; found {value!r}')
        return float(value)

    def switch(self, key: str, default: bool) -> bool:
        value = self.fields.get(key, default)
        if not isinstance(value, bool):
            raise OrderError(f'{self.name}: "{key}" is true or false; found {value!r}')
        return value

    def device(self, known: Mapping[str, object]) -> str:
        name = self.fields.get("device")
        if not isinstance(name, str) or name not in known:
            raise OrderError(f'{self.name} needs "device", one of {", ".join(sorted(known))}; found {name!r}')
        return name


def _link(order: Order, site: Site) -> ModbusTcpServer | RtuUnit | ChargerSession:
    links: dict[str, ModbusTcpServer | RtuUnit | ChargerSession] = {
        **site.servers,
        **site.line_units,
        **site.sessions,
    }
    return links[order.device(links)]


def _drop(order: Order, site: Site) -> None:
    _link(order, site).drop(order.number("seconds", 0, FOR_GOOD_S, FOR_GOOD_S))


def _silence(order: Order, site: Site) -> None:
    _link(order, site).silent.begin(order.number("seconds", 0, FOR_GOOD_S, FOR_GOOD_S))


def _restore(order: Order, site: Site) -> None:
    link = _link(order, site)
    link.silent.end()
    link.dropped.end()


def _pull(order: Order, site: Site) -> None:
    """The serial adapter is pulled out (true) or put in again (false)."""
    if site.pty is None:
        raise OrderError("pull is for a site with --line rtu")
    if order.switch("out", True):
        site.pty.unplug()
    elif not site.pty.plugged:
        site.pty.plug()


def _frequency(order: Order, site: Site) -> None:
    site.world.grid.frequency_target_hz = order.number("hertz", 40, 70)


def _island(order: Order, site: Site) -> None:
    site.world.grid.islanded = order.switch("on", True)


def _cloud(order: Order, site: Site) -> None:
    site.world.cloud_factor = order.number("factor", 0, 2)


def _house(order: Order, site: Site) -> None:
    fixed = order.fields.get("power_w") is not None
    site.world.house.fixed_w = order.number("power_w", 0, 10_000_000) if fixed else None


def _soc(order: Order, site: Site) -> None:
    storages = {name: evse.car.storage for name, evse in site.evses.items() if evse.car is not None}
    storages["battery-1"] = site.world.battery.storage
    storages[order.device(storages)].set_state_of_charge(order.number("percent", 0, 100))


def _unplug(order: Order, site: Site) -> None:
    name = order.device(site.sessions)
    try:
        site.away[name] = site.sessions[name].charger.unplug()
    except ValueError as error:
        raise OrderError(str(error)) from None


def _plug(order: Order, site: Site) -> None:
    name = order.device(site.sessions)
    car = site.away.get(name)
    if car is None:
        raise OrderError(f"no car is away from {name}; unplug it first")
    site.sessions[name].charger.plug(car)
    del site.away[name]


def _present(order: Order, site: Site) -> None:
    site.sessions[order.device(site.sessions)].charger.present_token()


def _reboot(order: Order, site: Site) -> None:
    site.sessions[order.device(site.sessions)].charger.reset(immediate=True)


def _spoil_signatures(order: Order, site: Site) -> None:
    meters = {name: evse.signing_meter for name, evse in site.evses.items() if evse.signing_meter is not None}
    meters[order.device(meters)].spoiled = order.switch("on", True)


def _forget(order: Order, site: Site) -> None:
    site.sessions[order.device(site.sessions)].charger.profiles.forget_all()


def _deaf(order: Order, site: Site) -> None:
    site.sessions[order.device(site.sessions)].charger.deaf = order.switch("on", True)


def _hurry(order: Order, site: Site) -> None:
    site.sessions[order.device(site.sessions)].charger.words.press_priority(activated=order.switch("on", True))


def _limit(order: Order, site: Site) -> None:
    limit_w = None if order.fields.get("power_w", 0) is None else order.number("power_w", 0, 1e6)
    site.sessions[order.device(site.sessions)].charger.words.limit_from_outside(limit_w)


ORDERS: Final[Mapping[str, Callable[[Order, Site], None]]] = {
    "drop": _drop,
    "silence": _silence,
    "restore": _restore,
    "pull": _pull,
    "frequency": _frequency,
    "island": _island,
    "cloud": _cloud,
    "house": _house,
    "soc": _soc,
    "unplug": _unplug,
    "plug": _plug,
    "present": _present,
    "reboot": _reboot,
    "forget": _forget,
    "deaf": _deaf,
    "hurry": _hurry,
    "limit": _limit,
    "spoil_signatures": _spoil_signatures,
}
HELP: Final = """\
orders, one JSON object a line on standard input; each is answered with a line on standard output:
  {"do":"drop","device":D,"seconds":S}      close its connections and refuse new ones for S s
  {"do":"silence","device":D,"seconds":S}   keep connections, answer nothing for S s
  {"do":"restore","device":D}               end both at once (without "seconds" they last)
  {"do":"pull","out":true}                  the serial adapter is pulled out (true) or put in again (--line rtu)
  {"do":"frequency","hertz":49.7}           grid frequency
  {"do":"island","on":true}                 public grid lost (true) or back (false)
  {"do":"cloud","factor":0.3}               sunshine, as a part of the usual
  {"do":"house","power_w":2000}             hold the house's load; null lets it wander
  {"do":"soc","device":D,"percent":50}      state of charge of battery-1 or the car at a charger
  {"do":"unplug","device":D}                the car leaves its charger; {"do":"plug",...} brings it back
  {"do":"present","device":D}               the driver presents the card again (after a remote stop)
  {"do":"reboot","device":D}                the charger reboots; {"do":"forget",...} loses its profiles
  {"do":"deaf","device":D,"on":B}           the charger takes every profile and obeys none
  {"do":"hurry","device":D,"on":B}          the driver wants to charge now (a charger that speaks OCPP 2.1)
  {"do":"limit","device":D,"power_w":W}     somebody beside the gateway limits the charger; null: no longer
  {"do":"spoil_signatures","device":D,"on":B}  a digit of what its meter signs is changed on the way
  {"do":"truth"}                            answered with a line of the truth file
  {"do":"quit"}                             end, as SIGTERM does
devices D: meter-1, pv-1, battery-1, charger-1 (bidirectional), charger-2
"""
