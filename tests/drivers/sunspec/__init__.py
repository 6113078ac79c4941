"""Tests of drivers/sunspec."""
