"""Verification: what a batch, a receipt, or a run of batches proves under the keys that the verifier trusts.

proto/EVIDENCE.md section 7, step by step. Nothing is fetched and nothing is remembered between calls, except in a
`Witness`, which remembers what it has seen in order to notice two contents under one identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from agent.evidence import batch as batches
from agent.evidence import cose, merkle, statements
from agent.evidence.batch import BatchHeader, BatchIdentity
from agent.evidence.cose import VerifyKey
from agent.evidence.countersignature import Countersignature, Policy
from agent.evidence.errors import MalformedError, ProofError, SignatureError
from agent.evidence.partial import AnyBatch, PartialBatch, decode_any, numbered_leaves
from agent.evidence.statements import Sealing, Statement
from agent.measure.reading import Reading


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """An epoch of one gateway's keys, as enrolled. It proves nothing about another gateway."""

    gateway_id: str
    key: VerifyKey
    after: ChainPosition | None = None
    """Where its epoch begins: it speaks for later batches only. None: from the first on."""
    until: ChainPosition | None = None
    """The last batch of its epoch (proto/IDENTITY.md section 6). None: it has not ended."""
    countersigner: VerifyKey | None = None
    """The key of the countersignatures; None: none was enrolled."""
    policy: Policy = Policy.EITHER

    def require_epoch(self, batch: BatchIdentity, root: bytes) -> None:
        """Raises SignatureError for a batch that this key signed and was not the gateway's key for."""
        place = (batch.incarnation, batch.number)
        if self.after is not None and place <= self.after.place:
            raise SignatureError(f"batch {batch.number}: its key became the gateway's after {self.after.text}")
        if self.until is not None and (
            place > self.until.place or (place == self.until.place and root != self.until.root)
        ):
            raise SignatureError(
                f"batch {batch.number}: its key ended with {self.until.text}: whoever used it is not the gateway"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedStatement:
    """One statement that its gateway signed."""

    statement: Statement
    encoded: bytes
    """The exact leaf bytes."""
    index: int
    """Place in the batch; authentic, because the tree's size is signed."""
    batch: BatchIdentity
    root: bytes
    key_id: bytes
    proven_by: tuple[int, ...]
    """COSE numbers of the signatures over the root that hold: the first one, the countersignature, or both."""

    @property
    def hash(self) -> bytes:
        """SHA-256 of the leaf bytes."""
        return hashlib.sha256(self.encoded).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBatch:
    """A batch that its gateway signed, with every leaf read that is there."""

    sealed: AnyBatch
    sealing: Sealing | None
    """None in a batch that was thinned down to nothing: when it was sealed is not shown any more."""
    statements: tuple[VerifiedStatement, ...]
    """The leaves that are there, in order; of a whole batch the first is the sealing."""
    proven_by: tuple[int, ...]
    """As in VerifiedStatement."""

    @property
    def absent(self) -> int:
        """Leaves that the root covers and that are not here. Of them nothing is proven but that they were."""
        return self.sealed.absent if isinstance(self.sealed, PartialBatch) else 0

    @property
    def identity(self) -> BatchIdentity:
        return self.sealed.identity

    @property
    def root(self) -> bytes:
        return self.sealed.root

    @property
    def position(self) -> ChainPosition:
        """Where the next batch must follow."""
        return ChainPosition(self.identity.incarnation, self.identity.number, self.root)


class Verifier:
    """Verifies against a fixed set of enrolled keys."""

    def __init__(self, trusted: Iterable[TrustedKey]) -> None:
        self._keys: Final = {(entry.gateway_id, entry.key.key_id): entry for entry in trusted}

    def verify_batch(self, encoded: bytes) -> VerifiedBatch:
        """Everything that one batch, whole or with gaps, can prove: its signature, each leaf readable and in its place.

        Raises MalformedError, UnsupportedError, SignatureError or ProofError. Order among batches: `follow`.
        """
        sealed = decode_any(encoded)
        proven_by = self._judge(sealed.header, sealed.protected, sealed.root, sealed.signature, sealed.countersignature)
        read = tuple(
            VerifiedStatement(
                statement=_leaf(leaf, index, sealed.identity),
                encoded=leaf,
                index=index,
                batch=sealed.identity,
                root=sealed.root,
                key_id=sealed.header.key_id,
                proven_by=proven_by,
            )
            for index, leaf in numbered_leaves(sealed)
        )
        sealing = read[0].statement if read else None
        return VerifiedBatch(
            sealed=sealed,
            sealing=sealing if isinstance(sealing, Sealing) else None,
            statements=read,
            proven_by=proven_by,
        )

    def verify_receipt(self, receipt: bytes, statement: bytes) -> VerifiedStatement:
        """That the gateway signed exactly these statement bytes. Raises as `verify_batch`.

        The root is not in the receipt: it is computed from the statement and the path, and the signature over it tells
        whether it is the signed one. A flipped bit in either therefore shows as a SignatureError.
        """
        read = batches.decode_receipt(receipt)
        identity = read.header.identity
        self._epoch_of(read.header)
        if read.tree_size != identity.leaf_count:
            raise ProofError(
                f"receipt: proof for a tree of {read.tree_size} leaves, the signed header says {identity.leaf_count}"
            )
        root = merkle.root_from_path(merkle.leaf_hash(statement), read.index, read.tree_size, read.path)
        proven_by = self._judge(read.header, read.sign1.protected, root, read.sign1.signature, read.countersignature)
        return VerifiedStatement(
            statement=_leaf(statement, read.index, identity),
            encoded=statement,
            index=read.index,
            batch=identity,
            root=root,
            key_id=read.header.key_id,
            proven_by=proven_by,
        )

    def _judge(
        self, header: BatchHeader, protected: bytes, root: bytes, signature: bytes, second: Countersignature | None
    ) -> tuple[int, ...]:
        """The signatures that hold, by their algorithms, where they are enough for the epoch's policy.

        Raises SignatureError or UnsupportedError.
        """
        epoch = self._epoch_of(header)
        if epoch.policy is Policy.PQ_ONLY:
            first: SignatureError | None = SignatureError("the first signature is not looked at")
        else:
            first = _fault(lambda: epoch.key.verify(cose.to_be_signed(protected, root), signature))
        second_fault = _fault(lambda: _check_second(second, epoch.countersigner, protected, root, signature))
        match epoch.policy:
            case Policy.EITHER:
                # Of a batch with one signature that one's fault is the news.
                fault = None if second_fault is None else first
            case Policy.BOTH:
                fault = first or second_fault
            case Policy.PQ_ONLY:
                fault = second_fault
        if fault is not None:
            raise SignatureError(f"{fault} (policy {epoch.policy.value})") from fault
        epoch.require_epoch(header.identity, root)
        algorithms = [] if first is not None else [epoch.key.algorithm]
        if second_fault is None and epoch.countersigner is not None:
            algorithms.append(epoch.countersigner.algorithm)
        return tuple(algorithms)

    def _epoch_of(self, header: BatchHeader) -> TrustedKey:
        epoch = self._keys.get((header.identity.gateway_id, header.key_id))
        if epoch is None:
            raise SignatureError(
                f"key {header.key_id.hex()[:16]} is not trusted for gateway {header.identity.gateway_id[:80]!r}: "
                "enrol it, or ask where this came from"
            )
        epoch.key.require_algorithm(header.algorithm)
        return epoch


def _fault(check: Callable[[], None]) -> SignatureError | None:
    try:
        check()
    except SignatureError as fault:
        return fault
    return None


def _check_second(
    second: Countersignature | None, key: VerifyKey | None, protected: bytes, root: bytes, first_signature: bytes
) -> None:
    """Raises SignatureError unless there is a countersignature by the enrolled key, and it holds."""
    if second is None:
        raise SignatureError("there is no countersignature")
    if key is None:
        raise SignatureError("there is a countersignature, and no key for it was enrolled")
    if second.key_id != key.key_id:
        raise SignatureError(f"the countersignature is by key {second.key_id.hex()[:16]}, which is not enrolled")
    try:
        second.verify(key, body_protected=protected, root=root, first_signature=first_signature)
    except SignatureError as error:
        raise SignatureError(f"countersignature: {error}") from error


def _leaf(encoded: bytes, index: int, batch: BatchIdentity) -> Statement:
    try:
        statement = statements.decode(encoded)
    except MalformedError as error:
        raise MalformedError(f"leaf {index} of batch {batch.number}: {error}") from error
    if isinstance(statement, Sealing) is not (index == 0):
        raise ProofError(f"batch {batch.number}: leaf 0 is the sealing, and no other leaf is; leaf {index} breaks that")
    if isinstance(statement, Reading) and statement.incarnation > batch.incarnation:
        raise ProofError(f"leaf {index} of batch {batch.number}: a reading of an incarnation later than the batch's")
    return statement


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """How far a gateway's chain of batches is known."""

    incarnation: int
    number: int
    root: bytes

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among the batches of all incarnations."""
        return self.incarnation, self.number

    @property
    def text(self) -> str:
        """For a person."""
        return f"batch {self.number} of incarnation {self.incarnation}"


def follow(after: ChainPosition | None, batch: VerifiedBatch) -> ChainPosition:
    """The chain with this batch added. Raises ProofError when it is not the next one.

    `after` is None before the first batch of a gateway. A new incarnation starts at batch 1 again: that is no break
    of the chain, but it is an event that somebody must be able to explain (a lost store, a restored backup).
    """
    identity = batch.identity
    expected = 1 if after is None or identity.incarnation > after.incarnation else after.number + 1
    if after is not None and identity.incarnation < after.incarnation:
        raise ProofError(f"chain: incarnation {identity.incarnation} after incarnation {after.incarnation}")
    if identity.number != expected:
        raise ProofError(f"chain: batch {identity.number} where batch {expected} is next")
    if identity.number > 1 and after is not None and identity.previous_root != after.root:
        raise ProofError(
            f"chain: batch {identity.number} follows root {identity.previous_root.hex()[:16]}, "
            f"but batch {after.number} has root {after.root.hex()[:16]}"
        )
    return batch.position


@dataclass(frozen=True, slots=True)
class ChainBreak:
    """The first place where a run of batches is no chain."""

    after: ChainPosition | None
    at: BatchIdentity
    why: str


def first_break(run: Iterable[VerifiedBatch], after: ChainPosition | None = None) -> ChainBreak | None:
    """The first break in a run of one gateway's batches, in the order given; None when there is none.

    Without `after` the run may begin anywhere: its first batch is taken as the start.
    Raises ValueError when the run holds batches of two gateways.
    """
    gateway_id: str | None = None
    for batch in run:
        if gateway_id not in (None, batch.identity.gateway_id):
            raise ValueError("a chain belongs to one gateway; sort the batches by gateway first")
        gateway_id = batch.identity.gateway_id
        if after is None:
            after = batch.position
            continue
        try:
            after = follow(after, batch)
        except ProofError as error:
            return ChainBreak(after, batch.identity, str(error))
    return None


_Identity: TypeAlias = tuple[str, str, int, bytes, int]


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two signed contents where the format allows one: keep both, they are the proof."""

    subject: str
    """Which batch or which reading, for a person."""
    first_hash: bytes
    """SHA-256 of the content that was seen first: of the statement, or the hash of the batch."""
    second_hash: bytes


class Witness:
    """Remembers the hash of every batch and reading that it was shown, and tells when one identity has two contents.

    Memory grows with what is shown: about 200 bytes for each reading.
    """

    def __init__(self) -> None:
        self._batches: dict[tuple[str, int, int], bytes] = {}
        self._readings: dict[_Identity, bytes] = {}
        self._boots: dict[tuple[str, str, int, int], bytes] = {}

    def see_batch(self, batch: VerifiedBatch) -> tuple[Equivocation, ...]:
        """Whatever contradicts what was seen before: the batch itself and each of its readings."""
        i = batch.identity
        found = []
        first = self._batches.setdefault((i.gateway_id, i.incarnation, i.number), batch.sealed.hash)
        if first != batch.sealed.hash:
            subject = f"batch {i.number} of incarnation {i.incarnation} of {i.gateway_id}"
            found.append(Equivocation(subject, first, batch.sealed.hash))
        for statement in batch.statements:
            found.extend(self.see_statement(statement))
        return tuple(found)

    def see_statement(self, verified: VerifiedStatement) -> tuple[Equivocation, ...]:
        """Two contents under one reading's identity, or one sequence in two boots (a copied or restored gateway)."""
        r = verified.statement
        if not isinstance(r, Reading):
            return ()
        gateway_id = verified.batch.gateway_id
        subject = f"reading {r.sequence} of {r.device_id}, incarnation {r.incarnation}"
        content = verified.hash
        first = self._readings.setdefault((gateway_id, r.device_id, r.incarnation, r.boot_id, r.sequence), content)
        if first != content:
            return (Equivocation(f"{subject}: two contents", first, content),)
        boot = self._boots.setdefault((gateway_id, r.device_id, r.incarnation, r.sequence), r.boot_id)
        if boot != r.boot_id:
            earlier = self._readings[(gateway_id, r.device_id, r.incarnation, boot, r.sequence)]
            return (Equivocation(f"{subject}: one sequence in two boots", earlier, content),)
        return ()
