"""The rig: a simulated site (chargers, inverters, meter) and platform over real protocols, and the demo that runs them.

Simulators know physics and protocols, never the gateway's own drivers: a fault in a driver must not cancel out here.
No assertions live here; tests and the demo's scoring use what the rig records.
"""
