"""`python -m hil_tests.rig.published PRACTICE ARCHIVE [--port P]`: serves EnergyDeviceStream and nothing else.

PRACTICE is the folder of a practice platform, for its certificates. Every message goes to ARCHIVE as it came, each
behind its size in four bytes, big endian: raw input is kept, also what of it is not understood.

On standard input, JSON lines: {"do": "command", "device": ID, "id": TEXT, "type": "IDLE", "power_limit_kw": 0.0,
"valid_s": 10} sends a plain command on that device's stream; {"do": "books"} has it say {"books": {DEVICE: {...}}}
(see `ledger.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc import aio
from grpc_tools import protoc

from hil_tests.rig.published.ledger import Device

CONTRACT: Final = Path(__file__).parent / "device.proto"
PACKAGE: Final = "energysettlement.v1"


def contract() -> tuple[type[Any], type[Any]]:
    """(DeviceTelemetry, GridCommand) as classes, compiled from the published text into a pool of their own."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        if protoc.main(["protoc", f"-I{CONTRACT.parent}", f"--descriptor_set_out={out}", CONTRACT.name]) != 0:
            raise RuntimeError(f"{CONTRACT} cannot be compiled")
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    telemetry, command = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in ("DeviceTelemetry", "GridCommand")
    )
    return telemetry, command


class Platform:
    """The one service. `archive` takes what comes."""

    def __init__(self, archive: BinaryIO) -> None:
        self._archive = archive
        self._telemetry, self._command = contract()
        self._devices: defaultdict[str, Device] = defaultdict(Device)
        self._streams: dict[str, asyncio.Queue[Any]] = {}

    def handlers(self) -> grpc.GenericRpcHandler:
        connect = grpc.stream_stream_rpc_method_handler(
            self._connect, request_deserializer=self._read, response_serializer=self._command.SerializeToString
        )
        return grpc.method_handlers_generic_handler(f"{PACKAGE}.EnergyDeviceStream", {"ConnectDevice": connect})

    def _read(self, octets: bytes) -> Any:
        self._archive.write(len(octets).to_bytes(4, "big") + octets)
        self._archive.flush()
        return self._telemetry.FromString(octets)

    async def _connect(self, telemetries: AsyncIterator[Any], _: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        first = await anext(telemetries)
        device_id, queue = str(first.device_id), asyncio.Queue[Any]()
        self._streams[device_id] = queue
        reading = asyncio.create_task(self._take(device_id, first, telemetries, queue))
        try:
            while (command := await queue.get()) is not None:
                yield command
            await reading
        finally:
            reading.cancel()
            if self._streams.get(device_id) is queue:
                del self._streams[device_id]

    async def _take(
        self, device_id: str, first: Any, telemetries: AsyncIterator[Any], queue: asyncio.Queue[Any]
    ) -> None:
        device = self._devices[device_id]
        device.take(first.timestamp_us, first.net_energy_wh, first.state_of_charge_percent)
        try:
            async for each in telemetries:
                device.take(each.timestamp_us, each.net_energy_wh, each.state_of_charge_percent)
            device.streams_ended_well += 1
        finally:
            queue.put_nowait(None)

    def order(self, order: dict[str, Any]) -> dict[str, object]:
        """Carry out one order; what there is to say."""
        match order:
            case {"do": "books"}:
                return {"books": {name: device.page() for name, device in sorted(self._devices.items())}}
            case {"do": "command", "device": device_id, "id": command_id, "type": type_, "valid_s": valid_s}:
                queue = self._streams.get(device_id)
                if queue is None:
                    return {"error": f"no stream of {device_id} is open"}
                queue.put_nowait(
                    self._command(
                        command_id=command_id,
                        type=type_,
                        power_limit_kw=order.get("power_limit_kw", 0.0),
                        valid_until_timestamp_us=time.time_ns() // 1000 + round(valid_s * 1_000_000),
                    )
                )
                return {"sent": command_id}
            case _:
                return {"error": 'known orders: "command", "books"'}


def _say(words: dict[str, object]) -> None:
    print(json.dumps(words), flush=True)


async def _serve(practice: Path, archive: Path, port: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with archive.open("ab") as file:
        platform = Platform(file)
        server = aio.server(
            options=[("grpc.http2.min_ping_interval_without_data_ms", 1000), ("grpc.keepalive_permit_without_calls", 1)]
        )
        server.add_generic_rpc_handlers((platform.handlers(),))
        credentials = grpc.ssl_server_credentials(
            [((practice / "server.key.pem").read_bytes(), (practice / "server.pem").read_bytes())],
            (practice / "ca.pem").read_bytes(),
            require_client_auth=True,
        )
        bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        await server.start()
        _say({"ready": True, "address": f"127.0.0.1:{bound}"})
        orders = asyncio.create_task(_take_orders(platform))
        await ended.wait()
        orders.cancel()
        await server.stop(grace=None)


async def _take_orders(platform: Platform) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        _say(platform.order(json.loads(line)))


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m hil_tests.rig.published", description=__doc__)
    parser.add_argument("practice", type=Path)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 chooses one (default)")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.practice, arguments.archive, arguments.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
