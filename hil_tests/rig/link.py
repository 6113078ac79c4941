"""The link between gateway and platform, as a TCP proxy that can be cut, frozen and restored.

From Python `async with Link("127.0.0.1", port) as link`, or as a process of its own:
`python -m hil_tests.rig.link --to 127.0.0.1:PORT`, which takes {"do": "cut" | "freeze" | "restore"} as JSON lines on
stdin and says {"ready": true, "address": "127.0.0.1:PORT"} and each change as JSON lines on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
from enum import StrEnum
from typing import Final, Self

CHUNK_BYTES: Final = 64 * 1024


class Condition(StrEnum):
    """Of the link."""

    WHOLE = "restore"
    CUT = "cut"
    """Connections are reset, and new ones at once."""
    FROZEN = "freeze"
    """Half open: connections stay and are accepted, and nothing gets through."""


class Link:
    """Forwards TCP connections to `host:port`. `port` says where it listens, once entered."""

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        self._to = (host, port)
        self._listen_port = listen_port
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.condition = Condition.WHOLE
        self.accepted = 0
        """Connections so far."""
        self.bytes_sent = 0
        """That came from clients and went on, so far."""
        self.port = 0

    async def __aenter__(self) -> Self:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self._listen_port)
        self.port = server.sockets[0].getsockname()[1]
        self._server = server
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._reset_all()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection, and every new one, until `restore`."""
        self.condition = Condition.CUT
        self._reset_all()

    def freeze(self) -> None:
        """Let nothing through and close nothing, until `restore`."""
        self.condition = Condition.FROZEN
        self._flows.clear()

    def restore(self) -> None:
        """As before. What was frozen flows on: TCP has lost nothing."""
        self.condition = Condition.WHOLE
        self._flows.set()

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.condition is Condition.CUT:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
        except OSError:
            _reset(writer)
            return
        pair = {writer, far_writer}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, far_writer, counted=True))
                tasks.create_task(self._pump(far_reader, writer))
        except* OSError:
            pass
        finally:
            self._writers -= pair
            for each in pair:
                _reset(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool = False) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._flows.wait()
            writer.write(chunk)
            self.bytes_sent += len(chunk) if counted else 0
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST and not FIN, as a network that has forgotten the connection."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _main(host: str, port: int, listen_port: int) -> None:
    async with Link(host, port, listen_port=listen_port) as link:
        print(json.dumps({"ready": True, "address": link.address}), flush=True)
        orders = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        while line := await orders.readline():
            try:
                condition = Condition(json.loads(line)["do"])
            except (ValueError, KeyError, TypeError):
                print(json.dumps({"event": "error", "text": 'write {"do": "cut" | "freeze" | "restore"}'}), flush=True)
                continue
            {Condition.CUT: link.cut, Condition.FROZEN: link.freeze, Condition.WHOLE: link.restore}[condition]()
            print(json.dumps({"event": "link", "condition": condition.value}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hil_tests.rig.link", description=__doc__)
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="where connections go")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 chooses one")
    arguments = parser.parse_args()
    host, _, port = arguments.to.rpartition(":")
    asyncio.run(_main(host, int(port), arguments.port))


if __name__ == "__main__":
    main()
