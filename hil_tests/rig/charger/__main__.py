"""`python -m hil_tests.rig.charger URL`: the simulated charger as a process of its own, for a person or a script."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from hil_tests.rig.charger.solo import CarSettings, SoloCharger, SoloSettings
from hil_tests.rig.site.__main__ import VERSIONS
from hil_tests.rig.site.charger import ChargerSettings, Dynamic

LOOK_S: Final = 0.1
EXAMPLES: Final = """\
examples:
  python -m hil_tests.rig.charger ws://127.0.0.1:9000 --id CP-1 --password-file CP-1.password --token TAG-1
  python -m hil_tests.rig.charger wss://box.local:9000 --ca site-ca.pem --id CP-1 --v2g --soc 70 --leaves-in 7200 \\
      --needs-kwh 12 --seconds 600 --json
Exit code: 0; 1 when it never came online, or cannot start; 2 for wrong arguments. Ctrl-C ends it.
"""


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hil_tests.rig.charger",
        description="A simulated charger with a car, over OCPP 2.1 or 2.0.1, against any CSMS.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", help="of the CSMS, without the charger's identity: ws://host:port[/path] or wss://...")
    parser.add_argument("--id", default="CP-1", help="OCPP identity: end of the URL and user name (%(default)s)")
    password = parser.add_mutually_exclusive_group()
    password.add_argument("--password", help="basic-auth password, visible to other users of this machine")
    password.add_argument("--password-file", type=Path, metavar="FILE", help="where the password is read from")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="PEM of whoever certifies the CSMS, for wss://")
    parser.add_argument("--version", choices=VERSIONS, default="both", help="of OCPP that it offers (%(default)s)")
    parser.add_argument("--token", default="TOKEN-1", metavar="ID", help="what the driver presents (%(default)s)")
    parser.add_argument("--serial", default="SIM-1", help="serial number (%(default)s)")
    parser.add_argument("--rated", type=float, default=11_000, metavar="W", help="of the charger (%(default)s)")
    parser.add_argument("--v2g", action="store_true", help="charger and car can discharge")
    parser.add_argument("--per-phase", action="store_true", help="with --v2g: AC, with values of each phase (2.1)")
    parser.add_argument("--dynamic", action="store_true", help="takes dynamic charging profiles (2.1)")
    parser.add_argument("--no-car", action="store_true", help="nothing is plugged in")
    parser.add_argument("--battery", type=float, default=60.0, metavar="KWH", help="of the car (%(default)s)")
    parser.add_argument("--soc", type=float, default=60.0, metavar="PERCENT", help="at the start (%(default)s)")
    parser.add_argument(
        "--minimum-soc", type=float, default=20.0, metavar="PERCENT", help="the car gives nothing below (%(default)s)"
    )
    parser.add_argument("--leaves-in", type=float, metavar="S", help="departure that the car tells")
    parser.add_argument("--needs-kwh", type=float, default=0.0, metavar="KWH", help="what it needs by then")
    parser.add_argument("--deaf", action="store_true", help="takes every profile and obeys none")
    parser.add_argument("--forget-profiles", action="store_true", help="loses profiles with the connection")
    parser.add_argument("--boot-on-reconnect", action="store_true", help="BootNotification on every connection")
    parser.add_argument("--ramp", type=float, default=2.0, metavar="S", help="0 to rated power (%(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="of physics; the protocol stays in real time")
    parser.add_argument("--seconds", type=float, metavar="S", help="end by itself after so long")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="between lines (%(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of words")
    parser.add_argument("--verbose", action="store_true", help="log of the conversation on standard error")
    chosen = parser.parse_args(words)
    if not chosen.url.startswith(("ws://", "wss://")):
        parser.error(f"{chosen.url!r} is no ws:// or wss:// URL")
    for name in ("rated", "battery", "ramp", "speed", "every"):
        if not getattr(chosen, name) > 0:
            parser.error(f"--{name} must be above 0")
    for name in ("soc", "minimum_soc"):
        if not 0 <= getattr(chosen, name) <= 100:
            parser.error(f"--{name.replace('_', '-')} is a percentage")
    return chosen


def _settings(chosen: argparse.Namespace) -> SoloSettings:
    password = chosen.password
    if chosen.password_file is not None:
        password = chosen.password_file.read_text(encoding="utf-8").strip()
    if chosen.ca is not None:
        ssl.create_default_context(cafile=chosen.ca)  # said now, not at each attempt to connect
    car = CarSettings(
        capacity_wh=chosen.battery * 1000,
        state_of_charge_percent=chosen.soc,
        minimum_percent=chosen.minimum_soc,
        charge_w=chosen.rated,
        discharge_w=chosen.rated if chosen.v2g else 0.0,
        stays_s=chosen.leaves_in,
        needed_wh=chosen.needs_kwh * 1000,
    )
    return SoloSettings(
        charger=ChargerSettings(
            charger_id=chosen.id,
            csms_url=chosen.url,
            password=password,
            token_id=chosen.token,
            serial=chosen.serial,
            boot_on_reconnect=chosen.boot_on_reconnect,
            forgets_profiles=chosen.forget_profiles,
            versions=VERSIONS[chosen.version],
            per_phase=chosen.per_phase,
            dynamic_profiles=Dynamic.UPDATED if chosen.dynamic else Dynamic.NONE,
            ca_file=chosen.ca,
        ),
        car=None if chosen.no_car else car,
        rated_w=chosen.rated,
        bidirectional=chosen.v2g,
        ramp_s=chosen.ramp,
        speed=chosen.speed,
    )


def words(seconds: float, look: dict[str, object]) -> str:
    """A line for a person."""
    place = f"{look['version']}" if look["online"] else "offline"
    if look["trouble"]:
        place = f"offline ({look['trouble']})"
    if look["transaction"] is None:
        doing = "no transaction"
    else:
        limit = "no limit" if look["limit_w"] is None else f"told {look['limit_w']:+.0f} W"
        doing = f"{look['state']:<13} {look['mode']:<15} {look['power_w']:+8.0f} W  {limit}"
    soc = "no car" if look["soc_percent"] is None else f"car at {look['soc_percent']:.2f} %"
    return f"{seconds:7.1f} s  {place:<10} {doing}  {soc}"


class Progress:
    """Lines on standard output: now and then, and whenever something but power and charge changes."""

    def __init__(self, *, as_json: bool, every_s: float) -> None:
        self._json = as_json
        self._every_s = every_s
        self._start_s = time.monotonic()
        self._next_s = 0.0
        self._last: tuple[object, ...] = ()
        self.was_online = False

    def take(self, look: dict[str, object], *, last: bool = False) -> None:
        """Say it if it is time or new. `last`: say it anyway."""
        seconds = time.monotonic() - self._start_s
        self.was_online |= bool(look["online"])
        steady = tuple(look[name] for name in ("online", "version", "transaction", "mode", "trouble"))
        if not last and steady == self._last and seconds < self._next_s:
            return
        self._last, self._next_s = steady, seconds + self._every_s
        # Nobody listening any more is no reason to end.
        with suppress(BrokenPipeError):
            line = json.dumps({"seconds": round(seconds, 2), **look}) if self._json else words(seconds, look)
            print(line, flush=True)


async def _run(chosen: argparse.Namespace) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    progress = Progress(as_json=chosen.json, every_s=chosen.every)
    solo = SoloCharger(_settings(chosen))
    solo.charger.deaf = chosen.deaf
    async with solo:
        running, asked = asyncio.create_task(solo.wait()), asyncio.create_task(ended.wait())
        give_up_s = None if chosen.seconds is None else loop.time() + chosen.seconds
        while not (running.done() or asked.done()) and (give_up_s is None or loop.time() < give_up_s):
            await asyncio.wait({running, asked}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            progress.take(solo.look())
        asked.cancel()
        progress.take(solo.look(), last=True)
        if running.done():
            running.result()
        running.cancel()
    return 0 if progress.was_online else 1


def main(arguments: list[str] | None = None) -> int:
    """Run until told to end."""
    chosen = _arguments(arguments)
    logging.basicConfig(level=logging.CRITICAL)
    level = logging.INFO if chosen.verbose else logging.CRITICAL
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    try:
        return asyncio.run(_run(chosen))
    except OSError as error:
        print(f"the charger cannot start: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
