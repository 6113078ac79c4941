"""Logging: no secret is written, whoever put it into an event."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
import structlog

from agent.cli.logs import configure


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("key", ["pin", "user_pin", "password", "client_secret", "credential", "private_key"])
def test_a_value_under_a_secret_name_is_not_shown(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure("info")
    structlog.get_logger().info("an.event", **{key: "12345678", "device": "pv-1"})
    written = capsys.readouterr().err
    assert "12345678" not in written
    assert json.loads(written)["device"] == "pv-1"


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning")
    structlog.get_logger().info("an.event")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("broken", ["full disk", "closed"])
def test_a_log_that_cannot_be_written_stops_nobody(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - it cannot be closed without an error
    monkeypatch.setattr("sys.stderr", stream)
    configure("info")
    with pytest.raises(OSError, match="No space"):
        print("what any other writer gets", file=stream, flush=True)
    if broken == "closed":
        with contextlib.suppress(OSError):
            stream.close()
    structlog.get_logger().info("an.event", more="x" * 10_000)
    with contextlib.suppress(OSError):
        stream.close()
