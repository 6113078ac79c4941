"""Makes the uplink of an enrolled gateway out of its settings, its keys and the roads that it serves."""

from __future__ import annotations

import asyncio
import functools

from agent.clock import Clock
from agent.config import PlatformSettings
from agent.evidence.cose import VerifyKey
from agent.roads.settling import Settling
from agent.store import Store
from agent.uplink.listener import OnAlarm, OnCommand, OnSigned
from agent.uplink.mqtt_login import log_in
from agent.uplink.session import UplinkIdentity
from agent.uplink.tls import SignDigest, client_credentials, credentials_from_files
from agent.uplink.uplink import Uplink
from drivers.device import Signer


def make_uplink(
    platform: PlatformSettings,
    *,
    identity: UplinkIdentity,
    signer: Signer,
    sign_blocking: SignDigest,
    platform_key: VerifyKey,
    outbox: Store,
    clock: Clock,
    settling: Settling,
    on_command: OnCommand,
    on_alarm: OnAlarm,
    on_signed: OnSigned,
) -> Uplink:
    """Not running yet. `signer` and `sign_blocking` are of the TLS key, which stays in the token."""
    return Uplink(
        platform,
        identity=identity,
        outbox=outbox,
        credentials=lambda: credentials_from_files(
            ca_file=platform.ca_file,
            certificate_file=platform.certificate_file,
            public_key_der=signer.public_key_der,
            sign_digest=sign_blocking,
        ),
        mqtt_login=functools.partial(log_in, platform, signer, identity.gateway_id, clock),
        platform_key=platform_key,
        clock=clock,
        on_command=on_command,
        on_channel=settling.receive,
        on_connected=settling.connected,
        on_platform_time=clock.witness,
        on_alarm=on_alarm,
        on_signed=on_signed,
    )


async def prove_certificate(
    uplink: Uplink | None, platform: PlatformSettings, sign_blocking: SignDigest, chain_pem: bytes
) -> None:
    """Try a new client certificate on the platform, beside the link where that is up. Raises UplinkError."""
    if uplink is None:
        return
    ca_pem = await asyncio.to_thread(platform.ca_file.read_bytes)
    await uplink.rehearse(
        client_credentials(
            ca_pem=ca_pem, certificate_chain_pem=chain_pem, public_key_der=None, sign_digest=sign_blocking
        )
    )
