"""Bench `sunspec`: CPU of a full poll against pysunspec2 and raw asyncio, and of 50 devices once a second.

21 models, 1579 registers, served by a process of its own on loopback. Each client runs in a process of its own too, in
turns, and only the CPU time of its process counts. `cpu_ratio_vs_pysunspec2` shall be at most 1, and
`core_share_50_devices` at most 0.05 (one device: 1 ms of CPU a second).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

ROUNDS: Final = 11
POLLS: Final = 50
"""Short and many: what else the machine does in a round falls on all clients, and the median leaves out the worst."""
DEVICES: Final = 50
SECONDS: Final = 20.0
CLIENTS: Final = ("ours", "pysunspec2", "raw")


def run(
    progress: Callable[[str], None], *, rounds: int = ROUNDS, polls: int = POLLS, seconds: float = SECONDS
) -> dict[str, float]:
    """The figures, by the names that the README has."""
    turns: list[dict[str, float]] = []
    with serving(DEVICES) as ports:
        for turn in range(1, rounds + 1):
            # In turned order: none is always the first, or always after the same one.
            order = CLIENTS[turn % len(CLIENTS) :] + CLIENTS[: turn % len(CLIENTS)]
            turns.append({client: measured(client, polls, ports[:1])["cpu_s"] for client in order})
            shown = ", ".join(f"{client} {1000 * turns[-1][client]:.2f}" for client in CLIENTS)
            progress(f"round {turn} of {rounds}, CPU ms per full poll: {shown}")
        progress(f"{DEVICES} devices once a second, for {seconds:g} s")
        site = measured("site", seconds, ports)
        progress(f"{site['polls']:.0f} polls")

    def ratio(peer: str) -> float:
        # Per round: what else the machine does changes from round to round, and less within one.
        return round(statistics.median(cpu_s["ours"] / cpu_s[peer] for cpu_s in turns), 3)

    return {
        "cpu_ratio_vs_pysunspec2": ratio("pysunspec2"),
        "cpu_ratio_vs_raw": ratio("raw"),
        "core_share_50_devices": round(site["core_share"], 4),
        "timestamp_jitter_ms_p99": round(site["jitter_ms_p99"], 3),
    }


@contextmanager
def serving(count: int, site: str = "_sunspec_site") -> Iterator[list[int]]:
    """Ports of as many devices of a module here, while it lasts."""
    command = [sys.executable, "-m", f"hil_tests.bench.{site}", str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            ports: list[int] = json.loads(server.stdout.readline())
            yield ports
        finally:
            server.stdin.close()  # which ends it
            server.wait(timeout=10)


def measured(client: str, amount: float, ports: Sequence[int]) -> dict[str, float]:
    """What one client says of itself, in a process of its own."""
    command = [sys.executable, "-m", "hil_tests.bench._sunspec_clients", client, str(amount), *map(str, ports)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures
