"""A batch of which leaves are left out: what is there is proven as before, and each gap is the hash of a subtree.

Made when old evidence is thinned (`thinning.py`) and when an auditor is given one device's statements only. It is the
same batch: header, root and signature are those of the whole one. Layout: proto/EVIDENCE.md section 12.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from agent.evidence import batch as batches
from agent.evidence import cbor, cose, merkle
from agent.evidence.batch import (
    HEADER_VDP,
    MAX_BATCH_BYTES,
    PROOF_INCLUSION,
    BatchHeader,
    BatchIdentity,
    SealedBatch,
    decode_header,
    read_second,
    second_of,
)
from agent.evidence.countersignature import HEADER_COUNTERSIGNATURE, Countersignature
from agent.evidence.errors import MalformedError, ProofError, UnsupportedError
from agent.evidence.fields import Fields

VERSION: Final = 3
"""Of the wire form; versions 1 and 2 are the whole batch, with the same signed header."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A complete subtree that is not here."""

    leaves: int
    root: bytes


Node: TypeAlias = "bytes | Gap"


@dataclass(frozen=True, slots=True)
class _Tree:
    """A subtree of RFC 9162's tree: a leaf, a gap, or two subtrees."""

    size: int
    hash: bytes
    leaf: bytes | None = None
    halves: tuple[_Tree, _Tree] | None = None

    @property
    def gone(self) -> bool:
        return self.leaf is None and self.halves is None


@dataclass(frozen=True, slots=True)
class PartialBatch:
    """A signed batch with gaps, as read. Reading one proves nothing: see `verify.Verifier`."""

    header: BatchHeader
    protected: bytes
    root: bytes
    nodes: tuple[Node, ...]
    """Leaves and gaps, in order."""
    signature: bytes
    countersignature: Countersignature | None = None

    @property
    def identity(self) -> BatchIdentity:
        return self.header.identity

    @property
    def to_be_signed(self) -> bytes:
        return cose.to_be_signed(self.protected, self.root)

    @property
    def hash(self) -> bytes:
        """That of the whole batch: it is the same one."""
        return hashlib.sha256(self.to_be_signed).digest()

    @property
    def numbered(self) -> list[tuple[int, bytes]]:
        """The leaves that are here, each with its index in the whole batch."""
        found, index = [], 0
        for node in self.nodes:
            if isinstance(node, Gap):
                index += node.leaves
            else:
                found.append((index, node))
                index += 1
        return found

    @property
    def absent(self) -> int:
        """How many leaves are not here."""
        return sum(node.leaves for node in self.nodes if isinstance(node, Gap))

    def encode(self) -> bytes:
        """The wire form: [3, COSE_Sign1 with detached payload, [leaf or [leaves, hash]]]."""
        sign1 = cose.Sign1(self.protected, second_of(self.countersignature), None, self.signature).encode()
        nodes: list[cbor.Value] = [[n.leaves, n.root] if isinstance(n, Gap) else n for n in self.nodes]
        return cbor.encode([VERSION, sign1, nodes])


AnyBatch: TypeAlias = SealedBatch | PartialBatch


def numbered_leaves(batch: AnyBatch) -> list[tuple[int, bytes]]:
    """The leaves that a batch holds, each with its index."""
    return list(enumerate(batch.leaves)) if isinstance(batch, SealedBatch) else batch.numbered


def begins_batch(encoded: bytes) -> bool:
    """Whether this is the beginning of a batch, of any version, rather than of something else that is kept in files."""
    return _version(encoded) in (batches.VERSION, batches.COUNTERSIGNED_VERSION, VERSION)


def decode_any(encoded: bytes) -> AnyBatch:
    """Reads a whole batch or one with gaps. Raises as `batch.decode_batch`; no signature is verified here."""
    return decode_partial(encoded) if _version(encoded) == VERSION else batches.decode_batch(encoded)


def _version(encoded: bytes) -> int | None:
    """An array of three begins with 0x83; the version follows."""
    return encoded[1] if len(encoded) > 1 and encoded[0] == 0x83 else None


def decode_partial(encoded: bytes) -> PartialBatch:
    """Reads the wire form with gaps and computes its root. Raises as `batch.decode_batch`."""
    value = cbor.decode(encoded, what="partial batch", most_bytes=MAX_BATCH_BYTES)
    match value:
        case [int(version), bytes(sign1_bytes), list(items)] if not isinstance(version, bool):
            pass
        case _:
            raise MalformedError("partial batch: not an array of version, COSE_Sign1 and leaves")
    if version != VERSION:
        raise UnsupportedError(f"partial batch: version {version} is not known here")
    sign1 = cose.decode_sign1(sign1_bytes, what="batch signature")
    if sign1.payload is not None or not set(sign1.unprotected) <= {HEADER_COUNTERSIGNATURE}:
        raise MalformedError(
            "batch signature: the payload must be detached, and the unprotected header empty or a countersignature"
        )
    header = decode_header(sign1.protected)
    nodes = tuple(map(_node, items))
    if not any(isinstance(node, Gap) for node in nodes):
        raise MalformedError("partial batch: nothing is left out of it; a whole batch has version 1 or 2")
    tree = _grown(nodes, header.identity.leaf_count)
    return PartialBatch(header, sign1.protected, tree.hash, nodes, sign1.signature, read_second(sign1))


def cut(batch: AnyBatch, keep: Collection[int]) -> AnyBatch:
    """The batch without the leaves whose index is not in `keep`. What is not here already stays away."""
    nodes: Sequence[Node] = batch.leaves if isinstance(batch, SealedBatch) else batch.nodes
    tree = _grown(nodes, batch.identity.leaf_count)
    left = tuple(_nodes(_cut(tree, 0, keep)))
    if not any(isinstance(node, Gap) for node in left):
        return batch
    return PartialBatch(batch.header, batch.protected, batch.root, left, batch.signature, batch.countersignature)


def receipts(batch: AnyBatch, indexes: Iterable[int]) -> list[bytes]:
    """COSE Receipts of leaves that are here. Raises IndexError for one that is not."""
    if isinstance(batch, SealedBatch):
        return batches.receipts(batch, indexes)
    tree = _grown(batch.nodes, batch.identity.leaf_count)
    encoded = []
    for index in indexes:
        path: list[cbor.Value] = list(_path(tree, index))
        proof = cbor.encode([tree.size, index, path])
        unprotected: dict[int, cbor.Value] = {
            HEADER_VDP: {PROOF_INCLUSION: [proof]},
            **second_of(batch.countersignature),
        }
        encoded.append(cose.Sign1(batch.protected, unprotected, None, batch.signature).encode())
    return encoded


def _node(item: cbor.Value) -> Node:
    if isinstance(item, bytes):
        return item
    if not isinstance(item, list):
        raise MalformedError("partial batch: a node is neither a leaf nor a gap")
    try:
        f = Fields(item)
        gap = Gap(f.ordinal(), f.octets(merkle.HASH_BYTES))
        f.end()
    except (ValueError, TypeError) as error:
        raise MalformedError(f"partial batch: a gap: {error}") from error
    return gap


def _grown(nodes: Sequence[Node], size: int) -> _Tree:
    """The tree of these nodes. Raises ProofError when they do not make a tree of that size."""
    left = deque(nodes)
    tree = _grow(left, size)
    if left:
        raise ProofError(f"batch: more leaves than the {size} that its signed header says")
    return tree


def _grow(nodes: deque[Node], size: int) -> _Tree:
    if not nodes:
        raise ProofError("batch: fewer leaves than its signed header says")
    first = nodes[0]
    if isinstance(first, Gap):
        if first.leaves == size:
            nodes.popleft()
            return _Tree(size, first.root)
        if first.leaves > size:
            raise ProofError(f"batch: a gap of {first.leaves} leaves is no subtree where it stands")
    elif size == 1:
        nodes.popleft()
        return _Tree(1, merkle.leaf_hash(first), leaf=first)
    # RFC 9162 section 2.1.1: the left half is the largest power of two below the size.
    half = 1 << (size - 1).bit_length() - 1
    halves = _grow(nodes, half), _grow(nodes, size - half)
    if halves[0].gone and halves[1].gone:
        raise MalformedError("partial batch: two gaps side by side that are one")
    return _Tree(size, merkle.node_hash(halves[0].hash, halves[1].hash), halves=halves)


def _cut(tree: _Tree, first: int, keep: Collection[int]) -> _Tree:
    if tree.leaf is not None:
        return tree if first in keep else _Tree(1, tree.hash)
    if tree.halves is None:
        return tree
    left, right = tree.halves
    halves = _cut(left, first, keep), _cut(right, first + left.size, keep)
    if halves[0].gone and halves[1].gone:
        return _Tree(tree.size, tree.hash)
    return _Tree(tree.size, tree.hash, halves=halves)


def _nodes(tree: _Tree) -> Iterable[Node]:
    if tree.leaf is not None:
        yield tree.leaf
    elif tree.halves is None:
        yield Gap(tree.size, tree.hash)
    else:
        yield from _nodes(tree.halves[0])
        yield from _nodes(tree.halves[1])


def _path(tree: _Tree, index: int) -> list[bytes]:
    """Siblings from the leaf up. Raises IndexError."""
    if tree.leaf is not None and index == 0:
        return []
    if tree.halves is None or not 0 <= index < tree.size:
        raise IndexError("the leaf is not in this batch")
    left, right = tree.halves
    if index < left.size:
        return [*_path(left, index), right.hash]
    return [*_path(right, index - left.size), left.hash]
