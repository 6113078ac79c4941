"""Tests of agent/cli/ that start no process; the others are hil_tests/test_cli_*.py."""
