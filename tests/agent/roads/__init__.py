"""Tests of agent/roads/ that need no store and no token; the others are hil_tests/test_roads_*.py."""
