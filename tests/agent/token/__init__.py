"""Tests of agent/token that need no token."""
