"""Keys, terms and windows that the ledger's tests share."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.evidence import cose, merkle, statements
from agent.evidence.cose import VerifyKey, verify_key_of
from agent.evidence.statements import SettlementWindow
from agent.ledger.state import ChannelTerms
from agent.measure.reading import Quality

P256_ORDER = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
WINDOW_US = 900_000_000
FIRST_US = 1_760_000_400_000_000

TERMS = ChannelTerms(
    gateway_id="did:key:zExample",
    device_id="pv-1",
    chain_id=1,
    contract=bytes(range(20)),
    participant=b"\x11" * 20,
    counterparty=b"\x22" * 20,
    agreement_hash=b"\x33" * 32,
)


class SoftwareKey:
    """A P-256 key in memory, fixed by its number so that tests and examples repeat."""

    def __init__(self, number: int) -> None:
        self._key = ec.derive_private_key(number, ec.SECP256R1())
        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public: VerifyKey = verify_key_of(der)

    def sign(self, digest: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256()))))
        return cose.low_s(r.to_bytes(32) + s.to_bytes(32), P256_ORDER)


DEVICE_KEY = SoftwareKey(7)
PLATFORM_KEY = SoftwareKey(11)
OTHER_KEY = SoftwareKey(13)


def window(
    number: int,
    *,
    import_wh: int = 100,
    export_wh: int = 30,
    quality: Quality = Quality.GOOD,
    incarnation: int = 1,
) -> bytes:
    """The statement of the device's window with this number, from 0."""
    return statements.encode(
        SettlementWindow(
            device_id=TERMS.device_id,
            incarnation=incarnation,
            window_start_us=FIRST_US + number * WINDOW_US,
            window_end_us=FIRST_US + (number + 1) * WINDOW_US,
            revision=0,
            import_wh=import_wh,
            export_wh=export_wh,
            net_energy_wh=import_wh - export_wh,
            first_sequence=None,
            last_sequence=None,
            reading_count=0,
            readings_root=merkle.EMPTY_ROOT,
            meter_epoch=1,
            quality=quality,
            command_hashes=(),
        )
    )
