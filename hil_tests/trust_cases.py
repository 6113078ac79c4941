"""The cases behind proto/vectors/trust: good lists by one root and by a threshold, and each way of being wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import cbor2

from agent.evidence import cbor, cose
from agent.evidence.cose import Sign1
from agent.identity.cosign import Cosigned
from agent.identity.trust import TYPE, IssuerRights, Role, TrustList, TrustListPin, draft_trust_list
from agent.identity.trust_roots import TrustRoots
from hil_tests.evidence_cases import START_US, Json, TestKey
from hil_tests.identity_cases import sign

ROOTS: Final = (
    TestKey("trust root 1", cose.ES256),
    TestKey("trust root 2", cose.ED25519),
    TestKey("trust root 3", cose.ES256K),
)
STRANGER: Final = TestKey("no root", cose.ES256)
ISSUER: Final = TestKey("an issuer", cose.ES256)
NOW_US: Final = START_US
DAY_US: Final = 86_400_000_000

RIGHTS: Final = IssuerRights(
    issuer="grid-operator", key=ISSUER.verify_key, role=Role.OPERATIONAL, types=frozenset({0, 1, 2, 3}),
    targets=("*",), highest_power_w=20_000, highest_priority=0, expires_us=NOW_US + DAY_US,
)  # fmt: skip
LIST: Final = TrustList(version=4, issued_us=NOW_US - DAY_US, expires_us=NOW_US + 30 * DAY_US, issuers=(RIGHTS,))


@dataclass(frozen=True)
class TrustCase:
    """`expected` is None for what must be refused."""

    name: str
    threshold: int
    encoded: bytes
    expected: TrustList | None = None
    pinned: TrustListPin | None = None

    @property
    def roots(self) -> TrustRoots:
        return TrustRoots(tuple(root.verify_key for root in ROOTS), self.threshold)

    def json(self) -> dict[str, Json]:
        shown: dict[str, Json] = {
            "name": self.name, "valid": self.expected is not None, "threshold": self.threshold,
            "list": self.encoded.hex(),
        }  # fmt: skip
        if self.pinned is not None:
            shown["pinned"] = [self.pinned.version, self.pinned.digest.hex()]
        if self.expected is not None:
            names: list[Json] = [rights.issuer for rights in self.expected.issuers]
            shown |= {"version": self.expected.version, "issuers": names, "expired": self.expected.expired(NOW_US)}
        return shown


def by_one(payload: bytes, root: TestKey = ROOTS[0], header: dict[int, cbor.Value] | None = None) -> bytes:
    """A COSE_Sign1."""
    wanted: dict[int, cbor.Value] = {
        cose.HEADER_ALG: root.algorithm,
        cose.HEADER_KID: root.key_id,
        cose.HEADER_TYP: TYPE,
    }
    protected = cbor.encode(wanted | (header or {}))
    return Sign1(protected, {}, payload, root.sign(cose.to_be_signed(protected, payload))).encode()


def cases() -> Iterator[TrustCase]:
    one, two, three = ROOTS
    draft, payload = draft_trust_list(LIST), LIST.payload()
    yield TrustCase("by one root, one must", 1, by_one(payload), LIST)
    yield TrustCase("by one root as COSE_Sign", 1, sign(draft, two).encode(), LIST)
    yield TrustCase("by two of three", 2, sign(draft, one, three).encode(), LIST)
    yield TrustCase("by all", 3, sign(draft, *ROOTS).encode(), LIST)
    yield TrustCase("by two of three and a stranger", 2, sign(draft, one, two, STRANGER).encode(), LIST)
    expired = replace(LIST, expires_us=NOW_US)
    yield TrustCase(
        "expired: who is who is still known", 2, sign(draft_trust_list(expired), one, two).encode(), expired
    )
    pin = TrustListPin(4, hashlib.sha256(payload).digest())
    yield TrustCase("the same list again", 1, by_one(payload), LIST, pin)
    newer = replace(LIST, version=5)
    yield TrustCase("the next version", 1, by_one(newer.payload()), newer, pin)

    yield TrustCase("by one root, two must", 2, by_one(payload))
    yield TrustCase("by one of two that must", 2, sign(draft, two).encode())
    yield TrustCase("by one root and a stranger, two must", 2, sign(draft, one, STRANGER).encode())
    yield TrustCase("by strangers alone", 1, sign(draft, STRANGER).encode())
    yield TrustCase("by nobody", 1, draft.encode())
    yield TrustCase("by a stranger in a root's name", 1, by_one(payload, STRANGER, {cose.HEADER_KID: one.key_id}))
    good = sign(draft, one, two).encode()
    yield TrustCase("a bit flipped in the last signature", 2, good[:-1] + bytes([good[-1] ^ 1]))
    yield TrustCase("a bit flipped in the list", 2, good.replace(b"grid-operator", b"grid-operatos"))
    yield TrustCase("one root's signature twice", 2, _doubled(draft, one))
    yield TrustCase("another algorithm than the root's", 1, by_one(payload, one, {cose.HEADER_ALG: cose.ESP256}))
    yield TrustCase("another type", 1, by_one(payload, one, {cose.HEADER_TYP: "v2g-gateway/command+cose"}))
    yield TrustCase("a header parameter more", 1, by_one(payload, one, {395: 1}))
    yield TrustCase("an older version", 1, by_one(replace(LIST, version=3).payload()), pinned=pin)
    other = replace(LIST, expires_us=LIST.expires_us + 1)
    yield TrustCase("another list under the same version", 1, by_one(other.payload()), pinned=pin)
    future = replace(LIST, issued_us=NOW_US + 600_000_000)
    yield TrustCase("issued in the future", 1, by_one(future.payload()))
    value = cbor.decode(payload, what="list")
    assert isinstance(value, list)
    yield TrustCase("an unknown format version", 1, by_one(cbor.encode([2, *value[1:]])))
    yield TrustCase("version 0", 1, by_one(cbor.encode([1, 0, *value[2:]])))
    yield TrustCase("expires before it was issued", 1, by_one(cbor.encode([1, 4, 10, 9, []])))
    issuers = value[4]
    assert isinstance(issuers, list)
    yield TrustCase("one key in two entries", 1, by_one(cbor.encode([*value[:4], [*issuers, *issuers]])))
    yield TrustCase("a field more", 1, by_one(cbor.encode([*value, 0])))
    yield TrustCase("noise", 1, b"noise")
    yield TrustCase("empty", 1, b"")


def _doubled(draft: Cosigned, root: TestKey) -> bytes:
    value = cbor.decode(sign(draft, root).encode(), what="list")
    assert isinstance(value, cbor2.CBORTag)
    value.value[3] = value.value[3] * 2
    return cbor.encode(value)


def file() -> Json:
    """All of it."""
    roots: list[Json] = [
        {"algorithm": root.algorithm, "public_key_der": root.public_key_der.hex(), "key_id": root.key_id.hex(),
         "secret": root.secret.hex()}
        for root in ROOTS
    ]  # fmt: skip
    listed: list[Json] = [case.json() for case in cases()]
    return {"now_us": NOW_US, "roots": roots, "cases": listed}
