"""The HTTP/2 channel to one endpoint, and what a gRPC status means in a sentence for a person."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
from grpc import aio

from agent.uplink.errors import PlatformFaultError, UplinkError

MOST_RECEIVE_BYTES: Final = 256 << 10
"""Of one message. The largest that this contract has is a command with an authorization of 32 KiB; commands that cannot
be judged yet are held, and a hundred of grpc's 4 MiB would be all our memory."""


_NO_NAME: Final = "the name cannot be resolved: DNS is away, or the name is wrong. "
ADVICE: Final = (
    ("errors resolving", _NO_NAME),
    ("Name or service not known", _NO_NAME),
    ("name resolution", _NO_NAME),
    ("No address associated with hostname", _NO_NAME),
    ("WRONG_VERSION_NUMBER", "what answers there speaks no TLS: a captive portal, or another port. "),
    ("certificate has expired", "the platform's certificate has expired, or this clock is wrong. "),
    ("certificate is not yet valid", "the platform's certificate is not valid yet, or this clock is wrong. "),
    ("CERTIFICATE_VERIFY_FAILED", "the certificate is not of the platform's CA: a captive portal, or another one. "),
    (
        "certificate signature failure",
        "the certificate is not of the platform's CA: a captive portal, or another one. ",
    ),
)
"""What the words of the TLS library and the resolver mean to a person at the site; the first that is found."""


def open_channel(
    endpoint: str,
    credentials: grpc.ChannelCredentials,
    *,
    server_name: str | None,
    keepalive_s: float,
    compressed: bool = False,
) -> aio.Channel:
    """A channel of its own: nothing is shared with an earlier one to the same endpoint, least of all its back-off.

    `keepalive_s` of silence bring a ping, and half of that without an answer ends the channel: so a link that is dead
    without saying so (half open) is noticed also when nothing is waiting to be acknowledged. `compressed`: what goes up
    does so by gzip, which most gRPC servers know (one in Go must import it).
    """
    options: list[tuple[str, int | str]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.keepalive_time_ms", round(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive_s * 500)),
        # What grpcio 1.85 really waits for the answer to a keepalive ping: 60 s without this, whatever stands above.
        ("grpc.http2.ping_timeout_ms", round(keepalive_s * 500)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MOST_RECEIVE_BYTES),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    compression = grpc.Compression.Gzip if compressed else None
    return aio.secure_channel(endpoint, credentials, options=options, compression=compression)


async def takes(
    endpoint: str, credentials: grpc.ChannelCredentials, *, server_name: str | None, within_s: float
) -> bool:
    """Whether a server there takes these credentials, tried on a channel that is closed again.

    Ready is a channel whose server has spoken HTTP/2: under TLS 1.3 a client has finished its handshake before the
    server has looked at its certificate.
    """
    async with open_channel(endpoint, credentials, server_name=server_name, keepalive_s=within_s) as channel:
        try:
            async with asyncio.timeout(within_s):
                await channel.channel_ready()
        except TimeoutError:
            return False
        return True


def is_status(error: BaseException, code: grpc.StatusCode) -> bool:
    return isinstance(error, aio.AioRpcError) and error.code() is code


def require_message(read: object) -> None:
    """grpc gives None for a message that cannot be decoded, and goes on: it is no end of the call, least of all a good
    one. Raises PlatformFaultError."""
    if read is None:
        raise PlatformFaultError("what the platform sent is no message of the contract")


def advice(cause: str) -> str:
    """What a person can do about a cause, as a sentence and a blank; empty where nothing is known."""
    return next((words for sign, words in ADVICE if sign in cause), "")


def describe(error: BaseException) -> str:
    """One sentence, safe to show: what a peer wrote is cut and escaped."""
    if isinstance(error, aio.AioRpcError):
        details = escaped(error.details() or "")
        # grpc wraps the cause in several layers; the innermost one says what a person can act on.
        cause = details.rsplit("last error: ", 1)[-1]
        return f"{advice(cause)}{error.code().name}: {cause[:240]}"
    if isinstance(error, UplinkError):
        return str(error)
    return f"{type(error).__name__}: {str(error)[:240]}"


def escaped(words: str) -> str:
    """What a peer wrote, as ASCII that moves no terminal and breaks no line."""
    return words.encode("unicode_escape").decode("ascii")
