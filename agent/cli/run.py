"""`v2g-gateway run`: the agent as a process. Signals, logging, systemd; the work itself is the gateway's."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import structlog

from agent.cli.client import SOCKET_NAME
from agent.cli.init import choose_softhsm
from agent.cli.logs import configure
from agent.cli.notify import ServiceNotifier
from agent.config import DEFAULT_PATH, ConfigError, SecretError, Settings, read_settings
from agent.evidence.statements import Alarm
from agent.gateway import Gateway, StartError
from agent.web.server import CONTROL_STALE_S, serve, serve_locally

EXIT_CONFIG: Final = 78
"""sysexits.h EX_CONFIG: trying again changes nothing."""
EXIT_UNAVAILABLE: Final = 69
"""sysexits.h EX_UNAVAILABLE: something that the agent cannot do without."""
EXIT_SOFTWARE: Final = 70
"""sysexits.h EX_SOFTWARE: a fault in the agent; it is in the log."""
STATUS_EVERY_S: Final = 5.0
START_MORE_S: Final = 30.0
START_MOST_S: Final = 3600.0
"""So long systemd lets a start take, in steps of START_MORE_S."""

log = structlog.get_logger()


def main(arguments: list[str]) -> int:
    """Run until SIGTERM or SIGINT, then end the process.

    Exit codes: 0 ended as asked, 69 cannot start, 70 a fault of its own, 78 the configuration is wrong (returned).
    """
    parser = argparse.ArgumentParser(prog="v2g-gateway run", description="Run the gateway until it is told to stop.")
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_PATH, help=f"configuration file (default {DEFAULT_PATH})"
    )
    parser.add_argument("--json", action="store_true", help="log JSON lines, also on a terminal")
    options = parser.parse_args(arguments)
    try:
        settings = read_settings(options.config)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    configure(settings.gateway.log_level, as_json=options.json)
    # Evidence, STOP, token: what this process makes is for its user alone, also where systemd does not say so.
    os.umask(0o077)
    choose_softhsm(settings.token, settings.gateway.state_dir)
    code = 0
    try:
        asyncio.run(_run(settings))
    except (StartError, SecretError) as error:
        log.error("gateway.cannot_start", reason=str(error))
        code = EXIT_UNAVAILABLE
    except Exception:  # A fault of ours. Whoever supervises us starts us again, if only we end.
        log.exception("gateway.failed")
        code = EXIT_SOFTWARE
    # Everything is closed. grpc's signer (1.85) leaves a thread behind that is no daemon and never ends.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


def spare_collector() -> None:
    """What was loaded and made to start stays for good: Python's collector need not look through all of it again and
    again, tens of milliseconds in which nothing else goes on."""
    gc.collect()
    gc.freeze()


async def _run(settings: Settings) -> None:
    notifier = ServiceNotifier()
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    alarms: Sequence[Alarm] = ()
    while (unrecorded := await _one_life(settings, notifier, ending, alarms)) is not None:
        alarms = unrecorded
        log.info("gateway.begins_anew")


async def _one_life(
    settings: Settings, notifier: ServiceNotifier, ending: asyncio.Event, alarms: Sequence[Alarm]
) -> Sequence[Alarm] | None:
    """Run a gateway until it is told to end; None then.

    Else it had no store, has its key now, and is to be opened again, with the alarms that it could not record.
    """
    async with _opened(settings, notifier, alarms) as gateway:
        spare_collector()
        work = asyncio.create_task(gateway.run(), name="gateway")
        async with _faces(gateway, settings):
            notifier.say("READY=1", f"STATUS={gateway.snapshot().sentence}")
            log.info("gateway.started", name=settings.gateway.name, devices=len(settings.device))
            feeding = asyncio.create_task(_feed_watchdog(gateway, notifier), name="watchdog")
            waiting = asyncio.create_task(ending.wait(), name="signals")
            unlocked = asyncio.create_task(gateway.unlocked.wait(), name="store key")
            try:
                await asyncio.wait({work, waiting, unlocked}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if ending.is_set():
                    notifier.say("STOPPING=1")
                for task in (feeding, waiting, unlocked):
                    task.cancel()
                await asyncio.gather(feeding, waiting, unlocked, return_exceptions=True)
                log.info("gateway.stopping")
                await gateway.shut_down()
                await work
        return gateway.unrecorded if gateway.unlocked.is_set() and not ending.is_set() else None


@contextlib.asynccontextmanager
async def _opened(settings: Settings, notifier: ServiceNotifier, alarms: Sequence[Alarm]) -> AsyncIterator[Gateway]:
    """A gateway. systemd is told that it takes longer: a large store that is encrypted for the first time does."""
    patience = asyncio.create_task(_ask_for_time(notifier), name="start")
    try:
        async with Gateway.open(settings, alarms=alarms) as gateway:
            patience.cancel()
            yield gateway
    finally:
        patience.cancel()


async def _ask_for_time(notifier: ServiceNotifier) -> None:
    for _ in range(round(START_MOST_S / START_MORE_S)):
        notifier.say(f"EXTEND_TIMEOUT_USEC={round(2 * START_MORE_S * 1e6)}")
        await asyncio.sleep(START_MORE_S)


@contextlib.asynccontextmanager
async def _faces(gateway: Gateway, settings: Settings) -> AsyncIterator[None]:
    """Local socket and status page, as far as they can be had: a taken port must not keep a site uncontrolled."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(
                serve_locally(
                    gateway,
                    settings.gateway.state_dir / SOCKET_NAME,
                    chargers=gateway.people,
                    control=gateway.people,
                    holds=gateway.people,
                    published=gateway.publication.file,
                )
            )
        except OSError as error:
            gateway.note_problem("socket", f"v2g-gateway status cannot ask this agent: {error}")
        try:
            port = await stack.enter_async_context(serve(gateway, settings.web, published=gateway.publication.file))
        except (OSError, SecretError) as error:
            gateway.note_problem("web", f"the status page cannot listen on {settings.web.listen}: {error}")
        else:
            log.info("web.listening", address=settings.web.listen, port=port)
        yield


async def _feed_watchdog(gateway: Gateway, notifier: ServiceNotifier) -> None:
    """Feeds systemd's watchdog while the control loop makes progress, and only then."""
    watchdog_s = notifier.watchdog_s()
    period_s = min(STATUS_EVERY_S, watchdog_s / 3) if watchdog_s is not None else STATUS_EVERY_S
    while True:
        snapshot = gateway.snapshot()
        if snapshot.control_age_s < CONTROL_STALE_S:
            notifier.say("WATCHDOG=1", f"STATUS={snapshot.sentence}")
        await asyncio.sleep(period_s)
