"""What systemd hears of the agent, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.notify import ServiceNotifier


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def test_assignments_arrive_as_lines_of_one_message(systemd: socket.socket) -> None:
    ServiceNotifier().say("READY=1", "STATUS=All is well.")
    assert systemd.recv(4096) == b"READY=1\nSTATUS=All is well."


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    ServiceNotifier().say("READY=1")


def test_a_systemd_that_went_away_is_no_failure(systemd: socket.socket, tmp_path: Path) -> None:
    notifier = ServiceNotifier()
    (tmp_path / "notify").unlink()
    notifier.say("WATCHDOG=1")


@pytest.mark.parametrize(
    ("microseconds", "pid", "expected"),
    [
        ("30000000", None, 30.0),
        pytest.param("30000000", str(os.getpid()), 30.0, id="of this process"),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_ours_or_none(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, pid: str | None, expected: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert ServiceNotifier.watchdog_s() == expected
