"""Makes the watch over a gateway's certificates, and their renewals: which the platform's EST server is asked for, how.

The uplink's key is in the HSM, which Python's TLS cannot use: the gateway logs in with a token that this key signs, and
the request proves the same key. Where a certificate's key is a file (MQTT) and the platform's CA issued it, it does
mutual TLS as RFC 7030 has it; one of a broker's own CA is shown to the broker alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from agent.clock import Clock
from agent.config import PlatformSettings, Settings
from agent.identity.csr import client_request, renewal_request, server_request
from agent.identity.enrolment import Usage
from agent.identity.errors import KeyFileError
from agent.identity.est import basic_login
from agent.identity.login_token import login_password
from agent.identity.purposes import UPLINK_KEY
from agent.roads.certificates import CertificateWatch, certificates_of, reload_into
from agent.roads.est import EstServer
from agent.roads.renewal import OnAlarm, Renewable, Renewal
from agent.store import Store
from agent.token.token import PinnedSigner, Token

Prove = Callable[[bytes], Awaitable[None]]
"""Tries a new chain (PEM) on the platform. Raises UplinkError."""


def certificate_watch(
    settings: Settings,
    *,
    token: Token,
    store: Store,
    clock: Clock,
    gateway_id: Callable[[], str],
    prove: Prove,
    renewed_uplink: Callable[[], None],
    server_use: Callable[[Path, Path], None] | None,
    on_alarm: OnAlarm,
) -> CertificateWatch:
    """Over all that a gateway with these settings has. `renewed_uplink`: told of a new certificate of the uplink;
    `server_use`: loads one into the chargers' listener, where there is one."""
    renewals = _renewals(
        settings, token=token, store=store, clock=clock, gateway_id=gateway_id, prove=prove, on_alarm=on_alarm
    )
    watched = certificates_of(
        settings,
        token=token,
        store=store,
        gateway_id=gateway_id,
        renewals=renewals,
        renewed_uplink=renewed_uplink,
        renewed_ocpp=None if server_use is None else reload_into(server_use, settings),
    )
    return CertificateWatch(watched, enrolment=settings.gateway.state_dir / "enrolment", clock=clock, on_alarm=on_alarm)


def _renewals(
    settings: Settings,
    *,
    token: Token,
    store: Store,
    clock: Clock,
    gateway_id: Callable[[], str],
    prove: Prove,
    on_alarm: OnAlarm,
) -> Mapping[str, Renewal]:
    """By the name of the certificate; none where [platform] names no EST server."""
    platform, ocpp = settings.platform, settings.ocpp
    if platform is None or platform.est is None:
        return {}

    async def signer() -> PinnedSigner:
        return await token.pinned_signer(UPLINK_KEY, store.journal("token"))

    server = _est_server(platform, signer=signer, gateway_id=gateway_id)

    async def uplink_key() -> bytes:
        return (await signer()).public_key_der

    async def uplink_request(present: bytes) -> bytes:
        return await renewal_request(await signer(), x509.load_pem_x509_certificates(present)[0])

    found = [
        Renewable(
            name="uplink",
            file=platform.certificate_file,
            usage=Usage.CLIENT,
            public_key_der=uplink_key,
            request=uplink_request,
            gateway_id=gateway_id,
            prove=prove,
        )
    ]
    if platform.mqtt_certificate_file is not None and platform.mqtt_certificate_key_file is not None:
        key = platform.mqtt_certificate_key_file
        found.append(_with_file("mqtt", platform.mqtt_certificate_file, key, Usage.CLIENT, client_request))
    if ocpp.certificate_file is not None and ocpp.certificate_key_file is not None:
        key = ocpp.certificate_key_file
        found.append(_with_file("ocpp", ocpp.certificate_file, key, Usage.SERVER, _server_request))
    return {
        one.name: Renewal(
            one,
            server,
            roots_file=platform.ca_file,
            place=settings.gateway.state_dir / "enrolment",
            clock=clock,
            on_alarm=on_alarm,
        )
        for one in found
    }


def _est_server(
    platform: PlatformSettings,
    *,
    signer: Callable[[], Awaitable[PinnedSigner]],
    gateway_id: Callable[[], str],
) -> EstServer:
    """The one of [platform], where this gateway logs in with a token of its own key."""
    assert platform.est is not None
    url = platform.est.rstrip("/")

    async def login(now: datetime) -> str:
        now_s = int(now.timestamp())
        return basic_login(await login_password(await signer(), gateway_id=gateway_id(), audience=url, now_s=now_s))

    client_files = None
    if platform.mqtt_certificate_file is not None and platform.mqtt_certificate_key_file is not None:
        client_files = (platform.mqtt_certificate_file, platform.mqtt_certificate_key_file)
    return EstServer(
        url=url,
        ca_file=platform.est_ca_file or platform.ca_file,
        login=login,
        client_files=client_files,
        client_roots=platform.ca_file,
    )


def _with_file(name: str, file: Path, key: Path, usage: Usage, request: Callable[[bytes, bytes], bytes]) -> Renewable:
    """One whose key is a file."""

    async def public_key_der() -> bytes:
        return await asyncio.to_thread(_public_half, key)

    async def asked(present: bytes) -> bytes:
        return await asyncio.to_thread(lambda: request(key.read_bytes(), present))

    return Renewable(name=name, file=file, usage=usage, public_key_der=public_key_der, request=asked)


def _server_request(key_pem: bytes, present: bytes) -> bytes:
    return server_request(key_pem, like=present)


def _public_half(file: Path) -> bytes:
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{file}: no private key in PEM: {str(error)[:80]}") from error
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
