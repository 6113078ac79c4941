"""What `[platform] est` makes of a configuration: uplink, listener, MQTT client; the uplink's key is in SoftHSM."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.clock import Clock
from agent.config import read_settings
from agent.evidence.statements import Severity
from agent.identity.purposes import UPLINK_KEY
from agent.roads.certificates import CertificateWatch
from agent.roads.renewal import Renewal
from agent.roads.renewals import certificate_watch
from agent.store.store import Store
from agent.token.token import Token
from drivers.ocpp import ChargerSettings, OcppServer
from hil_tests.ocpp_station import MemoryJournal
from hil_tests.rig.est import Authority, EstService
from hil_tests.rig.token import make_softhsm, softhsm_module
from hil_tests.test_roads_renewal import GATEWAY, file_key, named, uri

pytestmark = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")

CONFIG = """
[gateway]
state_dir = "{0}"
[token]
label = "v2g-rig"
[platform]
endpoints = ["127.0.0.1:1"]
est = "{1}/"
ca_file = "{0}/ca.pem"
certificate_file = "{0}/uplink.pem"
mqtt_certificate_file = "{0}/mqtt.pem"
mqtt_certificate_key_file = "{0}/mqtt.key.pem"
platform_key_file = "{0}/platform.pem"
trust_root_file = "{0}/trust-root.pem"
trust_list_file = "{0}/trust-list.cose"
[ocpp]
certificate_file = "{0}/ocpp.pem"
certificate_key_file = "{0}/ocpp.key.pem"
"""
LISTENER = x509.SubjectAlternativeName([x509.DNSName("localhost")])


@dataclass
class Box:
    """A gateway's files, its token, and the chargers' listener."""

    folder: Path
    service: EstService
    watch: CertificateWatch
    listener: OcppServer
    uplink_told: list[int]
    alarms: list[tuple[Severity, str, str, str]] = field(default_factory=list)

    async def renew(self, name: str) -> Renewal:
        """Every look until its moment has come, with no time in between."""
        [renewal] = [one for one in self.watch.renewals if one.name == name]
        renewal._draw = lambda: 0.0
        await renewal.step()
        return renewal

    def held(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())

    async def shown(self) -> int:
        """Serial number of the certificate that chargers see."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        _, writer = await asyncio.open_connection(
            "127.0.0.1", self.listener.port, ssl=context, server_hostname="localhost"
        )
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(der).serial_number


@pytest.fixture
async def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    scratch = make_softhsm(tmp_path / "softhsm")
    for name, value in scratch.environment.items():
        monkeypatch.setenv(name, value)
    token = Token(module=scratch.module, label=scratch.label, read_pin=lambda: scratch.pin)
    token.start()
    ca = Authority.make("platform root")
    service = EstService(ca, root=ca.certificate)
    try:
        async with asyncio.timeout(20):
            await token.wait_ready()
        uplink_key = load_der_public_key((await token.create_key(UPLINK_KEY)).public_key_der)
        assert isinstance(uplink_key, ec.EllipticCurvePublicKey)
        service.gateways[GATEWAY] = await token.signer(UPLINK_KEY).meet()
        state = tmp_path / "state"
        async with (
            service.running(ca.server_context(tmp_path)),
            await Store.open(state) as store,
        ):
            (state / "ca.pem").write_bytes(ca.pem)
            mqtt, ocpp = (file_key(state / f"{name}.key.pem").public_key() for name in ("mqtt", "ocpp"))
            for name, subject, key, names, usage in (
                ("uplink", "Hof Süd", uplink_key, uri(), ExtendedKeyUsageOID.CLIENT_AUTH),
                ("mqtt", GATEWAY, mqtt, None, ExtendedKeyUsageOID.CLIENT_AUTH),
                ("ocpp", "gw", ocpp, LISTENER, ExtendedKeyUsageOID.SERVER_AUTH),
            ):
                present = ca.certify(
                    named(subject), key, names, usage, before=timedelta(days=80), life=timedelta(days=10)
                )
                (state / f"{name}.pem").write_bytes(present.public_bytes(Encoding.PEM))
                service.given.append(present)
            (tmp_path / "gateway.toml").write_text(CONFIG.format(state, service.url))
            listener = OcppServer(
                "127.0.0.1", 0, [ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1")],
                heartbeat_s=300, meter_interval_s=60, call_timeout_s=5.0, monotonic_s=time.monotonic,
                wall_us=lambda: time.time_ns() // 1000, journal=MemoryJournal(), on_event=lambda *_: None,
                ssl=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
            )  # fmt: skip
            listener.use_certificate(state / "ocpp.pem", state / "ocpp.key.pem")
            alarms: list[tuple[Severity, str, str, str]] = []
            told: list[int] = []

            async def prove(_: bytes) -> None: ...

            watch = certificate_watch(
                read_settings(tmp_path / "gateway.toml"), token=token, store=store,
                clock=Clock(kernel_error_us=lambda: 1_000), gateway_id=lambda: GATEWAY, prove=prove,
                renewed_uplink=lambda: told.append(1), server_use=listener.use_certificate,
                on_alarm=lambda *alarm: alarms.append(alarm),
            )  # fmt: skip
            await watch.look()
            async with listener:
                yield Box(state, service, watch, listener, told, alarms)
    finally:
        await token.close()


async def test_the_uplinks_certificate_is_renewed_with_a_login_by_the_hsm(box: Box) -> None:
    before = box.held("uplink")
    renewal = await box.renew("uplink")
    assert renewal.status.detail == ""
    assert box.held("uplink") == box.service.given[-1] != before
    assert (box.uplink_told, box.service.logins) == ([1], ["token"])
    assert [code for _, code, _, _ in box.alarms] == ["certificate.renewed"]


async def test_chargers_see_the_renewed_certificate_of_the_listener_without_a_restart(box: Box) -> None:
    before = await box.shown()
    renewal = await box.renew("ocpp")
    assert renewal.status.detail == ""
    assert await box.shown() == box.held("ocpp").serial_number != before
    assert box.uplink_told == []


async def test_the_mqtt_clients_certificate_is_renewed_by_itself(box: Box) -> None:
    before = box.held("mqtt")
    renewal = await box.renew("mqtt")
    assert renewal.status.detail == ""
    assert box.held("mqtt") != before
    assert box.service.logins == ["TLS"]


async def test_a_gateway_with_another_name_than_its_certificate_asks_for_nothing(box: Box) -> None:
    present = box.service.authority.certify(
        named("Hof Süd"), box.held("uplink").public_key(), uri("did:key:zFormer"),  # type: ignore[arg-type]  # it is EC
        ExtendedKeyUsageOID.CLIENT_AUTH, before=timedelta(days=80), life=timedelta(days=10),
    )  # fmt: skip
    (box.folder / "uplink.pem").write_bytes(present.public_bytes(Encoding.PEM))
    renewal = await box.renew("uplink")
    assert "enrol this gateway anew" in renewal.status.detail
    assert box.service.asked == []
