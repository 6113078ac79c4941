"""Hypothesis in this repository: the gate tries the same examples on every run, the hunt tries new ones.

A change is judged by itself and not by the draw of the day, nor by how busy the machine is. New examples are searched
for apart from that, and what they find becomes a test: `pytest --hypothesis-profile=hunt tests`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "gate",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # a loaded machine draws slowly: that is no fault of the code
)
settings.register_profile("hunt", settings.get_profile("gate"), derandomize=False, max_examples=2000)
settings.load_profile("gate")
