"""Tests of agent/evidence: statements, batches, receipts and their verification."""
