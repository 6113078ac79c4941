"""For all tests on real parts: the Hypothesis profiles of tests/, and an environment that none changes for the next."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import conftest as profiles

__all__ = ["profiles"]


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """What runs in this process may name its token there (SOFTHSM2_CONF); the next test's is another one."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
