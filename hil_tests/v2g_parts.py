"""What the V2G tests share: the real driver as a CSMS, simulated chargers against it, and eyes on both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from ssl import Purpose, SSLContext, create_default_context
from typing import Final

from drivers.device import Capabilities, DeviceStatus, Sample, Setpoint, VehicleSession
from drivers.ocpp import ChargerSettings, OcppServer
from drivers.ocpp.evse import OcppEvse
from hil_tests.ocpp_station import MemoryJournal, until
from hil_tests.rig.charger.solo import CarSettings, SoloCharger, SoloSettings
from hil_tests.rig.site.charger import OCPP_21, OCPP_201, Dynamic
from hil_tests.rig.site.charger import ChargerSettings as RigSettings
from hil_tests.test_sunspec_tls import Authority

SHARE_W: Final = 4_200
RATED_W: Final = 11_000
PASSWORD: Final = "secret-1"
TOKEN: Final = "RFID-1"
V2X: Final = ChargerSettings(
    device_id="car-1",
    charger_id="CP-1",
    password=PASSWORD,
    discharge="v2x",
    local_tokens=(TOKEN,),
    fallback_import_w=SHARE_W,
    rated_import_w=RATED_W,
    rated_export_w=10_000,
)
NEGATIVE: Final = replace(V2X, discharge="negative_limit")
CAR: Final = CarSettings(discharge_w=10_000)


class Csms:
    """The driver with one charger configured, and what came of it."""

    def __init__(
        self, settings: ChargerSettings, journal: MemoryJournal, *, port: int = 0, ssl: SSLContext | None = None
    ) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.samples: list[Sample] = []
        self.journal = journal
        self.server = OcppServer(
            "127.0.0.1",
            port,
            [settings],
            heartbeat_s=300,
            meter_interval_s=1,
            call_timeout_s=5.0,
            monotonic_s=time.monotonic,
            wall_us=lambda: time.time_ns() // 1000,
            journal=journal,
            on_event=lambda *event: self.events.append(event),
            ssl=ssl,
        )

    @property
    def evse(self) -> OcppEvse:
        evse = self.server.devices["car-1"]
        assert isinstance(evse, OcppEvse)
        return evse

    @property
    def status(self) -> DeviceStatus:
        return self.evse.status()

    @property
    def vehicle(self) -> VehicleSession | None:
        return self.status.vehicle

    @property
    def capabilities(self) -> Capabilities:
        capabilities = self.status.capabilities
        assert capabilities is not None
        return capabilities

    def said(self, code: str) -> list[str]:
        return [text for known, _, text in self.events if known == code]

    async def transaction(self) -> str:
        """Waits until a transaction runs and the charger has what it falls back to; its id."""
        await until(lambda: self.status.capabilities is not None, "the charger is provisioned", 20)
        await until(lambda: self.vehicle is not None and self.vehicle.transaction_id, "a transaction runs", 20)
        assert self.vehicle is not None
        assert self.vehicle.transaction_id is not None
        return self.vehicle.transaction_id


@asynccontextmanager
async def csms(
    settings: ChargerSettings = V2X,
    journal: MemoryJournal | None = None,
    *,
    port: int = 0,
    ssl: SSLContext | None = None,
) -> AsyncIterator[Csms]:
    """The driver, listening, its device running."""
    box = Csms(settings, MemoryJournal() if journal is None else journal, port=port, ssl=ssl)
    async with box.server:
        task = asyncio.create_task(box.evse.run(box.samples.append))
        try:
            yield box
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def site_tls(folder: Path) -> tuple[SSLContext, Path]:
    """What a CSMS on loopback shows, and the authority that chargers trust."""
    authority = Authority(folder, "site-ca")
    context = create_default_context(Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.certify("localhost", address="127.0.0.1"))
    return context, authority.file


def solo(
    port: int,
    *versions: str,
    ca: Path | None = None,
    car: CarSettings | None = CAR,
    speed: float = 1.0,
    bidirectional: bool = True,
    dynamic: Dynamic = Dynamic.NONE,
    **more: bool,
) -> SoloCharger:
    """A quick V2G charger with a car; `more`: faults and kinds of `RigSettings`."""
    return SoloCharger(
        SoloSettings(
            charger=RigSettings(
                charger_id="CP-1",
                csms_url=f"{'ws' if ca is None else 'wss'}://127.0.0.1:{port}/ocpp",
                ca_file=ca,
                password=PASSWORD,
                token_id=TOKEN,
                serial="SIM-1",
                versions=versions or (OCPP_21, OCPP_201),
                boot_on_reconnect=more.get("boot_on_reconnect", False),
                forgets_profiles=more.get("forgets_profiles", False),
                per_phase=more.get("per_phase", False),
                dynamic_profiles=dynamic,
            ),
            car=car,
            bidirectional=bidirectional,
            ramp_s=0.3,
            speed=speed,
        )
    )


def band(lowest_w: int | None, highest_w: int | None, lease_s: float = 60.0) -> Setpoint:
    return Setpoint(lowest_w=lowest_w, highest_w=highest_w, lease_s=lease_s, reason="test")
