"""OCPP 2.0.1 and 2.1 A02, A03 and block M: the site's CA, renewal, installed certificates; both paths, over TLS.

M01 and M02 are in `test_ocpp_contract_provider`, M06 in `test_ocpp_contracts`, M07 there and in `test_ocpp_crl`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from websockets.exceptions import InvalidStatus

from agent.clock import Clock
from agent.identity.purposes import SITE_CA_KEY
from agent.identity.site_ca import SiteCa, SiteCaError, make_root
from agent.roads.site_ca import ROOT_FILE, bring_up_site_ca
from agent.token.token import Token
from drivers.device import SignerUnavailableError
from drivers.ocpp import ChargerSettings
from drivers.ocpp import certificates as certificates_module
from hil_tests.ocpp_raw import RawCharger, TlsSite, write_pair
from hil_tests.ocpp_station import MemoryJournal, until
from hil_tests.rig.token import make_softhsm, softhsm_module
from tests.agent.identity.software import SoftwareSigner

SETTINGS = [
    ChargerSettings(device_id="car-1", charger_id="CP-1", password="secret-1"),
    ChargerSettings(device_id="car-3", charger_id="CP-3", security_profile=3),
]


class Signer(SoftwareSigner):
    """A token's key that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    async def sign(self, message: bytes) -> bytes:
        if self.away:
            raise SignerUnavailableError("the token is away")
        return await super().sign(message)


class Bench:
    """A site with a CA whose key is in memory."""

    def __init__(self, site: TlsSite, signer: Signer, ca: SiteCa) -> None:
        self.site, self.signer, self.ca = site, signer, ca
        self.key = ec.generate_private_key(ec.SECP256R1())

    def pair(self, chain: str, name: str = "issued") -> Path:
        return write_pair(self.site.folder, name, x509.load_pem_x509_certificates(chain.encode())[0], self.key)


@pytest.fixture
async def bench(tmp_path: Path, version: str) -> AsyncIterator[Bench]:
    signer = Signer()
    root = x509.load_pem_x509_certificate(await make_root(signer, name="site", now=datetime.now(UTC)))
    ca = SiteCa(signer, root, now=lambda: datetime.now(UTC))
    async with TlsSite(tmp_path, SETTINGS, version=version).running() as site:
        site.server.use_authority(ca, ca.root_pem)
        yield Bench(site, signer, ca)


@pytest.fixture
async def charger(bench: Bench) -> AsyncIterator[RawCharger]:
    async with bench.site.charger() as charger:
        await charger.ready()
        charger.answers["CertificateSigned"] = {"status": "Accepted"}
        yield charger


def request(
    name: str = "CP-1", key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None, organisation: str = ""
) -> str:
    names = [x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]
    if organisation:
        names.append(x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organisation))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names))
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


# A03: the charger asks


async def test_a03_a_charger_gets_a_certificate_that_lets_it_in_with_profile_3(
    bench: Bench, charger: RawCharger
) -> None:
    site = bench.site
    asked = {"csr": request(key=bench.key, organisation="Maker"), "certificateType": "ChargingStationCertificate"}
    assert await charger.ask("SignCertificate", asked) == {"status": "Accepted"}
    sent = await charger.hear("CertificateSigned")
    leaf, root = x509.load_pem_x509_certificates(sent["certificateChain"].encode())
    leaf.verify_directly_issued_by(root)
    assert leaf.subject.rfc4514_string() == "CN=CP-1,O=Maker"
    assert 360 < (leaf.not_valid_after_utc - datetime.now(UTC)).days < 366
    await until(lambda: "charger.certificate" in site.codes(), "the certificate to be noted")
    assert f"{leaf.serial_number:x}".encode() in site.journal.kept["charger/CP-1"]
    # The certificate is the charger's and nobody else's.
    pair = bench.pair(sent["certificateChain"])
    with pytest.raises(InvalidStatus):
        await site.open("CP-3", None, pair=pair)


async def test_a03_a_charger_of_profile_3_renews_over_its_old_certificate(bench: Bench) -> None:
    site = bench.site
    old = site.authority.issue("CP-3", bench.key)
    async with site.charger("CP-3", None, pair=write_pair(site.folder, "old", old, bench.key)) as charger:
        charger.answers["CertificateSigned"] = {"status": "Accepted"}
        await charger.ready()
        await charger.ask("SignCertificate", {"csr": request("S1", bench.key)})  # by its serial number
        sent = await charger.hear("CertificateSigned")
    async with site.charger("CP-3", None, pair=bench.pair(sent["certificateChain"])) as charger:
        await charger.ready()


WEAK = rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    "csr",
    [request("CP-3"), request("somebody"), "no request", request(key=WEAK), "x" * 5000],
    ids=["another charger", "nobody", "nonsense", "weak key", "long"],
)
async def test_a03_a_request_that_must_not_be_certified_is_not_and_said(
    bench: Bench, charger: RawCharger, csr: str
) -> None:
    await charger.ask("SignCertificate", {"csr": csr})
    await until(lambda: "charger.certificate" in bench.site.codes(), "the refusal to be said")
    assert "does not get" in bench.site.events[-1][2]
    assert charger.calls("CertificateSigned") == []
    assert (await charger.ask("Heartbeat", {}))["currentTime"]


async def test_a03_a_v2g_certificate_is_not_ours_to_give(charger: RawCharger) -> None:
    asked = {"csr": request(), "certificateType": "V2GCertificate"}
    assert await charger.ask("SignCertificate", asked) == {"status": "Rejected"}


async def test_a03_a_request_waits_for_the_token(
    bench: Bench, charger: RawCharger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates_module, "RETRY_S", 0.02)
    bench.signer.away = True
    assert await charger.ask("SignCertificate", {"csr": request()}) == {"status": "Accepted"}
    assert (await charger.ask("Heartbeat", {}))["currentTime"]
    assert charger.calls("CertificateSigned") == []
    bench.signer.away = False
    await charger.hear("CertificateSigned")


async def test_a03_without_a_ca_a_request_is_rejected(tmp_path: Path) -> None:
    async with TlsSite(tmp_path, SETTINGS).running() as site, site.charger() as charger:
        await charger.ready()
        assert await charger.ask("SignCertificate", {"csr": request()}) == {"status": "Rejected"}


async def test_a03_a_certificate_that_the_charger_does_not_take_is_not_counted_on(
    bench: Bench, charger: RawCharger
) -> None:
    charger.answers["CertificateSigned"] = {"status": "Rejected"}
    await charger.ask("SignCertificate", {"csr": request()})
    await until(lambda: "charger.certificate" in bench.site.codes(), "the refusal to be said")
    assert bench.site.server.chargers["CP-1"].session.certificate_ends_us is None


# A02: we ask


async def test_a02_a_charger_whose_certificate_ends_soon_is_asked_for_a_new_request(bench: Bench) -> None:
    session = bench.site.server.chargers["CP-1"].session
    session.certificate = {"serial": "1", "not_after_us": time.time_ns() // 1000 + 20 * 86_400_000_000}
    async with bench.site.charger() as charger:
        charger.answers["TriggerMessage"] = {"status": "Accepted"}
        await charger.ready()
        wanted = {"requestedMessage": "SignChargingStationCertificate"}
        await until(lambda: wanted in charger.calls("TriggerMessage"), "the charger to be asked")


async def test_a02_a_person_can_have_it_renewed(bench: Bench, charger: RawCharger) -> None:
    charger.answers["TriggerMessage"] = {"status": "Accepted"}
    assert (await bench.site.order("renew-certificate"))["ok"] is True
    assert charger.calls("TriggerMessage")[-1] == {"requestedMessage": "SignChargingStationCertificate"}
    charger.answers["TriggerMessage"] = {"status": "NotImplemented"}
    assert (await bench.site.order("renew-certificate"))["ok"] is False


# M03 to M05


async def test_m03_installed_certificates_are_listed(bench: Bench, charger: RawCharger) -> None:
    hashes_of = {
        "hashAlgorithm": "SHA256", "issuerNameHash": "a1", "issuerKeyHash": "b2", "serialNumber": "c3",
    }  # fmt: skip
    chain = {"certificateType": "CSMSRootCertificate", "certificateHashData": hashes_of}
    charger.answers["GetInstalledCertificateIds"] = {"status": "Accepted", "certificateHashDataChain": [chain]}
    answer = await bench.site.order("certificates")
    assert answer["certificateHashDataChain"] == [chain]
    charger.answers["GetInstalledCertificateIds"] = {"status": "NotFound"}
    assert (await bench.site.order("certificates"))["ok"] is False


async def test_m04_a_certificate_is_deleted(bench: Bench, charger: RawCharger) -> None:
    named = {"issuerNameHash": "a1", "issuerKeyHash": "b2", "serialNumber": "c3"}
    charger.answers["DeleteCertificate"] = {"status": "Accepted"}
    assert (await bench.site.order("delete-certificate", **named))["ok"] is True
    assert charger.calls("DeleteCertificate") == [{"certificateHashData": {"hashAlgorithm": "SHA256", **named}}]
    for status in ("Failed", "NotFound"):
        charger.answers["DeleteCertificate"] = {"status": status}
        assert (await bench.site.order("delete-certificate", **named))["ok"] is False
    with pytest.raises(ValueError, match="issuerKeyHash"):
        await bench.site.order("delete-certificate", issuerNameHash="a1")


async def test_m05_the_sites_root_is_installed(bench: Bench, charger: RawCharger) -> None:
    charger.answers["InstallCertificate"] = {"status": "Accepted"}
    assert (await bench.site.order("install-certificate", certificate=bench.ca.root_pem))["ok"] is True
    assert charger.calls("InstallCertificate")[0]["certificateType"] == "CSMSRootCertificate"
    for status in ("Rejected", "Failed"):
        charger.answers["InstallCertificate"] = {"status": status}
        assert (await bench.site.order("install-certificate", certificate=bench.ca.root_pem))["ok"] is False
    with pytest.raises(ValueError, match="certificateType"):
        await bench.site.order("install-certificate", use="Anything", certificate="x")


async def test_m06_certificate_status_is_answered_honestly(charger: RawCharger) -> None:
    asked = {
        "ocspRequestData": {
            "hashAlgorithm": "SHA256", "issuerNameHash": "a", "issuerKeyHash": "b", "serialNumber": "c",
            "responderURL": "http://ocsp.example",
        }
    }  # fmt: skip
    assert await charger.ask("GetCertificateStatus", asked) == {"status": "Failed"}


# The CA


async def test_the_sites_root_is_of_its_own_key_only() -> None:
    signer, other = SoftwareSigner(), SoftwareSigner()
    root = x509.load_pem_x509_certificate(await make_root(signer, name="site", now=datetime.now(UTC)))
    root.verify_directly_issued_by(root)
    with pytest.raises(SiteCaError, match="was the token replaced"):
        SiteCa(other, root, now=lambda: None)


@pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")
async def test_the_sites_ca_has_its_key_in_the_token_and_its_root_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = make_softhsm(tmp_path / "softhsm")
    for name, value in scratch.environment.items():
        monkeypatch.setenv(name, value)
    token = Token(module=scratch.module, label=scratch.label, read_pin=lambda: scratch.pin)
    token.start()
    journal, problems = MemoryJournal(), list[str]()
    clock = Clock(kernel_error_us=lambda: 1000)
    try:
        async with asyncio.timeout(20):
            await token.wait_ready()
            await token.create_key(SITE_CA_KEY)
        async with TlsSite(tmp_path, SETTINGS).running() as site:
            for _ in range(2):
                async with asyncio.timeout(20):
                    await bring_up_site_ca(
                        site.server,
                        token=token,
                        journal=journal,
                        state_dir=tmp_path,
                        name="site",
                        clock=clock,
                        note_problem=lambda subject, text: problems.append(text),
                    )
            async with site.charger() as charger:
                await charger.ready()
                charger.answers["CertificateSigned"] = {"status": "Accepted"}
                await charger.ask("SignCertificate", {"csr": request()})
                sent = await charger.hear("CertificateSigned")
        leaf, root = x509.load_pem_x509_certificates(sent["certificateChain"].encode())
        leaf.verify_directly_issued_by(root)
        kept = x509.load_pem_x509_certificate((tmp_path / ROOT_FILE).read_bytes())
        assert root == kept
        assert problems == []
    finally:
        await token.close()
