"""MapDevice: a meter or inverter that a register map describes, as a `drivers.device.Device`. Read, never written.

Another device under the same address is noticed by its serial number, asked again on each new connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from drivers.device import (
    Capabilities,
    DeviceKind,
    DeviceRefusedError,
    DeviceStatus,
    LinkState,
    Sample,
    Setpoint,
)
from drivers.modbus.register_map import Quantity, RegisterMap
from drivers.modbus.requests import (
    PLAUSIBLE_MILLIHERTZ,
    Request,
    decode,
    measurement,
    plan,
    state_of_charge_permille,
    values_of,
)
from drivers.sunspec.connection import ConnectionPool, Unit
from drivers.sunspec.counters import Counters, settle
from drivers.sunspec.device import on_site_phases
from drivers.sunspec.errors import (
    BadAnswerError,
    ModbusExceptionError,
    NoAnswerError,
    ReconnectedError,
    SunSpecError,
)
from drivers.sunspec.ratings import LARGEST_WH, Bounds, ControlSurface, capabilities, ratings
from drivers.sunspec.relearning import Relearning
from drivers.sunspec.ticks import Ticks

READ_ONLY: Final = "cannot be controlled: it is read by a register map, and nothing is written to it"
NOT_THERE: Final = frozenset({1, 2, 3})
"""Exceptions that say of registers that there are none: function, address or count is not the device's."""
NO_SERIAL: Final = "tells no serial number: another of its kind in its place would not be noticed"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class MapLook:
    """What one poll gave: values in our units, and the moment of the first answer."""

    values: dict[Quantity, int]
    monotonic_s: float
    refused: frozenset[Quantity]


class MapReader:
    """Reads the points of a map from one unit, around registers that the device refuses."""

    def __init__(self, register_map: RegisterMap) -> None:
        self.register_map = register_map
        self._wanted = tuple(name for name in register_map.points if name is not Quantity.SERIAL)
        self._requests = plan(register_map, self._wanted)
        self._refused: frozenset[Quantity] = frozenset()
        self._relearning = Relearning()

    async def read(self, unit: Unit, now_s: float) -> MapLook:
        """Every point that the device tells. Raises SunSpecErrors, BadAnswerError when it refuses all of them."""
        again, refused = self._relearning.is_due(now_s), False
        if again:
            self._requests, self._refused = plan(self.register_map, self._wanted), frozenset()
        values: dict[Quantity, int] = {}
        moment: float | None = None
        kept: list[Request] = []
        waiting = list(self._requests)
        while waiting:
            request = waiting.pop(0)
            try:
                words = await unit.read(request.address, request.count, request.function)
            except ModbusExceptionError as error:
                if error.is_transient:
                    raise
                refused = True
                if len(request.points) > 1:
                    waiting[:0] = plan(self.register_map, request.points, alone=True)
                else:
                    self._refused |= {*request.points}
                continue
            kept.append(request)
            values |= values_of(self.register_map, request, words.words)
            moment = words.monotonic_s if moment is None else moment
        self._requests = tuple(kept)
        self._relearning.asked(now_s, again=again, refused=refused)
        if moment is None:
            raise BadAnswerError(
                f"{unit}: refuses every register of the map {self.register_map.title}; is it the right map?"
            )
        return MapLook(values, moment, self._refused)

    async def serial(self, unit: Unit) -> str:
        """As the device tells it; "" where the map has none, or the device has no such registers.

        Raises SunSpecErrors, also for a refusal of any other kind: that says nothing about who it is.
        """
        if Quantity.SERIAL not in self.register_map.points:
            return ""
        request = plan(self.register_map, [Quantity.SERIAL])[0]
        try:
            words = await unit.read(request.address, request.count, request.function)
        except ModbusExceptionError as error:
            if error.code not in NOT_THERE:
                raise
            return ""
        serial = decode(self.register_map, Quantity.SERIAL, words.words)
        return "" if serial is None else str(serial)


class MapDevice:
    """Fulfils `drivers.device.Device`. Several of them share an endpoint through the ConnectionPool."""

    def __init__(
        self,
        device_id: str,
        kind: DeviceKind,
        address: str,
        unit: int,
        register_map: RegisterMap,
        *,
        period_s: float,
        timeout_s: float,
        connections: ConnectionPool,
        monotonic_s: Callable[[], float],
        rated_import_w: int | None = None,
        rated_export_w: int | None = None,
        capacity_wh: int | None = None,
        phases: tuple[int, ...] = (1, 2, 3),
    ) -> None:
        """Parameters as SunSpecDevice. Raises AddressError, and ValueError for a kind that the map is not of."""
        if kind not in register_map.kinds:
            raise ValueError(
                f"{device_id}: the map {register_map.title} is of {' or '.join(register_map.kinds)}, not of a {kind}"
            )
        self._device_id = device_id
        self._kind = kind
        self._unit = Unit(connections.connection(address), unit, timeout_s)
        self._own = self._unit.twin()
        """Bound to the connection on which the device last said who it is."""
        self._reader = MapReader(register_map)
        self._map = register_map
        self._period_s = period_s
        self._monotonic_s = monotonic_s
        self._bounds = Bounds(rated_import_w=rated_import_w, rated_export_w=rated_export_w, capacity_wh=capacity_wh)
        self._ratings = ratings({})
        self._phases = phases
        self._serial: str | None = None
        self._counters = Counters()
        self._link = LinkState.STARTING
        self._detail = f"connecting to {self._unit}"
        self._capabilities: Capabilities | None = None
        self._last_sample: Sample | None = None

    @property
    def device_id(self) -> str:
        return self._device_id

    @property
    def kind(self) -> DeviceKind:
        return self._kind

    def status(self) -> DeviceStatus:
        """See `drivers.device.Device`."""
        return DeviceStatus(
            device_id=self._device_id,
            kind=self._kind,
            link=self._link,
            detail=self._detail,
            capabilities=self._capabilities,
            last_sample=self._last_sample,
        )

    async def run(self, emit: Callable[[Sample], None]) -> None:
        """Poll and report until cancelled. See `drivers.device.Device`."""
        ticks = Ticks(self._period_s, self._monotonic_s)
        while True:
            try:
                sample = await self.look()
            except SunSpecError as error:
                self._lost(error)
                ticks.failed()
            else:
                emit(sample)
                ticks.answered()
            await ticks.next()

    async def look(self) -> Sample:
        """One look at the device. Raises SunSpecErrors."""
        await self._identify()
        try:
            look = await self._reader.read(self._own, self._monotonic_s())
        except ReconnectedError:
            await self._identify()
            look = await self._reader.read(self._own, self._monotonic_s())
        frequency = look.values.get(Quantity.FREQUENCY)
        if frequency and frequency not in PLAUSIBLE_MILLIHERTZ:
            # 0 is a dead line; anything else says that these registers are not what the map takes them for.
            raise BadAnswerError(
                f"{self._unit}: a frequency of {frequency / 1000:g} Hz makes no sense; "
                f"is it a {self._map.title}, is the unit id right?"
            )
        told = measurement(self._map, look.values)
        if told.is_nonsense:
            raise BadAnswerError(
                f"{self._unit}: tells {', '.join(told.nonsense)}: that makes no sense; "
                f"is it a {self._map.title}, is the unit id right?"
            )
        self._counters, measured = settle(self._counters, told, look.monotonic_s)
        sample = Sample(
            device_id=self._device_id,
            monotonic_s=look.monotonic_s,
            power_w=measured.power_w,
            import_register_milliwatt_hours=measured.import_register_milliwatt_hours,
            export_register_milliwatt_hours=measured.export_register_milliwatt_hours,
            meter_id=self.meter_id,
            phase_power_w=on_site_phases(measured, self._phases, self._map.single_phase),
            voltage_millivolts=measured.voltage_millivolts,
            frequency_millihertz=measured.frequency_millihertz,
            state_of_charge_permille=state_of_charge_permille(look.values),
        )
        capacity_wh = look.values.get(Quantity.CAPACITY)
        if capacity_wh is not None and 0 < capacity_wh <= LARGEST_WH:
            self._ratings = replace(self._ratings, energy_wh=capacity_wh)
        self._seen(sample, look.refused, told.nonsense)
        return sample

    async def apply(self, setpoint: Setpoint) -> None:
        """Refused always. See `drivers.device.Device`."""
        raise DeviceRefusedError(f"{self._device_id} {READ_ONLY}")

    async def release(self) -> None:
        """Nothing was taken from it. See `drivers.device.Device`."""

    @property
    def meter_id(self) -> str:
        """Names the physical device; where it tells no serial number, the place where it is."""
        title = self._map.title.replace("/", "_")
        return f"{title}/{self._serial.replace('/', '_')}" if self._serial else f"{title}/-/{self._unit}"

    async def _identify(self) -> None:
        """Make sure that we know who answers on this very connection. Without a serial number nobody can say."""
        if Quantity.SERIAL not in self._map.points:
            self._serial = ""
            return
        connection = self._unit.connection
        for _ in range(3):
            if self._serial is not None and self._own.only == connection.generation and connection.is_open:
                return
            generation = connection.generation
            serial = await self._reader.serial(self._unit)
            if self._serial is not None and serial != self._serial:
                _log.warning("modbus.device_replaced", device=self._device_id, was=self.meter_id)
                self._counters, self._reader = Counters(), MapReader(self._map)
                self._ratings = ratings({})
            self._serial = serial
            if generation == connection.generation:
                # Not opened anew by this very read, nor meanwhile by a neighbour.
                self._own.only = generation
        if self._own.only != connection.generation:
            raise NoAnswerError(f"{self._unit}: the connection is lost again and again")

    def _seen(self, sample: Sample, refused: frozenset[Quantity], nonsense: tuple[str, ...]) -> None:
        if self._link is not LinkState.ONLINE:
            _log.info("modbus.online", device=self._device_id, unit=str(self._unit))
        self._link = LinkState.ONLINE
        self._detail = f"{self._map.title} at {self._unit}"
        if sample.power_w is None:
            self._detail += "; tells no power at present"
        if nonsense:
            self._detail += f"; left out, for it makes no sense: {', '.join(nonsense)}"
        self._last_sample = sample
        notes = [READ_ONLY]
        if not self._serial:
            notes.append(NO_SERIAL)
        if refused:
            notes.append(f"refuses registers of its map: {', '.join(sorted(refused))}")
        self._capabilities = capabilities(
            self._kind, self._ratings, self._bounds, ControlSurface(notes=tuple(notes)), self._phases
        )

    def _lost(self, error: SunSpecError) -> None:
        silent = isinstance(error, NoAnswerError) or (isinstance(error, ModbusExceptionError) and error.is_transient)
        link = LinkState.SILENT if silent else LinkState.FAULT
        if link is not self._link:
            _log.warning("modbus.lost", device=self._device_id, link=link.value, error=str(error))
        self._link = link
        self._detail = str(error)
