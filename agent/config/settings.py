"""The sections of the configuration file as typed settings: every key with its unit, range and default."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from drivers.device import DeviceKind
from drivers.sunspec.endpoint import parse_address
from drivers.sunspec.errors import AddressError


def _secret_reference(value: str) -> str:
    if not re.fullmatch(r"(file:/.+|credential:[A-Za-z0-9_.-]+)", value):
        raise ValueError('write "file:/absolute/path" or "credential:NAME"; a secret itself never stands here')
    return value


MQTT_SCHEME: Final = "mqtts://"
SecretReference = Annotated[str, AfterValidator(_secret_reference)]
DeviceId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


def _fault(why: str, *where: int | str) -> PydanticCustomError:
    """What contradicts something else, at the key that has to change: found from the section that is looked at."""
    return PydanticCustomError("contradiction", "{why}", {"why": why, "where": where})


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("write the whole path, from / on")
    return value


def _address(value: str) -> str:
    if not re.fullmatch(r"([^:\s]+|\[[0-9a-fA-F:]+\]):\d{1,5}", value) or split_address(value)[1] > 65_535:
        raise ValueError('write "host:port" or "[v6]:port", the port at most 65535')
    return value


def _endpoint(value: str) -> str:
    _address(value.removeprefix(MQTT_SCHEME))
    return value


HostAndPort = Annotated[str, AfterValidator(_address)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def is_loopback(listen: str) -> bool:
    """Whether a listen address can be reached from this machine alone."""
    host, _ = split_address(listen)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class GatewaySettings(_Section):
    """[gateway]"""

    name: str = Field("v2g-gateway", description="Name that people see", min_length=1, max_length=64)
    state_dir: AbsolutePath = Field(Path("/var/lib/v2g-gateway"), description="Where evidence and state are kept")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged")


class SiteSettings(_Section):
    """[site]: the connection and what the contract allows."""

    nominal_frequency_hz: Literal[50, 60] = Field(50, description="Grid's nominal frequency")
    phases: Literal[1, 3] = Field(3, description="Phases of the connection")
    nominal_voltage_v: int = Field(230, ge=100, le=300, description="Line to neutral")
    fuse_a: int = Field(63, ge=6, le=4000, description="Main fuse per phase, A")
    phase_difference_a: int = Field(
        20, ge=0, le=4000, description="Most that devices may make one phase differ from another, A; 0: no limit"
    )
    import_limit_w: int = Field(40_000, ge=0, le=10_000_000, description="Most import at the connection, W")
    export_limit_w: int = Field(10_000, ge=0, le=10_000_000, description="Most export at the connection, W")
    house_reserve_w: int = Field(5_000, ge=0, le=1_000_000, description="Most that everything not controlled draws, W")
    discharge_permitted: bool = Field(False, description="The connection contract permits export from storage and cars")


class TokenSettings(_Section):
    """[token]: the HSM."""

    module: Path = Field(Path("/usr/lib/softhsm/libsofthsm2.so"), description="PKCS#11 module")
    label: str | None = Field(None, description="Token label; give this or `serial`")
    serial: str | None = Field(None, description="Token serial number; better than the label, it is unique")
    pin_secret: SecretReference = Field("credential:token-pin", description="Where the user PIN is")
    key_protection: Literal["software", "tpm", "certified"] = Field(
        "software", description="What holds the keys: signed into every batch, so state it truly"
    )

    @model_validator(mode="after")
    def _selected(self) -> Self:
        if (self.label is None) == (self.serial is None):
            raise ValueError("select the token by exactly one of `serial` and `label`")
        return self


class EvidenceSettings(_Section):
    """[evidence]"""

    linger_s: float = Field(1.0, ge=0.0, le=10.0, description="Longest wait of a statement for its batch to fill, s")
    linger_leaves: int = Field(2048, ge=1, le=4095, description="Statements that end the wait at once")
    retain_days: int = Field(7, ge=7, le=3650, description="Evidence is kept this long after acknowledgement, days")


class PlatformSettings(_Section):
    """[platform]: where evidence goes and commands come from. Without this section the gateway works alone."""

    endpoints: list[Endpoint] = Field(
        min_length=1,
        max_length=8,
        description='"host:port" speaks gRPC, "mqtts://host:port" to an MQTT 5 broker; the first is preferred',
    )
    prefer_first_after_s: float = Field(
        600.0, ge=1, le=86_400, description="A link to another endpoint than the first is left after this, s"
    )
    server_name: str | None = Field(None, description="Name in the platform's certificate, where it is not the host")
    ca_file: Path = Field(description="CA certificates that the platform's certificate must chain to, PEM")
    certificate_file: Path = Field(description="This gateway's client certificate (its key is in the token), PEM")
    mqtt_certificate_file: Path | None = Field(
        None, description="Client certificate for MQTT brokers that want one, PEM; absent: the HSM signs each login"
    )
    mqtt_certificate_key_file: Path | None = Field(None, description="Its key, mode 0600, PEM")
    platform_key_file: Path = Field(
        description="Public key of the platform's acknowledgements and countersignatures, PEM"
    )
    trust_root_file: Path = Field(description="Public key that signs the trust list, PEM")
    trust_list_file: Path = Field(description="Who may order what: signed trust list")
    reconnect_least_s: float = Field(0.5, ge=0.1, le=60, description="First back-off after a lost link, s")
    reconnect_most_s: float = Field(60.0, ge=1, le=3600, description="Longest back-off, s")
    stall_s: float = Field(30.0, ge=2, le=600, description="No answer to a batch for this long: connect anew, s")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.mqtt_certificate_file is None) != (self.mqtt_certificate_key_file is None):
            raise ValueError("mqtt_certificate_file and mqtt_certificate_key_file go together")
        return self


class UnsignedCommands(StrEnum):
    """Which commands without a signed authorization are obeyed."""

    REFUSE = "refuse"
    RESTRICTIVE = "restrictive"
    ALL = "all"


class MandateSettings(_Section):
    """[[control.mandate]]: an owner's permission to discharge the vehicle that identifies itself with this token."""

    token_id: str = Field(min_length=1, max_length=255, description="RFID or contract identifier of the driver")
    minimum_soc_percent: int = Field(30, ge=0, le=100, description="Never discharged below, percent")
    least_price_micro_per_kwh: int = Field(0, ge=0, description="Least price for a discharge, micro-units per kWh")
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$", description="ISO 4217, of the price")


class FrequencySettings(_Section):
    """[frequency]: the site's own answer to the grid's frequency. What it asks for is the country's to say."""

    response: bool = Field(False, description="Batteries, cars and PV answer the frequency that is measured here")
    dead_band_millihertz: int = Field(
        200, ge=10, le=1000, description="Nothing happens so near to nominal, mHz; outside, nothing works against it"
    )
    droop_percent: float = Field(
        5.0, ge=0.2, le=12, description="Deviation beyond the dead band that brings the full rating, % of nominal"
    )
    reserve_percent: int = Field(
        0, ge=0, le=40, description="State of charge that batteries keep free for it at both ends, percent"
    )


class ControlSettings(_Section):
    """[control]"""

    unsigned_commands: UnsignedCommands = Field(
        UnsignedCommands.RESTRICTIVE, description="Commands without authorization that are obeyed"
    )
    zones: list[str] = Field([], max_length=16, description="Zones whose commands are meant for this gateway too")
    interval_s: float = Field(1.0, ge=0.1, le=5.0, description="The plan is made at least this often, s")
    lease_s: float = Field(60.0, ge=5, le=900, description="A permission ends in the device after this silence, s")
    cars_by_default: Literal["charge", "wait"] = Field("charge", description="What cars do when nobody commands")
    battery_by_default: Literal["self_consumption", "idle"] = Field(
        "self_consumption", description="What a stationary battery does when nobody commands"
    )
    battery_minimum_soc_percent: int = Field(10, ge=0, le=100, description="Stationary battery is kept above, percent")
    return_delay_most_s: float = Field(
        600.0,
        ge=0,
        le=3600,
        description="After grid return, boot or safe mode power may rise after a random part of this, s",
    )
    return_ramp_percent_per_minute: int = Field(
        10, ge=1, le=6000, description="Then it rises by so much of each device's rating a minute, percent"
    )
    gateway_stop_file: Path | None = Field(
        None, description="Local STOP holds while this file exists; default: STOP in the state directory"
    )
    mandate: list[MandateSettings] = Field([], max_length=1000)


class SettlementSettings(_Section):
    """[settlement]"""

    window_s: int = Field(900, ge=5, le=3600, description="Settlement window, aligned to UTC, s (86400 is a multiple)")
    grace_s: int = Field(172_800, ge=0, le=604_800, description="Corrections are new versions until then, s")
    chain_id: int = Field(1, ge=1, le=2**53, description="EIP-155 chain of the settlement contract")
    contract: str = Field("0x" + "00" * 20, pattern=r"^0x[0-9a-fA-F]{40}$", description="Address of the contract")
    participant: str = Field("0x" + "00" * 20, pattern=r"^0x[0-9a-fA-F]{40}$", description="Who is settled")
    counterparty: str = Field("0x" + "00" * 20, pattern=r"^0x[0-9a-fA-F]{40}$", description="Who settles")
    agreement_hash: str = Field("00" * 32, pattern=r"^[0-9a-fA-F]{64}$", description="SHA-256 of the agreement")

    @model_validator(mode="after")
    def _divides_a_day(self) -> Self:
        if 86_400 % self.window_s:
            raise _fault(f"{self.window_s} does not divide a day; 300 and 900 are usual", "window_s")
        return self


class OcppSettings(_Section):
    """[ocpp]: where chargers connect to."""

    listen: HostAndPort = Field("127.0.0.1:9000", description="Address and port for chargers")
    certificate_file: Path | None = Field(None, description="Server certificate (profiles 2 and 3), PEM")
    certificate_key_file: Path | None = Field(None, description="Its key, mode 0600, PEM")
    heartbeat_s: int = Field(300, ge=5, le=86_400, description="Heartbeat interval given to chargers, s")
    meter_interval_s: int = Field(5, ge=1, le=900, description="Meter values from chargers, s")
    call_timeout_s: float = Field(10.0, ge=1, le=120, description="A charger's time to answer, s")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate_file is None) != (self.certificate_key_file is None):
            raise ValueError("certificate_file and certificate_key_file go together")
        return self


class WebSettings(_Section):
    """[web]: status page, health and metrics."""

    listen: HostAndPort = Field("127.0.0.1:8080", description="Address and port of the status page")
    password_secret: SecretReference | None = Field(None, description="Required beyond loopback (user: installer)")
    certificate_file: Path | None = Field(None, description="Server certificate, required beyond loopback, PEM")
    certificate_key_file: Path | None = Field(None, description="Its key, mode 0600, PEM")

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if (self.certificate_file is None) != (self.certificate_key_file is None):
            raise ValueError("certificate_file and certificate_key_file go together")
        if not is_loopback(self.listen) and (self.password_secret is None or self.certificate_file is None):
            raise _fault(
                f"{self.listen} can be reached from the network: set password_secret and certificate_file, "
                'or listen on "127.0.0.1:8080"',
                "listen",
            )
        return self


class DeviceSettings(_Section):
    """[[device]]"""

    id: DeviceId = Field(description="Lower case letters, digits and hyphens; signed into every reading")
    kind: DeviceKind = Field(description="meter, pv, battery or charger")
    driver: Literal["sunspec", "modbus", "ocpp"] = Field(
        description="sunspec for SunSpec devices, modbus for others by a register map, ocpp for chargers"
    )
    settled: bool = Field(False, description="A settlement point: exactly one on any path of the metering tree")
    parent: DeviceId | None = Field(None, description="The meter that this device is behind")
    period_s: float = Field(1.0, ge=0.2, le=60, description="Telemetry period, s")
    phases: list[Literal[1, 2, 3]] = Field([1, 2, 3], min_length=1, max_length=3, description="Phases it is on")
    rated_import_w: int | None = Field(
        None, ge=0, le=10_000_000, description="Installer's bound below the nameplate, W"
    )
    rated_export_w: int | None = Field(
        None, ge=0, le=10_000_000, description="Installer's bound below the nameplate, W"
    )
    fallback_import_w: int | None = Field(
        None, ge=0, description="Static share when the gateway is silent, W (SAFETY 2)"
    )
    fallback_export_w: int | None = Field(None, ge=0, description="Static export share when the gateway is silent, W")
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
        None, min_length=1, max_length=500, description="modbus: a shipped register map, or the path of one"
    )
    # ocpp
    charger_id: str | None = Field(None, min_length=1, max_length=48, description="Charger's OCPP identity")
    password_secret: SecretReference | None = Field(None, description="Charger's basic-auth password")
    evse_id: int = Field(1, ge=1, le=100, description="EVSE of the charger")
    discharge: Literal["never", "negative_limit", "v2x"] = Field(
        "never",
        description="How it may discharge: v2x by OCPP 2.1; negative_limit by 2.0.1 too, for models known to do it",
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
                raise _fault(str(error), "address") from None
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
        if self.meter_key_file is not None and self.driver != "ocpp":
            raise _fault("only a charger's meter signs its values (driver ocpp)", "meter_key_file")
        if self.meter_key_sha256 is not None and self.meter_key_file is None:
            raise _fault("is the fingerprint of the key in meter_key_file, which is missing", "meter_key_sha256")
        return self

    def _says_its_rating(self) -> None:
        # A register map does not tell the nameplate, and what cannot be controlled is counted at it (SAFETY 2).
        needed = {DeviceKind.PV: ("rated_export_w",), DeviceKind.BATTERY: ("rated_import_w", "rated_export_w")}
        missing = [key for key in needed.get(self.kind, ()) if getattr(self, key) is None]
        if missing:
            raise ValueError(f"a {self.kind} with driver modbus needs {' and '.join(missing)}: its nameplate, W")


class Settings(_Section):
    """The whole file."""

    gateway: GatewaySettings = GatewaySettings()
    site: SiteSettings = SiteSettings()
    token: TokenSettings
    evidence: EvidenceSettings = EvidenceSettings()
    platform: PlatformSettings | None = None
    control: ControlSettings = ControlSettings()
    frequency: FrequencySettings = FrequencySettings()
    settlement: SettlementSettings = SettlementSettings()
    ocpp: OcppSettings = OcppSettings()
    web: WebSettings = WebSettings()
    device: list[DeviceSettings] = Field([], max_length=200)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        by_id = {d.id: d for d in self.device}
        if len(by_id) != len(self.device):
            twice = sorted({d.id for d in self.device if [o.id for o in self.device].count(d.id) > 1})
            last = max(i for i, d in enumerate(self.device) if d.id == twice[0])
            raise _fault(f"device ids must differ; more than once: {', '.join(twice)}", "device", last, "id")
        for i, d in enumerate(self.device):
            why = _wrong_path(d, by_id)
            if why:
                raise _fault(why, "device", i, "parent")
            if d.driver == "ocpp" and d.password_secret is None and not is_loopback(self.ocpp.listen):
                raise _fault(
                    f"device {d.id} has no password_secret, and [ocpp] listens on {self.ocpp.listen}: "
                    "anybody on that network could pretend to be this charger",
                    "device", i, "password_secret",
                )  # fmt: skip
            if d.driver == "ocpp" and self.ocpp.listen == self.web.listen:
                raise _fault(f"{self.ocpp.listen} is [web] listen too; chargers need a port of their own",
                             "ocpp", "listen")  # fmt: skip
        for i, d in enumerate(self.device):
            for other in self.device[:i]:
                same_bus = d.address is not None and (d.address, d.unit) == (other.address, other.unit)
                same_evse = d.charger_id is not None and (d.charger_id, d.evse_id) == (other.charger_id, other.evse_id)
                if same_bus or same_evse:
                    why = f"devices {other.id} and {d.id} are the same one: same address and unit, or EVSE"
                    raise _fault(why, "device", i, "address" if same_bus else "charger_id")
        return self


def _wrong_path(device: DeviceSettings, by_id: dict[str, DeviceSettings]) -> str:
    """Empty when parents exist and are meters, there is no circle, and no path has two settlement points; else why."""
    seen = {device.id}
    settled = [device.id] if device.settled else []
    here = device
    while here.parent is not None:
        if here.parent not in by_id:
            return f"device {here.id}: parent {here.parent} is no device of this file"
        here = by_id[here.parent]
        if here.id in seen:
            return f"device {device.id}: its parents form a circle at {here.id}"
        if here.kind is not DeviceKind.METER:
            return f"device {device.id}: parent {here.id} is a {here.kind}; only a meter has devices behind it"
        seen.add(here.id)
        if here.settled:
            settled.append(here.id)
    if len(settled) > 1:
        return f"energy would be settled twice: {' and '.join(settled)} are on one path and both settled"
    return ""
