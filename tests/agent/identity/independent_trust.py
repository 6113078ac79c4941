"""A verifier of trust lists written from proto/TRUST.md alone: it shares no code with agent/identity.

Refuses by raising. Encoding, key and signature checks come from the stranger's verifiers of evidence and histories.
"""

from __future__ import annotations

from typing import Any

import cbor2

from tests.agent.evidence import independent as evidence
from tests.agent.evidence.independent import refuse_unless
from tests.agent.identity.independent import check_key, sha256

TYPE = "v2g-gateway/trust-list+cose"
AHEAD_US = 300_000_000


def trust_list(
    message: bytes, roots: list[tuple[int, bytes]], threshold: int, now_us: int | None, pinned: Any = None
) -> tuple[int, list[str], bool]:
    """Version, names of the issuers, and whether it has expired. `pinned`: version and SHA-256 of the list before."""
    refuse_unless(len(message) <= 524_288, "size")
    payload, signed = payload_of(message, {sha256(spki): (alg, spki) for alg, spki in roots})
    refuse_unless(signed >= threshold, "threshold")
    fields = evidence.strict(payload)
    refuse_unless(isinstance(fields, list) and len(fields) == 5 and fields[0] == 1, "layout")
    _, version, issued, expires, issuers = fields
    evidence.field(version, "ordinal")
    for number in (issued, expires):
        evidence.field(number, "count")
    refuse_unless(expires > issued and len(issuers) <= 1024, "expiry or issuers")
    refuse_unless(now_us is None or issued <= now_us + AHEAD_US, "from the future")
    for each in issuers:
        issuer(each)
    keys = [each[2] for each in issuers]
    refuse_unless(len(set(keys)) == len(keys), "one key in two entries")
    if pinned is not None:
        before, digest = pinned
        refuse_unless(version > before or (version == before and sha256(payload) == digest), "pinned")
    return version, [each[0] for each in issuers], now_us is not None and now_us >= expires


def payload_of(message: bytes, roots: dict[bytes, tuple[int, bytes]]) -> tuple[bytes, int]:
    """Section 1: the payload, and how many roots have signed it."""
    value: Any = cbor2.loads(message)
    refuse_unless(isinstance(value, cbor2.CBORTag) and value.tag in (18, 98), "tag")
    prefix = {18: b"\xd2", 98: b"\xd8\x62"}[value.tag]
    refuse_unless(message == prefix + evidence.dump(value.value, 1), "not deterministic")
    protected, unprotected, payload, last = value.value
    header = evidence.strict(protected)
    refuse_unless(unprotected == {} and isinstance(payload, bytes) and header.get(16) == TYPE, "header")
    if value.tag == 18:
        refuse_unless(set(header) == {1, 4, 16} and header[4] in roots, "header or root")
        alg, spki = roots[header[4]]
        refuse_unless(header[1] == alg, "algorithm")
        evidence.check_signature(spki, alg, evidence.dump(["Signature1", protected, b"", payload], 0), last)
        return payload, 1
    refuse_unless(set(header) == {16} and len(last) <= 16, "header or signatures")
    seen, good = [], 0
    for own, more, signature in last:
        about = evidence.strict(own)
        refuse_unless(set(about) == {1, 4} and more == {}, "header of a signature")
        seen.append(about[4])
        if about[4] not in roots:
            continue
        alg, spki = roots[about[4]]
        refuse_unless(about[1] == alg, "algorithm")
        message = evidence.dump(["Signature", protected, own, b"", payload], 0)
        evidence.check_signature(spki, alg, message, signature)
        good += 1
    refuse_unless(seen == sorted(set(seen)), "order of signatures")
    return payload, good


def issuer(entry: Any) -> None:
    """Section 2."""
    name, alg, spki, role, types, targets, power, priority, expires = entry
    check_key([alg, spki])
    refuse_unless(type(role) is int and role in (0, 1), "role")
    refuse_unless(all(type(n) is int and 0 <= n <= 255 for n in types) and types == sorted(set(types)), "types")
    refuse_unless(1 <= len(targets) <= 1024 and targets == sorted(set(targets)), "targets")
    for text in (name, *targets):
        refuse_unless(isinstance(text, str) and 1 <= len(text) <= 255 and text.isprintable(), "text")
    for number in (power, priority, expires):
        evidence.field(number, "count")
