"""Tests of agent/identity."""
