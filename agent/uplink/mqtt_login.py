"""How the gateway logs in at an MQTT broker: TLS by the platform's CA, and a client certificate or a signed token.

Python's TLS takes key files only, so the token's key cannot be the TLS key here. Where the broker wants mutual TLS a
key file does (mode 0600, certified for this gateway alone); else the password is a CBOR Web Token (RFC 8392) that the
HSM signs anew for each connection, for this broker, for a few minutes.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.clock import Clock
from agent.config import PlatformSettings
from agent.evidence import cbor
from agent.evidence.cose import HEADER_ALG, HEADER_KID, Sign1, key_id_of, to_be_signed
from agent.uplink.errors import CredentialsError
from agent.uplink.key_exchange import prefer_hybrid
from drivers.device import Signer

TOKEN_VALID_S: Final = 300
# Claims of RFC 8392 section 3.1.
ISS, SUB, AUD, EXP, IAT, CTI = 1, 2, 3, 4, 6, 7


@dataclass(frozen=True, slots=True)
class MqttLogin:
    """For one connection."""

    context: ssl.SSLContext
    user_name: str
    password: str | None


async def signed_token(signer: Signer, *, gateway_id: str, audience: str, now_s: int) -> bytes:
    """A CWT: this gateway, for this broker ("host:port"), from now on for a few minutes."""
    claims: dict[int, cbor.Value] = {
        ISS: gateway_id,
        SUB: gateway_id,
        AUD: audience,
        EXP: now_s + TOKEN_VALID_S,
        IAT: now_s,
        CTI: secrets.token_bytes(16),
    }
    protected = cbor.encode({HEADER_ALG: signer.algorithm, HEADER_KID: key_id_of(signer.public_key_der)})
    payload = cbor.encode(claims)
    return Sign1(protected, {}, payload, await signer.sign(to_be_signed(protected, payload))).encode()


async def log_in(settings: PlatformSettings, signer: Signer, gateway_id: str, clock: Clock, audience: str) -> MqttLogin:
    """Reads the files anew for each connection. Raises CredentialsError, and SignerUnavailableError for the token."""
    certificate, key = settings.mqtt_certificate_file, settings.mqtt_certificate_key_file
    context = await asyncio.to_thread(tls_context, settings.ca_file, settings.server_name, certificate, key)
    if certificate is not None:
        return MqttLogin(context, gateway_id, None)
    now_s = clock.now().wall_us // 1_000_000
    token = await signed_token(signer, gateway_id=gateway_id, audience=audience, now_s=now_s)
    return MqttLogin(context, gateway_id, base64.urlsafe_b64encode(token).decode().rstrip("="))


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
