"""For all tests on real parts: profiles and logs as in tests/, and an environment that none changes for the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from ssl import SSLContext
from typing import Final

import pytest

from hil_tests.rig.tpm import SoftTpm
from tests.conftest import logs_as_before

__all__ = ["logs_as_before"]

LONGEST: Final = (
    *("hil_tests/test_gateway_", "hil_tests/test_demo", "hil_tests/test_faults", "hil_tests/test_bench_"),
    *("hil_tests/test_cli_", "hil_tests/test_install", "hil_tests/test_token", "hil_tests/test_tpm_"),
    *("hil_tests/test_store_", "hil_tests/test_roads_", "hil_tests/test_sunspec_", "tests/agent/control/"),
    "hil_tests/",
)
"""How the files begin that take longest: whole sites in processes, then many processes, then what waits or reckons."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Among several workers the longest files go first, so that none is left alone with one at the end.

    By itself pytest-xdist puts those with most tests first, which are the quick ones; install.sh tells it not to.
    """

    def place(item: pytest.Item) -> int:
        return next((n for n, start in enumerate(LONGEST) if item.nodeid.startswith(start)), len(LONGEST))

    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=place)


@pytest.fixture(params=["ocpp2.1", "ocpp2.0.1"], ids=["2.1", "2.0.1"])
def version(request: pytest.FixtureRequest) -> str:
    """What a charger speaks; a test that takes it runs once for each."""
    return str(request.param)


@pytest.fixture(scope="session")
def loopback_tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[SSLContext, Path]:
    """What a CSMS on loopback shows, and the authority that chargers trust; made once for all tests."""
    from hil_tests.v2g_parts import site_tls  # not at the top: most tests here have nothing to do with chargers

    return site_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def running_tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTpm]:
    """A TPM of its own for each module; the module's marks say what it needs."""
    soft = SoftTpm(tmp_path_factory.mktemp("tpm"))
    yield soft
    soft.close()


@pytest.fixture
def at_tpm(running_tpm: SoftTpm, monkeypatch: pytest.MonkeyPatch) -> SoftTpm:
    """This process's tools and modules find that TPM."""
    for name, value in running_tpm.environment.items():
        monkeypatch.setenv(name, value)
    return running_tpm


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """What runs in this process may name its token there (SOFTHSM2_CONF); the next test's is another one."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
