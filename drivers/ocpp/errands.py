"""What is done with one charger while it is connected: provisioning, telemetry while idle, leases that end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

import structlog

from drivers.device import DeviceError, DeviceRefusedError, DeviceUnreachableError
from drivers.ocpp import provisioning
from drivers.ocpp.certificates import Certificates
from drivers.ocpp.complaints import Complaints
from drivers.ocpp.connection import Caller
from drivers.ocpp.desk import ChargerDesk
from drivers.ocpp.errors import CallError
from drivers.ocpp.evse import OcppEvse
from drivers.ocpp.profiles import RateUnit
from drivers.ocpp.schemas import Version
from drivers.ocpp.session import EvseSession, Moment, Outcome
from drivers.ocpp.standing import Standing
from drivers.ocpp.station import StationSession
from drivers.ocpp.station_limit import StationLimit

RETRY_S: Final = 15.0
"""Before provisioning is tried again on a connection that stays open and does not answer."""
LEASE_CHECK_S: Final = 1.0
IDLE_INTERVALS: Final = 2.5
"""Telemetry periods without a value after which an idle charger's values are carried forward."""

_log = structlog.get_logger()


class _Charger(Caller, Protocol):
    """What the errands need of the charger that they are run for."""

    session: StationSession
    rate_unit: RateUnit
    desk: ChargerDesk
    certificates: Certificates
    station_limit: StationLimit
    complaints: Complaints
    greet: Callable[[], Awaitable[None]] | None

    @property
    def evses(self) -> Mapping[int, OcppEvse]: ...

    def now(self) -> Moment: ...

    def hang_up(self) -> None: ...

    async def carry_out(self, outcome: Outcome) -> None: ...


class Errands:
    """Of one charger, over all its connections; `begin`, then `start`, for each."""

    def __init__(
        self, charger: _Charger, charger_id: str, *, meter_interval_s: int, monotonic_s: Callable[[], float]
    ) -> None:
        self._charger = charger
        self._meter_interval_s = meter_interval_s
        self._monotonic_s = monotonic_s
        self._wanted = asyncio.Event()
        self._provisioned = False
        self._log = _log.bind(charger=charger_id)

    def begin(self) -> None:
        """A new connection: nothing has been done on it."""
        self._wanted.clear()
        self._provisioned = False

    def want_provisioning(self, *, again: bool) -> None:
        """It is time; `again`: although it was done on this connection."""
        if again or not self._provisioned:
            self._wanted.set()

    def start(self, group: asyncio.TaskGroup, silent_start_s: float) -> list[asyncio.Task[None]]:
        """The tasks of a connection. A charger that has nothing to say for so long is spoken to all the same."""
        return [
            group.create_task(self._provision(silent_start_s)),
            group.create_task(self._keep_telemetry()),
            group.create_task(self._watch_leases()),
            group.create_task(self._charger.certificates.run(lambda: self._charger.session.certificate_ends_us)),
        ]

    async def _provision(self, silent_start_s: float) -> None:
        """Each time it is wanted, and again after a while where the charger did not answer."""
        wait_s: float | None = silent_start_s
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            self._provisioned = True
            try:
                await self._provision_once()
                wait_s = None
            except (CallError, DeviceUnreachableError) as error:
                self._log.warning("ocpp_not_provisioned", problem=str(error), again_in_s=RETRY_S)
                wait_s = RETRY_S

    async def _provision_once(self) -> None:
        if self._charger.session.unproven:
            await self._let_in()
        if self._charger.greet is not None:
            await self._charger.greet()
        if self._charger.session.word is not Standing.ACCEPTED:
            return
        self._charger.rate_unit = await provisioning.read_rate_unit(self._charger)
        dynamic = self._charger.session.version is Version.V21
        dynamic = dynamic and await provisioning.takes_dynamic_profiles(self._charger)
        for evse in self._charger.evses.values():
            evse.session.dynamic.offered = dynamic
            await evse.install_static_share()
            try:
                await evse.hold_again()
            except DeviceRefusedError as error:
                self._log.warning("ocpp_not_held_again", device=evse.device_id, problem=str(error))
        await self._charger.station_limit.bring_up()
        signed = any(session.settings.meter_key is not None for session in self._charger.session.evses.values())
        refused = await provisioning.set_variables(self._charger, self._meter_interval_s, signed=signed)
        if refused:
            self._log.warning("ocpp_variables_refused", variables=refused)
        if not self._charger.session.identity:
            await provisioning.trigger(self._charger, "BootNotification")
        for session in self._charger.session.evses.values():
            await self._charger.carry_out(await provisioning.ask_state(self._charger, session))
        await self._charger.desk.bring_up()
        await self._charger.certificates.renew_in_time(self._charger.session.certificate_ends_us)

    async def _let_in(self) -> None:
        """A charger that lost its password, and an installer who says that it may come in."""
        try:
            await self._charger.desk.change_password()
        except (DeviceRefusedError, ValueError, OSError) as error:
            self._charger.complaints.say("charger.password", f"could not be given a new password: {error}")
            return
        self._charger.complaints.say("charger.password", "was given a new password because the installer approved it")
        self._charger.hang_up()

    async def _keep_telemetry(self) -> None:
        """While no transaction runs chargers are silent: ask for values, and carry the last forward where none come."""
        asking = True
        began_s = self._monotonic_s()

        def age_s(evse: EvseSession) -> float:
            heard_s = began_s if evse.last_sample is None else max(began_s, evse.last_sample.monotonic_s)
            return self._monotonic_s() - heard_s

        while True:
            await asyncio.sleep(self._meter_interval_s)
            if self._charger.session.word is not Standing.ACCEPTED:
                continue
            for number, evse in self._charger.session.evses.items():
                if evse.transaction is not None or age_s(evse) < self._meter_interval_s / 2:
                    continue
                if asking and self._provisioned:
                    try:
                        asking = await provisioning.trigger(self._charger, "MeterValues", {"id": number}) == "Accepted"
                    except CallError as error:
                        self._log.info("ocpp_no_values", problem=str(error))
                if not asking or age_s(evse) > IDLE_INTERVALS * self._meter_interval_s:
                    sample = evse.idle_sample(self._charger.now())
                    if sample is not None:
                        self._charger.evses[number].take(sample)

    async def _watch_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_CHECK_S)
            for evse in self._charger.evses.values():
                try:
                    await evse.tend()
                except DeviceError as error:
                    self._log.warning("ocpp_not_tended", device=evse.device_id, problem=str(error))
