"""`python -m hil_tests.rig.site`: the simulated site as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog

from .charger import OCPP_21, OCPP_201, ChargerSettings
from .orders import HELP, Order, OrderError
from .site import BATTERY, METER, PLAIN, PV, V2G, Site, SiteSettings
from .world import PlantSettings

VERSIONS: Final = {"2.1": (OCPP_21,), "2.0.1": (OCPP_201,), "both": (OCPP_21, OCPP_201)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hil_tests.rig.site",
        description="A simulated site: PV, battery and meter over Modbus/SunSpec, two chargers over OCPP.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plant = PlantSettings()
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    for name in ("pv", "battery", "meter"):
        parser.add_argument(f"--{name}-port", type=int, default=0, metavar="PORT", help="Modbus port; 0 chooses")
    parser.add_argument(
        "--line",
        choices=("tcp", "rtu", "rtutcp"),
        default="tcp",
        help="tcp: a port for each device; rtu, rtutcp: all on one serial line, on a pty or behind TCP (%(default)s)",
    )
    parser.add_argument("--line-port", type=int, default=0, metavar="PORT", help="of --line rtutcp; 0 chooses")
    parser.add_argument("--serial-port", type=Path, metavar="PATH", help="where the pty of --line rtu appears")
    parser.add_argument("--csms", default="ws://127.0.0.1:9000", help="where chargers connect to; 'none': no chargers")
    for name, device in (("v2g", V2G), ("plain", PLAIN)):
        parser.add_argument(f"--{name}-id", default=device, metavar="ID", help="OCPP identity (%(default)s)")
        parser.add_argument(
            f"--{name}-version", choices=VERSIONS, default="2.0.1", help="of OCPP that it offers (%(default)s)"
        )
        parser.add_argument(f"--{name}-password-file", type=Path, metavar="FILE", help="basic-auth password")
        parser.add_argument(f"--{name}-meter-key-file", type=Path, metavar="FILE", help="its meter signs with this key")
        parser.add_argument(
            f"--{name}-token",
            default=f"TOKEN-{name.upper()}",
            metavar="ID",
            help="what its driver presents (%(default)s)",
        )
    parser.add_argument("--boot-on-reconnect", action="store_true", help="BootNotification on every connection")
    parser.add_argument("--forget-profiles", action="store_true", help="chargers lose profiles with the connection")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="append what really is, a JSON line every period")
    parser.add_argument("--truth-period", type=float, default=1.0, metavar="S", help="seconds (%(default)s)")
    parser.add_argument("--seed", type=int, default=plant.seed, help="of everything random (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all powers and capacities (%(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="of physics; protocols stay in real time")
    parser.add_argument(
        "--ramp", type=float, default=plant.ramp_s, metavar="S", help="0 to rated power, s (%(default)s)"
    )
    parser.add_argument(
        "--stay", type=float, default=plant.stay_s, metavar="S", help="until cars leave, s (%(default)s)"
    )
    parser.add_argument(
        "--soc", type=float, nargs=3, metavar=("BATTERY", "V2G", "PLAIN"), default=None, help="percent at the start"
    )
    parser.add_argument("--pv-rated", type=float, default=None, metavar="W", help="rated power of the PV inverter")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when standard input is closed")
    return parser.parse_args()


def _charger(arguments: argparse.Namespace, kind: str, serial: str) -> ChargerSettings | None:
    if arguments.csms == "none":
        return None
    file: Path | None = getattr(arguments, f"{kind}_password_file")
    return ChargerSettings(
        charger_id=getattr(arguments, f"{kind}_id"),
        csms_url=arguments.csms,
        password=None if file is None else file.read_text(encoding="utf-8").strip(),
        token_id=getattr(arguments, f"{kind}_token"),
        serial=serial,
        boot_on_reconnect=arguments.boot_on_reconnect,
        forgets_profiles=arguments.forget_profiles,
        versions=VERSIONS[getattr(arguments, f"{kind}_version")],
        meter_key_file=getattr(arguments, f"{kind}_meter_key_file"),
    )


def _settings(arguments: argparse.Namespace) -> SiteSettings:
    plant = PlantSettings(seed=arguments.seed, ramp_s=arguments.ramp, stay_s=arguments.stay)
    if arguments.soc is not None:
        battery, v2g, plain = arguments.soc
        plant = replace(plant, battery_soc_percent=battery, v2g_soc_percent=v2g, plain_soc_percent=plain)
    if arguments.pv_rated is not None:
        plant = replace(plant, pv_rated_w=arguments.pv_rated)
    return SiteSettings(
        plant=plant.scaled(arguments.scale),
        host=arguments.host,
        ports={PV: arguments.pv_port, BATTERY: arguments.battery_port, METER: arguments.meter_port},
        line=arguments.line,
        line_port=arguments.line_port,
        serial_port=arguments.serial_port,
        v2g=_charger(arguments, "v2g", f"RIG{arguments.seed:05d}V"),
        plain=_charger(arguments, "plain", f"RIG{arguments.seed:05d}C"),
        speed=arguments.speed,
        truth=arguments.truth,
        truth_period_s=arguments.truth_period,
    )


def _say(**fields: object) -> None:
    """A line for whoever started us; that it no longer listens is no reason to end."""
    with suppress(BrokenPipeError):
        print(json.dumps(fields), flush=True)


def _ready_line(site: Site) -> dict[str, object]:
    chargers = {
        name: {
            "charger_id": session.charger.settings.charger_id,
            "token": session.charger.settings.token_id,
            "url": f"{session.charger.settings.csms_url.rstrip('/')}/{session.charger.settings.charger_id}",
        }
        for name, session in site.sessions.items()
    }
    addresses = site.addresses
    return {
        "ready": True,
        "meter": addresses[METER],
        "pv": addresses[PV],
        "battery": addresses[BATTERY],
        "addresses": addresses,
        "unit": 1,
        "units": site.units,
        "chargers": chargers,
    }


def _obey(site: Site, line: str, quit_asked: asyncio.Event) -> None:
    try:
        # "truth" and "quit" are about this process, not about the site.
        fields = json.loads(line)
        if isinstance(fields, dict) and fields.get("do") == "quit":
            quit_asked.set()
        elif isinstance(fields, dict) and fields.get("do") == "truth":
            _say(done="truth", truth=site.truth())
            return
        else:
            site.order(Order.parse(line))
        _say(done=fields["do"])
    except ValueError:
        _say(error=f"not JSON: {line[:80]!r}")
    except OrderError as error:
        _say(error=str(error))


def _read_lines(loop: asyncio.AbstractEventLoop, obey: Callable[[str], None], ended: Callable[[], None]) -> None:
    """In a thread of its own: standard input may be a file, a pipe, a terminal or nothing."""
    with suppress(RuntimeError):  # the loop is closed: the site has ended
        for line in sys.stdin:
            if line.strip():
                loop.call_soon_threadsafe(obey, line)
        loop.call_soon_threadsafe(ended)


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    quit_asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, quit_asked.set)
    async with Site(_settings(arguments)) as site:
        _say(**_ready_line(site))

        def input_ended() -> None:
            if arguments.end_with_stdin:
                quit_asked.set()

        threading.Thread(
            target=_read_lines,
            args=(loop, lambda line: _obey(site, line, quit_asked), input_ended),
            daemon=True,
        ).start()
        running = asyncio.create_task(site.wait())
        asked = asyncio.create_task(quit_asked.wait())
        done, _ = await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        running.cancel()
        if running in done:
            running.result()


def main() -> int:
    """Run until told to end. Exit code 1 when a port or file cannot be had."""
    arguments = _arguments()
    logging.basicConfig(level=logging.CRITICAL)
    # Standard output carries the ready line and answers; the log goes beside it.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        asyncio.run(_serve(arguments))
    except OSError as error:
        print(f"the site cannot start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
