"""Taking one device off the grid and putting it back: only what we disconnected is connected again by us (SAFETY 7).

That it was us is kept in the journal before the switch is written, with the settings that were there, so that it is
known after a restart. A disconnection restricts, so it has no lease: it stands until `connect`, whatever becomes of us.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

import structlog

from drivers.device import Journal
from drivers.sunspec.connection import Unit
from drivers.sunspec.controls import CONNECT_123, CONNECT_703, ControlFunction, connection_overlay, is_usable
from drivers.sunspec.description import DeviceDescription
from drivers.sunspec.errors import ControlRefusedError, ModbusExceptionError
from drivers.sunspec.held import JOURNAL_PATIENCE_S, HeldFunction, read_function

_CONNECTED: Final = 1
_log = structlog.get_logger()


class GridSwitch:
    """The connect switch of one device: model 703's permission to enter service, else 123's. Raises SunSpecErrors."""

    def __init__(self, unit: Unit, description: DeviceDescription) -> None:
        self._unit = unit
        self._description = description
        self._key = f"disconnected/{description.meter_id}"
        self._held: HeldFunction | None = None
        self._is_ours = False
        """We disconnected it, or may have."""
        self._is_busy = False
        """We are writing it: what a look sees meanwhile says nothing about others."""
        self._is_recalled = False
        self._on_record: bytes | None = None
        """What the journal holds for sure; None: not known."""

    @property
    def is_there(self) -> bool:
        """Whether the device can be disconnected at all."""
        return self._held is not None

    @property
    def is_ours(self) -> bool:
        """Whether it is off because of us."""
        return self._is_ours

    async def learn(self, journal: Journal) -> None:
        """Look for a switch that can be used; nothing is written to the device."""
        self._held = None
        for function in (CONNECT_703, CONNECT_123):
            held = await self._usable(function)
            if held is not None:
                self._held = held
                break
        await self.record(journal)

    async def _usable(self, function: ControlFunction) -> HeldFunction | None:
        model = self._description.find(function.model)
        if model is None:
            return None
        try:
            state = await read_function(self._unit, function, model)
        except ControlRefusedError:
            return None
        except ModbusExceptionError as error:
            if error.is_transient:
                raise
            return None
        return HeldFunction(self._unit, function, self._description, state, None) if is_usable(state) else None

    async def record(self, journal: Journal) -> None:
        """Take what an earlier run recorded, and make durable what is not yet. Never in the way, and tried again."""
        held = self._held
        if held is None:
            return
        await held.record_learned(journal)
        if not self._is_recalled:
            try:
                kept = await journal.recall(self._key) or b""
            except Exception as error:  # the store's own errors are not known here, and none may stop a measurement
                _log.error("sunspec.disconnection_not_recalled", key=self._key, error=str(error))
                return
            self._is_recalled, self._on_record = True, kept
            settings = _settings(kept, held)
            # Connected although we had disconnected it: that was somebody else, and who disconnects it next is not us.
            if settings is not None and held.at_contact.number(held.function.enable) != _CONNECTED:
                self._is_ours, held.found = True, settings
        await self._remember(journal)

    async def disconnect(self, journal: Journal) -> bool:
        """Take it off the grid; confirmed by read-back. False: somebody else had done that, and it stays theirs."""
        held = self._there()
        self._is_busy = True
        try:
            return await self._disconnect(held, journal)
        finally:
            self._is_busy = False

    async def _disconnect(self, held: HeldFunction, journal: Journal) -> bool:
        if not self._is_ours:
            now = await held.read()
            if now.number(held.function.enable) != _CONNECTED:
                return False
            held.found, self._is_ours = now.settings, True
        await self._remember(journal)
        try:
            await held.engage(connection_overlay)
        except (ControlRefusedError, ModbusExceptionError) as error:
            if isinstance(error, ControlRefusedError) or not error.is_transient:
                self._is_ours = (await held.read()).number(held.function.enable) != _CONNECTED
                await self._remember(journal)
            raise
        return True

    async def connect(self, journal: Journal) -> None:
        """Give back what we disconnected, with the settings that it had. Raises ControlRefusedError for all others."""
        held = self._there()
        if not self._is_ours:
            raise ControlRefusedError(
                f"{self._unit}: it was not the gateway that disconnected it; who did must connect it again"
            )
        self._is_busy = True
        try:
            await held.put_back()
            self._is_ours = False
        finally:
            self._is_busy = False
        await self._remember(journal)

    async def look(self) -> None:
        """Whether somebody else connected what we disconnected: whoever disconnects it next is not us then."""
        held = self._held
        if held is None or not self._is_ours or self._is_busy:
            return
        now = await held.read()
        if now.number(held.function.enable) == _CONNECTED and self._is_ours and not self._is_busy:
            self._is_ours = False
            _log.warning("sunspec.connected_by_others", unit=str(self._unit))

    def _there(self) -> HeldFunction:
        if self._held is None:
            raise ControlRefusedError(f"{self._unit}: it has no connect switch (model 703 or 123) that can be used")
        return self._held

    async def _remember(self, journal: Journal) -> None:
        held = self._held
        if held is None:
            return
        wanted = struct.pack(f">{len(held.found) + 1}H", held.function.model, *held.found) if self._is_ours else b""
        if self._on_record == wanted:
            return
        try:
            # A disconnection only restricts: it does not wait for a store that hangs (DESIGN law 5).
            async with asyncio.timeout(JOURNAL_PATIENCE_S):
                await journal.remember(self._key, wanted)
            self._on_record = wanted
        except Exception as error:  # as above
            _log.error("sunspec.disconnection_not_recorded", key=self._key, ours=self._is_ours, error=str(error))


def _settings(kept: bytes, held: HeldFunction) -> tuple[int, ...] | None:
    """The settings in a record of ours; None when it is none, or of another switch."""
    if len(kept) != 2 * (len(held.found) + 1):
        return None
    model, *settings = struct.unpack(f">{len(held.found) + 1}H", kept)
    return tuple(settings) if model == held.function.model else None
