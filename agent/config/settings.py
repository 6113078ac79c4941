"""The sections of the configuration file as typed settings: every key with its unit, range and default."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from agent.config.values import (
    AbsolutePath,
    Endpoint,
    EstUrl,
    HostAndPort,
    HttpsUrl,
    PinReference,
    SecretReference,
    Section,
    Timezone,
    fault,
    is_loopback,
)


class GatewaySettings(Section):
    """[gateway]"""

    name: str = Field("v2g-gateway", description="Name that people see", min_length=1, max_length=64)
    state_dir: AbsolutePath = Field(Path("/var/lib/v2g-gateway"), description="Where evidence and state are kept")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much is logged")


class SiteSettings(Section):
    """[site]: the connection and what the contract allows."""

    nominal_frequency_hz: Literal[50, 60] = Field(50, description="Grid's nominal frequency, Hz")
    phases: Literal[1, 3] = Field(3, description="Phases of the connection")
    nominal_voltage_v: int = Field(230, ge=100, le=300, description="Line to neutral, V")
    fuse_a: int = Field(63, ge=6, le=4000, description="Main fuse per phase, A")
    phase_difference_a: int = Field(
        20, ge=0, le=4000, description="Most that devices may make one phase differ from another, A; 0: no limit"
    )
    import_limit_w: int = Field(40_000, ge=0, le=10_000_000, description="Most import at the connection, W")
    export_limit_w: int = Field(10_000, ge=0, le=10_000_000, description="Most export at the connection, W")
    house_reserve_w: int = Field(5_000, ge=0, le=1_000_000, description="Most that everything not controlled draws, W")
    discharge_permitted: bool = Field(False, description="The connection contract permits export from storage and cars")
    timezone: Timezone = Field("UTC", description='Where it is by the tz database, such as "Europe/Berlin"')


class TokenSettings(Section):
    """[token]: the HSM."""

    module: Path = Field(Path("/usr/lib/softhsm/libsofthsm2.so"), description="PKCS#11 module")
    label: str | None = Field(None, description="Token label; give this or `serial`")
    serial: str | None = Field(None, description="Token serial number; better than the label, it is unique")
    pin_secret: PinReference = Field("credential:token-pin", description="Where the user PIN is")
    key_protection: Literal["software", "tpm", "certified"] = Field(
        "software", description="What holds the keys: signed into every batch, so state it truly"
    )

    @model_validator(mode="after")
    def _selected(self) -> Self:
        if (self.label is None) == (self.serial is None):
            raise ValueError("select the token by exactly one of `serial` and `label`")
        return self


class EvidenceSettings(Section):
    """[evidence]"""

    linger_s: float = Field(1.0, ge=0.0, le=10.0, description="Longest wait of a statement for its batch to fill, s")
    linger_leaves: int = Field(2048, ge=1, le=4095, description="Statements that end the wait at once")
    countersign: Literal["no", "ml-dsa-65"] = Field(
        "no", description="Sign each root a second time, with a key that a quantum computer cannot break"
    )
    retain_days: int = Field(7, ge=7, le=3650, description="Evidence is kept this long after acknowledgement, days")
    store_key_secret: PinReference | None = Field(
        None, description="Key of the store, which is encrypted then (see store-key); absent: it is in the clear"
    )
    most_mib: int = Field(
        4096, ge=64, le=1 << 20, description="Most space for evidence, MiB; near it the oldest readings are merged"
    )


class StatementsAsTelemetry(StrEnum):
    """To which platforms without GatewayLink what is no reading goes, on the devices' streams."""

    KNOWN = "known"
    """To those that were seen to acknowledge there: they know our fields."""
    ALWAYS = "always"
    NEVER = "never"


class PlatformSettings(Section):
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
    est: EstUrl | None = Field(
        None,
        description='EST server that renews certificates, "https://HOST/.well-known/est[/LABEL]"; absent: people do',
    )
    est_ca_file: Path | None = Field(None, description="Whom it is trusted by, PEM; absent: ca_file")
    platform_key_file: Path = Field(
        description="Public key of the platform's acknowledgements and countersignatures, PEM"
    )
    trust_root_file: Path = Field(description="Public keys that sign the trust list, PEM, one after the other")
    trust_threshold: int = Field(1, ge=1, le=16, description="So many of these keys must have signed it")
    trust_list_file: Path = Field(description="Who may order what: signed trust list")
    aggregator_id: str = Field("", max_length=255, description="Who dispatches this site: stands in its bids")
    reconnect_least_s: float = Field(0.5, ge=0.1, le=60, description="First back-off after a lost link, s")
    reconnect_most_s: float = Field(60.0, ge=1, le=3600, description="Longest back-off, s")
    most_kbit_s: int | None = Field(
        None, ge=16, le=10_000_000,
        description="Batches, as sent, take no more of the line than this, kbit/s; what is shown live goes beside it",
    )  # fmt: skip
    compression: bool = Field(
        False, description="What goes up is compressed (gzip); over MQTT only to a platform that says it takes it"
    )
    statements_as_telemetry: StatementsAsTelemetry = Field(
        StatementsAsTelemetry.KNOWN,
        description="Receipts, windows and alarms as points of no energy on devices' streams, without GatewayLink",
    )
    stall_s: float = Field(30.0, ge=2, le=600, description="No answer to a batch for this long: connect anew, s")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.mqtt_certificate_file is None) != (self.mqtt_certificate_key_file is None):
            raise ValueError("mqtt_certificate_file and mqtt_certificate_key_file go together")
        if self.est is None and self.est_ca_file is not None:
            raise fault("est_ca_file needs it", "est")
        return self


class UnsignedCommands(StrEnum):
    """Which commands without a signed authorization are obeyed."""

    REFUSE = "refuse"
    RESTRICTIVE = "restrictive"
    ALL = "all"


class MandateSettings(Section):
    """[[control.mandate]]: an owner's permission to discharge the vehicle that identifies itself with this token."""

    token_id: str = Field(min_length=1, max_length=255, description="RFID or contract identifier of the driver")
    minimum_soc_percent: int = Field(30, ge=0, le=100, description="Never discharged below, percent")
    least_price_micro_per_kwh: int = Field(0, ge=0, description="Least price for a discharge, micro-units per kWh")
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$", description="ISO 4217, of the price")
    issuers: list[Annotated[str, Field(min_length=1, max_length=255)]] = Field(
        [],
        max_length=64,
        description="Whose commands may discharge it, by the trust list's names; none: anybody's there",
    )


class FrequencySettings(Section):
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


class FeedSourceSettings(Section):
    """[[feeds.source]]: somebody whose signed values count."""

    name: str = Field(min_length=1, max_length=255, description="As it stands in the values")
    key_file: AbsolutePath = Field(description="Its public key, PEM")


class FeedSettings(Section):
    """[feeds]: signed prices and frequencies, agreed among sources. Without sources there are none."""

    needed: int = Field(2, ge=1, le=100, description="So many sources must agree within two sigma")
    area: str = Field("", max_length=64, description="Bidding zone or area that the values are for")
    price_fresh_s: float = Field(
        3600.0, ge=1, le=86_400, description="The last price that was agreed on counts so long without another, s"
    )
    frequency_fresh_s: float = Field(30.0, ge=1, le=600, description="A frequency counts so long, s")
    source: list[FeedSourceSettings] = Field([], max_length=100)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        names = [source.name for source in self.source]
        if len(set(names)) != len(names):
            raise fault("names of sources must differ", "source")
        if self.source and len(self.source) < self.needed:
            raise fault(f"{self.needed} sources must agree, and there are {len(self.source)}", "needed")
        return self


class ControlSettings(Section):
    """[control]"""

    unsigned_commands: UnsignedCommands = Field(
        UnsignedCommands.RESTRICTIVE, description="Commands without authorization that are obeyed"
    )
    zones: list[str] = Field([], max_length=16, description="Zones whose commands are meant for this gateway too")
    interval_s: float = Field(1.0, ge=0.1, le=5.0, description="The plan is made at least this often, s")
    lease_s: float = Field(60.0, ge=5, le=900, description="A permission ends in the device after this silence, s")
    cars_by_default: Literal["charge", "wait"] = Field("charge", description="What cars do when nobody commands")
    surplus_start_after_s: float = Field(
        60.0, ge=0, le=3600, description='Cars with day = "surplus" start after the sun was enough for so long, s'
    )
    surplus_stop_after_s: float = Field(
        120.0, ge=0, le=3600, description="They stop after it was too little for so long, s"
    )
    surplus_least_s: float = Field(
        300.0, ge=0, le=7200, description="They charge so long at least, and rest so long at least, s"
    )
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
    record_days: int = Field(
        7, ge=0, le=3650, description="Decisions with their inputs are kept so long for `replay`, days; 0: not recorded"
    )
    mandate: list[MandateSettings] = Field([], max_length=1000)


class SettlementSettings(Section):
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
            raise fault(f"{self.window_s} does not divide a day; 300 and 900 are usual", "window_s")
        return self


class OcppSettings(Section):
    """[ocpp]: where chargers connect to."""

    listen: HostAndPort = Field("127.0.0.1:9000", description="Address and port for chargers")
    certificate_file: Path | None = Field(None, description="Server certificate (profiles 2 and 3), PEM")
    certificate_key_file: Path | None = Field(None, description="Its key, mode 0600, PEM")
    heartbeat_s: int = Field(300, ge=5, le=86_400, description="Heartbeat interval given to chargers, s")
    meter_interval_s: int = Field(5, ge=1, le=900, description="Meter values from chargers, s")
    call_timeout_s: float = Field(10.0, ge=1, le=120, description="A charger's time to answer, s")
    unknown_chargers: Literal["wait", "refuse"] = Field(
        "wait", description="Chargers of no [[device]]: wait (Pending) for `chargers approve`, or refuse them"
    )
    certificate_names: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]] = Field(
        [],
        max_length=16,
        description="In place of certificate_file: names and addresses that the site's CA certifies the listener for",
    )
    site_ca: bool = Field(
        False, description="Certify chargers with a key in the token (run init again: it makes the key)"
    )
    client_ca_file: Path | None = Field(
        None, description="Certificates of whoever else certifies chargers with security_profile 3, PEM"
    )
    tokens_file: Path | None = Field(None, description="idTokens that may charge here, TOML, mode 0640 or less")
    master_pass_group: str = Field(
        "", max_length=36, description="Group of tokens that end any transaction and start none"
    )
    contract_roots_file: Path | None = Field(
        None, description="Root certificates of plug and charge contracts, PEM; absent: chargers judge them alone"
    )

    contract_provider: HttpsUrl | None = Field(
        None, description="Who makes contracts for cars (M01, M02), https://; absent: nobody is asked"
    )
    contract_provider_ca_file: Path | None = Field(None, description="Whom it is trusted by, PEM; absent: the system's")
    contract_provider_secret: SecretReference | None = Field(None, description="What it knows us by (bearer token)")
    ocsp_responders: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]] = Field(
        [], max_length=32, description='Who may be asked whether contracts were revoked: "host" or "host:port"'
    )
    crl_servers: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]] = Field(
        [], max_length=32, description="From where lists of revoked certificates may be fetched, likewise"
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate_file is None) != (self.certificate_key_file is None):
            raise ValueError("certificate_file and certificate_key_file go together")
        if self.contract_provider is None and (self.contract_provider_ca_file or self.contract_provider_secret):
            raise fault("contract_provider_ca_file and contract_provider_secret need it", "contract_provider")
        if self.certificate_names and self.certificate_file is not None:
            raise fault("certificate_file is the listener's certificate already", "certificate_names")
        if self.certificate_names and not self.site_ca:
            raise fault("needs the site's CA: site_ca = true, and init run again", "certificate_names")
        return self

    @property
    def has_tls(self) -> bool:
        """Whether chargers connect by wss://."""
        return self.certificate_file is not None or bool(self.certificate_names)


class WebSettings(Section):
    """[web]: status page, health and metrics."""

    listen: HostAndPort = Field("127.0.0.1:8080", description="Address and port of the status page")
    password_secret: SecretReference | None = Field(None, description="Required beyond loopback (user: installer)")
    certificate_file: Path | None = Field(None, description="Server certificate, required beyond loopback, PEM")
    certificate_key_file: Path | None = Field(None, description="Its key, mode 0600, PEM")
    public_url: HttpsUrl | None = Field(
        None,
        description="Where everybody may fetch history and newest proof, https://; absent: with the password only",
    )

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if (self.certificate_file is None) != (self.certificate_key_file is None):
            raise ValueError("certificate_file and certificate_key_file go together")
        if not is_loopback(self.listen) and (self.password_secret is None or self.certificate_file is None):
            raise fault(
                f"{self.listen} can be reached from the network: set password_secret and certificate_file, "
                'or listen on "127.0.0.1:8080"',
                "listen",
            )
        return self
