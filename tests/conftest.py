"""Hypothesis in this repository: the gate tries the same examples on every run, the hunt tries new ones.

A change is judged by itself and not by the draw of the day, nor by how busy the machine is. New examples are searched
for apart from that, and what they find becomes a test: `pytest --hypothesis-profile=hunt tests`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

settings.register_profile(
    "gate",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # a loaded machine draws slowly: that is no fault of the code
)
settings.register_profile("hunt", settings.get_profile("gate"), derandomize=False, max_examples=2000)
settings.load_profile("gate")


@pytest.fixture(autouse=True)
def logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs in this process may set up logs for itself; the next test's are the usual ones again."""
    configure = structlog.configure

    def not_for_ever(**options: object) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})  # type: ignore[arg-type]  # of structlog's own

    monkeypatch.setattr(structlog, "configure", not_for_ever)
    yield
    _plain_logs()


def _plain_logs() -> None:
    """Without the locals of every frame: a test that fails shall be read, and one that logs errors shall be quick."""
    structlog.reset_defaults()
    *before, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*before, renderer])


_plain_logs()
