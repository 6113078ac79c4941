"""Version 1 of the platform's contract: `device.proto` (published), `gateway.proto` (ours), and generated code.

Regenerate with `python -m hil_tests.generate_proto`; a test fails when the generated code is stale.
Never edit a `*_pb2*` file by hand, and never change a published name or number.
"""
