"""Takes approved chargers into the site while it runs, and remembers them over restarts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import structlog

from agent.config import DeviceSettings, Settings
from agent.roads.adopted import Adopted, adopted, decode, encode, still_adopted, with_adopted
from agent.roads.alarms import Alarms
from agent.roads.devices import SiteDevices, metered
from agent.roads.measuring import Measuring
from agent.store import Store, StoreError
from drivers.device import Device

NOTE: Final = "roads/adopted"

log = structlog.get_logger()


class Approvals:
    """The chargers that are here by an approval, beside those of the configuration."""

    def __init__(self, settings: Settings, store: Store, kept: Sequence[Adopted] = ()) -> None:
        self._store = store
        self._busy = asyncio.Lock()
        self.kept = list(kept)
        self.settings = with_adopted(settings, kept)
        """With what they add to the configuration."""

    @classmethod
    async def recall(cls, settings: Settings, store: Store) -> Approvals:
        """Go on from what was kept; chargers that the configuration names since then are its own. Raises StoreError."""
        try:
            kept = decode(await store.note(NOTE))
        except ValueError as error:
            log.error("gateway.approvals_lost", reason=str(error))
            return cls(settings, store)
        still = still_adopted(settings, kept)
        if len(still) < len(kept):
            # Found again at each start: a disk without room keeps nobody from starting.
            with contextlib.suppress(StoreError):
                await store.set_note(NOTE, encode(still))
        return cls(settings, store, still)

    async def adopt(
        self,
        charger_id: str,
        password_secret: str,
        evses: int,
        *,
        site: SiteDevices,
        measuring: Measuring,
        alarms: Alarms,
    ) -> list[tuple[DeviceSettings, Device]]:
        """Make an approved charger one of the site; its devices, to be run and controlled.

        Raises ValueError, SecretError, StoreError; nothing has changed then.
        """
        async with self._busy:
            new = adopted(self.settings, charger_id, password_secret, evses, alarms.now_us())
            for section in new.sections():
                await measuring.add(metered(section), self._store)
            await self._store.set_note(NOTE, encode([*self.kept, new]))
            try:
                made = await site.add(self.settings, new, alarms.warn)
            except BaseException:
                await self._store.set_note(NOTE, encode(self.kept))
                raise
            self.kept.append(new)
            self.settings = with_adopted(self.settings, [new])
        text = f"charger {charger_id!a} was approved and is a device of the site now, with safe defaults"
        alarms.warn("charger.approved", new.device_ids[0], text)
        return made
