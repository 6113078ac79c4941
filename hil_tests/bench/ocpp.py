"""Bench `ocpp`: CPU from frame to answer against the `ocpp` package, and a site of 200 chargers.

The same TransactionEvent with eight sampled values goes through our connection, with all that the gateway makes of it,
and through the package's `route_message`, with a handler that does nothing: `speedup_vs_ocpp_package` shall be at least
15. Then 200 chargers in a process of their own send one every second over real WebSockets: `core_share_200_chargers`,
of the CSMS process alone, shall be at most 0.25. `profile_ms_p99` is from the order of a limit to the arrival of its
SetChargingProfile in the charger's process, under that load.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

from ocpp.routing import on
from ocpp.v201 import ChargePoint, call_result
from websockets.asyncio.server import ServerConnection

from drivers.ocpp import ChargerSettings
from drivers.ocpp.charger import OcppCharger
from drivers.ocpp.connection import Connection
from drivers.ocpp.pace import Pace
from drivers.ocpp.rpc import RpcEngine
from drivers.ocpp.schemas import Version
from hil_tests.bench._ocpp_frames import transaction_event

ROUNDS: Final = 5
EVENTS: Final = 2_000
CHARGERS: Final = 200
SECONDS: Final = 30.0
ORDERS: Final = 1_000


def run(
    progress: Callable[[str], None],
    *,
    rounds: int = ROUNDS,
    events: int = EVENTS,
    chargers: int = CHARGERS,
    seconds: float = SECONDS,
    orders: int = ORDERS,
) -> dict[str, float]:
    """The figures, by the names that the README has."""
    turns = []
    for turn in range(1, rounds + 1):
        frames = [transaction_event(number, f"T{turn}") for number in range(events)]
        theirs_us, ours_us = (1e6 * asyncio.run(side(frames)) / events for side in (theirs, ours))
        turns.append(theirs_us / ours_us)
        progress(f"round {turn} of {rounds}, CPU us from frame to answer: ours {ours_us:.1f}, ocpp {theirs_us:.1f}")
    progress(f"{chargers} chargers with meter values every second, for {seconds:g} s")
    site, waits_ms = on_site(chargers, seconds, orders)
    progress(
        f"{site['messages_per_s']:.1f} messages/s; {len(waits_ms)} limits, median {waits_ms[len(waits_ms) // 2]:.2f} ms"
    )
    return {
        "speedup_vs_ocpp_package": round(statistics.median(turns), 2),
        f"core_share_{chargers}_chargers": round(site["core_share"], 4),
        "bytes_per_charger": round(site["bytes_per_charger"]),
        "profile_ms_p99": round(waits_ms[len(waits_ms) * 99 // 100], 3),
    }


class _Socket:
    """A socket that has these frames to be read, and takes what is sent."""

    def __init__(self, frames: list[str]) -> None:
        self._frames = frames
        self.sent: list[str] = []

    async def __aiter__(self) -> AsyncIterator[str]:
        for text in self._frames:
            yield text

    async def send(self, text: str) -> None:
        self.sent.append(text)


class _Station(ChargePoint):  # type: ignore[misc]  # the package has no type information
    @cast("Callable[[Any], Any]", on("TransactionEvent"))
    def take(self, **_: object) -> object:
        return call_result.TransactionEvent()


async def theirs(frames: list[str]) -> float:
    """CPU seconds that the package takes to answer them."""
    socket = _Socket(frames)
    station = _Station("CP-1", socket)
    began_s = time.process_time()
    for text in frames:
        await station.route_message(text)
    took_s = time.process_time() - began_s
    _check(socket, len(frames))
    return took_s


class _NoJournal:
    async def remember(self, key: str, value: bytes) -> None:
        """The store has its own bench."""

    async def recall(self, key: str) -> bytes | None:
        return None


async def ours(frames: list[str]) -> float:
    """CPU seconds that we take to answer them, samples and all."""
    samples = 0
    charger = OcppCharger(
        [ChargerSettings(device_id="car-1", charger_id="CP-1")],
        heartbeat_s=300,
        meter_interval_s=60,
        call_timeout_s=10.0,
        monotonic_s=time.monotonic,
        wall_us=lambda: time.time_ns() // 1000,
        journal=_NoJournal(),
        on_event=lambda code, subject, text: None,
    )

    def take(sample: object) -> None:
        nonlocal samples
        samples += 1

    charger.session.connection_began(Version.V201)
    socket = _Socket(frames)
    connection = Connection(
        cast(ServerConnection, socket),
        RpcEngine(Version.V201),
        charger_id="CP-1",
        react=charger._react,
        on_trouble=charger.trouble,
        call_timeout_s=10.0,
        monotonic_s=time.monotonic,
    )
    connection._pace = Pace(1e9, 1e9)  # nobody sends as fast as this
    listening = asyncio.create_task(charger.evses[1].run(take))
    await asyncio.sleep(0)
    began_s = time.process_time()
    await connection.run()
    took_s = time.process_time() - began_s
    listening.cancel()
    _check(socket, len(frames))
    assert samples == len(frames), "a meter value was lost"
    return took_s


def _check(socket: _Socket, count: int) -> None:
    assert len(socket.sent) == count, "an event was not answered"
    assert all(text.startswith("[3,") for text in socket.sent), "an event was refused"


def on_site(count: int, seconds: float, orders: int) -> tuple[dict[str, float], list[float]]:
    """What the CSMS says of itself, and how long each limit took to arrive, ms, in order."""
    csms_command = [sys.executable, "-m", f"{__package__}._ocpp_csms", str(count), str(seconds), str(orders)]
    with subprocess.Popen(csms_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as csms:
        assert csms.stdout is not None
        port = csms.stdout.readline().strip()
        command = [sys.executable, "-m", f"{__package__}._ocpp_chargers", port, str(count)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as chargers:
            said = csms.stdout.readline()
            arrived, _ = chargers.communicate(timeout=60)
        csms.communicate(timeout=60)
    if not said or not arrived:
        raise RuntimeError("the CSMS or the chargers ended early; see above")
    site = json.loads(said)
    arrived_ns, ordered_ns = json.loads(arrived), site.pop("ordered_ns")
    return site, sorted((arrived_ns[limit] - began_ns) / 1e6 for limit, began_ns in ordered_ns.items())
