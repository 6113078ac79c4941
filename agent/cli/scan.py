"""`v2g-gateway scan`: asks hosts and serial ports for SunSpec devices and writes what it finds as configuration.

Many lines at once, the units of one line one after the other: many devices take one connection at a time. Nothing is
written to a device. Bounded in time: what was not asked until then is named.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from drivers.device import DeviceKind
from drivers.sunspec.connection import BACKOFF_LEAST_S, ConnectionPool, Unit
from drivers.sunspec.discovery import BASES, DeviceDescription, describe
from drivers.sunspec.endpoint import Endpoint, parse_address
from drivers.sunspec.errors import BadAnswerError, NoAnswerError, SunSpecError
from drivers.sunspec.tls import TlsFiles
from drivers.sunspec.transport import Line

AT_ONCE: Final = 32
"""Lines that are asked side by side: a /24 of which nobody answers takes eight time-outs."""
SCAN_S: Final = 600.0
KNOCK_S: Final = 0.4
"""How long a serial device may take to answer while its settings are looked for; at 9600 baud it needs 20 ms."""
SERIAL_SETTINGS: Final = tuple(
    f"baudrate={baud}&parity={parity}&stopbits=1" for baud in (9600, 19200, 38400, 115200) for parity in "NE"
)
"""What makers ship, the likeliest first. MODBUS over Serial Line V1.02 wants 19200 and even parity, few do it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where was asked."""

    address: str
    unit: int


@dataclass(frozen=True, slots=True)
class Found:
    """What one place said."""

    place: Place
    description: DeviceDescription | None
    problem: str
    is_nobody: bool = False
    """There was not even a connection."""

    def cells(self) -> list[str]:
        """A row for a person."""
        if self.description is None:
            return [self.place.address, str(self.place.unit), self.problem, ""]
        d = self.description
        models = ", ".join(f"{m.number} {m.label}" for m in d.models)
        notes = "".join(f"; {note}" for note in d.notes)
        return [self.place.address, str(self.place.unit), f"{d.title}, serial {d.serial or '?'}{notes}", models]

    def as_json(self) -> dict[str, object]:
        """The same for a machine."""
        d = self.description
        return {
            "address": self.place.address,
            "unit": self.place.unit,
            "problem": self.problem or None,
            "manufacturer": d and d.manufacturer,
            "model": d and d.model,
            "version": d and d.version,
            "serial": d and d.serial,
            "kind": d and d.likely_kind,
            "models": d and [m.number for m in d.models],
            "notes": d and list(d.notes),
        }


class Scan:
    """One scan. `asking` is told what is asked, `done` each time that a line has been asked to the end."""

    def __init__(
        self,
        units: Sequence[int],
        timeout_s: float,
        *,
        every_unit: bool = True,
        most_s: float = SCAN_S,
        tls: TlsFiles | None = None,
        held: Mapping[str, str] | None = None,
        asking: Callable[[str], None] = lambda _: None,
        done: Callable[[], None] = lambda: None,
        line: Callable[[Endpoint], Line] | None = None,
    ) -> None:
        """`every_unit`: say of each unit why it is not there, also beside others that are. `held`: addresses that are
        not to be asked, and why. `line` makes the lines, in place of real ones.
        """
        self._units = units
        self._timeout_s = timeout_s
        self._every_unit = every_unit
        self._most_s = most_s
        self._tls = tls
        self._held = held or {}
        self._asking = asking
        self._done = done
        self._line = line

    async def run(self, addresses: Sequence[str]) -> list[Found]:
        """What every line said, in the order of the addresses. SunSpecErrors are not raised but told."""
        found: dict[str, list[Found]] = {}
        turns = asyncio.Semaphore(AT_ONCE)

        async def ask(address: str) -> None:
            async with turns:
                found[address] = await self._ask_line(address)
                self._done()

        try:
            async with asyncio.timeout(self._most_s), asyncio.TaskGroup() as group:
                for address in addresses:
                    group.create_task(ask(address))
        except TimeoutError:
            late = f"not asked to the end: the {self._most_s:g} s of this scan were up"
            for address in addresses:
                found.setdefault(address, [Found(Place(address, self._units[0]), None, late)])
        return [one for address in addresses for one in found[address]]

    async def _ask_line(self, address: str) -> list[Found]:
        if address in self._held:
            return [Found(Place(address, self._units[0]), None, self._held[address])]
        if address.startswith("rtu://") and "?" not in address:
            try:
                address = await self._with_settings(address)
            except SunSpecError as error:
                return [Found(Place(address, self._units[0]), None, str(error))]
        found = await self._ask_units(address)
        if not self._every_unit and any(one.description for one in found):
            return [one for one in found if one.description]
        return found if self._every_unit else found[:1]

    async def _ask_units(self, address: str) -> list[Found]:
        found: list[Found] = []
        pool = self._pool(address)
        try:
            for number in self._units:
                place = Place(address, number)
                self._asking(f"{address} unit {number}")
                connection = pool.connection(address)
                try:
                    description = await describe(Unit(connection, number, self._timeout_s))
                except SunSpecError as error:
                    nobody = connection.generation == 0
                    found.append(Found(place, None, str(error), nobody))
                    if nobody or (isinstance(error, BadAnswerError) and not any(one.description for one in found)):
                        break  # no unit id changes that nobody is there, or a web server
                    if not connection.is_open:
                        # It hung up, or was silent: the next unit begins on a connection of its own.
                        pool.close()
                        await asyncio.sleep(BACKOFF_LEAST_S)
                        pool = self._pool(address)
                    continue
                same = next((at for at, one in enumerate(found) if _is_same(one.description, description)), None)
                if same is None:
                    found.append(Found(place, description, ""))
                else:
                    found[same] = _answers_too(found[same], number)
        finally:
            pool.close()
        return found

    async def _with_settings(self, address: str) -> str:
        """The address of a serial port with the settings under which somebody answers. Raises SunSpecErrors."""
        for settings in SERIAL_SETTINGS:
            trial = f"{address}?{settings}"
            for number in self._units:
                self._asking(f"{trial} unit {number}")
                if await self._somebody_answers(trial, number):
                    return trial
        raise NoAnswerError(
            f"{address}: nobody answers with {', '.join(settings.replace('&', ' ') for settings in SERIAL_SETTINGS)} "
            f"as unit {', '.join(map(str, self._units))}; are A and B swapped, is the unit id another (--units)?"
        )

    async def _somebody_answers(self, address: str, number: int) -> bool:
        pool = self._pool(address)
        connection = pool.connection(address)
        try:
            await connection.read(number, BASES[0], 2, min(self._timeout_s, KNOCK_S))
        except NoAnswerError:
            if connection.generation == 0:
                raise  # the port itself cannot be opened
            return False
        except BadAnswerError:
            return False
        except SunSpecError:
            return True  # it says no, and so it is there
        finally:
            pool.close()
        return True

    def _pool(self, address: str) -> ConnectionPool:
        tls = {} if self._tls is None else {parse_address(address): self._tls}
        return ConnectionPool(time.monotonic, line=self._line, tls=tls)


def _is_same(old: DeviceDescription | None, new: DeviceDescription) -> bool:
    """One device that answers under several ids, as those do that ignore the id."""
    return old is not None and bool(old.serial) and (old.meter_id, old.models) == (new.meter_id, new.models)


def _answers_too(found: Found, number: int) -> Found:
    assert found.description is not None
    note = f"answers as unit {number} too"
    return replace(found, description=replace(found.description, notes=(*found.description.notes, note)))


def configuration(found: Sequence[Found], ca_file: str | None = None) -> str:
    """[[device]] sections for what was found; the first meter is taken for the one at the grid connection."""
    metered = any(line.description and line.description.likely_kind is DeviceKind.METER for line in found)
    counts: dict[str, int] = {}
    parts = []
    for line in found:
        if line.description is None or line.description.likely_kind is None:
            continue
        kind = line.description.likely_kind
        counts[kind] = counts.get(kind, 0) + 1
        name = "grid" if kind is DeviceKind.METER and counts[kind] == 1 else f"{kind}-{counts[kind]}"
        is_tls = line.place.address.startswith("tls://")
        parts.append(
            f'# {line.description.title}, serial {line.description.serial or "not given"}\n[[device]]\nid = "{name}"\n'
            f'kind = "{kind}"\ndriver = "sunspec"\naddress = "{line.place.address}"\nunit = {line.place.unit}\n'
            + (f'ca_file = "{ca_file}"\n' if is_tls and ca_file else "")
            + ('parent = "grid"\n' if metered and name != "grid" else "")
        )
    return "\n".join(parts)
