"""Certificates are renewed over EST at a real HTTPS server, and whatever stands in its place installs nothing."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs7,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.evidence.statements import Severity
from agent.identity.csr import client_request, renewal_request, server_request
from agent.identity.enrolment import Usage
from agent.identity.est import basic_login
from agent.identity.login_token import login_password
from agent.roads.certificates import CertificateWatch, Watched
from agent.roads.est import LARGEST, EstServer
from agent.roads.renewal import Renewable, Renewal
from agent.status import Verdict
from agent.uplink.errors import LinkDownError
from drivers.device import SignerUnavailableError
from hil_tests.rig.est import Answer, Authority, EstService
from hil_tests.rig.platform.keys import SoftwareKey
from hil_tests.roads_parts import HandClock

GATEWAY = "did:v2g:zQmGateway"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
PKCS7 = "application/pkcs7-mime; smime-type=certs-only"


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def uri(name: str = GATEWAY) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)])


@dataclass
class Bench:
    """A certificate in its last third, its renewal, and the CA's server."""

    folder: Path
    root: Authority
    ca: Authority
    service: EstService
    key: SoftwareKey = field(default_factory=SoftwareKey.generate)
    hand: HandClock = field(default_factory=lambda: HandClock(wall_us=time.time_ns() // 1000))
    alarms: list[tuple[Severity, str, str, str]] = field(default_factory=list)
    server_ca: bytes = b""
    token_away: bool = False
    proven: list[bytes] = field(default_factory=list)
    server_tls: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    refused_by_platform: bool = False

    @property
    def file(self) -> Path:
        return self.folder / "installed" / "uplink.pem"

    def install(self, *, before: int = 80, days: int = 10, name: str = GATEWAY) -> x509.Certificate:
        """The present certificate: of a life of 90 days, in its last third."""
        present = self.ca.certify(
            named("Hof Süd"), self.key.private.public_key(), uri(name), CLIENT,
            before=timedelta(days=before), life=timedelta(days=days),
        )  # fmt: skip
        self.write(self.file, present)
        self.service.given.append(present)
        self.service.gateways[GATEWAY] = self.key.public_key_der
        return present

    def write(self, file: Path, present: x509.Certificate) -> None:
        file.parent.mkdir(exist_ok=True)
        (file.parent / "ca.pem").write_bytes(self.root.pem)
        file.write_bytes(present.public_bytes(Encoding.PEM) + self.ca.pem)

    async def login(self, now: datetime) -> str:
        if self.token_away:
            raise SignerUnavailableError("the token is away")
        password = await login_password(
            self.key, gateway_id=GATEWAY, audience=self.service.url, now_s=int(now.timestamp())
        )
        return basic_login(password)

    def server(self, client_files: tuple[Path, Path] | None = None) -> EstServer:
        ca_file = self.folder / "est-ca.pem"
        ca_file.write_bytes(self.server_ca or self.root.pem)
        return EstServer(
            url=self.service.url,
            ca_file=ca_file,
            login=self.login,
            client_files=client_files,
            client_roots=self.folder / "installed" / "ca.pem",
        )

    def renewal(self, one: Renewable | None = None, client_files: tuple[Path, Path] | None = None) -> Renewal:
        return Renewal(
            one or self.uplink(),
            self.server(client_files),
            roots_file=self.folder / "installed" / "ca.pem",
            place=self.folder / "enrolment",
            clock=self.hand.clock,
            on_alarm=lambda *told: self.alarms.append(told),
            draw=lambda: 0.0,
        )

    def uplink(self) -> Renewable:
        async def key() -> bytes:
            return self.key.public_key_der

        async def request(present: bytes) -> bytes:
            return await renewal_request(self.key, x509.load_pem_x509_certificates(present)[0])

        async def prove(chain: bytes) -> None:
            if self.refused_by_platform:
                raise LinkDownError("it takes the present certificate and not the new one")
            self.proven.append(chain)

        return Renewable(
            name="uplink", file=self.file, usage=Usage.CLIENT, public_key_der=key, request=request,
            gateway_id=lambda: GATEWAY, prove=prove,
        )  # fmt: skip

    @property
    def codes(self) -> list[str]:
        return [code for _, code, _, _ in self.alarms]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    root = Authority.make("platform root")
    ca = Authority.make("platform CA", root)
    service = EstService(ca, root=root.certificate)
    tls = ca.server_context(tmp_path)
    async with service.running(tls):
        bench = Bench(tmp_path, root, ca, service, server_tls=tls)
        service.now_s = lambda: bench.hand.wall_us / 1e6
        yield bench


def says(body: bytes, content_type: str = PKCS7, status: int = 200, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, status=status, headers={"Content-Type": content_type, **more})

    return answer


def noted(heard: list[str]) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        heard.append(request.path)
        return web.Response(status=503)

    return answer


def certs(*certificates: x509.Certificate) -> bytes:
    return base64.encodebytes(pkcs7.serialize_certificates(list(certificates), Encoding.DER))


async def test_a_certificate_in_its_last_third_is_renewed_with_its_intermediate(bench: Bench) -> None:
    before = bench.install()
    await bench.renewal().step()
    chain = x509.load_pem_x509_certificates(bench.file.read_bytes())
    assert chain == [bench.service.given[-1], bench.ca.certificate]
    assert chain[0].serial_number != before.serial_number
    assert (chain[0].subject, chain[0].public_key()) == (before.subject, before.public_key())
    assert (bench.service.logins, bench.codes) == (["token"], ["certificate.renewed"])
    assert bench.proven == [bench.file.read_bytes()]


async def test_a_certificate_that_is_not_due_asks_for_nothing(bench: Bench) -> None:
    bench.install(before=10, days=80)
    await bench.renewal().step()
    assert (bench.service.asked, bench.alarms) == ([], [])


async def test_a_renewed_certificate_is_not_renewed_again(bench: Bench) -> None:
    bench.install()
    renewal = bench.renewal()
    for _ in range(3):
        bench.hand.advance(await renewal.step())
    assert len(bench.service.asked) == 1


async def test_gateways_begin_at_different_moments(bench: Bench) -> None:
    bench.install()
    renewal = bench.renewal()
    renewal._draw = lambda: 0.5
    wait_s = await renewal.step()
    assert bench.service.asked == []
    for _ in range(40):
        bench.hand.advance(wait_s)
        wait_s = await renewal.step()
    assert len(bench.service.asked) == 1


async def test_while_others_may_still_vouch_for_the_time_nothing_is_asked_for(bench: Bench) -> None:
    bench.install()
    bench.hand.synchronised = False
    heard: list[str] = []
    bench.service.before = [noted(heard)]
    renewal = bench.renewal()
    for _ in range(10):
        bench.hand.advance(await renewal.step())
    assert heard == []


async def test_before_the_gateways_name_is_known_nothing_is_asked_for_and_nothing_is_told(bench: Bench) -> None:
    bench.install()
    known = [""]
    renewal = bench.renewal(replace(bench.uplink(), gateway_id=lambda: known[0]))
    await renewal.step()
    assert (bench.service.asked, renewal.status.failures, bench.alarms) == ([], 0, [])
    known[0] = GATEWAY
    await renewal.step()
    assert bench.codes == ["certificate.renewed"]


async def test_later_is_asked_again_with_the_same_request_and_not_before_its_time(bench: Bench) -> None:
    bench.install()
    heard: list[bytes] = []

    async def later(request: web.Request) -> web.StreamResponse:
        heard.append(await request.read())
        return web.Response(status=202, headers={"Retry-After": "600"}, text="an officer looks at it")

    bench.service.before = [later, later]
    renewal = bench.renewal()
    await renewal.step()
    assert "an officer looks at it" in renewal.status.detail
    assert renewal.status.failures == 0
    bench.hand.advance(599)
    await renewal.step()
    assert len(heard) == 1
    bench.hand.advance(1)
    await renewal.step()
    # A start in between changes nothing: the request lies in the folder.
    again = bench.renewal()
    await again.step()
    assert [base64.b64decode(body) for body in [*heard, heard[0]]] == [*[bench.service.asked[0][1]] * 3]
    assert len(x509.load_pem_x509_certificates(bench.file.read_bytes())) == 2
    assert bench.codes == ["certificate.renewed"]


async def redirect(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://login.hotel.example/")


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": PKCS7})
    await response.prepare(request)
    for _ in range(10 * LARGEST // 4096):
        await response.write(b"A" * 4096)
    return response


async def slow(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


PORTAL = b"<html><title>Welcome to the \x1b[31mHotel</title></html>"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (says(PORTAL, "text/html"), "captive portal"),
        (says(PORTAL), "not in base64"),
        (says(base64.b64encode(b"\x30\x82 nothing of the kind")), "cannot be read"),
        (says(b""), "cannot be read"),
        (says(b"{}", "application/json"), "answered with application/json"),
        (redirect, "sends us elsewhere"),
        (endless, f"longer than {LARGEST} bytes"),
        (slow, "no answer within"),
        (says(b"who are you?", "text/plain", 401, WWW_Authenticate="Basic"), "(HTTP 401): who are you?"),
        (says(b"", "text/plain", 404), "is wrong (HTTP 404)"),
        (says(b"tired", "text/plain", 503), "cannot do it now (HTTP 503): tired"),
        (says(b"", PKCS7, 204), "HTTP 204"),
    ],
)  # fmt: skip
async def test_what_is_no_answer_of_an_est_server_installs_nothing_and_is_tried_again(
    bench: Bench, answer: Answer, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.roads.est.TIMEOUT_S", 1.0)
    bench.install()
    held = bench.file.read_bytes()
    bench.service.before = [answer]
    renewal = bench.renewal()
    wait_s = await renewal.step()
    assert bench.file.read_bytes() == held
    assert said in renewal.status.detail
    assert "\x1b" not in renewal.status.detail
    assert (renewal.status.failures, bench.codes) == (1, ["certificate.not_renewed"])
    assert wait_s >= 30
    while not bench.service.asked:
        bench.hand.advance(await renewal.step())
    assert bench.file.read_bytes() != held
    assert renewal.status.failures == 0


async def test_a_server_that_is_busy_is_asked_again_when_it_said(bench: Bench) -> None:
    bench.install()
    bench.service.before = [says(b"", "text/plain", 503, Retry_After="3")]
    renewal = bench.renewal()
    assert await renewal.step() == 3.0
    bench.hand.advance(3)
    await renewal.step()
    assert bench.codes == ["certificate.not_renewed", "certificate.renewed"]


async def test_after_a_fault_of_its_own_it_waits_as_after_one_of_the_ca(bench: Bench) -> None:
    """A task that ends is begun anew at once: the CA would be asked every few seconds."""
    bench.install()
    one = bench.uplink()

    async def request(_: bytes) -> bytes:
        raise RuntimeError("nobody has thought of this")

    renewal = bench.renewal(replace(one, request=request))
    assert await renewal.step() > 0
    assert "nobody has thought of this" in renewal.status.detail
    assert renewal.status.failures == 1
    await renewal.step()
    assert renewal.status.failures == 1


async def test_who_says_at_once_for_ever_is_asked_less_and_less(bench: Bench) -> None:
    bench.install()
    bench.service.before = [says(b"", "text/plain", 503, Retry_After="0")] * 12
    renewal = bench.renewal()
    waits = [await renewal.step()]
    while bench.service.before:
        bench.hand.advance(waits[-1])
        waits.append(await renewal.step())
    assert waits[:5] == [1.0] * 5
    assert min(waits[5:]) > 1.0


Wrong = Callable[[Bench], list[x509.Certificate]]


def certified(bench: Bench, by: Authority | None = None, **changed: object) -> x509.Certificate:
    asked: dict[str, object] = {
        "subject": named("Hof Süd"), "key": bench.key.private.public_key(), "names": uri(), "usage": CLIENT,
        "life": timedelta(days=90),
    }  # fmt: skip
    return (by or bench.ca).certify(**{**asked, **changed})  # type: ignore[arg-type]  # as the cases give them


OTHER = Authority.make("another root")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda b: [certified(b, key=ec.generate_private_key(ec.SECP256R1()).public_key())], "for another key"),
        (lambda b: [certified(b), certified(b)], "2 certificates came"),
        (lambda b: [certified(b, names=uri("did:v2g:zOther"))], "and not this gateway"),
        (lambda b: [certified(b, names=None)], "and not this gateway"),
        (lambda b: [certified(b, subject=named("Hof Nord"))], "lacks what the present one names: Hof Süd"),
        (lambda b: [certified(b, usage=SERVER)], "is not for TLS clients"),
        (lambda b: [certified(b, OTHER)], "the chain is broken"),
        (lambda b: [certified(b, OTHER), OTHER.certificate], "the chain is broken"),
        (lambda b: [certified(b, before=timedelta(days=9), life=timedelta(days=-1))], "has expired"),
        (lambda b: [certified(b, before=timedelta(days=-2))], "look at the clock"),
        (lambda b: [certified(b, life=timedelta(days=9))], "and the present one not before"),
        (lambda b: [b.service.given[0]], "and the present one not before"),
    ],
)  # fmt: skip
async def test_a_certificate_that_is_wrong_in_one_thing_is_not_installed(bench: Bench, wrong: Wrong, said: str) -> None:
    bench.install()
    held = bench.file.read_bytes()
    bench.service.before = [says(certs(*wrong(bench)))]
    renewal = bench.renewal()
    await renewal.step()
    assert bench.file.read_bytes() == held
    assert said in renewal.status.detail
    assert bench.codes == ["certificate.not_renewed"]


async def test_a_certificate_that_the_platform_does_not_take_is_not_installed(bench: Bench) -> None:
    bench.install()
    held = bench.file.read_bytes()
    bench.refused_by_platform = True
    renewal = bench.renewal()
    await renewal.step()
    assert bench.file.read_bytes() == held
    assert "takes the present certificate and not the new one" in renewal.status.detail


async def test_a_server_with_anothers_certificate_hears_nothing(bench: Bench) -> None:
    bench.install()
    bench.server_ca = OTHER.pem
    renewal = bench.renewal()
    await renewal.step()
    assert "is not of the platform's CA: a captive portal" in renewal.status.detail
    assert bench.service.asked == []


async def test_a_server_whose_certificate_has_expired_hears_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.install()
    late = EstService(bench.ca, root=bench.root.certificate)
    async with late.running(bench.ca.server_context(tmp_path, life=timedelta(days=-1))):
        bench.service.url = late.url
        renewal = bench.renewal()
        await renewal.step()
    assert "certificate has expired, or this clock is wrong" in renewal.status.detail
    assert late.asked == []


async def test_what_speaks_no_tls_or_says_nothing_is_told_in_bounded_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.roads.est.TIMEOUT_S", 1.0)
    bench.install()
    held = bench.file.read_bytes()

    async def portal(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://login.hotel.example/\r\n\r\n")
        writer.close()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    for nobody, said in ((portal, "a captive portal"), (mute, "no answer within")):
        server = await asyncio.start_server(nobody, "127.0.0.1", 0)
        async with server:
            bench.service.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/.well-known/est"
            renewal = bench.renewal()
            await renewal.step()
        assert said in renewal.status.detail
        assert renewal.status.failures == 1
    assert bench.file.read_bytes() == held


async def test_without_its_token_it_waits_and_asks_for_nothing(bench: Bench) -> None:
    bench.install()
    bench.token_away = True
    renewal = bench.renewal()
    await renewal.step()
    assert "the token is away" in renewal.status.detail
    bench.token_away = False
    bench.hand.advance(60)
    await renewal.step()
    assert len(bench.service.given) == 2
    assert bench.service.given[-1] == x509.load_pem_x509_certificate(bench.file.read_bytes())


async def test_a_folder_that_cannot_be_written_is_told_before_anything_is_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.install()
    monkeypatch.setattr("agent.roads.renewal.os.access", lambda *_: False)  # root may write everywhere
    renewal = bench.renewal()
    await renewal.step()
    assert "cannot be written by the agent" in renewal.status.detail
    assert bench.service.asked == []


async def test_the_nearer_the_end_the_more_it_is_told_and_never_twice_at_one_stage(bench: Bench) -> None:
    present = bench.install(before=330, days=30)
    url = bench.service.url
    bench.service.url = "https://127.0.0.1:1/.well-known/est"
    renewal = bench.renewal()
    watch = CertificateWatch(
        [Watched("uplink", bench.file, None, "install it", renewal=renewal)],
        enrolment=bench.folder / "enrolment",
        clock=bench.hand.clock,
        on_alarm=lambda *_: None,
    )
    ends_us = present.not_valid_after_utc.timestamp() * 1e6
    for days_left, alarms in ((29.9, 1), (20.0, 1), (6.9, 2), (0.9, 3), (-0.1, 4), (-5.0, 4)):
        bench.hand.advance((ends_us - bench.hand.wall_us) / 1e6 - days_left * 86_400)
        await renewal.step()
        assert len(bench.alarms) == alarms, days_left
    assert [severity for severity, *_ in bench.alarms] == [Severity.WARNING] * 2 + [Severity.CRITICAL] * 2
    assert set(bench.codes) == {"certificate.not_renewed"}
    [problem] = watch.problems
    assert (problem.severity, problem.subject) == (Verdict.TROUBLE, "certificate uplink")
    assert "has ended" in problem.sentence
    [line] = watch.lines
    assert (line.failures, line.renewed_by) == (6, "https://127.0.0.1:1/.well-known/est")

    bench.service.url = url
    await bench.renewal().step()  # a certificate that is over may be renewed: the CA decides
    await watch.look()
    assert watch.problems == ()


async def test_a_certificate_of_another_ca_is_for_a_person_to_renew(bench: Bench) -> None:
    bench.install()
    (bench.folder / "installed" / "ca.pem").write_bytes(OTHER.pem)
    renewal = bench.renewal()
    await renewal.step()
    assert not renewal.responsible
    assert bench.service.asked == []

    async def ask() -> bytes:
        return b"a request"

    watch = CertificateWatch(
        [Watched("uplink", bench.file, ask, "install it", renewal=renewal)],
        enrolment=bench.folder / "enrolment",
        clock=bench.hand.clock,
        on_alarm=lambda *told: bench.alarms.append(told),
    )
    await watch.look()
    assert (bench.folder / "enrolment" / "uplink.csr").read_bytes() == b"a request"
    assert bench.codes == ["certificate.ends"]


def file_key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    return key


def of_file(name: str, file: Path, key: Path, usage: Usage, request: Callable[[bytes, bytes], bytes]) -> Renewable:
    key_pem = key.read_bytes()

    async def public_key_der() -> bytes:
        public = load_pem_private_key(key_pem, None).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    async def asked(present: bytes) -> bytes:
        return request(key_pem, present)

    return Renewable(name=name, file=file, usage=usage, public_key_der=public_key_der, request=asked)


async def test_a_certificate_whose_key_is_a_file_is_renewed_under_mutual_tls(bench: Bench) -> None:
    bench.install()
    key, file = bench.folder / "mqtt.key.pem", bench.folder / "installed" / "mqtt.pem"
    public = file_key(key).public_key()
    present = bench.ca.certify(named(GATEWAY), public, None, CLIENT, before=timedelta(days=80), life=timedelta(days=10))
    bench.write(file, present)
    bench.service.given.append(present)
    renewal = bench.renewal(of_file("mqtt", file, key, Usage.CLIENT, client_request), (file, key))
    await renewal.step()
    assert renewal.status.detail == ""
    assert bench.service.logins == ["TLS"]
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(file, key)


@pytest.mark.parametrize("fault", ["another key", "read by others", "no key at all"])
async def test_the_uplinks_certificate_is_renewed_though_the_mqtt_clients_files_are_of_no_use(
    bench: Bench, fault: str
) -> None:
    bench.install()
    key, file = bench.folder / "mqtt.key.pem", bench.folder / "installed" / "mqtt.pem"
    public = file_key(key).public_key()
    bench.write(file, bench.ca.certify(named(GATEWAY), public, None, CLIENT, life=timedelta(days=10)))
    match fault:
        case "another key":
            file_key(key)
        case "read by others":
            key.chmod(0o644)
        case _:
            key.unlink()
    renewal = bench.renewal(client_files=(file, key))
    await renewal.step()
    assert renewal.status.detail == ""
    assert bench.codes == ["certificate.renewed"]


async def test_a_client_certificate_of_another_ca_is_not_shown_to_the_est_server(bench: Bench) -> None:
    """A broker's own CA issued it: it is for the broker to see."""
    bench.install()
    key, file = bench.folder / "mqtt.key.pem", bench.folder / "installed" / "mqtt.pem"
    public = file_key(key).public_key()
    shown: list[bytes | None] = []

    async def looks(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        shown.append(request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True))
        return await bench.service.answered(request)

    # A server may ask for certificates of whatever CA: this one lets both in.
    bench.server_tls.load_verify_locations(cadata=OTHER.pem.decode())
    for ca, seen in ((bench.ca, True), (OTHER, False)):
        present = ca.certify(named(GATEWAY), public, None, CLIENT, life=timedelta(days=10))
        file.write_bytes(present.public_bytes(Encoding.PEM) + (bench.ca.pem if seen else b""))
        bench.install()
        bench.service.before = [looks]
        renewal = bench.renewal(client_files=(file, key))
        await renewal.step()
        assert renewal.status.detail == ""
        assert shown.pop() == (present.public_bytes(Encoding.DER) if seen else None)


async def test_the_listeners_certificate_is_renewed_with_its_names(bench: Bench) -> None:
    bench.install()
    key, file = bench.folder / "ocpp.key.pem", bench.folder / "installed" / "ocpp.pem"
    names = x509.SubjectAlternativeName([x509.DNSName("gateway.local")])
    public = file_key(key).public_key()
    present = bench.ca.certify(
        named("gateway"), public, names, SERVER, before=timedelta(days=80), life=timedelta(days=10)
    )
    bench.write(file, present)
    bench.service.given.append(present)
    one = of_file("ocpp", file, key, Usage.SERVER, lambda pem, like: server_request(pem, like=like))
    renewal = bench.renewal(one)
    await renewal.step()
    assert renewal.status.detail == ""
    fresh = x509.load_pem_x509_certificate(file.read_bytes())
    assert fresh.not_valid_after_utc > datetime.now(UTC) + timedelta(days=80)
    assert fresh.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == names
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file, key)


async def test_a_token_of_another_key_renews_nothing(bench: Bench) -> None:
    bench.install()
    bench.service.gateways[GATEWAY] = SoftwareKey.generate().public_key_der
    renewal = bench.renewal()
    await renewal.step()
    assert "does not take this gateway's word for who it is (HTTP 401)" in renewal.status.detail
