"""Tests of agent/measure: samples to readings."""
