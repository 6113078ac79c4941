"""The listener's certificate from the site's CA: chargers take it, it is renewed in time without a restart."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from agent.identity.site_ca import SiteCa, make_root
from agent.roads import server_certificate
from agent.roads.server_certificate import keep_server_certificate, made_before
from drivers.ocpp import ChargerSettings, OcppServer
from hil_tests.ocpp_station import MemoryJournal, until
from hil_tests.test_ocpp_block_m import Signer

NAMES = ("127.0.0.1", "gateway.example", "0:0:0:0:0:0:0:1")
SETTINGS = [ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1")]


def pem_of(content: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + content + b"\n-----END CERTIFICATE-----\n"


class Box:
    """A CSMS whose listener has nothing to show yet, and the site's CA."""

    def __init__(self, folder: Path, signer: Signer, root: x509.Certificate) -> None:
        self.file = folder / "state" / "ocpp-server.pem"
        self.later = timedelta()
        self.signer = signer
        self.root = root
        self.ca = SiteCa(signer, root, now=self.now)
        self.problems: dict[str, str] = {}
        self.loaded = 0
        self.server = OcppServer(
            "127.0.0.1",
            0,
            SETTINGS,
            heartbeat_s=300,
            meter_interval_s=60,
            call_timeout_s=5.0,
            monotonic_s=time.monotonic,
            wall_us=lambda: time.time_ns() // 1000,
            journal=MemoryJournal(),
            on_event=lambda *_: None,
            ssl=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        )

    def now(self) -> datetime | None:
        return datetime.now(UTC) + self.later

    def use(self, file: Path) -> None:
        self.server.use_certificate(file)
        self.loaded += 1

    def solved(self, subject: str) -> None:
        self.problems.pop(subject, None)

    @asynccontextmanager
    async def kept(self, names: Sequence[str] = NAMES) -> AsyncIterator[None]:
        task = asyncio.create_task(
            keep_server_certificate(
                self.ca,
                names,
                self.file,
                use=self.use,
                note_problem=self.problems.__setitem__,
                solved=self.solved,
            )
        )
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def serial(self) -> int:
        certificate = made_before(self.file)
        assert certificate is not None
        return certificate.serial_number

    def open(self) -> connect:
        login = base64.b64encode(b"CP-1:secret-1").decode()
        trust = ssl.create_default_context(cadata=self.ca.root_pem)
        trust.verify_flags |= ssl.VERIFY_X509_STRICT
        return connect(
            f"wss://127.0.0.1:{self.server.port}/ocpp/CP-1",
            ssl=trust,
            subprotocols=[Subprotocol("ocpp2.0.1")],
            additional_headers={"Authorization": f"Basic {login}"},
            proxy=None,
        )


def shown(socket: ClientConnection) -> int:
    der = socket.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


@pytest.fixture
async def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    monkeypatch.setattr(server_certificate, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(server_certificate, "RETRY_S", 0.02)
    signer = Signer()
    root = x509.load_pem_x509_certificate(await make_root(signer, name="site", now=datetime.now(UTC)))
    made = Box(tmp_path, signer, root)
    async with made.server:
        yield made


async def test_a_charger_that_trusts_the_sites_root_takes_it_and_its_key_is_nobody_elses(box: Box) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await box.open()  # nothing to show yet
    async with box.kept():
        await until(lambda: box.loaded, "the certificate")
        async with box.open() as socket:
            assert shown(socket) == box.serial()
    assert box.file.stat().st_mode & 0o777 == 0o600
    certificate = made_before(box.file)
    assert certificate is not None
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(each.value) for each in names} == {"127.0.0.1", "gateway.example", "::1"}
    assert certificate.not_valid_after_utc - datetime.now(UTC) > timedelta(days=360)


async def test_it_is_renewed_in_time_while_chargers_stay_connected(box: Box) -> None:
    box.later = -timedelta(days=340)
    async with box.kept():
        await until(lambda: box.loaded > 2, "looks at the certificate")
        async with box.open() as before:
            first = shown(before)
            assert box.serial() == first  # one for all these looks
            box.later = timedelta()
            await until(lambda: box.serial() != first, "a newer certificate")
            await (await before.ping())
            looks = box.loaded
            await until(lambda: box.loaded > looks, "the listener to have it")
        async with box.open() as after:
            assert shown(after) == box.serial()


async def test_it_goes_on_over_a_restart_and_other_names_are_another_certificate(box: Box) -> None:
    async with box.kept():
        await until(lambda: box.loaded, "the certificate")
    first = box.serial()
    async with box.kept():
        await until(lambda: box.loaded > 1, "the certificate again")
    assert box.serial() == first
    async with box.kept(["127.0.0.1"]):
        await until(lambda: box.serial() != first, "another certificate")


async def test_while_the_token_is_away_it_says_so_and_tries_again(box: Box) -> None:
    box.signer.away = True
    async with box.kept():
        await until(lambda: "OCPP certificate" in box.problems, "the problem")
        box.signer.away = False
        await until(lambda: box.loaded, "the certificate")
        await until(lambda: not box.problems, "no problem")


@pytest.mark.parametrize(
    "damaged", [b"", b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", b"\xff"]
)
async def test_a_damaged_file_is_made_anew(box: Box, damaged: bytes) -> None:
    box.file.parent.mkdir()
    box.file.write_bytes(damaged)
    async with box.kept():
        await until(lambda: box.loaded, "the certificate")
        async with box.open() as socket:
            assert shown(socket) == box.serial()


async def test_a_file_without_its_key_is_made_anew(box: Box) -> None:
    async with box.kept():
        await until(lambda: box.loaded, "the certificate")
    first, text = box.serial(), box.file.read_bytes()
    box.file.write_bytes(text[text.index(b"-----BEGIN CERTIFICATE") :])
    async with box.kept():
        await until(lambda: box.serial() != first, "another certificate")
