"""The Hypothesis profiles of tests/ hold here too, when these tests are run alone."""

from tests import conftest as profiles

__all__ = ["profiles"]
