"""What people at the box can do, in their words: hold a device, tell a driver's wish, look ahead, allow a card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from agent.control.controller import Controller
from agent.control.errors import ControlError, NotNowError
from agent.control.needing import Wish
from agent.roads.devices import SiteDevices
from agent.roads.offering import Offering
from drivers.ocpp.reception import Reception


class Hands:
    """Holds of a device by hand. What cannot be done is a ValueError with the reason, or NotNowError."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def override(self, device_id: str, power_w: int | None, duration_s: float, by: str) -> str:
        """Hold a device by hand; a sentence of what was done. Raises ValueError."""
        try:
            return f"{device_id} is {self._controller.override(device_id, power_w, duration_s, by).sentence}"
        except NotNowError:
            raise
        except ControlError as error:
            raise ValueError(str(error)) from error

    def end_override(self, device_id: str, by: str) -> str:
        """Give it back. Raises ValueError."""
        try:
            self._controller.end_override(device_id, by)
        except NotNowError:
            raise
        except ControlError as error:
            raise ValueError(str(error)) from error
        return f"{device_id} is held no more"


class People(Hands):
    """One for the gateway."""

    def __init__(
        self, controller: Controller, *, offering: Offering, site: SiteDevices, reload_tokens: Callable[[], int]
    ) -> None:
        super().__init__(controller)
        self._offering = offering
        self._site = site
        self._reload_tokens = reload_tokens

    def wish(self, device_id: str, energy_wh: int | None, departure_us: int | None) -> None:
        """What the driver of the car at a charger needs until when. Raises ValueError."""
        try:
            self._controller.wish(device_id, Wish(energy_wh=energy_wh, departure_us=departure_us))
        except NotNowError:
            raise
        except ControlError as error:
            raise ValueError(str(error)) from error

    def foresee(self, at_us: int) -> dict[str, object]:
        """What will happen then, as JSON. Raises ValueError."""
        try:
            return asdict(self._controller.foresee(at_us))
        except NotNowError:
            raise
        except ControlError as error:
            raise ValueError(str(error)) from error

    async def windows_looked_at(self) -> None:
        """A person has looked at why the platform missed windows."""
        await self._offering.looked()

    @property
    def reception(self) -> Reception | None:
        """The chargers, for people at the box."""
        return None if self._site.ocpp is None else self._site.ocpp.reception

    def reload_tokens(self) -> int:
        """Read the file of allowed tokens again. Raises ValueError; the old ones stay then."""
        return self._reload_tokens()
