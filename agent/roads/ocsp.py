"""The way to OCSP responders and lists of revoked certificates: one request, short, to hosts that the owner allowed."""

from __future__ import annotations

from typing import Final

import aiohttp

TIMEOUT_S: Final = 10.0
LARGEST: Final = 64 * 1024
LIST_TIMEOUT_S: Final = 30.0
LARGEST_LIST: Final = 1024 * 1024


async def post(url: str, request: bytes) -> bytes:
    """The responder's answer. Raises OSError, TimeoutError or ValueError."""
    headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
    return await _ask("POST", url, request, headers, TIMEOUT_S, LARGEST)


async def fetch_list(url: str) -> bytes:
    """A list of revoked certificates. Raises OSError, TimeoutError or ValueError."""
    return await _ask("GET", url, None, {"Accept": "application/pkix-crl"}, LIST_TIMEOUT_S, LARGEST_LIST)


async def _ask(
    method: str, url: str, request: bytes | None, headers: dict[str, str], timeout_s: float, largest: int
) -> bytes:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            # What was packed could be any size unpacked.
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            # A responder that sends us elsewhere may send us anywhere.
            session.request(
                method, url, data=request, headers=headers | {"Accept-Encoding": "identity"}, allow_redirects=False
            ) as response,
        ):
            if response.status != 200:
                raise ValueError(f"answered with HTTP status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(8192):
                body += chunk
                if len(body) > largest:
                    raise ValueError(f"the answer is longer than {largest} bytes")
            return bytes(body)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout_s:.0f} s") from error
    except aiohttp.ClientError as error:
        raise OSError(f"cannot be asked: {error}") from error
