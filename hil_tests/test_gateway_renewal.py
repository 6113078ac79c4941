"""The whole agent, a platform and its CA: the uplink's certificate is renewed over EST, and nothing is lost by it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from hil_tests.gateway_parts import GatewaySite, gateway_site, needs_softhsm, part_of, problem_of, until
from hil_tests.rig.demo.stage import free_ports
from hil_tests.rig.est import Answer, Authority, EstService
from hil_tests.rig.platform.enrol import Practice

pytestmark = needs_softhsm

METERS = ("meter-1", "pv-1", "battery-1")


@asynccontextmanager
async def renewing(folder: Path) -> AsyncIterator[tuple[GatewaySite, EstService, Path]]:
    """A site whose certificate is in its last third, the platform's CA behind EST, and the certificate's file."""
    async with gateway_site(folder) as site:
        stage = site.stage
        practice = Practice.open(folder / "platform")
        root = x509.load_pem_x509_certificate(practice.public_file("ca").read_bytes())
        service = EstService(Authority(practice.key("ca").private, root), root=root)
        # Of a short life, so that its renewal begins within seconds.
        given = x509.load_pem_x509_certificate(practice.certificate_file("demo-site").read_bytes())
        key = given.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        names = given.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        present = service.authority.certify(
            given.subject, key, names, ExtendedKeyUsageOID.CLIENT_AUTH,
            before=timedelta(minutes=5), life=timedelta(minutes=2),
        )  # fmt: skip
        service.given.append(present)
        service.gateways[stage.gateway_id] = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        file = stage.state_dir / "uplink.pem"
        file.write_bytes(present.public_bytes(Encoding.PEM))
        [port] = free_ports(1)
        async with service.running(service.authority.server_context(folder), port):
            text = re.sub(
                r'^certificate_file = .*$', f'certificate_file = "{file}"\nest = "{service.url}"',
                stage.config.read_text(), count=1, flags=re.M,
            )  # fmt: skip
            stage.config.write_text(text)
            yield site, service, file


def serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


async def test_the_link_goes_on_with_a_renewed_certificate_and_nothing_is_lost(tmp_path: Path) -> None:
    async with renewing(tmp_path) as (site, service, file):
        [before] = service.given
        asked: list[str] = []

        async def not_now(request: web.Request) -> web.StreamResponse:
            asked.append(request.path)
            # The old certificate carried the link before the new one did.
            await site.told("connected", certificate=serial(before))
            return web.Response(status=202, headers={"Retry-After": "1"}, text="in the queue")

        service.before = [not_now]
        await site.stage.start_all()
        await until(lambda: _is(len(service.given) == 2), "the CA gives another one")
        after = service.given[-1]
        await site.told("connected", certificate=serial(after))
        assert asked == [re.sub(r"^https://[^/]+", "", service.url) + "/simplereenroll"]
        assert service.logins == ["token"]
        assert x509.load_pem_x509_certificate(file.read_bytes()) == after
        newest = await site.newest_sequences()
        await site.grows(*METERS, beyond=newest)
        status = await site.shows(
            lambda status: f"{after.not_valid_after_utc:%Y-%m-%d}" in part_of(status, "certificates")["detail"],
            "until when the new one is good",
        )
        [line] = [line for line in status["certificates"] if line["name"] == "uplink"]
        assert (line["renewed_by"], line["failures"]) == (service.url, 0)
        async with site.session.get(f"{site.stage.page_url}metrics") as answer:
            metrics = await answer.text()
        ends = float(re.findall(r'certificate_end_timestamp_seconds\{certificate="uplink"\} (\S+)', metrics)[0])
        assert ends == after.not_valid_after_utc.timestamp()
        assert 'certificate_renewal_failures{certificate="uplink"} 0.0' in metrics
        await site.told("alarm", code="certificate.renewed", subject="uplink")
        assert await site.stage.gateway.end() == 0
        await site.nothing_lost()


async def test_killed_before_and_after_the_new_certificate_is_written_the_link_comes_back(tmp_path: Path) -> None:
    async with renewing(tmp_path) as (site, service, file):
        [before] = service.given

        async def too_late(request: web.Request) -> web.StreamResponse:
            answer = await service.answered(request)
            await site.told("connected", certificate=serial(before))
            await site.stage.gateway.kill()
            return answer

        service.before = [too_late]
        await site.stage.start_all()
        await until(lambda: _is(not site.stage.gateway.running), "the agent is killed")
        lost = service.given[-1]
        assert x509.load_pem_x509_certificate(file.read_bytes()) == before
        await site.stage.start_gateway()
        await until(lambda: _is(x509.load_pem_x509_certificate(file.read_bytes()) != before), "another is there")
        await site.stage.gateway.kill()
        after = x509.load_pem_x509_certificate(file.read_bytes())
        assert after not in (before, lost)
        await site.stage.start_gateway()
        await site.told("connected", certificate=serial(after))
        await site.well()
        assert await site.stage.gateway.end() == 0
        await site.nothing_lost()


@pytest.mark.parametrize("portal", [True, False], ids=["a page", "a certificate of another key"])
async def test_what_is_wrong_leaves_the_link_as_it_is_and_is_told(tmp_path: Path, portal: bool) -> None:
    async with renewing(tmp_path) as (site, service, file):
        [before] = service.given
        held = file.read_bytes()

        async def page(_: web.Request) -> web.StreamResponse:
            return web.Response(text="<html>Welcome</html>", content_type="text/html")

        async def anothers(_: web.Request) -> web.StreamResponse:
            key = ec.generate_private_key(ec.SECP256R1()).public_key()
            certificate = service.authority.certify(before.subject, key, None, ExtendedKeyUsageOID.CLIENT_AUTH)
            return service.certificates(certificate)

        wrong: Answer = page if portal else anothers
        service.before = [wrong]
        await site.stage.start_all()
        status = await site.shows(lambda status: bool(problem_of(status, "certificate uplink")), "that it failed")
        why = "captive portal" if portal else "another key"
        assert why in problem_of(status, "certificate uplink")
        await site.told("alarm", code="certificate.not_renewed", subject="uplink")
        assert file.read_bytes() == held
        newest = await site.newest_sequences()
        await site.grows(*METERS, beyond=newest)
        connected = [said for said in site.stage.platform.said if said.get("event") == "connected"]
        assert {said["certificate"] for said in connected} == {serial(before)}


async def _is(condition: bool) -> bool:
    return condition
