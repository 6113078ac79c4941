"""The way to whoever makes contracts for cars (M01, M02): one POST over TLS to the one place that the owner named."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

import aiohttp

from agent.config import SecretError, Settings, read_secret
from drivers.ocpp.contract_requests import DEADLINE_S, Ask, ContractRequests

LARGEST: Final = 64 * 1024


def contract_requests(settings: Settings, on_event: Callable[[str, str, str], None]) -> ContractRequests | None:
    """None where nobody is named, or what is named cannot be used: that is said, and chargers work without."""
    ocpp = settings.ocpp
    if ocpp.contract_provider is None:
        return None
    try:
        tls = ssl.create_default_context(cafile=ocpp.contract_provider_ca_file)
        secret = None if ocpp.contract_provider_secret is None else read_secret(ocpp.contract_provider_secret)
    except (OSError, SecretError) as error:
        text = f"[ocpp] contract_provider cannot be used: {error}"
        on_event("charger.contract_provider", "contract provider", text)
        return None
    return ContractRequests(provider(ocpp.contract_provider, tls, secret))


def provider(url: str, tls: ssl.SSLContext, secret: str | None = None) -> Ask:
    """Asks there; `secret`: what it knows us by, as a bearer token."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    if secret is not None:
        headers["Authorization"] = f"Bearer {secret}"

    async def ask(request: bytes) -> bytes:
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(total=DEADLINE_S),
                    # What was packed could be any size unpacked.
                    auto_decompress=False,
                ) as session,
                # Neither the contract nor the secret goes where somebody else sends us.
                session.post(url, data=request, headers=headers, ssl=tls, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise ValueError(f"HTTP status {response.status}")
                body = bytearray()
                async for chunk in response.content.iter_chunked(8192):
                    body += chunk
                    if len(body) > LARGEST:
                        raise ValueError(f"longer than {LARGEST} bytes")
                return bytes(body)
        except TimeoutError:
            raise
        except aiohttp.ClientError as error:
            raise OSError(f"cannot be asked: {error}") from error

    return ask
