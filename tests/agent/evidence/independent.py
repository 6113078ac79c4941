"""A verifier written from proto/EVIDENCE.md alone: it shares no code with agent/evidence, and tries to stay small.

Refuses by raising. Uses cbor2 as the lenient decoder that section 1 speaks of, and cryptography for the signatures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

CURVES = {-7: "secp256r1", -9: "secp256r1", -47: "secp256k1"}
FIELD_COUNTS = {
    (0, 1): 5, (1, 1): 17, (1, 3): 18, (2, 1): 8, (3, 1): 17, (4, 1): 7, (4, 2): 8, (5, 1): 7, (6, 1): 4,
    (7, 1): 11, (8, 1): 15,
}  # fmt: skip
BOUNDS = {"int": (-(2**63), 2**63 - 1), "count": (0, 2**63 - 1), "ordinal": (1, 2**63 - 1)}
LAYOUTS = {
    0: ("count", "source", "count?"),
    2: ("b32", "text", "state", "count", "text", "int?"),
    3: (
        *("text", "ordinal", "count", "count", "count", "int", "int", "int", "count?", "count?", "count", "b32"),
        *("count", "quality", "list"),
    ),
    4: ("count", "count", "text", "b32", "b32"),
    5: ("count", "source", "text", "text", "text"),
    6: ("count", "list"),
}
"""Of the kinds whose fields are looked at by type alone. Clock qualities, severities and sources are 0 to 2."""
STATES = {0, 1, 2, 3, 10, 11, 12, 13, 14}
READING_FIELDS = (
    *("text", "ordinal", "b16", "ordinal", "count", "int", "count?", "count?"),
    *("ordinal", "int?", "count?", "count?", "count?", "count", "source"),
)


THINNING_FIELDS = (
    *("text", "ordinal", "b16", "ordinal", "source", "count", "ordinal"),
    *("list", "ordinal", "b32", "int", "b32?", "list"),
)
SLOT_FIELDS = (
    *("ordinal", "ordinal", "count", "count", "int", "count?", "count?"),
    *("int?", "int?", "count?", "count"),
)
SIGNED_VALUE_FIELDS = ("text", "count", "source", "text", "text", "bytes", "bytes", "text?", "text")


class RefusedError(Exception):
    """Not proven."""


def refuse_unless(condition: bool, why: str) -> None:
    if not condition:
        raise RefusedError(why)


def strict(encoded: bytes) -> Any:
    """Section 1."""
    refuse_unless(0 < len(encoded) <= 1 << 20, "size")
    value: Any = cbor2.loads(encoded)
    refuse_unless(dump(value, 0) == encoded, "not deterministic")
    return value


def dump(value: Any, depth: int) -> bytes:
    """An encoder of its own, so that it shares nothing with the lenient decoder."""
    refuse_unless(depth <= 8, "depth")
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(dump(item, depth + 1) for item in value)
    if isinstance(value, dict):
        pairs = sorted((dump(key, depth + 1), dump(item, depth + 1)) for key, item in value.items())
        return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)
    if isinstance(value, cbor2.CBORTag):
        refuse_unless(value.tag == 18, "tag")
        return head(6, value.tag) + dump(value.value, depth + 1)
    raise RefusedError("type")


def head(major: int, argument: int) -> bytes:
    refuse_unless(argument < 2**64, "integer")
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << (8 * width):
            return bytes([major << 5 | code]) + argument.to_bytes(width)
    raise AssertionError


def field(value: Any, kind: str) -> None:
    if kind.endswith("?"):
        if value is None:
            return
        kind = kind[:-1]
    if kind == "list":
        refuse_unless(isinstance(value, list), kind)
    elif kind == "state":
        refuse_unless(type(value) is int and value in STATES, kind)
    elif kind == "quality":
        refuse_unless(type(value) is int and 0 <= value <= 2047, kind)
    elif kind == "text":
        refuse_unless(isinstance(value, str), kind)
    elif kind.startswith("b"):
        refuse_unless(isinstance(value, bytes) and len(value) == int(kind[1:]), kind)
    elif kind == "source":
        refuse_unless(type(value) is int and value in (0, 1, 2), kind)
    else:
        low, high = BOUNDS[kind]
        refuse_unless(type(value) is int and low <= value <= high, kind)


def statement(encoded: bytes) -> list[Any]:
    """Section 2."""
    refuse_unless(len(encoded) <= 65_536, "size")
    value = strict(encoded)
    refuse_unless(isinstance(value, list) and len(value) >= 2, "array")
    layout = value[0], value[1]
    refuse_unless(type(value[0]) is int and type(value[1]) is int and layout in FIELD_COUNTS, "kind or version")
    refuse_unless(len(value) == FIELD_COUNTS[layout], "number of fields")
    for item, kind in zip(value[2:], LAYOUTS.get(value[0], ()), strict=False):
        field(item, kind)
    if value[0] == 1:
        for item, kind in zip(value[2:17], READING_FIELDS, strict=True):
            field(item, kind)
        refuse_unless(value[15] <= 2047, "quality")
    if layout == (1, 3):
        refuse_unless(isinstance(value[17], list) and 1 <= len(value[17]) <= 16, "references")
        for digest, verdict in value[17]:
            field(digest, "b32")
            field(verdict, "source")
        refuse_unless(value[16] != 2 or any(verdict == 0 for _, verdict in value[17]), "not signed by the meter")
    if value[0] == 7:
        for item, kind in zip(value[2:], SIGNED_VALUE_FIELDS, strict=True):
            if kind != "bytes":
                field(item, kind)
        refuse_unless(isinstance(value[7], bytes) and 1 <= len(value[7]) <= 32_768, "record")
        refuse_unless(isinstance(value[8], bytes) or (value[8] is None and value[4] == 1), "key")
    if layout == (4, 2):
        *parts, pcrs = value[7]
        refuse_unless(len(parts) == 3 and all(isinstance(p, bytes) and 1 <= len(p) <= 1024 for p in parts), "quote")
        refuse_unless(isinstance(pcrs, list) and 1 <= len(pcrs) <= 24, "PCRs")
        for pcr in pcrs:
            field(pcr, "b32")
    if value[0] == 8:
        thinning(value[2:])
    if value[0] == 3:
        refuse_unless(value[9] == value[7] - value[8] and len(value[16]) <= 1024, "net or commands")
        for command_hash in value[16]:
            field(command_hash, "b32")
    if value[0] == 6:
        for device_id, parent_id, settled in value[3]:
            field(device_id, "text")
            field(parent_id, "text?")
            refuse_unless(isinstance(settled, bool), "settled")
    return list(value)


def thinning(values: list[Any]) -> None:
    """Section 12, one statement by itself."""
    for item, kind in zip(values, THINNING_FIELDS, strict=True):
        field(item, kind)
    slot_s, old, count, slots = values[6], values[7], values[8], values[12]
    refuse_unless(slot_s <= 86_400 and 1 <= len(old) <= 8 and 1 <= len(slots) <= 512, "slots or old batches")
    for run in old:
        for item, kind in zip(run, ("ordinal", "ordinal", "ordinal", "b32"), strict=True):
            field(item, kind)
        refuse_unless(run[1] <= run[2], "run of batches")
    end = 0
    for slot in slots:
        for item, kind in zip(slot, SLOT_FIELDS, strict=True):
            field(item, kind)
        refuse_unless(slot[10] <= 2047 and (slot[7] is None) == (slot[8] is None), "quality or powers")
        refuse_unless(slot[0] > end, "overlap")
        end = slot[0] + slot[1] - 1
    refuse_unless(sum(slot[1] for slot in slots) == count, "count")
    refuse_unless(sum(slot[4] for slot in slots) == values[10], "energy")


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00", leaf)


def root_of(leaves: list[bytes]) -> bytes:
    """Section 4, as the recursion that defines it."""
    if len(leaves) < 2:
        return leaf_hash(leaves[0]) if leaves else sha256()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01", root_of(leaves[:k]), root_of(leaves[k:]))


def climb(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Section 4, the listing."""
    refuse_unless(0 <= index < size, "index")
    fn, sn, r = index, size - 1, leaf_hash(leaf)
    for p in path:
        refuse_unless(sn != 0, "path too long")
        if fn % 2 or fn == sn:
            r = sha256(b"\x01", p, r)
            while fn % 2 == 0 and fn > 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = sha256(b"\x01", r, p)
        fn, sn = fn >> 1, sn >> 1
    refuse_unless(sn == 0, "path too short")
    return r


@dataclass
class Header:
    alg: int
    kid: bytes
    gateway_id: str
    incarnation: int
    number: int
    leaf_count: int
    previous_root: bytes


def header_of(protected: bytes) -> Header:
    """Section 5."""
    header = strict(protected)
    refuse_unless(isinstance(header, dict) and set(header) == {1, 4, 16, 395, -70100}, "labels")
    refuse_unless(header[16] == "v2g-gateway/batch+cose" and header[395] == 1, "typ or structure")
    identity = header[-70100]
    refuse_unless(isinstance(identity, list) and len(identity) == 8 and identity[0] == 1, "identity")
    for item, kind in zip(identity[1:], ["text", "ordinal", "b16", "ordinal", "count", "b32", "source"], strict=True):
        field(item, kind)
    _, gateway_id, incarnation, _, number, leaf_count, previous, _ = identity
    refuse_unless(1 <= len(gateway_id.encode()) <= 1024 and 2 <= leaf_count <= 4096, "gateway id or leaf count")
    refuse_unless(number > 1 or previous == bytes(32), "previous root")
    return Header(header[1], header[4], gateway_id, incarnation, number, leaf_count, previous)


def sign1_of(encoded: bytes) -> list[Any]:
    tagged = strict(encoded)
    if not isinstance(tagged, cbor2.CBORTag) or tagged.tag != 18 or not isinstance(tagged.value, list):
        raise RefusedError("tag")
    parts = list(tagged.value)
    refuse_unless(len(parts) == 4 and isinstance(parts[1], dict), "COSE_Sign1")
    return parts


def check_signature(public_key_der: bytes, alg: int, message: bytes, signature: bytes) -> None:
    """Section 3."""
    public = load_der_public_key(public_key_der)
    if isinstance(public, ed25519.Ed25519PublicKey):
        refuse_unless(alg == -19, "algorithm")
        public.verify(signature, message)
        return
    if isinstance(public, mldsa.MLDSA65PublicKey):
        refuse_unless(alg == -49, "algorithm")
        public.verify(signature, message)
        return
    assert isinstance(public, ec.EllipticCurvePublicKey)
    refuse_unless(CURVES.get(alg) == public.curve.name and len(signature) == 64, "algorithm or length")
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


def holds(public_key_der: bytes, alg: int, message: bytes, signature: bytes) -> bool:
    try:
        check_signature(public_key_der, alg, message, signature)
    except (InvalidSignature, RefusedError):
        return False
    return True


class Verifier:
    """Section 7; keys by (gateway id, key id): (algorithm, SubjectPublicKeyInfo)."""

    def __init__(
        self,
        keys: dict[tuple[str, bytes], tuple[int, bytes]],
        seconds: dict[tuple[str, bytes], bytes] | None = None,
        policy: str = "either",
    ) -> None:
        """`seconds`: SubjectPublicKeyInfo of the ML-DSA-65 key beside a first key, by that one's place in `keys`."""
        self.keys = keys
        self.seconds = seconds or {}
        self.policy = policy

    def check(self, header: Header, protected: bytes, root: bytes, signature: bytes, second: Any = None) -> None:
        refuse_unless((header.gateway_id, header.kid) in self.keys, "no trusted key")
        alg, public_key_der = self.keys[header.gateway_id, header.kid]
        refuse_unless(alg == header.alg, "algorithm")
        first_holds = holds(public_key_der, alg, dump(["Signature1", protected, b"", root], 0), signature)
        second_holds = False
        key = self.seconds.get((header.gateway_id, header.kid))
        if second is not None:
            second_protected, unprotected, second_signature = second
            labels = strict(second_protected)
            refuse_unless(unprotected == {} and set(labels) == {1, 4, 16} and len(labels[4]) == 32, "section 15")
            refuse_unless(labels[1] == -49 and labels[16] == "v2g-gateway/batch-countersignature", "algorithm or typ")
            structure = ["CounterSignatureV2", protected, second_protected, b"", root, [signature]]
            if key is not None and labels[4] == sha256(key):
                second_holds = holds(key, -49, dump(structure, 0), second_signature)
        enough = {
            "either": first_holds or second_holds,
            "both": first_holds and second_holds,
            "pq-only": second_holds,
        }
        refuse_unless(enough[self.policy], "signature")

    def leaf(self, encoded: bytes, index: int, header: Header) -> None:
        fields = statement(encoded)
        refuse_unless((fields[0] == 0) == (index == 0), "sealing")
        refuse_unless(fields[0] != 1 or fields[3] <= header.incarnation, "incarnation")

    def partial(self, encoded: bytes) -> tuple[Header, bytes, dict[int, bytes]]:
        """Section 12: header, root, and the leaves that are there by index."""
        version, sign1, nodes = strict(encoded)
        refuse_unless(version == 3 and isinstance(nodes, list), "version or nodes")
        protected, unprotected, payload, signature = sign1_of(sign1)
        refuse_unless(set(unprotected) <= {11} and payload is None, "envelope")
        header = header_of(protected)
        leaves: dict[int, bytes] = {}
        left = list(nodes)
        root, whole, _ = subtree(left, 0, header.leaf_count, leaves)
        refuse_unless(not left and not whole, "nodes")
        self.check(header, protected, root, signature, unprotected.get(11))
        for index, leaf in leaves.items():
            self.leaf(leaf, index, header)
        return header, root, leaves

    def any_batch(self, encoded: bytes) -> tuple[Header, bytes, dict[int, bytes]]:
        """A whole batch or one with gaps."""
        if encoded[1] == 3:
            return self.partial(encoded)
        header, root = self.batch(encoded)
        return header, root, dict(enumerate(strict(encoded)[2]))

    def batch(self, encoded: bytes) -> tuple[Header, bytes]:
        version, sign1, leaves = strict(encoded)
        refuse_unless(version in (1, 2) and all(isinstance(leaf, bytes) for leaf in leaves), "version or leaves")
        protected, unprotected, payload, signature = sign1_of(sign1)
        refuse_unless(set(unprotected) == ({11} if version == 2 else set()) and payload is None, "envelope")
        header = header_of(protected)
        refuse_unless(len(leaves) == header.leaf_count, "leaf count")
        root = root_of(leaves)
        self.check(header, protected, root, signature, unprotected.get(11))
        for index, leaf in enumerate(leaves):
            self.leaf(leaf, index, header)
        return header, root

    def receipt(self, encoded: bytes, leaf: bytes) -> tuple[int, bytes]:
        refuse_unless(len(encoded) <= 16_384, "size")
        protected, unprotected, payload, signature = sign1_of(encoded)
        refuse_unless(
            payload is None and set(unprotected) - {11} == {396} and set(unprotected[396]) == {-1}, "envelope"
        )
        (proof,) = unprotected[396][-1]
        size, index, path = strict(proof)
        refuse_unless(all(len(p) == 32 for p in path), "path")
        header = header_of(protected)
        refuse_unless(size == header.leaf_count, "tree size")
        root = climb(leaf, index, size, path)
        self.check(header, protected, root, signature, unprotected.get(11))
        self.leaf(leaf, index, header)
        return index, root


def subtree(nodes: list[Any], first: int, size: int, leaves: dict[int, bytes]) -> tuple[bytes, bool, bool]:
    """Section 12, the listing: hash of the subtree, whether it is whole, and whether it is one gap."""
    refuse_unless(len(nodes) > 0, "too few")
    node = nodes[0]
    if isinstance(node, list):
        count, digest = node
        field(count, "ordinal")
        field(digest, "b32")
        refuse_unless(count <= size, "no subtree")
        if count == size:
            nodes.pop(0)
            return digest, False, True
    elif size == 1:
        refuse_unless(isinstance(node, bytes), "node")
        leaves[first] = nodes.pop(0)
        return leaf_hash(node), True, False
    k = 1
    while 2 * k < size:
        k *= 2
    left, left_whole, left_gap = subtree(nodes, first, k, leaves)
    right, right_whole, right_gap = subtree(nodes, first + k, size - k, leaves)
    refuse_unless(not (left_gap and right_gap), "two gaps that are one")
    return sha256(b"\x01", left, right), left_whole and right_whole, False


def breaks_at(run: list[tuple[Header, bytes]]) -> int | None:
    """Section 7, a chain."""
    for i in range(1, len(run)):
        (before, root), (after, _) = run[i - 1], run[i]
        next_one = (before.incarnation, before.number + 1, root)
        if (after.incarnation, after.number, after.previous_root) != next_one and not (
            after.incarnation > before.incarnation and after.number == 1
        ):
            return i
    return None


def acknowledgement(encoded: bytes, alg: int, public_key_der: bytes) -> list[Any]:
    """Section 8."""
    refuse_unless(len(encoded) <= 16_384, "size")
    protected, unprotected, payload, signature = sign1_of(encoded)
    header = {1: alg, 4: sha256(public_key_der), 16: "v2g-gateway/ack+cose"}
    refuse_unless(strict(protected) == header and unprotected == {} and payload is not None, "headers")
    check_signature(public_key_der, alg, dump(["Signature1", protected, b"", payload], 0), signature)
    fields = strict(payload)
    refuse_unless(len(fields) == 6 and fields[0] == 1, "version")
    for item, kind in zip(fields[1:], ["text", "ordinal", "ordinal", "b32", "count"], strict=True):
        field(item, kind)
    return list(fields)
