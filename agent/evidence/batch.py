"""The sealed batch: statements under one Merkle root, the root under one signature; and the receipt of one statement.

`assemble` says what is to be signed, the caller has it signed, `seal` puts both together. Layouts: proto/EVIDENCE.md
sections 5 and 6. Reading a batch or a receipt here checks its layout; `verify.py` checks what it proves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from agent.evidence import cbor, cose, countersignature, merkle
from agent.evidence.countersignature import HEADER_COUNTERSIGNATURE, Countersignature
from agent.evidence.errors import MalformedError, ProofError, UnsupportedError
from agent.evidence.fields import Fields

VERSION: Final = 1
COUNTERSIGNED_VERSION: Final = 2
"""Of a sealed batch whose root is signed twice. The batch identity in its header is of version 1 all the same."""
MAX_LEAVES: Final = 4096
MAX_BATCH_BYTES: Final = 1 << 20
"""Of the encoded batch."""
MAX_RECEIPT_BYTES: Final = 16 * 1024
MAX_GATEWAY_ID_BYTES: Final = 1024
FIRST_PREVIOUS_ROOT: Final = bytes(merkle.HASH_BYTES)
"""What batch 1 of an incarnation names as the root before it."""

TYP: Final = "v2g-gateway/batch+cose"
HEADER_VDS: Final = 395
"""Verifiable data structure (RFC 9942)."""
HEADER_VDP: Final = 396
"""Verifiable data structure proofs (RFC 9942), unprotected."""
VDS_RFC9162_SHA256: Final = 1
PROOF_INCLUSION: Final = -1
HEADER_BATCH_IDENTITY: Final = -70100
"""Ours, in the private range of COSE header labels."""

_HEADER_LABELS: Final = {cose.HEADER_ALG, cose.HEADER_KID, cose.HEADER_TYP, HEADER_VDS, HEADER_BATCH_IDENTITY}


class KeyProtection(IntEnum):
    """What holds the signing key, by the gateway's own word. The numbers are for ever."""

    SOFTWARE = 0
    """A software token (SoftHSM): the key can be copied by whoever has the disk and the PIN."""
    TPM = 1
    CERTIFIED = 2
    """A certified HSM or secure element."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchIdentity:
    """Which batch of which gateway. (gateway_id, incarnation, number) names it; the rest is signed with it."""

    gateway_id: str
    incarnation: int
    """From 1; another one when the gateway has lost or restored its store."""
    boot_id: bytes
    """16 bytes, drawn at each start of the agent."""
    number: int
    """From 1 within an incarnation, without gaps."""
    leaf_count: int
    """2 to 4096. A proof for a tree of another size is refused."""
    previous_root: bytes
    """Root of batch number - 1 of this incarnation; 32 zero bytes in batch 1."""
    key_protection: KeyProtection


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """The protected header, read."""

    algorithm: int
    """COSE algorithm number."""
    key_id: bytes
    """SHA-256 of the SubjectPublicKeyInfo."""
    identity: BatchIdentity

    def encode(self) -> bytes:
        """The protected header's one encoding."""
        i = self.identity
        return cbor.encode(
            {
                cose.HEADER_ALG: self.algorithm,
                cose.HEADER_KID: self.key_id,
                cose.HEADER_TYP: TYP,
                HEADER_VDS: VDS_RFC9162_SHA256,
                HEADER_BATCH_IDENTITY: [
                    VERSION, i.gateway_id, i.incarnation, i.boot_id, i.number, i.leaf_count, i.previous_root,
                    int(i.key_protection),
                ],
            }
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A batch that waits for its signature over `to_be_signed`."""

    header: BatchHeader
    protected: bytes
    root: bytes
    leaves: tuple[bytes, ...]

    @property
    def to_be_signed(self) -> bytes:
        """What the token signs, before hashing."""
        return cose.to_be_signed(self.protected, self.root)


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """A signed batch, as made here or as read. Reading one proves nothing: see `verify.Verifier`."""

    header: BatchHeader
    protected: bytes
    """The encoded protected header, exactly as signed."""
    root: bytes
    leaves: tuple[bytes, ...]
    """Encoded statements; the first is the Sealing."""
    signature: bytes
    countersignature: Countersignature | None = None

    @property
    def identity(self) -> BatchIdentity:
        return self.header.identity

    def to_be_countersigned(self, protected: bytes) -> bytes:
        """What the second key signs, under its own protected header."""
        return countersignature.to_be_countersigned(self.protected, protected, self.root, self.signature)

    @property
    def to_be_signed(self) -> bytes:
        return cose.to_be_signed(self.protected, self.root)

    @property
    def hash(self) -> bytes:
        """What this batch is: SHA-256 of its signed content. Another signature over it makes no other batch."""
        return hashlib.sha256(self.to_be_signed).digest()

    def encode(self) -> bytes:
        """The wire form: [1, COSE_Sign1 with detached payload, [leaves]]; 2 where it is countersigned."""
        sign1 = cose.Sign1(self.protected, second_of(self.countersignature), None, self.signature).encode()
        version = VERSION if self.countersignature is None else COUNTERSIGNED_VERSION
        return cbor.encode([version, sign1, list(self.leaves)])


@dataclass(frozen=True, slots=True)
class Receipt:
    """A COSE Receipt (RFC 9942) as read: signature and inclusion proof of one leaf. The leaf itself is beside it."""

    header: BatchHeader
    sign1: cose.Sign1
    tree_size: int
    index: int
    path: tuple[bytes, ...]
    countersignature: Countersignature | None


def assemble(
    leaves: Sequence[bytes],
    *,
    gateway_id: str,
    incarnation: int,
    boot_id: bytes,
    number: int,
    previous_root: bytes,
    key_protection: KeyProtection,
    algorithm: int,
    key_id: bytes,
) -> Unsigned:
    """A batch over these encoded statements, the Sealing first, ready for signing with the key that `key_id` names.

    Raises ValueError when there are fewer than 2 or more than 4096 leaves or the identity is not well formed.
    """
    identity = BatchIdentity(
        gateway_id=gateway_id,
        incarnation=incarnation,
        boot_id=boot_id,
        number=number,
        leaf_count=len(leaves),
        previous_root=previous_root,
        key_protection=key_protection,
    )
    header = BatchHeader(algorithm, key_id, identity)
    protected = header.encode()
    try:
        decode_header(protected)
    except (MalformedError, ProofError, UnsupportedError) as error:
        raise ValueError(f"cannot assemble batch {number}: {error}") from error
    return Unsigned(header, protected, merkle.root([merkle.leaf_hash(leaf) for leaf in leaves]), tuple(leaves))


def seal(unsigned: Unsigned, signature: bytes) -> SealedBatch:
    """Join a batch and the signature (COSE form) over its `to_be_signed`. The signature is not verified here."""
    return SealedBatch(unsigned.header, unsigned.protected, unsigned.root, unsigned.leaves, signature)


def receipts(batch: SealedBatch, indexes: Iterable[int]) -> list[bytes]:
    """COSE Receipts of these leaves, hashing the batch once. Raises IndexError."""
    tree = merkle.Tree([merkle.leaf_hash(leaf) for leaf in batch.leaves])
    encoded, second = [], second_of(batch.countersignature)
    for index in indexes:
        path: list[cbor.Value] = list(tree.path(index))
        proof = cbor.encode([tree.size, index, path])
        unprotected: dict[int, cbor.Value] = {HEADER_VDP: {PROOF_INCLUSION: [proof]}, **second}
        sign1 = cose.Sign1(batch.protected, unprotected, None, batch.signature)
        encoded.append(sign1.encode())
    return encoded


def receipt(batch: SealedBatch, index: int) -> bytes:
    """The COSE Receipt of one leaf. For several use `receipts`. Raises IndexError."""
    return receipts(batch, [index])[0]


def decode_header(protected: bytes) -> BatchHeader:
    """Reads a protected header, which must hold exactly the labels of the format.

    Raises MalformedError, UnsupportedError (typ, tree or version), or ProofError (a leaf count outside 2 to 4096).
    """
    header = cbor.decode(protected, what="batch header", most_bytes=MAX_RECEIPT_BYTES)
    if not isinstance(header, dict) or set(header) != _HEADER_LABELS:
        raise MalformedError(f"batch header: not a map of the labels {sorted(_HEADER_LABELS)}")
    if header[cose.HEADER_TYP] != TYP:
        raise UnsupportedError(f"batch header: typ is not {TYP}")
    if header[HEADER_VDS] != VDS_RFC9162_SHA256 or header[HEADER_VDS] is True:
        raise UnsupportedError("batch header: the verifiable data structure is not RFC9162_SHA256 (1)")
    try:
        f = Fields([header[cose.HEADER_ALG], header[cose.HEADER_KID], header[HEADER_BATCH_IDENTITY]])
        algorithm, key_id, values = f.number(), f.octets(32), f.items()
        f = Fields(values)
        version = f.count()
        if version != VERSION:
            raise UnsupportedError(f"batch header: version {version} is not known here")
        identity = BatchIdentity(
            gateway_id=f.text(),
            incarnation=f.ordinal(),
            boot_id=f.octets(16),
            number=f.ordinal(),
            leaf_count=f.count(),
            previous_root=f.octets(merkle.HASH_BYTES),
            key_protection=KeyProtection(f.count()),
        )
        f.end()
    except (ValueError, TypeError) as error:
        raise MalformedError(f"batch header: {error}") from error
    if not 0 < len(identity.gateway_id.encode()) <= MAX_GATEWAY_ID_BYTES:
        raise MalformedError(f"batch header: gateway id is empty or longer than {MAX_GATEWAY_ID_BYTES} bytes")
    if not 2 <= identity.leaf_count <= MAX_LEAVES:
        raise ProofError(f"batch header: {identity.leaf_count} leaves, 2 to {MAX_LEAVES} are allowed")
    if identity.number == 1 and identity.previous_root != FIRST_PREVIOUS_ROOT:
        raise ProofError("batch header: batch 1 of an incarnation names a root before it")
    return BatchHeader(algorithm, key_id, identity)


def decode_batch(encoded: bytes) -> SealedBatch:
    """Reads the wire form and computes its root. Raises as `decode_header`; the signature is not verified here."""
    value = cbor.decode(encoded, what="batch", most_bytes=MAX_BATCH_BYTES)
    match value:
        case [int(version), bytes(sign1_bytes), list(leaves)] if not isinstance(version, bool):
            pass
        case _:
            raise MalformedError("batch: not an array of version, COSE_Sign1 and leaves")
    if version not in (VERSION, COUNTERSIGNED_VERSION):
        raise UnsupportedError(f"batch: version {version} is not known here")
    sign1 = cose.decode_sign1(sign1_bytes, what="batch signature")
    if sign1.payload is not None:
        raise MalformedError("batch signature: the payload must be detached")
    if set(sign1.unprotected) != (set() if version == VERSION else {HEADER_COUNTERSIGNATURE}):
        raise MalformedError(
            "batch signature: the unprotected header must be empty in version 1, and in version 2 the countersignature"
        )
    header = decode_header(sign1.protected)
    texts = tuple(leaf for leaf in leaves if isinstance(leaf, bytes))
    if len(texts) != len(leaves):
        raise MalformedError("batch: a leaf is not a byte string")
    if len(texts) != header.identity.leaf_count:
        raise ProofError(f"batch: holds {len(texts)} leaves, its signed header says {header.identity.leaf_count}")
    root = merkle.root([merkle.leaf_hash(leaf) for leaf in texts])
    return SealedBatch(header, sign1.protected, root, texts, sign1.signature, read_second(sign1))


def decode_receipt(encoded: bytes) -> Receipt:
    """Reads a COSE Receipt with exactly one inclusion proof. Raises as `decode_header`; nothing is verified here."""
    if len(encoded) > MAX_RECEIPT_BYTES:
        raise MalformedError(f"receipt: {len(encoded)} bytes, at most {MAX_RECEIPT_BYTES} are allowed")
    sign1 = cose.decode_sign1(encoded, what="receipt")
    if sign1.payload is not None:
        raise MalformedError("receipt: the payload must be detached")
    header = decode_header(sign1.protected)
    try:
        f = Fields(_inclusion_proof(sign1.unprotected))
        tree_size, index = f.count(), f.count()
        path = tuple(Fields([item]).octets(merkle.HASH_BYTES) for item in f.items())
        f.end()
    except (ValueError, TypeError) as error:
        raise MalformedError(f"inclusion proof: {error}") from error
    return Receipt(header, sign1, tree_size, index, path, read_second(sign1))


def _inclusion_proof(unprotected: dict[int, cbor.Value]) -> list[cbor.Value]:
    """The one proof of a receipt. Beside it only a countersignature may stand: this header is not signed."""
    match unprotected.get(HEADER_VDP):
        case dict(proofs) if set(unprotected) <= {HEADER_VDP, HEADER_COUNTERSIGNATURE} and len(proofs) == 1:
            match proofs.get(PROOF_INCLUSION):
                case [bytes(encoded)]:
                    proof = cbor.decode(encoded, what="inclusion proof")
                    if isinstance(proof, list):
                        return proof
    raise MalformedError(
        "receipt: its unprotected header must be one inclusion proof (396, -1), and beside it only a countersignature"
    )


def second_of(second: Countersignature | None) -> dict[int, cbor.Value]:
    """The countersignature's part of an unprotected header."""
    return {} if second is None else {HEADER_COUNTERSIGNATURE: second.value()}


def read_second(sign1: cose.Sign1) -> Countersignature | None:
    if HEADER_COUNTERSIGNATURE not in sign1.unprotected:
        return None
    return countersignature.read(sign1.unprotected[HEADER_COUNTERSIGNATURE])
