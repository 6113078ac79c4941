"""Tests of drivers.ocmf."""
