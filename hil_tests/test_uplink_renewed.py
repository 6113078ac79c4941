"""A new client certificate is tried beside the link that is up, then the link goes on with it."""

from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.uplink.errors import LinkDownError
from agent.uplink.status import Carrier
from agent.uplink.tls import client_credentials
from hil_tests.rig.est import Authority
from hil_tests.rig.link import Link
from hil_tests.rig.platform.service import Server
from hil_tests.uplink_parts import NAME, Rig, address, rig, until

__all__ = ["rig"]


def renewed(rig: Rig, by: Authority | None = None) -> x509.Certificate:
    """A successor of the gateway's certificate."""
    present = x509.load_pem_x509_certificate(rig.practice.certificate_file(NAME).read_bytes())
    root = x509.load_pem_x509_certificate(rig.practice.public_file("ca").read_bytes())
    authority = by or Authority(rig.practice.key("ca").private, root)
    key = present.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    names = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return authority.certify(present.subject, key, names, ExtendedKeyUsageOID.CLIENT_AUTH, before=timedelta(hours=1))


def credentials(rig: Rig, certificate: x509.Certificate) -> grpc.ChannelCredentials:
    return client_credentials(
        ca_pem=rig.practice.public_file("ca").read_bytes(),
        certificate_chain_pem=certificate.public_bytes(Encoding.PEM),
        public_key_der=None,
        sign_digest=rig.gateway.tls.sign_digest_now,
    )


def serials(rig: Rig) -> list[object]:
    return [event["certificate"] for event in rig.events if event["event"] == "connected"]


@pytest.mark.parametrize("link", [True, False], ids=["GatewayLink", "device streams"])
async def test_a_renewed_certificate_is_used_from_the_next_moment_on(rig: Rig, link: bool) -> None:
    async with (
        Server(rig.platform, rig.practice, link=link) as server,
        rig.uplink(address(server.port)) as uplink,
    ):
        await until(lambda: uplink.status().carrier is not Carrier.NONE, "the link is up")
        rig.gateway.seal(uplink, "meter", "pv")
        certificate = renewed(rig)
        await uplink.rehearse(credentials(rig, certificate))
        assert uplink.status().connections == 1
        rig.practice.certificate_file(NAME).write_bytes(certificate.public_bytes(Encoding.PEM))
        uplink.certificate_renewed()
        await until(lambda: uplink.status().connections == 2, "it connects anew")
        if link:
            assert serials(rig)[-1] == f"{certificate.serial_number:x}"
        last = rig.gateway.seal(uplink, "meter", "pv")
        await until(lambda: uplink.status().acknowledged_number == last.number, "everything is acknowledged")
    assert rig.books()["conflicts"] == []


async def test_a_certificate_that_the_platform_does_not_take_leaves_the_link_alone(rig: Rig) -> None:
    async with Server(rig.platform, rig.practice) as server, rig.uplink(address(server.port), stall_s=2.0) as uplink:
        await until(lambda: uplink.status().carrier is Carrier.GATEWAY_LINK, "the link is up")
        other = renewed(rig, Authority.make("another CA"))
        with pytest.raises(LinkDownError, match="takes the present certificate and not the new one"):
            await uplink.rehearse(credentials(rig, other))
        assert (uplink.status().carrier, uplink.status().connections) == (Carrier.GATEWAY_LINK, 1)


async def test_without_a_link_nothing_is_known_of_a_certificate(rig: Rig) -> None:
    async with Link("127.0.0.1", 1) as nobody, rig.uplink(nobody.address) as uplink:
        await uplink.rehearse(credentials(rig, renewed(rig, Authority.make("another CA"))))
