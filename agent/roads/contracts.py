"""The way to whoever makes contracts for cars (M01, M02): one POST over TLS to the one place that the owner named."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

from agent.config import SecretError, Settings, read_secret
from agent.roads.asking import ask
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
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if secret is not None:
        headers["Authorization"] = f"Bearer {secret}"

    async def post(request: bytes) -> bytes:
        return await ask("POST", url, body=request, headers=headers, timeout_s=DEADLINE_S, largest=LARGEST, tls=tls)

    return post
