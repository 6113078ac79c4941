"""Certificate requests, read back by another implementation."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.identity.csr import certificate_request
from agent.identity.did import did_of
from agent.identity.errors import CertificateRequestError
from tests.agent.identity.software import SoftwareSigner


@pytest.mark.parametrize(
    "signer",
    [
        SoftwareSigner(ec.generate_private_key(ec.SECP256R1())),
        SoftwareSigner(ec.generate_private_key(ec.SECP256K1())),
        SoftwareSigner(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["P-256", "secp256k1", "Ed25519"],
)
async def test_a_request_names_the_gateway_and_is_signed_by_its_key(signer: SoftwareSigner) -> None:
    did = did_of(SoftwareSigner().public_key_der)
    pem = await certificate_request(signer, common_name="Hof Süd 3", did=did)

    request = x509.load_pem_x509_csr(pem)
    assert request.is_signature_valid
    assert request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == signer.public_key_der
    assert [name.value for name in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["Hof Süd 3"]
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [did]
    assert request.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    assert list(request.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


@pytest.mark.parametrize("common_name", ["", "x" * 65, "two\nlines"])
async def test_a_name_that_no_certificate_can_carry_is_refused(common_name: str) -> None:
    with pytest.raises(CertificateRequestError):
        await certificate_request(SoftwareSigner(), common_name=common_name, did="did:key:zDn")


@pytest.mark.parametrize("did", ["", "https://example.com", "did:key:zü"])
async def test_a_request_without_an_identifier_is_refused(did: str) -> None:
    with pytest.raises(CertificateRequestError):
        await certificate_request(SoftwareSigner(), common_name="gateway", did=did)
