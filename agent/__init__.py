"""The gateway itself. Two roads: up, device -> measure -> evidence -> store -> uplink;
down, uplink -> verify -> store -> control -> device. `gateway.py` builds the parts and supervises them.

Hardware protocols live in `drivers/`, wire contracts in `proto/`. Arrows point down; import-linter holds them.
"""
