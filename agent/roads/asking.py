"""One HTTP request to somebody outside, bounded in time and size, who sends us nowhere else."""

from __future__ import annotations

import ssl
from collections.abc import Collection

import aiohttp


async def ask(
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    timeout_s: float,
    largest: int,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    types: Collection[str] = (),
) -> bytes:
    """The body of the answer. Raises OSError, TimeoutError or ValueError.

    `tls`: whom to trust; None: the usual. `types`: what it may be by its header, such as application/cbor; none: all.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            # What was packed could be any size unpacked.
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            # Who sends us elsewhere may send us anywhere, and what we tell is for nobody else.
            session.request(
                method,
                url,
                data=body,
                headers=headers | {"Accept-Encoding": "identity"},
                ssl=True if tls is None else tls,
                allow_redirects=False,
            ) as response,
        ):
            if response.status != 200:
                raise ValueError(f"answered with HTTP status {response.status}")
            if types and response.content_type not in types:
                raise ValueError(f"answered with {response.content_type[:40]!r} and not with {' or '.join(types)}")
            answer = bytearray()
            async for chunk in response.content.iter_chunked(8192):
                answer += chunk
                if len(answer) > largest:
                    raise ValueError(f"the answer is longer than {largest} bytes")
            return bytes(answer)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout_s:.0f} s") from error
    except aiohttp.ClientError as error:
        raise OSError(f"cannot be asked: {_cause(error)}") from error


def _cause(error: aiohttp.ClientError) -> str:
    """What the system or TLS said, where that is known: aiohttp's own words print objects."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error)
    return str(error)
