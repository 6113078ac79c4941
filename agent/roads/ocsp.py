"""The way to OCSP responders, for plug and charge: one POST, small and short, to hosts that the owner has allowed."""

from __future__ import annotations

from typing import Final

import aiohttp

TIMEOUT_S: Final = 10.0
LARGEST: Final = 64 * 1024


async def post(url: str, request: bytes) -> bytes:
    """The responder's answer. Raises OSError, TimeoutError or ValueError."""
    headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # A responder that sends us elsewhere may send us anywhere.
            session.post(url, data=request, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"the responder answered with HTTP status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(8192):
                body += chunk
                if len(body) > LARGEST:
                    raise ValueError(f"the responder's answer is longer than {LARGEST} bytes")
            return bytes(body)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {TIMEOUT_S:.0f} s") from error
    except aiohttp.ClientError as error:
        raise OSError(f"cannot be asked: {error}") from error
