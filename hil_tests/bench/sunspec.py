"""Bench `sunspec`: CPU of a full poll against pysunspec2 and raw asyncio, and of 50 devices once a second.

21 models, 1579 registers, served by a process of its own on loopback. The clients share another one, so that memory and
the machine's mood are the same for all, take turns within a second, and only the CPU time of that process counts.
`cpu_ratio_vs_pysunspec2` shall be at most 1, and `core_share_50_devices` at most 0.05 (one device: 1 ms a second).
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
        with clients("compare", polls, ports[:1]) as comparing:
            assert comparing.stdin is not None
            assert comparing.stdout is not None
            for turn in range(1, rounds + 1):
                print(turn, file=comparing.stdin, flush=True)
                turns.append(json.loads(comparing.stdout.readline()))
                shown = ", ".join(f"{client} {1000 * turns[-1][client]:.2f}" for client in CLIENTS)
                progress(f"round {turn} of {rounds}, CPU ms per full poll: {shown}")
        progress(f"{DEVICES} devices once a second, for {seconds:g} s")
        with clients("site", seconds, ports) as running:
            assert running.stdout is not None
            site: dict[str, float] = json.loads(running.stdout.readline())
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


@contextmanager
def clients(what: str, amount: float, ports: Sequence[int]) -> Iterator[subprocess.Popen[str]]:
    """The process of the clients; it ends with its standard input."""
    command = [sys.executable, "-m", "hil_tests.bench._sunspec_clients", what, str(amount), *map(str, ports)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(timeout=60)
