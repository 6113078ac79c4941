"""Tests of agent/ledger/."""
