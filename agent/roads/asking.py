"""One HTTP request to somebody outside, bounded in time and size, who sends us nowhere else."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import aiohttp

MOST_OF_A_REFUSAL: Final = 1024
"""Of an answer that is none, so much is read: for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whatever was answered."""

    status: int
    content_type: str
    retry_after: str | None
    date: str | None
    """The time by the clock of who answered, as it came."""
    body: bytes
    """Whole with status 200, else its beginning."""


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
    answer = await exchange(method, url, headers=headers, timeout_s=timeout_s, largest=largest, body=body, tls=tls)
    if answer.status != 200:
        raise ValueError(f"answered with HTTP status {answer.status}")
    kind = answer.content_type.partition(";")[0].strip().lower()
    if types and kind not in types:
        raise ValueError(f"answered with {kind[:40]!r} and not with {' or '.join(types)}")
    return answer.body


async def exchange(
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    timeout_s: float,
    largest: int,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """As `ask`, for whom every status means something."""
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
            answer = bytearray()
            most = largest if response.status == 200 else MOST_OF_A_REFUSAL
            async for chunk in response.content.iter_chunked(8192):
                answer += chunk
                if len(answer) > most and response.status == 200:
                    raise ValueError(f"the answer is longer than {largest} bytes")
                if len(answer) > most:
                    break
            return Answer(
                status=response.status,
                content_type=response.headers.get("Content-Type", ""),
                retry_after=response.headers.get("Retry-After"),
                date=response.headers.get("Date"),
                body=bytes(answer[:most]),
            )
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
