"""Tests of agent/store/ that need no database; the others are in hil_tests/."""
