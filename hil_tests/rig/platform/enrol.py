"""A practice platform in a folder: its CA, keys and trust list; and the enrolment of gateways with it.

ca.pem ca.key.pem                    certificate authority for both ends of the TLS link
server.pem server.key.pem            the platform's certificate, for 127.0.0.1, ::1 and localhost
platform.pem platform.key.pem        signs acknowledgements and countersigns channel states
trust-root.pem trust-root.key.pem    signs trust-list.cose
operational.* governance.*           the issuer's two keys
gateways/NAME.json NAME.pem          an enrolled gateway: its keys, and its client certificate
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.evidence.cose import VerifyKey, verify_key_of
from agent.identity.did import did_of
from agent.identity.history import decode_history, replay
from agent.identity.trust import IssuerRights, Role, TrustList, prepare_trust_list
from agent.ledger.state import ChannelTerms
from hil_tests.rig.platform.keys import SoftwareKey

VALID_DAYS: Final = 365
ISSUER: Final = "practice-aggregator"
"""Name of the issuer of all practice commands: one issuer with an operational and a governance key."""
HIGHEST_POWER_W: Final = 1_000_000
LOWEST_RANK: Final = 0
"""The best priority that the issuer may use: 0, grid balancing."""


class EnrolmentError(Exception):
    """A gateway cannot be enrolled as asked. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What the settlement of a gateway's devices is under; the defaults are those of the gateway's [settlement]."""

    chain_id: int = 1
    contract: bytes = bytes(20)
    participant: bytes = bytes(20)
    counterparty: bytes = bytes(20)
    agreement_hash: bytes = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A gateway that the platform knows."""

    name: str
    gateway_id: str
    tls_public_key_der: bytes
    keys: dict[str, VerifyKey]
    """By use: "evidence", and "device:<id>" for each settled device."""
    agreement: Agreement
    history: bytes = b""
    """Of its name, as it was at enrolment; empty: it is named by its evidence key."""

    def terms(self, device_id: str) -> ChannelTerms:
        """Of the channel of one settled device."""
        return ChannelTerms(
            gateway_id=self.gateway_id,
            device_id=device_id,
            chain_id=self.agreement.chain_id,
            contract=self.agreement.contract,
            participant=self.agreement.participant,
            counterparty=self.agreement.counterparty,
            agreement_hash=self.agreement.agreement_hash,
        )


class Practice:
    """The folder of a practice platform. Made on first use, by `make`; read by `open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: Path) -> Practice:
        """Raises EnrolmentError when there is no practice platform in the folder."""
        if not (folder / "trust-list.cose").is_file():
            raise EnrolmentError(f"{folder}: holds no practice platform; run `enrol` first")
        return cls(folder)

    @classmethod
    def make(cls, folder: Path) -> Practice:
        """A practice platform in the folder: the one that is there, or a new one."""
        if (folder / "trust-list.cose").is_file():
            return cls(folder)
        (folder / "gateways").mkdir(parents=True, exist_ok=True)
        practice = cls(folder)
        for name in ("ca", "server", "platform", "trust-root", "operational", "governance"):
            key = SoftwareKey.generate()
            key.save(practice.key_file(name))
            if name not in ("ca", "server"):
                practice.public_file(name).write_bytes(key.public_pem)
        practice.public_file("ca").write_bytes(_authority(practice.key("ca")).public_bytes(Encoding.PEM))
        practice.public_file("server").write_bytes(practice._server_certificate().public_bytes(Encoding.PEM))
        practice.write_trust_list(version=1)
        return practice

    def key_file(self, name: str) -> Path:
        return self.folder / f"{name}.key.pem"

    def public_file(self, name: str) -> Path:
        """Public key, or for "ca" and "server" the certificate, PEM."""
        return self.folder / f"{name}.pem"

    @property
    def trust_list_file(self) -> Path:
        return self.folder / "trust-list.cose"

    def key(self, name: str) -> SoftwareKey:
        return SoftwareKey.load(self.key_file(name))

    def write_trust_list(self, *, version: int, issuers: tuple[IssuerRights, ...] | None = None) -> None:
        """Sign a trust list; without `issuers` the practice issuer may order everything."""
        now_us = _now_us()
        expires_us = now_us + VALID_DAYS * 86_400_000_000
        entries = issuers if issuers is not None else self._default_issuers(expires_us)
        root = self.key("trust-root")
        unsigned = prepare_trust_list(
            TrustList(version=version, issued_us=now_us, expires_us=expires_us, issuers=entries), root.verify_key
        )
        self.trust_list_file.write_bytes(unsigned.with_signature(root.sign_now(unsigned.to_be_signed)))

    def _default_issuers(self, expires_us: int) -> tuple[IssuerRights, ...]:
        return tuple(
            IssuerRights(
                issuer=ISSUER,
                key=self.key(name).verify_key,
                role=role,
                types=frozenset({0, 1, 2, 3}),
                targets=("*",),
                highest_power_w=HIGHEST_POWER_W,
                highest_priority=LOWEST_RANK,
                expires_us=expires_us,
            )
            for name, role in (("operational", Role.OPERATIONAL), ("governance", Role.GOVERNANCE))
        )

    def enrol(
        self,
        csr_pem: bytes,
        public_keys_der: dict[str, bytes],
        agreement: Agreement = Agreement(),
        *,
        history: bytes = b"",
    ) -> Enrolled:
        """Certify a gateway's TLS key and remember its other keys by use. Enrolling a name again replaces it.

        `public_keys_der` must hold "evidence"; the gateway's identifier is made from it and must be the one in the
        request. Raises EnrolmentError.
        """
        if "evidence" not in public_keys_der:
            raise EnrolmentError('the gateway\'s "evidence" key is missing')
        gateway_id = did_of(public_keys_der["evidence"])
        if history:
            state = replay(decode_history(history))
            gateway_id = state.gateway_id
            if state.key.public_key_der != public_keys_der["evidence"]:
                raise EnrolmentError("the evidence key is not the one at the end of the gateway's history")
        try:
            request = x509.load_pem_x509_csr(csr_pem)
        except ValueError as error:
            raise EnrolmentError(f"not a certificate request in PEM: {error}") from error
        if not request.is_signature_valid:
            raise EnrolmentError("the certificate request is not signed by its own key")
        name, did = _names_in(request)
        if did != gateway_id:
            raise EnrolmentError(f"the request is for {did}, the evidence key is that of {gateway_id}")
        certificate = self._client_certificate(request)
        enrolled = Enrolled(
            name=name,
            gateway_id=gateway_id,
            tls_public_key_der=request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            keys={use: verify_key_of(der) for use, der in public_keys_der.items()},
            agreement=agreement,
            history=history,
        )
        self.certificate_file(name).write_bytes(certificate.public_bytes(Encoding.PEM))
        self._record_file(name).write_text(json.dumps(_to_json(enrolled), indent=2) + "\n", encoding="utf-8")
        return enrolled

    def keep_history(self, enrolled: Enrolled, history: bytes) -> None:
        """The history that the platform goes by from now on."""
        kept = replace(enrolled, history=history)
        self._record_file(enrolled.name).write_text(json.dumps(_to_json(kept), indent=2) + "\n", encoding="utf-8")

    def broker_client_certificate(self, name: str, key: SoftwareKey) -> bytes:
        """For MQTT, whose clients have key files: PEM, the common name is the user name at the broker."""
        builder = _builder(name, key.private.public_key())
        return self._certify(builder, ExtendedKeyUsageOID.CLIENT_AUTH).public_bytes(Encoding.PEM)

    def certificate_file(self, name: str) -> Path:
        return self.folder / "gateways" / f"{name}.pem"

    def _record_file(self, name: str) -> Path:
        return self.folder / "gateways" / f"{name}.json"

    def gateways(self) -> dict[str, Enrolled]:
        """All enrolled gateways, by gateway id."""
        records = [_from_json(json.loads(path.read_text())) for path in (self.folder / "gateways").glob("*.json")]
        return {enrolled.gateway_id: enrolled for enrolled in records}

    def _server_certificate(self) -> x509.Certificate:
        names = x509.SubjectAlternativeName(
            [
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.IPAddress(ipaddress.ip_address("::1")),
            ]
        )
        builder = _builder("practice platform", self.key("server").private.public_key())
        return self._certify(builder.add_extension(names, False), ExtendedKeyUsageOID.SERVER_AUTH)

    def _client_certificate(self, request: x509.CertificateSigningRequest) -> x509.Certificate:
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        name, _ = _names_in(request)
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return self._certify(_builder(name, key).add_extension(names, False), ExtendedKeyUsageOID.CLIENT_AUTH)

    def _certify(self, builder: x509.CertificateBuilder, usage: x509.ObjectIdentifier) -> x509.Certificate:
        authority = x509.load_pem_x509_certificate(self.public_file("ca").read_bytes())
        return (
            builder.issuer_name(authority.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
            .add_extension(x509.ExtendedKeyUsage([usage]), False)
            .sign(self.key("ca").private, hashes.SHA256())
        )


def _names_in(request: x509.CertificateSigningRequest) -> tuple[str, str]:
    """(common name, did) of a request. Raises EnrolmentError."""
    if not isinstance(request.public_key(), ec.EllipticCurvePublicKey):
        raise EnrolmentError("the certificate request is not for an elliptic-curve key")
    common = [str(attribute.value) for attribute in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(common) != 1 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", common[0]):
        raise EnrolmentError("the certificate request has no usable common name (letters, digits, . _ - and spaces)")
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise EnrolmentError("the certificate request names no did (subject alternative name, URI)") from None
    dids = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(dids) != 1:
        raise EnrolmentError(f"the certificate request names {len(dids)} URIs, one did is right")
    return common[0], dids[0]


def _builder(common_name: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # Clocks of a practice site may be apart.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _authority(key: SoftwareKey) -> x509.Certificate:
    builder = _builder("practice CA", key.private.public_key())
    return (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "practice CA")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key.private, hashes.SHA256())
    )


def _to_json(enrolled: Enrolled) -> dict[str, object]:
    return {
        "name": enrolled.name,
        "gateway_id": enrolled.gateway_id,
        "tls_public_key_der": enrolled.tls_public_key_der.hex(),
        "keys": {use: key.public_key_der.hex() for use, key in enrolled.keys.items()},
        "history": enrolled.history.hex(),
        "agreement": {
            "chain_id": enrolled.agreement.chain_id,
            "contract": enrolled.agreement.contract.hex(),
            "participant": enrolled.agreement.participant.hex(),
            "counterparty": enrolled.agreement.counterparty.hex(),
            "agreement_hash": enrolled.agreement.agreement_hash.hex(),
        },
    }


def _from_json(record: dict[str, object]) -> Enrolled:
    keys, agreed = record["keys"], record["agreement"]
    assert isinstance(keys, dict)
    assert isinstance(agreed, dict)
    return Enrolled(
        name=str(record["name"]),
        gateway_id=str(record["gateway_id"]),
        history=bytes.fromhex(str(record.get("history", ""))),
        tls_public_key_der=bytes.fromhex(str(record["tls_public_key_der"])),
        keys={str(use): verify_key_of(bytes.fromhex(str(der))) for use, der in keys.items()},
        agreement=Agreement(
            chain_id=int(agreed["chain_id"]),
            contract=bytes.fromhex(agreed["contract"]),
            participant=bytes.fromhex(agreed["participant"]),
            counterparty=bytes.fromhex(agreed["counterparty"]),
            agreement_hash=bytes.fromhex(agreed["agreement_hash"]),
        ),
    )


def _now_us() -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1_000_000)
