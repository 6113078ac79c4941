"""Inverters, batteries and meters over Modbus with SunSpec models: we are their client.

`transport.py` carries registers, `connection.py` shares one connection per endpoint, `models.py` and `codec.py` turn
registers into values by the official model definitions, `stretches.py` and `registers.py` read them around holes,
`discovery.py` finds out what is there (`description.py` is what it says, `plausibility.py` tells phantoms),
`measurement.py`, `standing.py` and `ratings.py` (read by `nameplate.py`) say what it means, `counters.py` looks again
where a register fell,
`controls.py`, `writing.py`, `held.py` and `control.py` make a device hold a band of power, `switching.py` disconnects
it, `obedience.py` judges it, `meeting.py` knows it again (`profile.py` and `learned.py` are its habits as kept),
`contact.py` gets to know it, and `device.py` is the Device that the gateway runs. `probing.py` tests revert timers.
"""

from drivers.sunspec.connection import ConnectionPool
from drivers.sunspec.device import SunSpecDevice
from drivers.sunspec.discovery import DeviceDescription, FoundModel, discover
from drivers.sunspec.errors import SunSpecError

__all__ = ["ConnectionPool", "DeviceDescription", "FoundModel", "SunSpecDevice", "SunSpecError", "discover"]
