"""Makes the devices of the configuration: the drivers' objects, each with its own place in the store."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509

from agent.clock import Clock
from agent.config import DeviceSettings, SecretError, Settings, read_secret, split_address
from agent.config.tokens import TokensError, read_tokens
from agent.ledger.state import ChannelTerms
from agent.measure.meter import MeteredDevice
from agent.roads import ocsp
from agent.roads.adopted import Adopted
from agent.roads.charger_passwords import ChargerPasswords
from agent.roads.contracts import contract_requests
from agent.roads.meter_keys import registered_key
from agent.roads.server_certificate import FILE as SERVER_CERTIFICATE
from agent.roads.site_ca import ROOT_FILE
from agent.store import Store
from drivers.device import Device
from drivers.modbus import MapDevice, MapError, load_map
from drivers.ocmf.errors import MeterKeyError
from drivers.ocmf.keys import MeterKey
from drivers.ocpp.entrance import Adopt
from drivers.ocpp.revocation import Revocations
from drivers.ocpp.server import OcppServer
from drivers.ocpp.settings import ChargerSettings
from drivers.ocpp.tokens import SiteToken, SiteTokens
from drivers.sunspec.connection import ConnectionPool
from drivers.sunspec.device import SunSpecDevice
from drivers.sunspec.endpoint import Endpoint, parse_address
from drivers.sunspec.errors import SunSpecError
from drivers.sunspec.tls import TlsFiles
from firmware_attest.measurement import Setting


@dataclass(frozen=True, slots=True)
class SiteDevices:
    """Every device of the site, and the server that chargers connect to."""

    devices: dict[str, Device]
    ocpp: OcppServer | None
    """None where no charger is configured."""
    connections: ConnectionPool
    problems: dict[str, str]
    """Devices that could not be made, with what to do about it."""

    async def add(
        self, settings: Settings, new: Adopted, on_event: Callable[[str, str, str], None]
    ) -> list[tuple[DeviceSettings, Device]]:
        """The devices of a charger that was approved now. Raises ValueError, and SecretError for its password."""
        if self.ocpp is None:
            raise ValueError("no charger can connect")
        sections = new.sections()
        chargers = [await asyncio.to_thread(_charger, each, settings, on_event, new.origin) for each in sections]
        made = await self.ocpp.add(chargers)
        self.devices.update((device.device_id, device) for device in made)
        return list(zip(sections, made, strict=True))

    def reload_tokens(self, settings: Settings) -> int:
        """Read the file of allowed tokens again; how many there are. Raises ValueError; the old ones stay then."""
        if self.ocpp is None:
            raise ValueError("no charger is configured")
        try:
            tokens = read_site_tokens(settings)
        except TokensError as error:
            raise ValueError(str(error)) from error
        self.ocpp.tokens.replace(tokens)
        return len(tokens)


def make_devices(
    settings: Settings,
    *,
    store: Store,
    clock: Clock,
    on_event: Callable[[str, str, str], None],
    adopted: Sequence[Adopted] = (),
    adopt: Adopt | None = None,
) -> SiteDevices:
    """The devices, not started; `adopted`: those of the settings that are there by an approval.

    One that cannot be made is left out and named: the others work."""
    connections = _connection_pool(settings, clock)
    devices: dict[str, Device] = {}
    problems: dict[str, str] = {}
    for device in settings.device:
        if device.driver == "sunspec":
            try:
                devices[device.id] = _sunspec(device, store=store, clock=clock, connections=connections)
            except (ValueError, SunSpecError) as error:
                problems[device.id] = str(error)
        elif device.driver == "modbus":
            try:
                devices[device.id] = _mapped(device, clock=clock, connections=connections)
            except (ValueError, MapError, SunSpecError) as error:
                problems[device.id] = str(error)
    ocpp = _ocpp_server(
        settings,
        store=store,
        clock=clock,
        on_event=on_event,
        problems=problems,
        origins={each.charger_id: each.origin for each in adopted},
        adopt=adopt,
    )
    if ocpp is not None:
        devices.update(ocpp.devices)
    return SiteDevices(devices, ocpp, connections, problems)


def _connection_pool(settings: Settings, clock: Clock) -> ConnectionPool:
    """Devices of one line share what is set for it: the longest pause, the first one's TLS files."""
    gaps_s: dict[Endpoint, float] = {}
    tls: dict[Endpoint, TlsFiles] = {}
    for device in settings.device:
        if device.address is None:
            continue
        endpoint = parse_address(device.address)
        gaps_s[endpoint] = max(gaps_s.get(endpoint, 0.0), device.gap_s)
        if device.ca_file is not None:
            files = TlsFiles(device.ca_file, device.certificate_file, device.certificate_key_file, device.tls_name)
            tls.setdefault(endpoint, files)
    return ConnectionPool(clock.monotonic_s, gaps_s=gaps_s, tls=tls)


def _sunspec(device: DeviceSettings, *, store: Store, clock: Clock, connections: ConnectionPool) -> SunSpecDevice:
    assert device.address is not None
    return SunSpecDevice(
        device.id,
        device.kind,
        device.address,
        device.unit,
        period_s=device.period_s,
        timeout_s=device.timeout_s,
        connections=connections,
        monotonic_s=clock.monotonic_s,
        journal=store.journal(f"sunspec/{device.id}"),
        rated_import_w=device.rated_import_w,
        rated_export_w=device.rated_export_w,
        fallback_import_w=device.fallback_import_w,
        fallback_export_w=device.fallback_export_w,
        capacity_wh=device.capacity_wh,
        phases=tuple(device.phases),
    )


def _mapped(device: DeviceSettings, *, clock: Clock, connections: ConnectionPool) -> MapDevice:
    assert device.address is not None
    assert device.map is not None
    return MapDevice(
        device.id,
        device.kind,
        device.address,
        device.unit,
        load_map(device.map),
        period_s=device.period_s,
        timeout_s=device.timeout_s,
        connections=connections,
        monotonic_s=clock.monotonic_s,
        rated_import_w=device.rated_import_w,
        rated_export_w=device.rated_export_w,
        capacity_wh=device.capacity_wh,
        phases=tuple(device.phases),
    )


def _ocpp_server(
    settings: Settings,
    *,
    store: Store,
    clock: Clock,
    on_event: Callable[[str, str, str], None],
    problems: dict[str, str],
    origins: Mapping[str, str],
    adopt: Adopt | None,
) -> OcppServer | None:
    chargers = []
    for device in settings.device:
        if device.driver != "ocpp":
            continue
        try:
            chargers.append(_charger(device, settings, on_event, origins.get(device.charger_id or "")))
        except SecretError as error:
            # Without its password a charger must not get in at all.
            problems[device.id] = str(error)
    waits = settings.ocpp.unknown_chargers == "wait" and "listen" in settings.ocpp.model_fields_set
    if not chargers and not waits:  # an installer may see chargers come before writing a section for them
        return None
    try:
        tls = _server_tls(settings)
    except OSError as error:
        # Without TLS that was asked for no charger gets in; meters and inverters work.
        why = f"the OCPP server's TLS files ({settings.ocpp.certificate_file}, ...) cannot be used: {error}"
        problems.update((charger.device_id, why) for charger in chargers)
        return None
    host, port = split_address(settings.ocpp.listen)
    return OcppServer(
        host,
        port,
        chargers,
        heartbeat_s=settings.ocpp.heartbeat_s,
        meter_interval_s=settings.ocpp.meter_interval_s,
        call_timeout_s=settings.ocpp.call_timeout_s,
        monotonic_s=clock.monotonic_s,
        wall_us=lambda: clock.now().wall_us,
        journal=store.journal("ocpp"),
        on_event=on_event,
        ssl=tls,
        tokens=_tokens(settings, on_event),
        contract_roots=_contract_roots(settings, on_event),
        keeper=ChargerPasswords(settings.gateway.state_dir / "chargers"),
        guests=settings.ocpp.unknown_chargers == "wait",
        adopt=adopt,
        revocations=_revocations(settings, store=store, clock=clock),
        contracts=contract_requests(settings, on_event),
    )


def _revocations(settings: Settings, *, store: Store, clock: Clock) -> Revocations | None:
    if not settings.ocpp.ocsp_responders and not settings.ocpp.crl_servers:
        return None
    return Revocations(
        ocsp.post,
        settings.ocpp.ocsp_responders,
        journal=store.journal("ocpp"),
        monotonic_s=clock.monotonic_s,
        wall_us=lambda: clock.now().wall_us,
        fetch_list=ocsp.fetch_list,
        list_hosts=settings.ocpp.crl_servers,
    )


def _charger(
    device: DeviceSettings, settings: Settings, on_event: Callable[[str, str, str], None], origin: str | None = None
) -> ChargerSettings:
    """Raises SecretError."""
    assert device.charger_id is not None
    return ChargerSettings(
        device_id=device.id,
        charger_id=device.charger_id,
        password=None if device.password_secret is None else read_secret(device.password_secret),
        security_profile=device.security_profile,
        evse_id=device.evse_id,
        discharge=device.discharge,
        local_tokens=tuple(device.local_tokens),
        fallback_import_w=device.fallback_import_w,
        rated_import_w=device.rated_import_w,
        rated_export_w=device.rated_export_w,
        phases=tuple(device.phases),
        nominal_voltage_v=settings.site.nominal_voltage_v,
        meter_key=_meter_key(device, on_event),
        **({} if origin is None else {"origin": origin}),
    )


def read_site_tokens(settings: Settings) -> list[SiteToken]:
    """The tokens of `[ocpp] tokens_file`. Raises TokensError."""
    if settings.ocpp.tokens_file is None:
        return []
    return [
        SiteToken(
            name=token.id or "",
            sha256=token.sha256 or "",
            kind=token.type,
            group=token.group,
            expires_us=token.expires_us,
            blocked=token.blocked,
            device_ids=frozenset(token.devices),
        )
        for token in read_tokens(settings.ocpp.tokens_file)
    ]


def _tokens(settings: Settings, on_event: Callable[[str, str, str], None]) -> SiteTokens:
    tokens = SiteTokens(settings.ocpp.master_pass_group)
    try:
        tokens.replace(read_site_tokens(settings))
    except TokensError as error:
        # Whom nobody knows does not charge; those of the configuration do.
        on_event("charger.tokens", "tokens", str(error))
    return tokens


def _contract_roots(settings: Settings, on_event: Callable[[str, str, str], None]) -> list[x509.Certificate]:
    file = settings.ocpp.contract_roots_file
    if file is None:
        return []
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        on_event("charger.contract_roots", "contract roots", f"{file}: cannot be used: {error}")
        return []


def _meter_key(device: DeviceSettings, on_event: Callable[[str, str, str], None]) -> MeterKey | None:
    """A key that cannot be used is said; the charger works, and what its meter signs is kept as unverifiable."""
    try:
        return registered_key(device)
    except MeterKeyError as error:
        on_event("charger.meter_key", device.id, f"the key of its meter cannot be used: {error}")
        return None


def _server_tls(settings: Settings) -> ssl.SSLContext | None:
    """Raises OSError (ssl.SSLError is one) for a certificate of the configuration that cannot be used."""
    ocpp = settings.ocpp
    if not ocpp.has_tls:
        return None
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if ocpp.certificate_file is not None:
        tls.load_cert_chain(ocpp.certificate_file, ocpp.certificate_key_file)
    else:
        # What the site's CA made last, so that chargers get in while the token is away; none yet: it comes by itself.
        with contextlib.suppress(OSError):
            tls.load_cert_chain(settings.gateway.state_dir / SERVER_CERTIFICATE)
    roots = [ocpp.client_ca_file] if ocpp.client_ca_file is not None else []
    if ocpp.site_ca and (own := settings.gateway.state_dir / ROOT_FILE).exists():
        roots.append(own)
    for root in roots:
        tls.load_verify_locations(root)
        # Makers' certificates lack what RFC 5280 asks of them beside the signature, which Python 3.13 would insist on.
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        # Chargers with a password show none; those with profile 3 get in with none but a good one (`entrance`).
        tls.verify_mode = ssl.CERT_OPTIONAL
    return tls


def metered(device: DeviceSettings) -> MeteredDevice:
    """What measuring is told of a device beforehand."""
    return MeteredDevice(
        device_id=device.id,
        rated_import_w=device.rated_import_w,
        rated_export_w=device.rated_export_w,
        period_s=device.period_s,
    )


def channel_terms(settings: Settings, gateway_id: str, device_id: str) -> ChannelTerms:
    """The terms of a settled device's channel, from the configuration."""
    s = settings.settlement
    return ChannelTerms(
        gateway_id=gateway_id,
        device_id=device_id,
        chain_id=s.chain_id,
        contract=bytes.fromhex(s.contract[2:]),
        participant=bytes.fromhex(s.participant[2:]),
        counterparty=bytes.fromhex(s.counterparty[2:]),
        agreement_hash=bytes.fromhex(s.agreement_hash),
    )


def metrology_settings(settings: Settings) -> dict[str, Setting]:
    """The settings that bear on what is measured and settled, for attestation."""
    return {
        "device": [
            device.model_dump(
                mode="json",
                include={"id", "kind", "driver", "address", "unit", "charger_id", "evse_id", "settled", "parent"},
            )
            | _map_as_used(device)
            | _meter_key_as_used(device)
            for device in settings.device
        ],
        "settlement": settings.settlement.model_dump(mode="json"),
        "evidence": settings.evidence.model_dump(mode="json", include={"linger_s", "linger_leaves"}),
        "token": settings.token.model_dump(mode="json", include={"label", "serial", "key_protection"}),
    }


def _meter_key_as_used(device: DeviceSettings) -> dict[str, Setting]:
    """Which meter is believed: who changes the key changes what counts as signed."""
    if device.meter_key_file is None:
        return {}
    try:
        key = registered_key(device)
    except MeterKeyError:
        key = None
    return {"meter_key": None if key is None else key.fingerprint.hex()}


def _map_as_used(device: DeviceSettings) -> dict[str, Setting]:
    """What a register map says, and not only its name: who changes the file changes what is measured."""
    if device.map is None:
        return {}
    try:
        return {"map": load_map(device.map).model_dump(mode="json")}
    except MapError:
        return {"map": None}
