"""A connector for thingsboard-gateway that measures the readings of the bench `pipeline`. Runs in its venv, not here.

A custom connector as its documentation describes: the module lies in its `extensions/bench` folder, beside
`_pipeline_readings.py`. It begins when the gateway is connected, and gives one converted reading after the other, as
its own connectors do with each poll of a device.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from threading import Thread
from typing import Any

from thingsboard_gateway.connectors.connector import Connector  # type: ignore[import-not-found]  # in its venv only
from thingsboard_gateway.extensions.bench._pipeline_readings import (  # type: ignore[import-not-found]  # likewise
    device_name,
    measured,
)
from thingsboard_gateway.gateway.entities.converted_data import ConvertedData  # type: ignore[import-not-found]
from thingsboard_gateway.gateway.entities.telemetry_entry import TelemetryEntry  # type: ignore[import-not-found]

MOST_AHEAD = 20_000
"""Readings that wait for its storage, as many as our gateway lets wait: neither measures without bound."""


class ReadingsConnector(Connector, Thread):  # type: ignore[misc]  # its base class is of no known type here
    """Gives `readings` readings of `devices` devices in turn, then rests."""

    def __init__(self, gateway: Any, config: dict[str, Any], connector_type: str) -> None:
        super().__init__(daemon=True)
        self._gateway = gateway
        self._config = config
        self._type = connector_type
        self._stopped = False
        self.name = config["name"]

    def open(self) -> None:
        self.start()

    def run(self) -> None:
        client = None
        while client is None or not client.is_connected():
            time.sleep(0.05)
            client = self._gateway.tb_client
        queue = self._gateway.get_converted_data_queue()
        began = json.dumps({"began_s": time.monotonic()})
        Path(self._config["began_file"]).write_text(began, encoding="utf-8")
        devices, readings = self._config["devices"], self._config["readings"]
        for number in range(readings):
            if self._stopped:
                return
            while queue.qsize() > MOST_AHEAD:
                time.sleep(0.001)
            self._gateway.send_to_storage(self.name, self.get_id(), convert(number % devices, 1 + number // devices))

    def close(self) -> None:
        self._stopped = True

    def get_id(self) -> Any:
        return self._config["id"]

    def get_name(self) -> Any:
        return self.name

    def get_type(self) -> str:
        return self._type

    def get_config(self) -> dict[str, Any]:
        return self._config

    def is_connected(self) -> bool:
        return True

    def is_stopped(self) -> bool:
        return self._stopped

    def on_attributes_update(self, content: Any) -> None:
        """No attribute is shared."""

    def server_side_rpc_handler(self, content: Any) -> None:
        """No call is answered."""


def convert(place: int, sequence: int) -> Any:
    """One reading in the platform's form: floats of SI units, as its own converters give them."""
    raw = measured(place, sequence)
    values = {
        "sequence": sequence,
        "power_w": raw["power_w"],
        "import_kwh": raw["import_milliwatt_hours"] / 1e6,
        "export_kwh": raw["export_milliwatt_hours"] / 1e6,
        "voltage_v": raw["voltage_millivolts"] / 1000,
        "frequency_hz": raw["frequency_millihertz"] / 1000,
        "state_of_charge_percent": raw["state_of_charge_permille"] / 10,
    }
    converted = ConvertedData(device_name=device_name(place), device_type="meter")
    converted.add_to_telemetry(TelemetryEntry(values, int(time.time() * 1000)))
    return converted
