"""The cases of proto/vectors/evidence/countersignatures.json: two signatures over one root, under each policy.

ML-DSA signs with fresh randomness, so a signature that the file has already is kept while it verifies: generating twice
gives the same file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.evidence import batch, cbor, cose, countersignature, partial
from agent.evidence.countersignature import Countersignature, Policy
from agent.evidence.errors import EvidenceError
from agent.evidence.verify import TrustedKey
from hil_tests import evidence_cases as made
from hil_tests.evidence_cases import Case, Json

FILE: Final = Path(__file__).parents[1] / "proto" / "vectors" / "evidence" / "countersignatures.json"


@dataclasses.dataclass(frozen=True, slots=True)
class SecondKey:
    """An ML-DSA-65 key pair from a name."""

    name: str

    @property
    def secret(self) -> bytes:
        """The seed of FIPS 204."""
        return hashlib.sha256(f"v2g-gateway evidence vectors: {self.name}".encode()).digest()

    @property
    def verify_key(self) -> cose.VerifyKey:
        public = mldsa.MLDSA65PrivateKey.from_seed_bytes(self.secret).public_key()
        return cose.VerifyKey(cose.ML_DSA_65, public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def sign(self, message: bytes) -> bytes:
        held = _held().get(_place(self.verify_key.key_id, message))
        return held or mldsa.MLDSA65PrivateKey.from_seed_bytes(self.secret).sign(message)


SECOND_KEY: Final = SecondKey("gateway, ML-DSA-65")
STRANGER: Final = SecondKey("nobody trusts this ML-DSA-65 key")


def trusted(policy: Policy) -> TrustedKey:
    """The gateway of the vectors with both of its keys."""
    first = made.GATEWAY_KEY.verify_key
    return TrustedKey(made.GATEWAY, first, countersigner=SECOND_KEY.verify_key, policy=policy)


def json_key() -> Json:
    """For keys.json."""
    key = SECOND_KEY.verify_key
    return {
        "gateway_id": made.GATEWAY, "beside": made.GATEWAY_KEY.key_id.hex(), "algorithm": key.algorithm,
        "public_key_der": key.public_key_der.hex(), "key_id": key.key_id.hex(), "secret": SECOND_KEY.secret.hex(),
    }  # fmt: skip


def countersigned(
    sealed: batch.SealedBatch, key: SecondKey = SECOND_KEY, protected: bytes | None = None
) -> batch.SealedBatch:
    """The batch with a second signature. `protected`: another header of the countersignature than the right one."""
    if protected is None:
        protected = countersignature.protected_header(cose.ML_DSA_65, key.verify_key.key_id)
    second = Countersignature(protected, key.verify_key.key_id, key.sign(sealed.to_be_countersigned(protected)))
    return dataclasses.replace(sealed, countersignature=second)


def cases() -> Iterable[Case]:
    """Batches and receipts, each with the policy that it is judged under."""
    once = made.make_batch(made.leaves())
    twice = countersigned(once)
    second = twice.countersignature
    assert second is not None

    def case(name: str, sealed: partial.AnyBatch, policy: Policy, *proven_by: int) -> Case:
        error = None if proven_by else "signature"
        return Case(name, error, {"batch": sealed.encode()}, _facts(policy, proven_by))

    def malformed(name: str, value: cbor.Value, error: str = "malformed", version: int = 2) -> Case:
        unprotected: made.Header = {countersignature.HEADER_COUNTERSIGNATURE: value}
        sign1 = made.raw_sign1(once.protected, unprotected, None, once.signature)
        encoded = cbor.encode([version, sign1, list(once.leaves)])
        return Case(name, error, {"batch": encoded}, {"policy": Policy.EITHER.value})

    first, pq = cose.ES256, cose.ML_DSA_65
    replace = dataclasses.replace
    broken_second = replace(twice, countersignature=replace(second, signature=made.flip(second.signature, 1000)))
    broken_first = countersigned(replace(once, signature=made.flip(once.signature, 40)))
    for policy, proven_by in ((Policy.EITHER, (first, pq)), (Policy.BOTH, (first, pq)), (Policy.PQ_ONLY, (pq,))):
        yield case(f"both hold, {policy.value}", twice, policy, *proven_by)
    yield case("only the first is there, either", once, Policy.EITHER, first)
    yield case("only the first is there, both", once, Policy.BOTH)
    yield case("only the first is there, pq-only", once, Policy.PQ_ONLY)
    yield case("the second does not hold, either", broken_second, Policy.EITHER, first)
    yield case("the second does not hold, both", broken_second, Policy.BOTH)
    yield case("the second does not hold, pq-only", broken_second, Policy.PQ_ONLY)
    yield case("the first does not hold, either", broken_first, Policy.EITHER, pq)
    yield case("the first does not hold, both", broken_first, Policy.BOTH)
    yield case("the first does not hold, pq-only", broken_first, Policy.PQ_ONLY, pq)
    yield case("the second is by a key that is not enrolled", countersigned(once, STRANGER), Policy.PQ_ONLY)
    other_s = replace(twice, signature=made.other_s(once.signature))
    yield case("the first was replaced by its other s: the second does not cover it", other_s, Policy.BOTH)
    other = countersigned(made.make_batch(made.leaves(2)))
    yield case("another batch, both", other, Policy.BOTH, first, pq)
    elsewhere = replace(once, countersignature=other.countersignature)
    yield case("the second is of another batch", elsewhere, Policy.BOTH)
    neither = replace(broken_second, signature=made.flip(once.signature, 40))
    yield case("neither holds, either", neither, Policy.EITHER)

    yield case("a batch with gaps keeps its countersignature, both", partial.cut(twice, {0, 2}), Policy.BOTH, first, pq)
    yield case("a batch with gaps and one signature, both", partial.cut(once, {0, 2}), Policy.BOTH)

    value = second.value()
    assert isinstance(value, list)
    header: made.Header = {1: pq, 4: second.key_id, 16: countersignature.TYP}
    yield malformed("version 1 with a countersignature", value, version=1)
    yield malformed("two countersignatures", [value, value])
    yield malformed("an unprotected label in it", [value[0], {4: second.key_id}, value[2]])
    yield malformed("a label more in its header", [cbor.encode(header | {3: 0}), {}, value[2]])
    yield malformed("its algorithm is unknown", [cbor.encode(header | {1: -65000}), {}, value[2]], "unsupported")
    yield malformed(
        "its algorithm is a first signature's", [cbor.encode(header | {1: first}), {}, value[2]], "unsupported"
    )
    yield malformed("its typ is another", [cbor.encode(header | {16: batch.TYP}), {}, value[2]], "unsupported")
    yield malformed("its key id is short", [cbor.encode(header | {4: bytes(31)}), {}, value[2]])

    def receipt(name: str, sealed: batch.SealedBatch, policy: Policy, *proven_by: int) -> Case:
        parts = {"receipt": batch.receipt(sealed, 2), "statement": sealed.leaves[2]}
        error = None if proven_by else "signature"
        return Case(name, error, parts, _facts(policy, proven_by))

    yield receipt("receipt, both", twice, Policy.BOTH, first, pq)
    yield receipt("receipt, pq-only", twice, Policy.PQ_ONLY, pq)
    yield receipt("receipt whose countersignature was taken off, both", once, Policy.BOTH)
    yield receipt("receipt whose countersignature was taken off, either", once, Policy.EITHER, first)


def _facts(policy: Policy, proven_by: tuple[int, ...]) -> dict[str, Json]:
    said: list[Json] = [*proven_by]
    return {"policy": policy.value, "proven_by": said} if said else {"policy": policy.value}


@functools.cache
def _held() -> dict[bytes, bytes]:
    """Signatures of the file as it is, that hold."""
    held: dict[bytes, bytes] = {}
    for case in json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else []:
        try:
            sealed = batch.decode_batch(bytes.fromhex(case["batch"]))
        except (KeyError, EvidenceError):
            continue
        second = sealed.countersignature
        if second is None:
            continue
        message = sealed.to_be_countersigned(second.protected)
        for key in (SECOND_KEY, STRANGER):
            try:
                key.verify_key.verify(message, second.signature)
            except EvidenceError:
                continue
            held[_place(key.verify_key.key_id, message)] = second.signature
    return held


def _place(key_id: bytes, message: bytes) -> bytes:
    return hashlib.sha256(key_id + message).digest()
