"""Logging: no secret is written, whoever put it into an event."""

from __future__ import annotations

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
