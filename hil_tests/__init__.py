"""Tests against real parts, the rig of simulators that they and the demo use, and the benchmarks.

Here lives what needs a real token, broker, socket or process. Fast tests of pure logic live in `tests/`.
Nothing in `agent/` or `drivers/` imports this package.
"""
