"""The Merkle tree of RFC 9162 section 2.1 over SHA-256: roots, inclusion paths and their verification.

Leaves and nodes hash under different prefixes (0x00, 0x01), so that no node can be passed off as a leaf, and a tree of
odd size duplicates nothing: its last node moves up as it is. All hashes are 32 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from agent.evidence.errors import ProofError

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""Root of the tree without leaves."""


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(0x00 || leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A finished tree, kept level by level, so that each inclusion path costs its length and not the tree's size."""

    __slots__ = ("_levels",)

    def __init__(self, leaf_hashes: Sequence[bytes]) -> None:
        level = list(leaf_hashes)
        self._levels = [level]
        while len(level) > 1:
            # Pairwise from the left, an odd last node moves up unhashed: the same tree as the RFC's recursive split at
            # the largest power of two below the size.
            above = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
            if len(level) % 2:
                above.append(level[-1])
            self._levels.append(above)
            level = above

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """EMPTY_ROOT without leaves; the leaf hash itself with one."""
        return self._levels[-1][0] if self.size else EMPTY_ROOT

    def path(self, index: int) -> list[bytes]:
        """Siblings from the leaf up to below the root (RFC 9162 section 2.1.3.1). Raises IndexError."""
        if not 0 <= index < self.size:
            raise IndexError(f"leaf {index} of a tree of {self.size}")
        siblings = []
        for level in self._levels[:-1]:
            if index ^ 1 < len(level):
                siblings.append(level[index ^ 1])
            index >>= 1
        return siblings


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over these leaf hashes, in order."""
    return Tree(leaf_hashes).root


def inclusion_path(leaf_hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The path of one leaf. For several leaves of one tree keep a `Tree`. Raises IndexError."""
    return Tree(leaf_hashes).path(index)


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that the leaf hash `leaf` leads to from `index` in a tree of `size` leaves (RFC 9162 section 2.1.3.2).

    Raises ProofError when the path has not the length that index and size demand. `size` must come from somewhere
    signed: the path for (4, 5) also leads from (1, 2) to the same root, so that an index says nothing without it.
    """
    if not 0 <= index < size:
        raise ProofError(f"inclusion proof: index {index} is outside a tree of {size} leaves")
    position, last, computed = index, size - 1, leaf
    for sibling in path:
        if len(sibling) != HASH_BYTES:
            raise ProofError(f"inclusion proof: a path element has {len(sibling)} bytes, {HASH_BYTES} are right")
        if last == 0:
            raise ProofError(f"inclusion proof: path of {len(path)} is too long for {size} leaves")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                # The right edge: this node moved up through the levels where it had no sibling.
                position >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        position >>= 1
        last >>= 1
    if last != 0:
        raise ProofError(f"inclusion proof: path of {len(path)} is too short for {size} leaves")
    return computed


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash stands at `index` in the tree of `size` leaves with this root. Raises ProofError."""
    if root_from_path(leaf, index, size, path) != root:
        raise ProofError(f"inclusion proof: leaf {index} of {size} does not lead to the signed root")
