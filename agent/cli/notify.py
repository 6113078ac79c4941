"""Tells systemd how the agent fares (sd_notify): ready, a status line, and the watchdog."""

from __future__ import annotations

import os
import socket


class ServiceNotifier:
    """Speaks to $NOTIFY_SOCKET; without one every call is silent."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def say(self, *assignments: str) -> None:
        """Send lines such as "READY=1". A systemd that does not listen is no reason to fail."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            return

    @staticmethod
    def watchdog_s() -> float | None:
        """How often systemd wants to hear from us, seconds; None without a watchdog for this process."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) > 0 else None
