"""Tests of drivers/ocpp/."""
