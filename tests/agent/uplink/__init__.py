"""Tests of agent/uplink/."""
