"""The configuration file of the demo's agent: what an installer would write for this site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

CHARGER_RATED_W: Final = 7_360
SETTLED: Final = ("pv-1", "battery-1", "charger-1", "charger-2")


def configuration(
    state_dir: Path,
    *,
    window_s: int,
    addresses: Mapping[str, object],
    enrolled: Mapping[str, object],
    link_address: str,
    ocpp_port: int,
    page_port: int,
    password: Path,
    meter_key: Path,
    meter_key_sha256: str,
) -> str:
    """The agent's configuration file."""
    files = "\n".join(f'{key} = "{value}"' for key, value in enrolled.items() if key.endswith("_file"))
    modbus = "\n".join(
        f'[[device]]\nid = "{device_id}"\nkind = "{kind}"\ndriver = "sunspec"\n'
        f'address = "{addresses[device_id]}"\n{more}'
        for device_id, kind, more in (
            ("meter-1", "meter", ""),
            ("pv-1", "pv", 'parent = "meter-1"\nsettled = true\n'),
            ("battery-1", "battery", 'parent = "meter-1"\nsettled = true\n'),
        )
    )
    chargers = "\n".join(
        f'[[device]]\nid = "{device_id}"\nkind = "charger"\ndriver = "ocpp"\ncharger_id = "{device_id}"\n'
        f'password_secret = "file:{password}"\nparent = "meter-1"\nsettled = true\nrated_import_w = {CHARGER_RATED_W}\n'
        f'fallback_import_w = 4140\nlocal_tokens = ["{token}"]\n{more}'
        for device_id, token, more in (
            (
                "charger-1",
                "TOKEN-V2G",
                f'discharge = "v2x"\nrated_export_w = {CHARGER_RATED_W}\n'
                f'meter_key_file = "{meter_key}"\nmeter_key_sha256 = "{meter_key_sha256}"\n',
            ),
            ("charger-2", "TOKEN-PLAIN", ""),
        )
    )
    return f"""\
# Configuration of the demo: what an installer would write for this site.
[gateway]
name = "demo-site"
state_dir = "{state_dir}"
log_level = "info"

[site]
fuse_a = 80
import_limit_w = 50000
export_limit_w = 50000
house_reserve_w = 3000
discharge_permitted = true

[token]
label = "v2g-gateway"
pin_secret = "file:{state_dir / "token-pin"}"

[platform]
endpoints = ["{link_address}"]
{files}
reconnect_least_s = 0.2
reconnect_most_s = 2.0
stall_s = 5.0

[control]
lease_s = 30
return_delay_most_s = 0
return_ramp_percent_per_minute = 6000

[frequency]
response = true
droop_percent = 1

[[control.mandate]]
token_id = "TOKEN-V2G"
minimum_soc_percent = 30

[settlement]
window_s = {window_s}

[ocpp]
listen = "127.0.0.1:{ocpp_port}"
meter_interval_s = 1
heartbeat_s = 30

[web]
listen = "127.0.0.1:{page_port}"

{modbus}
{chargers}"""
