"""`v2g-gateway enroll` with a practice platform's CA and a key in SoftHSM: nothing wrong is installed."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from agent.cli.commands import app
from agent.evidence.statements import Severity
from agent.identity.enrolment import root_code, root_qr
from agent.roads.certificates import LOOK_EVERY_S, LOOK_UNTIMED_S, CertificateWatch, Watched
from agent.status import Verdict
from drivers.device import SignerUnavailableError
from hil_tests.rig.platform.enrol import Practice
from hil_tests.rig.token import softhsm_module
from hil_tests.roads_parts import HandClock

pytestmark = pytest.mark.skipif(softhsm_module() is None, reason="SoftHSM is not installed (package softhsm2)")

PLATFORM = """
[platform]
endpoints = ["127.0.0.1:1"]
ca_file = "{0}/installed/ca.pem"
certificate_file = "{0}/installed/uplink.pem"
platform_key_file = "{0}/practice/platform.pem"
trust_root_file = "{0}/practice/trust-root.pem"
trust_list_file = "{0}/practice/trust-list.cose"

[ocpp]
certificate_file = "{0}/installed/ocpp.pem"
certificate_key_file = "{0}/installed/ocpp.key.pem"
"""


class Site:
    """A gateway after `init`, and a practice platform that it asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "gateway.toml"
        self.installed = folder / "installed"
        self.installed.mkdir()
        self.practice = Practice.make(folder / "practice")
        self.run(
            "init", "--state-dir", folder / "state", "--config-out", folder / "made.toml", "--module",
            softhsm_module() or "", where=False,
        )  # fmt: skip
        made = (folder / "made.toml").read_text()
        kept = [line for line in made.splitlines() if line.strip() and not line.startswith("#")]
        used = "\n".join(line for line in kept if line != "[ocpp]" and line != "[platform]")
        self.config.write_text(used + "\n" + PLATFORM.format(folder))

    def run(self, *arguments: str | Path, code: int = 0, where: bool = True) -> Any:
        place = ["--config", str(self.config)] if where else []
        done = CliRunner().invoke(app, [*map(str, arguments), *place, "--json"], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    def enrolled(self) -> Path:
        """The platform's answer to what lies in the enrolment folder: the uplink's certificate."""
        folder = self.folder / "state" / "enrolment"
        evidence = load_pem_public_key((folder / "evidence.pem").read_bytes())
        der = evidence.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        enrolled = self.practice.enrol((folder / "uplink.csr").read_bytes(), {"evidence": der})
        return self.practice.certificate_file(enrolled.name)

    @property
    def root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.practice.public_file("ca").read_bytes())

    def certify(self, csr: Path, usage: x509.ObjectIdentifier, days: int = 90) -> Path:
        """As the practice CA would, for whatever is in a request."""
        request = x509.load_pem_x509_csr(csr.read_bytes())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(self.root.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        builder = builder.add_extension(names.value, critical=False)
        file = self.folder / f"{csr.stem}.crt"
        key = self.practice.key("ca").private
        file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return file


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("SOFTHSM2_CONF", raising=False)
    return Site(tmp_path)


def test_what_the_platform_gave_back_is_installed_when_both_codes_are_right(site: Site) -> None:
    asked = site.run("enroll", "--ocpp-name", "gateway.local", "--ocpp-name", "192.0.2.1")
    assert {"evidence.pem", "uplink.csr", "ocpp.csr"} <= set(asked["files"])
    assert asked["qr"] == f"V2G-GATEWAY:1:{asked['gateway_id']}"
    certificate = site.enrolled()
    code = ["--root", root_code(site.root), "--ca", str(site.practice.public_file("ca"))]
    ocpp = site.certify(site.folder / "state" / "enrolment" / "ocpp.csr", ExtendedKeyUsageOID.SERVER_AUTH)

    done = site.run(
        "enroll", *code, "--gateway", asked["fingerprint"].lower(), "--certificate", certificate,
        "--ocpp-certificate", ocpp,
    )  # fmt: skip
    assert sorted(done["installed"]) == ["ocpp certificate", "platform root", "uplink certificate"]
    assert (site.installed / "uplink.pem").read_bytes() == certificate.read_bytes()
    assert (site.installed / "ocpp.key.pem").stat().st_mode & 0o777 == 0o600
    names = x509.load_pem_x509_certificate((site.installed / "ocpp.pem").read_bytes()).extensions
    hosts = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert hosts.get_values_for_type(x509.DNSName) == ["gateway.local"]
    assert [str(a) for a in hosts.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]

    # A renewal needs no codes: the root is here, and the certificate must lead to it.
    again = site.run("enroll", "--certificate", certificate)
    assert list(again["installed"]) == ["uplink certificate"]
    assert site.run("enroll")["root"] == root_code(site.root)


def test_nothing_is_installed_when_one_thing_is_wrong(site: Site) -> None:
    asked = site.run("enroll", "--ocpp-name", "gateway.local")
    certificate = site.enrolled()
    ca = site.practice.public_file("ca")
    other = Practice.make(site.folder / "other")
    right = ["--root", root_qr(site.root), "--ca", ca, "--gateway", asked["fingerprint"]]
    evidence = site.folder / "state" / "enrolment" / "evidence.pem"
    expired = site.certify(site.folder / "state" / "enrolment" / "uplink.csr", ExtendedKeyUsageOID.CLIENT_AUTH, -1)
    server = site.practice.public_file("server")
    for arguments, said in (
        (["--ca", ca, "--certificate", certificate], "--root CODE is missing"),
        (["--root", "AAAA-AAAA-AAAA-AAAA", "--ca", ca], "not the platform that you were told of"),
        (["--root", root_qr(site.root), "--ca", other.public_file("ca")], "not the platform that you were told of"),
        (["--root", root_qr(site.root), "--ca", ca, "--certificate", certificate], "--gateway CODE is missing"),
        ([*right[:4], "--gateway", "AAAA-BBBB-CCCC-DDDD", "--certificate", certificate], "enrolled another gateway"),
        ([*right, "--certificate", server], "another key"),
        ([*right, "--certificate", expired], "has expired"),
        ([*right, "--certificate", evidence], "no certificate in PEM"),
        ([*right, "--certificate", site.folder / "nowhere.pem"], "nowhere.pem"),
        ([*right, "--certificate", certificate, "--ocpp-certificate", server], "another key"),
        (["--certificate", certificate], "the platform's root is not here yet"),
        (["--gateway", asked["fingerprint"]], "there is nothing to install"),
    ):
        answer = site.run("enroll", *arguments, code=1)
        assert said in answer["error"], answer
        assert sorted(path.name for path in site.installed.iterdir()) == ["ocpp.key.pem"]


def test_a_second_root_is_trusted_beside_the_first_until_it_replaces_it(site: Site) -> None:
    other = Practice.make(site.folder / "other")
    roots = [x509.load_pem_x509_certificate(p.public_file("ca").read_bytes()) for p in (site.practice, other)]
    for practice, root in zip((site.practice, other), roots, strict=True):
        site.run("enroll", "--root", root_code(root), "--ca", practice.public_file("ca"))
    held = x509.load_pem_x509_certificates((site.installed / "ca.pem").read_bytes())
    assert held == roots[::-1]
    site.run("enroll", "--root", root_code(roots[1]), "--ca", other.public_file("ca"), "--replace-roots")
    assert x509.load_pem_x509_certificates((site.installed / "ca.pem").read_bytes()) == [roots[1]]


async def test_a_certificate_that_ends_is_told_and_a_new_one_is_asked_for_once(site: Site, tmp_path: Path) -> None:
    request = site.folder / "state" / "enrolment" / "uplink.csr"
    file = site.certify(request, ExtendedKeyUsageOID.CLIENT_AUTH, days=90)  # of 150 days: the last third is 30 days
    end = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    hand = HandClock(wall_us=int((end - timedelta(days=31)).timestamp() * 1e6))
    asked: list[int] = []
    changed: list[int] = []
    alarms: list[str] = []

    async def ask() -> bytes:
        asked.append(1)
        return b"a request"

    watch = CertificateWatch(
        [Watched("uplink", file, ask, "install it", lambda: changed.append(1))],
        enrolment=tmp_path / "asked",
        clock=hand.clock,
        on_alarm=lambda _severity, code, *_: alarms.append(code),
    )
    await watch.look()
    assert (watch.problems, asked) == ((), [])
    assert watch.line is not None
    assert (watch.line.ok, watch.line.detail) == (True, f"uplink until {end:%Y-%m-%d}")
    hand.advance(2 * 86_400)
    for _ in range(2):
        await watch.look()
    assert [problem.severity for problem in watch.problems] == [Verdict.ATTENTION]
    assert (len(asked), alarms) == (1, ["certificate.ends"])
    assert (tmp_path / "asked" / "uplink.csr").read_bytes() == b"a request"
    assert "give" in watch.problems[0].sentence
    hand.advance(40 * 86_400)
    await watch.look()
    assert watch.problems[0].severity is Verdict.TROUBLE
    assert "has ended" in watch.problems[0].sentence

    site.certify(request, ExtendedKeyUsageOID.CLIENT_AUTH, days=900)  # in its place
    await watch.look()
    assert (watch.problems, changed) == ((), [1])
    file.write_text("noise")
    await watch.look()
    assert "no certificate in PEM" in watch.problems[0].sentence


async def test_an_end_is_told_with_its_request_and_near_the_end_without_one(site: Site, tmp_path: Path) -> None:
    request = site.folder / "state" / "enrolment" / "uplink.csr"
    file = site.certify(request, ExtendedKeyUsageOID.CLIENT_AUTH, days=90)
    end = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    hand = HandClock(wall_us=int((end - timedelta(days=29)).timestamp() * 1e6))
    alarms: list[tuple[Severity, str]] = []
    token = [False]

    async def ask() -> bytes:
        if not token[0]:
            raise SignerUnavailableError("the token is away")
        return b"a request"

    watch = CertificateWatch(
        [Watched("uplink", file, ask, "install it")],
        enrolment=tmp_path / "asked",
        clock=hand.clock,
        on_alarm=lambda severity, _code, _subject, text: alarms.append((severity, text)),
    )
    await watch.look()
    assert alarms == []
    assert "the token is away" in watch.problems[0].sentence
    token[0] = True
    await watch.look()
    assert [severity for severity, _ in alarms] == [Severity.WARNING]
    assert "a request for a new one is made" in alarms[0][1]
    for days, count in ((20, 1), (3, 2), (5.5, 3), (5, 4)):
        hand.advance(days * 86_400)
        await watch.look()
        await watch.look()
        assert len(alarms) == count, alarms
    assert [severity for severity, _ in alarms[1:]] == [Severity.WARNING, Severity.CRITICAL, Severity.CRITICAL]


async def test_while_the_time_is_unknown_no_certificate_is_said_to_have_ended(site: Site, tmp_path: Path) -> None:
    request = site.folder / "state" / "enrolment" / "uplink.csr"
    file = site.certify(request, ExtendedKeyUsageOID.CLIENT_AUTH, days=1)
    hand = HandClock(wall_us=int(datetime(2040, 1, 1, tzinfo=UTC).timestamp() * 1e6), synchronised=False)
    watch = CertificateWatch(
        [Watched("uplink", file, None, "install it")],
        enrolment=tmp_path / "asked",
        clock=hand.clock,
        on_alarm=lambda *_: None,
    )
    assert not await watch.look()
    assert watch.problems == ()
    assert watch.line is not None
    assert "time is unknown" in watch.line.state


async def test_once_the_time_is_known_certificates_are_judged_within_seconds(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = site.folder / "state" / "enrolment" / "uplink.csr"
    file = site.certify(request, ExtendedKeyUsageOID.CLIENT_AUTH, days=90)
    hand = HandClock(synchronised=False)
    watch = CertificateWatch(
        [Watched("uplink", file, None, "install it")],
        enrolment=tmp_path / "asked",
        clock=hand.clock,
        on_alarm=lambda *_: None,
    )
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        hand.synchronised = True
        if len(pauses) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr("agent.roads.certificates.asyncio.sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert pauses == [LOOK_UNTIMED_S, LOOK_EVERY_S]
    assert watch.line is not None
    assert "time is unknown" not in watch.line.state


def test_a_request_for_a_listener_needs_the_name_that_chargers_use(site: Site) -> None:
    assert "--ocpp-name HOST" in site.run("enroll", code=1)["error"]
