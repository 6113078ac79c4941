"""How the gateway logs in at an MQTT broker: TLS by the platform's CA, and a client certificate or a signed token.

Python's TLS takes key files only, so the token's key cannot be the TLS key here. Where the broker wants mutual TLS a
key file does (mode 0600, certified for this gateway alone); else the password is a CBOR Web Token (RFC 8392) that the
HSM signs anew for each connection, for this broker, for a few minutes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.clock import Clock
from agent.config import PlatformSettings
from agent.identity.login_token import login_password
from agent.uplink.errors import CredentialsError
from agent.uplink.key_exchange import prefer_hybrid
from drivers.device import Signer


@dataclass(frozen=True, slots=True)
class MqttLogin:
    """For one connection."""

    context: ssl.SSLContext
    user_name: str
    password: str | None


MqttLoginFor = Callable[[str], Awaitable[MqttLogin]]
"""Makes the login for one connection to a broker ("host:port"): see `log_in`, and what it raises."""


async def log_in(settings: PlatformSettings, signer: Signer, gateway_id: str, clock: Clock, audience: str) -> MqttLogin:
    """Reads the files anew for each connection. Raises CredentialsError, and SignerUnavailableError for the token."""
    certificate, key = settings.mqtt_certificate_file, settings.mqtt_certificate_key_file
    context = await asyncio.to_thread(tls_context, settings.ca_file, settings.server_name, certificate, key)
    if certificate is not None:
        return MqttLogin(context, gateway_id, None)
    now_s = clock.now().wall_us // 1_000_000
    return MqttLogin(
        context, gateway_id, await login_password(signer, gateway_id=gateway_id, audience=audience, now_s=now_s)
    )


class _ContextFor(ssl.SSLContext):
    """Checks the broker's certificate for a name of ours instead of the host that was dialled."""

    expected: str | None = None

    def wrap_socket(self, *args: Any, **more: Any) -> ssl.SSLSocket:
        if self.expected is not None:
            more["server_hostname"] = self.expected
        return super().wrap_socket(*args, **more)


def tls_context(ca_file: Path, server_name: str | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Verified always. Raises CredentialsError that names the file."""
    context = _ContextFor(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.expected = server_name
    prefer_hybrid(context)
    _reading(ca_file, lambda: context.load_verify_locations(ca_file))
    if certificate is not None and key is not None:
        mode = _reading(key, lambda: key.stat().st_mode)
        if mode & 0o077:
            raise CredentialsError(f"{key}: others may read this key; run chmod 600 on it")
        _reading(certificate, lambda: context.load_cert_chain(certificate, key))
    return context


def _reading(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ssl.SSLError as error:
        raise CredentialsError(f"{path}: cannot be used for TLS: {error.reason or error}") from error
    except OSError as error:
        raise CredentialsError(f"{path}: cannot be read: {error.strerror}") from error
