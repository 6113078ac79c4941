"""[[device]]: one meter, inverter, battery or charger, as typed settings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from agent.config.values import (
    AbsolutePath,
    DeviceId,
    Efficiency,
    SecretReference,
    Section,
    TimeOfDay,
    fault,
)
from drivers.device import DeviceKind
from drivers.sunspec.endpoint import parse_address
from drivers.sunspec.errors import AddressError


class DeviceSettings(Section):
    """[[device]]"""

    id: DeviceId = Field(description="Lower case letters, digits and hyphens; signed into every reading")
    kind: DeviceKind = Field(description="meter, pv, battery or charger")
    driver: Literal["sunspec", "modbus", "ocpp"] = Field(
        description="sunspec for SunSpec devices, modbus for others by a register map, ocpp for chargers"
    )
    settled: bool = Field(False, description="A settlement point: exactly one on any path of the metering tree")
    parent: DeviceId | None = Field(None, description="The meter that this device is behind")
    period_s: float = Field(1.0, ge=0.2, le=60, description="Telemetry period, s")
    phases: list[Literal[1, 2, 3]] = Field([1, 2, 3], min_length=1, max_length=3, description="Phases that it is on")
    rated_import_w: int | None = Field(
        None, ge=0, le=10_000_000, description="Installer's bound below the nameplate, W"
    )
    rated_export_w: int | None = Field(
        None, ge=0, le=10_000_000, description="Installer's bound below the nameplate, W"
    )
    fallback_import_w: int | None = Field(None, ge=0, description="Its share of import while the gateway is silent, W")
    fallback_export_w: int | None = Field(None, ge=0, description="Its share of export while the gateway is silent, W")
    capacity_wh: int | None = Field(
        None, gt=0, le=1_000_000_000, description="What a battery holds, Wh, where it does not tell or tells it wrong"
    )
    efficiency_percent: Efficiency | None = Field(
        None,
        description="Of a battery's or charger's conversion: at its rating, or [percent of the rating, percent] at "
        "rising loads: [[10, 91.0], [50, 95.5], [100, 94.0]]; absent: as is usual for the kind",
    )
    fixed_loss_w: int | None = Field(
        None, ge=0, le=100_000, description="What it loses as soon as it converts at all, W; absent: by the efficiency"
    )
    wear_wh_per_kwh: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="What moving 1 kWh wears the battery, as Wh worth as much: its price / (2 x full cycles x Wh that "
        "it holds) / price of a Wh x 1000; of a car for what it gives, both ways; absent: 50, of a car 150",
    )
    # sunspec, modbus
    address: str | None = Field(
        None, description='"tcp://host:port", "tls://...", "rtutcp://..." or "rtu:///dev/ttyUSB0?baudrate=9600"'
    )
    unit: int = Field(1, ge=0, le=247, description="Modbus unit id")
    timeout_s: float = Field(1.0, ge=0.1, le=10, description="Modbus answer time, s")
    gap_s: float = Field(0.0, ge=0, le=2, description="Pause between Modbus requests on its line, s")
    ca_file: Path | None = Field(None, description="tls://: PEM certificate of whoever certifies the device")
    certificate_file: Path | None = Field(None, description="tls://: our certificate, where the device asks for one")
    certificate_key_file: Path | None = Field(None, description="tls://: its key, mode 0600")
    tls_name: str | None = Field(
        None, min_length=1, max_length=253, description="tls://: name in the device's certificate; absent: the host"
    )
    map: str | None = Field(
        None,
        min_length=1,
        max_length=500,
        description="modbus: a shipped register map, such as eastron-sdm630, or the path of one",
    )
    # ocpp
    charger_id: str | None = Field(None, min_length=1, max_length=48, description="Charger's OCPP identity")
    password_secret: SecretReference | None = Field(None, description="Charger's basic-auth password")
    security_profile: Literal[1, 2, 3] = Field(
        2, description="3: the charger's TLS certificate names it, and no password is asked for"
    )
    evse_id: int = Field(1, ge=1, le=100, description="EVSE of the charger")
    discharge: Literal["never", "negative_limit", "v2x"] = Field(
        "never",
        description="How it may discharge: v2x by OCPP 2.1; negative_limit by 2.0.1 too, for models known to do it",
    )
    day: Literal["now", "departure", "surplus"] | None = Field(
        None,
        description="What its car does when nobody commands: charge now, by its departure, or from what PV leaves "
        "over; absent: [control] cars_by_default",
    )
    departure_time: TimeOfDay | None = Field(
        None, description='When cars that do not tell leave, by [site] timezone: "07:30"'
    )
    departure_energy_wh: int | None = Field(
        None, ge=0, le=1_000_000, description="What cars that do not tell need until then, Wh"
    )
    local_tokens: list[str] = Field(
        [], max_length=1000, description="idTokens that may charge here without the platform"
    )
    meter_key_file: AbsolutePath | None = Field(
        None, description="Public key of the charger's meter that signs its values: PEM, hex or base64, from the meter"
    )
    meter_key_sha256: str | None = Field(
        None, pattern=r"^[0-9a-fA-F]{64}$", description="Its fingerprint: another key in the file does not count"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.driver == "modbus") != (self.map is not None):
            raise ValueError('`map` and driver "modbus" go together: map = "eastron-sdm630", or the path of a map')
        if self.driver in ("sunspec", "modbus"):
            if self.address is None:
                raise ValueError(f'a {self.driver} device needs `address`, such as "tcp://192.0.2.10:502"')
            try:
                parse_address(self.address)
            except AddressError as error:
                raise fault(str(error), "address") from None
            if self.driver == "modbus":
                self._says_its_rating()
            if self.kind is DeviceKind.CHARGER:
                raise ValueError("a charger has driver ocpp")
            if self.address.startswith("tls://"):
                if self.ca_file is None:
                    raise ValueError(
                        "a tls:// device needs `ca_file`: without it anybody could pretend to be the device"
                    )
            elif self.ca_file or self.certificate_file or self.tls_name:
                raise ValueError("ca_file, certificate_file and tls_name are for a device at a tls:// address")
            if (self.certificate_file is None) != (self.certificate_key_file is None):
                raise ValueError("certificate_file and certificate_key_file go together")
        else:
            if self.charger_id is None:
                raise ValueError("an ocpp device needs `charger_id`, the identity at the end of the charger's URL")
            if self.kind is not DeviceKind.CHARGER:
                raise ValueError("driver ocpp is for kind charger")
        of_a_charger = ("day", "departure_time", "departure_energy_wh")
        misplaced = [key for key in of_a_charger if self.driver != "ocpp" and getattr(self, key) is not None]
        if misplaced:
            raise fault("is for a charger's car (driver ocpp)", misplaced[0])
        if self.capacity_wh is not None and self.kind is not DeviceKind.BATTERY:
            raise fault("is a battery's; a car tells its own", "capacity_wh")
        of_a_store = ("efficiency_percent", "fixed_loss_w", "wear_wh_per_kwh")
        misplaced = [key for key in of_a_store if getattr(self, key) is not None]
        if misplaced and self.kind not in (DeviceKind.BATTERY, DeviceKind.CHARGER):
            raise fault("is for what carries a target: a battery or a charger", misplaced[0])
        if self.day == "departure" and (self.departure_time is None) != (self.departure_energy_wh is None):
            raise fault("departure_time and departure_energy_wh go together", "day")
        if self.meter_key_file is not None and self.driver != "ocpp":
            raise fault("only a charger's meter signs its values (driver ocpp)", "meter_key_file")
        if self.meter_key_sha256 is not None and self.meter_key_file is None:
            raise fault("is the fingerprint of the key in meter_key_file, which is missing", "meter_key_sha256")
        return self

    def _says_its_rating(self) -> None:
        # A register map does not tell the nameplate, and what cannot be controlled is counted at it (SAFETY 2).
        needed = {DeviceKind.PV: ("rated_export_w",), DeviceKind.BATTERY: ("rated_import_w", "rated_export_w")}
        missing = [key for key in needed.get(self.kind, ()) if getattr(self, key) is None]
        if missing:
            raise ValueError(f"a {self.kind} with driver modbus needs {' and '.join(missing)}: its nameplate, W")
