"""The practice platform's command line: `enrol` a gateway, `serve` it.

serve takes orders as JSON lines on stdin and tells events as JSON lines on stdout (each with "event" and "t", Unix
seconds; the first is "ready" with the address). Orders:
  {"do": "issue", "command": {...}}    sign and send a command: keys in hil_tests/rig/platform/orders.py
  {"do": "books"}                      write books.json now
  {"do": "acknowledge", "on": false}   withhold acknowledgements, until true
  {"do": "stop"}                       write books.json and end, as SIGTERM and SIGINT do
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent.identity.errors import IdentityError
from agent.identity.keys import verify_key_from_pem
from hil_tests.rig.broker import ClientFiles
from hil_tests.rig.platform.book import Book
from hil_tests.rig.platform.broker_service import BrokerService
from hil_tests.rig.platform.core import Platform, books_text
from hil_tests.rig.platform.enrol import Agreement, EnrolmentError, Practice
from hil_tests.rig.platform.orders import OrderError
from hil_tests.rig.platform.service import Server


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hil_tests.rig.platform", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("make", help="make a practice platform in a folder (CA, keys, trust list)")
    make.add_argument("folder", type=Path)
    enrol = verbs.add_parser("enrol", help="certify a gateway's request and remember its keys")
    enrol.add_argument("folder", type=Path, help="of the practice platform; made when it is not there")
    enrol.add_argument("--csr", type=Path, required=True, help="certificate request of the gateway's TLS key, PEM")
    enrol.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="USE=FILE",
        help='public key, PEM; USE is "evidence", or "device:ID" for a settled device (repeat)',
    )
    enrol.add_argument("--history", type=Path, metavar="FILE", help="of the gateway's name, where it has one")
    enrol.add_argument("--chain-id", type=int, default=1, help="of the settlement contract (default 1)")
    for name, size in (("contract", 20), ("participant", 20), ("counterparty", 20), ("agreement-hash", 32)):
        enrol.add_argument(
            f"--{name}", type=_octets(size), default=bytes(size), metavar="HEX", help=f"{size} bytes (default zeros)"
        )
    serve = verbs.add_parser("serve", help="serve the enrolled gateways")
    serve.add_argument("folder", type=Path)
    serve.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 chooses one (default)")
    serve.add_argument("--without-link", action="store_true", help="offer no GatewayLink")
    serve.add_argument(
        "--published-only", action="store_true", help="offer the published contract alone: no acknowledgements either"
    )
    serve.add_argument("--broker-port", type=int, metavar="PORT", help="serve at an MQTT 5 broker on 127.0.0.1, too")
    serve.add_argument("--broker-certificate", type=Path, metavar="FILE", help="to log in there, PEM")
    serve.add_argument("--broker-key", type=Path, metavar="FILE", help="its key, PEM")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "make":
            _print_files(Practice.make(arguments.folder))
        elif arguments.verb == "enrol":
            agreement = Agreement(
                chain_id=arguments.chain_id,
                contract=arguments.contract,
                participant=arguments.participant,
                counterparty=arguments.counterparty,
                agreement_hash=arguments.agreement_hash,
            )
            history = b"" if arguments.history is None else arguments.history.read_bytes()
            _enrol(arguments.folder, arguments.csr, arguments.key, agreement, history)
        else:
            asyncio.run(
                _serve(
                    Practice.open(arguments.folder),
                    arguments.port,
                    link=not (arguments.without_link or arguments.published_only),
                    additions=not arguments.published_only,
                    broker_port=arguments.broker_port,
                    broker_files=ClientFiles(arguments.broker_certificate, arguments.broker_key),
                )
            )
    except (EnrolmentError, IdentityError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def _octets(size: int) -> Callable[[str], bytes]:
    """Reads hex of a length, with or without 0x."""

    def read(text: str) -> bytes:
        octets = bytes.fromhex(text.removeprefix("0x"))
        if len(octets) != size:
            raise ValueError(text)
        return octets

    return read


def _files(practice: Practice) -> dict[str, str]:
    """Paths under the names of the gateway's settings ([platform])."""
    return {
        "ca_file": str(practice.public_file("ca").resolve()),
        "platform_key_file": str(practice.public_file("platform").resolve()),
        "trust_root_file": str(practice.public_file("trust-root").resolve()),
        "trust_list_file": str(practice.trust_list_file.resolve()),
    }


def _print_files(practice: Practice) -> None:
    print(json.dumps(_files(practice)))


def _enrol(folder: Path, csr: Path, keys: list[str], agreement: Agreement, history: bytes) -> None:
    public = {}
    for each in keys:
        use, _, file = each.partition("=")
        public[use] = verify_key_from_pem(Path(file).read_bytes(), what=file).public_key_der
    practice = Practice.make(folder)
    enrolled = practice.enrol(csr.read_bytes(), public, agreement, history=history)
    certificate = str(practice.certificate_file(enrolled.name).resolve())
    print(
        json.dumps({"gateway_id": enrolled.gateway_id, "certificate_file": certificate, **_files(practice)}), flush=True
    )


def _say(event: dict[str, object]) -> None:
    print(json.dumps({"t": round(time.time(), 3), **event}), flush=True)


async def _serve(
    practice: Practice, port: int, *, link: bool, additions: bool, broker_port: int | None, broker_files: ClientFiles
) -> None:
    with Book(practice.folder / "book.sqlite") as book:
        platform = Platform(practice, book, say=_say, now_us=lambda: time.time_ns() // 1000)
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        try:
            async with contextlib.AsyncExitStack() as services:
                server = await services.enter_async_context(
                    Server(platform, practice, port=port, link=link, additions=additions)
                )
                if broker_port is not None:
                    await services.enter_async_context(BrokerService(platform, practice, broker_files, broker_port))
                _say({"event": "ready", "ready": True, "address": f"127.0.0.1:{server.port}"})
                orders = asyncio.create_task(_take_orders(platform, practice, ended))
                await ended.wait()
                orders.cancel()
        finally:
            _write_books(platform, practice)
            _say({"event": "stopped"})


def _write_books(platform: Platform, practice: Practice) -> None:
    file = practice.folder / "books.json"
    part = file.with_suffix(".part")
    part.write_text(books_text(platform), encoding="utf-8")
    part.replace(file)
    _say({"event": "books", "file": str(file.resolve())})


async def _take_orders(platform: Platform, practice: Practice, ended: asyncio.Event) -> None:
    """Until stdin ends; a platform without somebody at its stdin serves on."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        try:
            order = json.loads(line)
            match order:
                case {"do": "issue", "command": command}:
                    await platform.issue(command)
                case {"do": "books"}:
                    _write_books(platform, practice)
                case {"do": "acknowledge", "on": bool(on)}:
                    platform.acknowledging = on
                case {"do": "stop"}:
                    ended.set()
                case _:
                    raise OrderError('known orders: "issue" with "command", "books", "acknowledge" with "on", "stop"')
        except (OrderError, ValueError) as error:
            _say({"event": "error", "text": str(error)})


if __name__ == "__main__":
    sys.exit(main())
