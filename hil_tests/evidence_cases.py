"""The cases behind proto/vectors/evidence: good evidence, and one of each way of being wrong.

Keys and signatures are deterministic (RFC 6979, RFC 8032), so that generating twice gives the same files. The private
keys are published with the vectors: they prove nothing, and must never be trusted outside tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Final, TypeAlias

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.clock import ClockQuality
from agent.evidence import acknowledgement, batch, cbor, cose, merkle, statements
from agent.evidence.statements import Statement
from agent.identity.did import did_of
from agent.measure.reading import Quality, Reading
from drivers.device import ValueSource

GATEWAY: Final = "did:key:zGatewayOfTheVectors"
OTHER_GATEWAY: Final = "did:key:zAnotherGateway"
BOOT_ID: Final = bytes(range(16))
START_US: Final = 1_790_000_000_000_000
P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

Json: TypeAlias = "str | int | bool | None | list[Json] | dict[str, Json]"
Header: TypeAlias = dict[int, cbor.Value]


@dataclass(frozen=True, slots=True)
class TestKey:
    """A key pair from a name."""

    name: str
    algorithm: int

    __test__ = False

    @property
    def secret(self) -> bytes:
        return hashlib.sha256(f"v2g-gateway evidence vectors: {self.name}".encode()).digest()

    @property
    def public_key_der(self) -> bytes:
        return self._private().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def verify_key(self) -> cose.VerifyKey:
        return cose.VerifyKey(self.algorithm, self.public_key_der)

    @property
    def key_id(self) -> bytes:
        return self.verify_key.key_id

    def sign(self, message: bytes) -> bytes:
        """COSE form; ECDSA with the nonce of RFC 6979."""
        private = self._private()
        if isinstance(private, ed25519.Ed25519PrivateKey):
            return private.sign(message)
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        return r.to_bytes(32) + s.to_bytes(32)

    def sign_digest(self, digest: bytes) -> bytes:
        """ES256 over a digest of 32 bytes as contracts take it: s in the lower half."""
        private = self._private()
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        how = ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True)
        r, s = decode_dss_signature(private.sign(digest, how))
        return r.to_bytes(32) + min(s, P256_ORDER - s).to_bytes(32)

    def _private(self) -> ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
        if self.algorithm == cose.ED25519:
            return ed25519.Ed25519PrivateKey.from_private_bytes(self.secret)
        curve = ec.SECP256K1() if self.algorithm == cose.ES256K else ec.SECP256R1()
        return ec.derive_private_key(int.from_bytes(self.secret), curve)


GATEWAY_KEY: Final = TestKey("gateway", cose.ES256)
ESP256_KEY: Final = TestKey("gateway, ESP256", cose.ESP256)
ES256K_KEY: Final = TestKey("gateway, ES256K", cose.ES256K)
ED25519_KEY: Final = TestKey("gateway, Ed25519", cose.ED25519)
OTHER_KEY: Final = TestKey("another gateway", cose.ES256)
STRANGER_KEY: Final = TestKey("nobody trusts this one", cose.ES256)
PLATFORM_KEY: Final = TestKey("platform", cose.ES256)
DEVICE_KEY: Final = TestKey("battery-1", cose.ES256)
FILES_KEY: Final = TestKey("gateway of the files", cose.ES256)
FILES_GATEWAY: Final = did_of(FILES_KEY.public_key_der)
"""Its name is its key, so that `v2g-gateway verify --gateway` takes the files of the vectors as they are."""

TRUSTED: Final = (
    (GATEWAY, GATEWAY_KEY),
    (GATEWAY, ESP256_KEY),
    (GATEWAY, ES256K_KEY),
    (GATEWAY, ED25519_KEY),
    (OTHER_GATEWAY, OTHER_KEY),
    (FILES_GATEWAY, FILES_KEY),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One vector. `error` is None when it must be accepted, else malformed, unsupported, signature or proof."""

    name: str
    error: str | None
    parts: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, Json] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        """As it stands in the file; byte strings in hex."""
        entry: dict[str, Json] = {"name": self.name, "valid": self.error is None}
        if self.error is not None:
            entry["error"] = self.error
        return entry | {key: value.hex() for key, value in self.parts.items()} | self.facts


def reading(sequence: int, **changes: object) -> Reading:
    """A plain reading; `changes` replace fields."""
    plain = Reading(
        device_id="battery-1",
        incarnation=1,
        boot_id=BOOT_ID,
        sequence=sequence,
        timestamp_us=START_US + sequence * 1_000_000,
        net_energy_wh=-1,
        import_register_milliwatt_hours=5_000_000,
        export_register_milliwatt_hours=7_000_000 + sequence * 1_000,
        meter_epoch=1,
        power_w=-3600,
        voltage_millivolts=230_100,
        state_of_charge_permille=613,
        frequency_millihertz=49_987,
        quality=Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # field names are checked when it runs


def sealing(number: int = 1) -> statements.Sealing:
    return statements.Sealing(
        sealed_at_us=START_US + number * 10_000_000, clock_quality=ClockQuality.SYNCED, clock_error_bound_us=1_500
    )


def one_of_each() -> list[Statement]:
    """Every kind of statement, the sealing first; nulls and values both occur."""
    return [
        sealing(),
        reading(1),
        reading(
            2, net_energy_wh=0, import_register_milliwatt_hours=None, export_register_milliwatt_hours=None,
            power_w=None, voltage_millivolts=None, state_of_charge_permille=None, frequency_millihertz=None,
            quality=Quality.NO_REGISTER | Quality.CLOCK_HOLDOVER | Quality.AFTER_GAP | Quality.ESTIMATED,
            source=ValueSource.AUTHENTICATED_LINK,
        ),
        statements.CommandReceipt(
            command_hash=hashlib.sha256(b"a command").digest(), command_id="c-17",
            state=statements.CommandState.COMPLETED, timestamp_us=START_US, reason="", delivered_energy_wh=-1250,
        ),
        statements.SettlementWindow(
            device_id="battery-1", incarnation=1, window_start_us=START_US, window_end_us=START_US + 900_000_000,
            revision=0, import_wh=0, export_wh=900, net_energy_wh=-900, first_sequence=1, last_sequence=900,
            reading_count=900, readings_root=hashlib.sha256(b"readings").digest(), meter_epoch=1,
            quality=Quality.GOOD, command_hashes=(hashlib.sha256(b"a command").digest(),),
        ),
        statements.Attestation(
            timestamp_us=START_US, valid_until_us=START_US + 30 * 86_400_000_000, software_version="0.1.0",
            software_digest=hashlib.sha256(b"software").digest(),
            metrology_digest=hashlib.sha256(b"metrology").digest(),
        ),
        statements.Alarm(
            timestamp_us=START_US, severity=statements.Severity.WARNING, code="meter.replaced",
            subject="battery-1", text="meter 'A' was replaced by 'B'",
        ),
        statements.MeteringTree(
            timestamp_us=START_US,
            points=(
                statements.MeteringPoint(device_id="grid", parent_id=None, settled=False),
                statements.MeteringPoint(device_id="battery-1", parent_id="grid", settled=True),
            ),
        ),
    ]  # fmt: skip


def plain(statement: Statement) -> Json:
    """The fields of a statement by name: bytes in hex, enumerations as numbers."""

    def of(value: object) -> Json:
        match value:
            case bytes():
                return value.hex()
            case Enum():
                return int(value.value)
            case tuple():
                return [of(item) for item in value]
            case dict():
                return {str(key): of(item) for key, item in value.items()}
            case None | bool() | int() | str():
                return value
        raise TypeError(f"{type(value).__name__} in a statement")

    fields = asdict(statement)
    for name in ("signed_values", "quote"):  # a layout without it has no such field
        if name in fields and not fields[name]:
            del fields[name]
    return of(fields)


def leaves(number: int = 1, readings: int = 4) -> list[bytes]:
    """A sealing and some readings, encoded."""
    first = (number - 1) * readings + 1
    return [statements.encode(sealing(number)), *(statements.encode(reading(first + i)) for i in range(readings))]


def make_batch(
    of: list[bytes],
    *,
    number: int = 1,
    previous_root: bytes = batch.FIRST_PREVIOUS_ROOT,
    incarnation: int = 1,
    key: TestKey = GATEWAY_KEY,
    gateway_id: str = GATEWAY,
) -> batch.SealedBatch:
    """A batch that is as it should be."""
    unsigned = batch.assemble(
        of,
        gateway_id=gateway_id,
        incarnation=incarnation,
        boot_id=BOOT_ID,
        number=number,
        previous_root=previous_root,
        key_protection=batch.KeyProtection.SOFTWARE,
        algorithm=key.algorithm,
        key_id=key.key_id,
    )
    return batch.seal(unsigned, key.sign(unsigned.to_be_signed))


def forge(of: list[bytes], change: Callable[[Header], None], key: TestKey = GATEWAY_KEY) -> batch.SealedBatch:
    """A batch whose own key signed a header that is not as it should be."""
    good = make_batch(leaves())
    header = cose.Sign1(good.protected, {}, None, b"").protected_map()
    header[cose.HEADER_KID] = key.key_id
    identity(header)[5] = len(of)
    change(header)
    protected = cbor.encode(header)
    root = merkle.root([merkle.leaf_hash(leaf) for leaf in of])
    return batch.SealedBatch(good.header, protected, root, tuple(of), key.sign(cose.to_be_signed(protected, root)))


def identity(header: Header) -> list[cbor.Value]:
    """The identity array of a header, to be changed in place."""
    values = header[batch.HEADER_BATCH_IDENTITY]
    assert isinstance(values, list)
    return values


def with_identity(place: int, value: cbor.Value) -> Callable[[Header], None]:
    """A change of one element of the batch identity."""

    def change(header: Header) -> None:
        identity(header)[place] = value

    return change


def with_label(label: int, value: cbor.Value) -> Callable[[Header], None]:
    """A change or addition of one header label."""

    def change(header: Header) -> None:
        header[label] = value

    return change


def without_label(label: int) -> Callable[[Header], None]:
    """One label is missing."""

    def change(header: Header) -> None:
        del header[label]

    return change


def header_faults() -> Iterable[tuple[str, str, Callable[[Header], None]]]:
    """Name, error and change of each wrong header: the same for batches and receipts."""
    yield "algorithm is another than the key's", "unsupported", with_label(cose.HEADER_ALG, cose.ESP256)
    yield "algorithm is unknown", "unsupported", with_label(cose.HEADER_ALG, -65000)
    yield "algorithm is missing", "malformed", without_label(cose.HEADER_ALG)
    yield "key is not trusted", "signature", with_label(cose.HEADER_KID, STRANGER_KEY.key_id)
    yield "key is trusted for another gateway only", "signature", with_label(cose.HEADER_KID, OTHER_KEY.key_id)
    yield "gateway is another than the key's", "signature", with_identity(1, OTHER_GATEWAY)
    yield "gateway id is empty", "malformed", with_identity(1, "")
    yield "typ is another", "unsupported", with_label(cose.HEADER_TYP, acknowledgement.TYP)
    yield "data structure is unknown", "unsupported", with_label(batch.HEADER_VDS, 2)
    yield "a label is critical", "malformed", with_label(cose.HEADER_CRIT, [batch.HEADER_VDS])
    yield "a label is not of the format", "malformed", with_label(-70999, 0)
    yield "identity version is unknown", "unsupported", with_identity(0, 2)
    yield "incarnation is 0", "malformed", with_identity(2, 0)
    yield "boot id is short", "malformed", with_identity(3, bytes(15))
    yield "number is 0", "malformed", with_identity(4, 0)
    yield "previous root is short", "malformed", with_identity(6, bytes(31))
    yield "batch 1 names a root before it", "proof", with_identity(6, bytes([1]) * 32)
    yield "key protection is unknown", "malformed", with_identity(7, 3)
    yield "leaf count is above 4096", "proof", with_identity(5, 4097)


def flip(encoded: bytes, at: int) -> bytes:
    """One bit is another."""
    return encoded[:at] + bytes([encoded[at] ^ 1]) + encoded[at + 1 :]


def other_s(signature: bytes) -> bytes:
    """The other valid ECDSA signature (P-256) over the same message."""
    return signature[:32] + (P256_ORDER - int.from_bytes(signature[32:])).to_bytes(32)


def raw_sign1(protected: bytes, unprotected: Header, payload: bytes | None, signature: bytes) -> bytes:
    return cbor.encode(cbor2.CBORTag(cose.TAG_SIGN1, [protected, unprotected, payload, signature]))
