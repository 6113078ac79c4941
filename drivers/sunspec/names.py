"""Host names to addresses, apart from the loop's own threads.

A resolver that hangs, as it does when the network is down, holds its thread for half a minute. The loop has a handful
of them, and the store and the STOP button need some: so each line has at most one look-up, in a thread of its own that
nobody waits for at the end.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from contextlib import suppress
from typing import Final

MOST_ADDRESSES: Final = 4
"""Of one name: more are not tried."""


def is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Lookup:
    """Of the host of one line."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._answer: asyncio.Future[list[str]] | None = None

    async def addresses(self) -> list[str]:
        """In the order to try them, at least one. Raises OSError.

        Cancelled, the look-up goes on for the next caller.
        """
        if is_address(self._host):
            return [self._host]
        answer = self._answer
        if answer is None:
            loop = asyncio.get_running_loop()
            answer = self._answer = loop.create_future()
            threading.Thread(
                target=self._look_up, args=(loop, answer), name=f"look-up of {self._host}", daemon=True
            ).start()
        try:
            return await asyncio.shield(answer)
        finally:
            if answer.done():
                self._answer = None

    def _look_up(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[str]]) -> None:
        found: list[str] | OSError
        try:
            places = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(place[4][0]) for place in places))[:MOST_ADDRESSES]
        except OSError as error:
            found = error
        except UnicodeError as error:
            found = OSError(f"no host name: {error}")
        with suppress(RuntimeError):  # the loop has ended, and with it whoever asked
            loop.call_soon_threadsafe(_tell, answer, found)


def _tell(answer: asyncio.Future[list[str]], found: list[str] | OSError) -> None:
    if answer.done():
        return
    if isinstance(found, OSError):
        answer.set_exception(found)
        answer.exception()  # seen, also when nobody waits any more
    else:
        answer.set_result(found)
