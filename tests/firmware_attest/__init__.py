"""Tests of firmware_attest/."""
