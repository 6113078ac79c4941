"""Tests of agent/control/."""
