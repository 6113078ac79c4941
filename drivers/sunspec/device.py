"""SunSpecDevice: one inverter, battery inverter or meter on Modbus, as a `drivers.device.Device`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from drivers.device import (
    Capabilities,
    DeadMan,
    DeviceKind,
    DeviceRefusedError,
    DeviceStatus,
    DeviceUnreachableError,
    Journal,
    LinkState,
    Sample,
    SampleFlag,
    Setpoint,
)
from drivers.sunspec.connection import ConnectionPool, Unit
from drivers.sunspec.contact import Contact, make_contact
from drivers.sunspec.discovery import DeviceDescription
from drivers.sunspec.errors import (
    BadAnswerError,
    ModbusExceptionError,
    NoAnswerError,
    ReconnectedError,
    SunSpecError,
    WrongDeviceError,
)
from drivers.sunspec.measurement import Measurement
from drivers.sunspec.obedience import Obedience
from drivers.sunspec.ratings import Bounds
from drivers.sunspec.ticks import Ticks
from drivers.sunspec.turns import urgently

"""Back-off of a device that does not answer: short, and its neighbours lose at most one time-out each."""
DISCOVER_EVERY: Final = 3
"""Of so many attempts to make contact one does without what is on record."""
REVERSION_GRACE_S: Final = 3.0
"""A timer in a device has whole seconds and began after ours: it is judged this long after the lease."""

_log = structlog.get_logger()


class SunSpecDevice:
    """Fulfils `drivers.device.Device`. Several of them share an endpoint through the ConnectionPool."""

    def __init__(
        self,
        device_id: str,
        kind: DeviceKind,
        address: str,
        unit: int,
        *,
        period_s: float,
        timeout_s: float,
        connections: ConnectionPool,
        monotonic_s: Callable[[], float],
        journal: Journal,
        rated_import_w: int | None = None,
        rated_export_w: int | None = None,
        fallback_import_w: int | None = None,
        fallback_export_w: int | None = None,
        capacity_wh: int | None = None,
        phases: tuple[int, ...] = (1, 2, 3),
    ) -> None:
        """`address` is "tcp://host:port"; `phases` are the site's phases that the device's own are wired to, in its
        order. Raises AddressError, and ValueError for a charger. Nothing is opened before `run`.
        """
        if kind is DeviceKind.CHARGER:
            raise ValueError(f"{device_id}: a charger speaks OCPP, not SunSpec")
        self._device_id = device_id
        self._kind = kind
        self._unit = Unit(connections.connection(address), unit, timeout_s)
        self._period_s = period_s
        self._monotonic_s = monotonic_s
        self._journal = journal
        self._bounds = Bounds(
            rated_import_w=rated_import_w,
            rated_export_w=rated_export_w,
            fallback_import_w=fallback_import_w,
            fallback_export_w=fallback_export_w,
            capacity_wh=capacity_wh,
        )
        self._phases = phases
        self._contact: Contact | None = None
        self._contact_lock = asyncio.Lock()
        self._control_lock = asyncio.Lock()
        self._link = LinkState.STARTING
        self._detail = f"connecting to {self._unit}"
        self._capabilities: Capabilities | None = None
        self._last_sample: Sample | None = None
        self._setpoint: Setpoint | None = None
        """As last confirmed."""
        self._lease_ends_s = float("-inf")
        self._order_ends_s: float | None = None
        """Until when an order, confirmed or not, may be in force in the device; None: none is."""
        self._obedience = Obedience()
        self._failures = 0
        """Attempts in a row to make contact."""
        self._replaced = ""
        """What was here before, for `status`."""
        self._off = ""
        """Why we disconnected it, where it is known."""

    @property
    def device_id(self) -> str:
        return self._device_id

    @property
    def kind(self) -> DeviceKind:
        return self._kind

    @property
    def description(self) -> DeviceDescription | None:
        """Who answered last; None until first contact."""
        return None if self._contact is None else self._contact.description

    def status(self) -> DeviceStatus:
        """See `drivers.device.Device`."""
        return DeviceStatus(
            device_id=self._device_id,
            kind=self._kind,
            link=self._link,
            detail=self._detail + self._disconnection() + self._disobedience() + self._disturbance(),
            capabilities=self._capabilities,
            last_sample=self._last_sample,
            setpoint=self._setpoint if self._monotonic_s() < self._lease_ends_s else None,
            follows=self._follows(),
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
            await self.end_leases()
            await ticks.next()

    async def look(self) -> Sample:
        """One look at the device, making contact first where need be. Raises SunSpecErrors."""
        contact = await self._contacted()
        try:
            look = await contact.measure(self._monotonic_s())
        except ReconnectedError:
            contact = await self._contacted()
            look = await contact.measure(self._monotonic_s())
        except WrongDeviceError:
            self._contact = None
            raise
        if look.monotonic_s is None:
            raise BadAnswerError(f"{self._unit}: refuses every register of its measurements at present")
        fault = await contact.look_slowly(self._journal, self._monotonic_s())
        if fault is not None:
            _log.warning("sunspec.slow_data_failed", device=self._device_id, error=str(fault))
            if isinstance(fault, WrongDeviceError):
                self._contact = None  # its map is another one now
        measured = contact.interpret(look, look.monotonic_s)
        if measured.is_nonsense:
            raise BadAnswerError(
                f"{self._unit}: tells {', '.join(measured.nonsense)}: that makes no sense; is the device well?"
            )
        sample = self._sample(contact, measured, look.monotonic_s)
        self._seen(contact, sample, measured.nonsense)
        return sample

    async def apply(self, setpoint: Setpoint) -> None:
        """Hold the band: own registers only, timer at the lease, read back. See `drivers.device.Device`."""
        async with self._control_lock, urgently():
            ends_s = self._monotonic_s() + setpoint.lease_s
            contact = await self._for_control("does not hold the band")
            if self._order_ends_s is None:
                self._order_ends_s = ends_s
            if self._monotonic_s() >= self._lease_ends_s:
                contact.controls.order_ended()
            try:
                await contact.controls.hold(setpoint.lowest_w, setpoint.highest_w, setpoint.lease_s)
            except SunSpecError as error:
                raise self._as_device_error(error, "does not hold the band") from error
            finally:
                self._capabilities = contact.capabilities(self._phases)
            self._obedience.ordered(setpoint, self._setpoint, self._last_sample, self._rated_w(), self._monotonic_s())
            self._setpoint = setpoint
            self._lease_ends_s = self._order_ends_s = ends_s

    async def release(self) -> None:
        """Put back the settings of first contact; the connection is apart. See `drivers.device.Device`."""
        async with self._control_lock, urgently():
            contact = await self._for_control("was not released")
            try:
                await contact.controls.release()
            except SunSpecError as error:
                raise self._as_device_error(error, "was not released") from error
            self._setpoint = self._order_ends_s = None

    async def disconnect(self, reason: str) -> None:
        """Take the device off the grid until `connect`, over restarts too: no lease ends it, and no band does it.

        Not for limits (a contactor wears, and coming back takes the device's own delay) but for what a limit cannot do.
        A device that somebody else disconnected already is left to them. Raises as `apply` does.
        """
        async with self._control_lock, urgently():
            contact = await self._for_control("was not disconnected")
            try:
                is_ours = await contact.switch.disconnect(self._journal)
            except SunSpecError as error:
                raise self._as_device_error(error, "was not disconnected") from error
            self._off = reason
            _log.warning("sunspec.disconnected", device=self._device_id, by_us=is_ours, reason=reason)

    async def connect(self) -> None:
        """Connect again what we disconnected; it comes back after its own delay. Raises as `apply` does."""
        async with self._control_lock, urgently():
            contact = await self._for_control("was not connected")
            try:
                await contact.switch.connect(self._journal)
            except SunSpecError as error:
                raise self._as_device_error(error, "was not connected") from error
            self._off = ""
            self._obedience.forgive()
            _log.warning("sunspec.connected", device=self._device_id)

    @property
    def is_disconnected_by_us(self) -> bool:
        """Whether it is off the grid because of `disconnect`, in this run or an earlier one."""
        return self._contact is not None and self._contact.switch.is_ours

    async def end_leases(self) -> None:
        """End an order that nobody renewed. `run` calls it; a device that reverts to its fallback ends it itself.

        That is looked at: a timer that did nothing is not counted on again. Others, and those, get their share written
        for good, or what was found at first contact. Tried again until it succeeds.
        """
        if self._order_ends_s is None or self._monotonic_s() < self._order_ends_s:
            return
        async with self._control_lock, urgently():
            if self._order_ends_s is None or self._monotonic_s() < self._order_ends_s:
                return  # renewed or released while we waited
            if self._setpoint is not None:
                _log.warning("sunspec.lease_ended", device=self._device_id, reason=self._setpoint.reason)
                self._setpoint = None
            held = self._capabilities
            try:
                contact = await self._for_control("was not given back")
                controls = contact.controls
                if controls.ends_by_itself and self._monotonic_s() < self._order_ends_s + REVERSION_GRACE_S:
                    return
                reverted = controls.ends_by_itself and await controls.has_reverted()
                if not reverted or held is None or held.dead_man is not DeadMan.REVERTS_TO_FALLBACK:
                    await controls.fall_back()
                self._capabilities = contact.capabilities(self._phases)
            except (SunSpecError, DeviceUnreachableError, DeviceRefusedError) as error:
                _log.error("sunspec.lease_not_ended", device=self._device_id, error=str(error))
            else:
                self._order_ends_s = None

    async def _for_control(self, what: str) -> Contact:
        """The contact for writing to: discovery is for `run` to do, an order does not wait for it."""
        if self._contact is None:
            raise DeviceUnreachableError(f"{self._device_id} {what}: not reached yet ({self._detail})")
        try:
            return await self._contacted()
        except SunSpecError as error:
            raise self._as_device_error(error, what) from error

    async def _contacted(self) -> Contact:
        """The contact, having made sure on this very connection that it is still the same device."""
        async with self._contact_lock:
            contact = self._contact
            if contact is not None:
                if await contact.is_current():
                    return contact
                _log.warning("sunspec.device_replaced", device=self._device_id, was=contact.description.meter_id)
                self._contact = self._setpoint = self._order_ends_s = None
                self._off = ""
            # Whoever is silent where another one had its map is found without the record.
            by_record = self._failures % DISCOVER_EVERY != DISCOVER_EVERY - 1
            self._failures += 1
            contact = await make_contact(
                self._unit, self._kind, self._bounds, self._journal, self._monotonic_s(), by_record=by_record
            )
            self._contact, self._failures = contact, 0
            if contact.was is not None:
                _log.warning("sunspec.device_replaced", device=self._device_id, was=contact.was)
                self._replaced = f"; it took the place of {contact.was}: its meter counts from a new epoch"
            self._capabilities = contact.capabilities(self._phases)
            _log.info("sunspec.contact", device=self._device_id, meter_id=contact.description.meter_id)
            return contact

    def _sample(self, contact: Contact, measured: Measurement, monotonic_s: float) -> Sample:
        return Sample(
            device_id=self._device_id,
            monotonic_s=monotonic_s,
            power_w=measured.power_w,
            import_register_milliwatt_hours=measured.import_register_milliwatt_hours,
            export_register_milliwatt_hours=measured.export_register_milliwatt_hours,
            meter_id=contact.description.meter_id,
            phase_power_w=on_site_phases(measured, self._phases, contact.measuring.single_phase),
            voltage_millivolts=measured.voltage_millivolts,
            frequency_millihertz=measured.frequency_millihertz,
            state_of_charge_permille=contact.state_of_charge_permille(monotonic_s),
            flags=SampleFlag.ISLANDED if measured.islanded else SampleFlag.NONE,
        )

    def _seen(self, contact: Contact, sample: Sample, nonsense: tuple[str, ...]) -> None:
        if self._link is not LinkState.ONLINE:
            _log.info("sunspec.online", device=self._device_id, unit=str(self._unit))
        self._link = LinkState.ONLINE
        self._detail = f"{contact.description.title} at {self._unit}{contact.standing.in_words()}{self._replaced}"
        if sample.power_w is None:
            self._detail += "; tells no power at present"
        if nonsense:
            self._detail += f"; left out, for it makes no sense: {', '.join(nonsense)}"
        self._last_sample = sample
        took_s = self._obedience.saw(sample, self._setpoint, self._rated_w())
        if took_s is not None:
            contact.responded(took_s)
        self._capabilities = contact.capabilities(self._phases)

    def _lost(self, error: SunSpecError) -> None:
        link = LinkState.SILENT if _is_silence(error) else LinkState.FAULT
        if link is not self._link:
            _log.warning("sunspec.lost", device=self._device_id, link=link.value, error=str(error))
        self._link = link
        self._detail = str(error)

    def _as_device_error(self, error: SunSpecError, what: str) -> DeviceRefusedError | DeviceUnreachableError:
        if _is_silence(error) or isinstance(error, BadAnswerError):
            return DeviceUnreachableError(f"{self._device_id} {what}: {error}")
        return DeviceRefusedError(f"{self._device_id} {what}: {error}")

    def _rated_w(self) -> int:
        found = self._capabilities
        return 0 if found is None else max(found.rated_import_w, found.rated_export_w)

    def _follows(self) -> bool | None:
        """What metered power says about a band that was confirmed."""
        band, sample, found = self._setpoint, self._last_sample, self._capabilities
        if band is None or sample is None or self._monotonic_s() >= self._lease_ends_s:
            return None
        if self._link is not LinkState.ONLINE or sample.flags & SampleFlag.ISLANDED or self.is_disconnected_by_us:
            return None
        return self._obedience.follows(band, sample, self._rated_w(), 0.0 if found is None else found.response_s)

    def _disconnection(self) -> str:
        if self.is_disconnected_by_us:
            return f"; disconnected by the gateway: {self._off or 'before its last start'}"
        return ""

    def _disturbance(self) -> str:
        seen = "" if self._contact is None or self._setpoint is None else self._contact.controls.disturbed
        return f"; {seen}" if seen else ""

    def _disobedience(self) -> str:
        band, sample = self._setpoint, self._last_sample
        if self._follows() is not False or band is None or sample is None:
            return ""
        return self._obedience.in_words(band, sample)


def _is_silence(error: SunSpecError) -> bool:
    return isinstance(error, NoAnswerError) or (isinstance(error, ModbusExceptionError) and error.is_transient)


def on_site_phases(measured: Measurement, phases: tuple[int, ...], single_phase: bool) -> tuple[int, ...]:
    """Per site phase L1, L2, L3, watts: the device's own phases in the order they are wired. Empty when not known."""
    own = measured.phase_power_w
    if (single_phase or len(phases) == 1) and measured.power_w is not None:
        own = (measured.power_w,)
    if not own or len(own) > len(phases):
        return ()
    site = [0, 0, 0]
    for power_w, phase in zip(own, phases, strict=False):
        site[phase - 1] += power_w
    return tuple(site)
