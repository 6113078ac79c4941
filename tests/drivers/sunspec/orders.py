"""One device under order, and older inverters without model 704."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from drivers.device import DeviceKind, Setpoint
from drivers.sunspec import SunSpecDevice
from drivers.sunspec.codec import layout
from tests.drivers.sunspec.fakes import (
    ADDRESS,
    FakeDevice,
    FakeLine,
    MemoryJournal,
    Time,
    address_of,
    common,
    definition,
    device_of,
    inverter_701,
    model_words,
    pool_of,
)


class Rig:
    """One device under order."""

    def __init__(
        self,
        device: FakeDevice,
        kind: DeviceKind,
        *,
        journal: MemoryJournal | None = None,
        line: Callable[[Mapping[int, FakeDevice]], FakeLine] = FakeLine,
        **bounds: int,
    ) -> None:
        self.time = Time()
        self.fake = device
        self.line = line({1: device})
        self.journal = journal or MemoryJournal()
        self.device = SunSpecDevice(
            "d-1",
            kind,
            ADDRESS,
            1,
            period_s=1.0,
            timeout_s=1.0,
            connections=pool_of(self.line, self.time),
            monotonic_s=self.time,
            journal=self.journal,
            rated_import_w=bounds.get("rated_import_w"),
            rated_export_w=bounds.get("rated_export_w"),
            fallback_import_w=bounds.get("fallback_import_w"),
            fallback_export_w=bounds.get("fallback_export_w"),
        )

    async def ready(self) -> Rig:
        await self.device.look()
        return self

    async def hold(self, lowest_w: int | None, highest_w: int | None, lease_s: float = 60.0) -> None:
        await self.device.apply(Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason="test"))


def registers_of(device: FakeDevice, model: int, paths: Sequence[str]) -> set[int]:
    place = layout(definition(model), 1000)
    return {address_of(device, model, path) + index for path in paths for index in range(place.fields[path].point.size)}


def older_pv(**controls: int) -> FakeDevice:
    values = {"WMaxLimPct": 100, "WMaxLim_Ena": 0, "WMaxLimPct_RvrtTms": 0, "WMaxLimPct_SF": 0, "Conn": 1}
    return device_of(
        [
            common(),
            model_words(103, {"W": 5000, "W_SF": 0, "WH": 5, "WH_SF": 0}),
            model_words(120, {"WRtg": 800, "WRtg_SF": 1}),
            model_words(121, {"WMax": 8000, "WMax_SF": 0}),
            model_words(123, values | controls),
        ]
    )


def older_battery() -> FakeDevice:
    values = {
        "WChaMax": 10000,
        "WChaMax_SF": 0,
        "StorCtl_Mod": 0,
        "MinRsvPct": 1000,
        "MinRsvPct_SF": -2,
        "OutWRte": 10000,
        "InWRte": 10000,
        "InOutWRte_SF": -2,
        "InOutWRte_RvrtTms": 0,
        "ChaGriSet": 1,
    }
    ratings = {"WRtg": 10000, "MaxChaRte": 10000, "MaxDisChaRte": 10000}
    factors = {"WRtg_SF": 0, "MaxChaRte_SF": 0, "MaxDisChaRte_SF": 0}
    return device_of([common(), inverter_701(), model_words(120, ratings | factors), model_words(124, values)])
