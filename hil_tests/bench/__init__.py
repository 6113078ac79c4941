"""Benchmarks: `python -m hil_tests.bench NAME --json`. Figures are ratios against a peer or limit in the same run."""
