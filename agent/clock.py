"""One clock: wall time, monotonic time, and how far to trust the wall time.

Windows and validity use wall time; everything else uses monotonic time. Wall time runs on the monotonic clock from the
last trusted anchor (a synchronised kernel, or the platform's signed time), so that somebody setting the system clock
moves nothing. CLOCK_MONOTONIC goes on over a restart of the process and starts again with the kernel: an anchor counts
for one kernel boot id only.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Final

SYNCED_FOR_S: Final = 120.0
"""After a witness the time counts as synchronised this long; then it is holdover."""
DRIFT_PPM: Final = 100
"""Worst crystal that we believe in: growth of the error bound while nothing corrects us."""
HOLDOVER_LIMIT_US: Final = 5_000_000
"""An error bound above this is no trust at all: half of a 10 s telemetry period."""
WITNESS_MARGIN_US: Final = 250_000
"""The platform's word on its own time, on top of half the round trip."""


class ClockQuality(IntEnum):
    """How far wall time can be trusted. Signed into every batch; the numbers are for ever."""

    SYNCED = 0
    HOLDOVER = 1
    UNTRUSTED = 2


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks."""

    wall_us: int
    """Unix time, microseconds."""
    monotonic_s: float
    quality: ClockQuality
    error_bound_us: int | None
    """None when the quality is UNTRUSTED."""


@dataclass(frozen=True, slots=True)
class _Anchor:
    """A moment at which wall time was trusted."""

    wall_us: int
    monotonic_s: float
    error_us: int

    def error_at(self, monotonic_s: float) -> int:
        return self.error_us + int(max(0.0, monotonic_s - self.monotonic_s) * DRIFT_PPM)


class Clock:
    """The agent's only source of time. `restored` is what `state()` gave before; other arguments are for tests."""

    def __init__(
        self,
        *,
        restored: bytes | None = None,
        realtime_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic_s: Callable[[], float] = time.monotonic,
        kernel_error_us: Callable[[], int | None] | None = None,
        kernel_boot_id: str | None = None,
    ) -> None:
        self._realtime_us = realtime_us
        self.monotonic_s = monotonic_s
        self._kernel_error_us = kernel_error_us or kernel_clock_error_us
        self._boot_id = kernel_boot_id or read_kernel_boot_id()
        self._anchor: _Anchor | None = None
        self._floor_us = 0
        self.rebooted = True
        """Whether no time was trusted yet since the kernel started, as far as `restored` tells."""
        if restored is not None:
            self._restore(restored)

    def _restore(self, state: bytes) -> None:
        try:
            saved = json.loads(state)
            self._floor_us = int(saved["floor_us"])
            self.rebooted = saved["kernel_boot_id"] != self._boot_id
            if not self.rebooted and saved["anchor"] is not None:
                wall_us, monotonic_s, error_us = saved["anchor"]
                self._anchor = _Anchor(int(wall_us), float(monotonic_s), int(error_us))
        except (ValueError, KeyError, TypeError):
            # A damaged note costs trust, which comes back by itself, and not the start.
            self._anchor, self.rebooted = None, True

    def state(self) -> bytes:
        """What to keep over a restart: the floor, and the anchor with the kernel boot that it belongs to."""
        now = self.now()
        if now.quality is not ClockQuality.UNTRUSTED:
            self._floor_us = max(self._floor_us, now.wall_us)
        anchor = self._anchor
        return json.dumps(
            {
                "floor_us": self._floor_us,
                # A time that nothing vouched for since the reboot is not vouched for by a restart of the process.
                "kernel_boot_id": self._boot_id if anchor is not None else "",
                "anchor": None if anchor is None else [anchor.wall_us, anchor.monotonic_s, anchor.error_us],
            }
        ).encode()

    @property
    def floor_us(self) -> int:
        """A moment that has been, by a time that was trusted; 0: none was yet. Over restarts as old as `state`."""
        return self._floor_us

    def now(self) -> Instant:
        """The present moment. Also takes the kernel's time as the anchor while the kernel is synchronised."""
        monotonic_s = self.monotonic_s()
        kernel_error_us = self._kernel_error_us()
        if kernel_error_us is not None:
            self._anchor = _Anchor(self._realtime_us(), monotonic_s, kernel_error_us)
        return self.at(monotonic_s)

    def at(self, monotonic_s: float) -> Instant:
        """The wall time of a moment on the monotonic clock (of this kernel boot)."""
        anchor = self._anchor
        if anchor is not None:
            error_us = anchor.error_at(monotonic_s)
            wall_us = anchor.wall_us + round((monotonic_s - anchor.monotonic_s) * 1e6)
            if error_us <= HOLDOVER_LIMIT_US:
                age_s = monotonic_s - anchor.monotonic_s
                quality = ClockQuality.SYNCED if age_s <= SYNCED_FOR_S else ClockQuality.HOLDOVER
                return Instant(wall_us, monotonic_s, quality, error_us)
            return Instant(max(wall_us, self._floor_us), monotonic_s, ClockQuality.UNTRUSTED, None)
        wall_us = self._realtime_us() - round((self.monotonic_s() - monotonic_s) * 1e6)
        return Instant(max(wall_us, self._floor_us), monotonic_s, ClockQuality.UNTRUSTED, None)

    def witness(self, platform_time_us: int, round_trip_s: float) -> None:
        """Take the platform's signed time, received now, `round_trip_s` after we asked. Ignored when we know better."""
        monotonic_s = self.monotonic_s()
        error_us = WITNESS_MARGIN_US + round(round_trip_s * 1e6 / 2)
        seen = _Anchor(platform_time_us + round(round_trip_s * 1e6 / 2), monotonic_s, error_us)
        if self._kernel_error_us() is not None:
            return
        held = self._anchor
        if held is not None:
            difference_us = seen.wall_us - (held.wall_us + round((monotonic_s - held.monotonic_s) * 1e6))
            if abs(difference_us) <= error_us and held.error_at(monotonic_s) <= HOLDOVER_LIMIT_US:
                # It agrees within what it can tell: keep our steadier time and renew the trust in it.
                seen = replace(seen, wall_us=seen.wall_us - difference_us)
        self._anchor = seen


def read_kernel_boot_id() -> str:
    """Changes with every boot of the kernel, stays over restarts of the process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"unknown-{os.getpid()}"


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), the leading fields; the rest is room."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_byte * 256),
    ]


_STA_UNSYNC: Final = 0x0040
_libc = ctypes.CDLL(None, use_errno=True)


def kernel_clock_error_us() -> int | None:
    """The kernel's bound on its clock's error while NTP holds it, microseconds; None while it is not synchronised."""
    timex = _Timex(modes=0)
    state = _libc.adjtimex(ctypes.byref(timex))
    if state < 0 or state == 5 or timex.status & _STA_UNSYNC:  # 5: TIME_ERROR
        return None
    return int(timex.maxerror)
