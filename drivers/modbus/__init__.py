"""Meters and inverters on Modbus without SunSpec, described by a register map: a TOML file, no code.

`register_map.py` says what a map is and checks it, `requests.py` turns it into requests and answers into values,
`device.py` is the Device that the gateway runs, `maps/` are the maps that we ship, and `server.py` is the other side:
a small Modbus TCP server for playing devices. Lines and connections are those of `drivers/sunspec`.
"""

from drivers.modbus.device import MapDevice
from drivers.modbus.register_map import MapError, RegisterMap, load_map, shipped_maps

__all__ = ["MapDevice", "MapError", "RegisterMap", "load_map", "shipped_maps"]
