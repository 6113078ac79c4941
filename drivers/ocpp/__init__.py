"""Chargers: we are their CSMS (OCPP 2.1 and 2.0.1), as a local controller on the site.

Here live the RPC engine (sans-I/O), the WebSocket server around it, and a Device per EVSE. What a charger should do is
decided elsewhere; Modbus has no place here.

Top down: `server` listens (`doorstep` and `pace` bound what its sockets may do), `charger` is one charger over all its
connections, `connection` is one socket, `rpc` the engine in it (`frames` and `schemas` below), `station` and `session`
what the messages mean, `evse` the Device, `profiles`, `dynamic` and `v2x` its limits on the wire, `outside` who else
limits it. Certificates are judged in `contracts`, `ocsp`, `crl` and `revocation_lists`.
"""

from drivers.ocpp.server import OcppServer
from drivers.ocpp.settings import ChargerSettings

__all__ = ["ChargerSettings", "OcppServer"]
