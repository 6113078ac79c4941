"""The trust list: which issuer's key may order what. Signed by the trust roots, versioned, never taken back in time.

Specified in proto/TRUST.md.

A COSE_Sign1, or a COSE_Sign by a threshold of roots (trust_roots.py), typ "v2g-gateway/trust-list+cose", over
deterministic CBOR:

    trust-list = [1, version: uint, issued_us: uint, expires_us: uint, [* issuer]]
    issuer = [issuer_id: tstr, algorithm: int, spki: bstr, role: 0 operational / 1 governance, types: [* uint],
              targets: [+ tstr], highest_power_w: uint, highest_priority: uint, expires_us: uint]

`types` (numbers of CommandType) and `targets` are in strictly ascending order. One key stands in one entry only; one
issuer may have several keys. What follows from an expired list (restrictive commands only) is decided in control/.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from agent.evidence import cbor, cose
from agent.evidence.cose import Sign1, VerifyKey
from agent.evidence.errors import EvidenceError
from agent.identity.cosign import Cosigned
from agent.identity.errors import TrustListError
from agent.identity.trust_roots import TrustRoots

TYPE: Final = "v2g-gateway/trust-list+cose"
FORMAT_VERSION: Final = 1
ANY_TARGET: Final = "*"

MOST_BYTES: Final = 512 * 1024
MOST_ISSUERS: Final = 1024
MOST_TARGETS: Final = 1024
MOST_TEXT: Final = 255
MOST_TYPE: Final = 255
"""CommandType has four numbers today; a list may already speak of a few more, which then permit nothing here."""
_MOST_NUMBER: Final = (1 << 63) - 1

ISSUED_AHEAD_US: Final = 300_000_000
"""How far in our future a list may have been issued: two honest clocks may differ by some minutes."""


class Role(IntEnum):
    """What a key signs as. High-value commands need one signature of each (SAFETY 10)."""

    OPERATIONAL = 0
    GOVERNANCE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerRights:
    """One key of an issuer and what it may order. Raises ValueError for what no list can say."""

    issuer: str
    """The name that stands in the commands' bodies."""
    key: VerifyKey
    role: Role
    types: frozenset[int]
    """Numbers of CommandType."""
    targets: tuple[str, ...]
    """Audiences (did:key of a gateway, "zone:NAME") and device ids; "*" is all of them. Ascending, no doubles."""
    highest_power_w: int
    """Most power that one command may name, W."""
    highest_priority: int
    """Smallest priority number that it may use: 0 (grid balancing) ranks above 1 (peer to peer) and 2 (carbon)."""
    expires_us: int
    """Unix time; the rights end here, or with the list if that is earlier."""

    def __post_init__(self) -> None:
        _check_text(self.issuer, "issuer")
        if not 1 <= len(self.targets) <= MOST_TARGETS:
            raise ValueError(f"issuer {self.issuer!r} has {len(self.targets)} targets, 1 to {MOST_TARGETS} are right")
        for target in self.targets:
            _check_text(target, f"target of issuer {self.issuer!r}")
        if list(self.targets) != sorted(set(self.targets)):
            raise ValueError(f"issuer {self.issuer!r}: targets are not in ascending order without doubles")
        if any(not 0 <= number <= MOST_TYPE for number in self.types):
            raise ValueError(f"issuer {self.issuer!r}: a command type is not within 0 to {MOST_TYPE}")
        for number, name in (
            (self.highest_power_w, "highest_power_w"),
            (self.highest_priority, "highest_priority"),
            (self.expires_us, "expires_us"),
        ):
            _check_number(number, f"issuer {self.issuer!r}: {name}")

    def covers(self, target: str) -> bool:
        """Whether the rights reach an audience, a device id or a class ("class:battery")."""
        return ANY_TARGET in self.targets or target in self.targets

    def expired(self, now_us: int) -> bool:
        """Whether these rights have ended by themselves; the list's own end is asked of the list."""
        return now_us >= self.expires_us


@dataclass(frozen=True, slots=True)
class TrustListPin:
    """What to remember of the newest list that was used, so that no older and no other one of its version follows."""

    version: int
    digest: bytes
    """SHA-256 of the list's payload, 32 bytes."""

    def encode(self) -> bytes:
        return cbor.encode([self.version, self.digest])


def decode_pin(encoded: bytes) -> TrustListPin:
    """The pin that `encode` gave. Raises TrustListError when it is damaged."""
    try:
        value = cbor.decode(encoded, what="pin of the trust list")
    except EvidenceError as error:
        raise TrustListError(str(error)) from error
    match value:
        case [int(version), bytes(digest)] if type(version) is int and version >= 0 and len(digest) == 32:
            return TrustListPin(version, digest)
    raise TrustListError("pin of the trust list: damaged; have the operator confirm the present list")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustList:
    """Everybody who may order something here. Raises ValueError for what no list can say."""

    version: int
    """From 1, one more with each list that the root signs."""
    issued_us: int
    expires_us: int
    """Unix time. An expired list still says who is who."""
    issuers: tuple[IssuerRights, ...]

    def __post_init__(self) -> None:
        for number, name in (
            (self.version, "version"),
            (self.issued_us, "issued_us"),
            (self.expires_us, "expires_us"),
        ):
            _check_number(number, name)
        if self.version < 1:
            raise ValueError("version is 0, the first list is version 1")
        if self.expires_us <= self.issued_us:
            raise ValueError(f"expires_us {self.expires_us} is not after issued_us {self.issued_us}")
        if len(self.issuers) > MOST_ISSUERS:
            raise ValueError(f"{len(self.issuers)} issuers, at most {MOST_ISSUERS} are allowed")
        seen: set[bytes] = set()
        for rights in self.issuers:
            if rights.key.key_id in seen:
                raise ValueError(
                    f"the key of issuer {rights.issuer!r} stands in two entries: rights would be ambiguous"
                )
            seen.add(rights.key.key_id)

    def expired(self, now_us: int) -> bool:
        """Whether the list has ended: control then takes restrictive commands only."""
        return now_us >= self.expires_us

    def rights_of(self, key_id: bytes) -> IssuerRights | None:
        """The entry of a key (kid: SHA-256 of its SubjectPublicKeyInfo), expired or not; None for a stranger."""
        return next((rights for rights in self.issuers if rights.key.key_id == key_id), None)

    @property
    def pin(self) -> TrustListPin:
        """To be kept over restarts and given to `decode_trust_list` the next time."""
        return TrustListPin(self.version, hashlib.sha256(self.payload()).digest())

    def payload(self) -> bytes:
        """What the root signs over."""
        issuers: list[cbor.Value] = [
            [
                r.issuer, r.key.algorithm, r.key.public_key_der, int(r.role), [*sorted(r.types)], [*r.targets],
                r.highest_power_w, r.highest_priority, r.expires_us,
            ]
            for r in self.issuers
        ]  # fmt: skip
        return cbor.encode([FORMAT_VERSION, self.version, self.issued_us, self.expires_us, issuers])


@dataclass(frozen=True, slots=True)
class UnsignedTrustList:
    """A list on its way to the root's signature."""

    protected: bytes
    payload: bytes
    root: VerifyKey

    @property
    def to_be_signed(self) -> bytes:
        """The message to sign with the root's key (Sig_structure of RFC 9052 section 4.4)."""
        return cose.to_be_signed(self.protected, self.payload)

    def with_signature(self, signature: bytes) -> bytes:
        """The finished list. `signature` in COSE form (ECDSA: r || s).

        Raises TrustListError when the signature is not the root's.
        """
        signed = Sign1(self.protected, {}, self.payload, signature)
        try:
            signed.verify(self.root)
        except EvidenceError as error:
            raise TrustListError(f"trust list: not signed by its root: {error}") from error
        return signed.encode()


def prepare_trust_list(trust_list: TrustList, root: VerifyKey) -> UnsignedTrustList:
    """What is to be signed by the root to issue a list. For the platform's side; the gateway only reads lists."""
    header: dict[int, cbor.Value] = {
        cose.HEADER_ALG: root.algorithm,
        cose.HEADER_KID: root.key_id,
        cose.HEADER_TYP: TYPE,
    }
    return UnsignedTrustList(cbor.encode(header), trust_list.payload(), root)


def draft_trust_list(trust_list: TrustList) -> Cosigned:
    """A list for several roots, each of which signs it (`with_signature`). For the platform's side."""
    return Cosigned(TYPE, trust_list.payload())


def decode_trust_list(
    encoded: bytes, root: VerifyKey | TrustRoots, now_us: int | None, *, pinned: TrustListPin | None = None
) -> TrustList:
    """The list, if the root (or enough of several) signed it and it does not go back behind the pinned one.

    It may have expired: ask it.

    now_us: Unix time, or None while the time is not trusted (then the moment of issue is not checked).
    Raises TrustListError.
    """
    roots = root if isinstance(root, TrustRoots) else TrustRoots((root,))
    payload = roots.opened(encoded, typ=TYPE, most_bytes=MOST_BYTES)
    try:
        trust_list = _decode_payload(payload)
    except EvidenceError as error:
        raise TrustListError(f"trust list: {error}") from error
    if now_us is not None and trust_list.issued_us > now_us + ISSUED_AHEAD_US:
        raise TrustListError(
            f"trust list version {trust_list.version}: issued {(trust_list.issued_us - now_us) // 1_000_000} s in our "
            "future; check the clocks"
        )
    if pinned is not None:
        _check_pin(trust_list, pinned)
    return trust_list


def _check_pin(trust_list: TrustList, pinned: TrustListPin) -> None:
    if trust_list.version < pinned.version:
        raise TrustListError(
            f"trust list: version {trust_list.version} is older than version {pinned.version}, which was in use here"
        )
    if trust_list.version == pinned.version and trust_list.pin.digest != pinned.digest:
        raise TrustListError(
            f"trust list: another content under version {pinned.version}, which was in use here: the root has signed "
            "two different lists with one number; tell the operator"
        )


def _decode_payload(payload: bytes) -> TrustList:
    value = cbor.decode(payload, what="payload", most_bytes=MOST_BYTES)
    match value:
        case [int(form), *_] if form != FORMAT_VERSION or type(form) is bool:
            raise TrustListError(f"trust list: format version {form} is not known here")
        case [int(), int(version), int(issued_us), int(expires_us), list(entries)]:
            pass
        case _:
            raise TrustListError("trust list: not an array of format, version, issue, expiry and issuers")
    try:
        return TrustList(
            version=version,
            issued_us=issued_us,
            expires_us=expires_us,
            issuers=tuple(_decode_issuer(entry, place) for place, entry in enumerate(entries)),
        )
    except ValueError as error:
        raise TrustListError(f"trust list: {error}") from error


def _decode_issuer(entry: cbor.Value, place: int) -> IssuerRights:
    match entry:
        case [
            str(issuer), int(algorithm), bytes(spki), int(role), list(types), list(targets),
            int(highest_power_w), int(highest_priority), int(expires_us),
        ]:  # fmt: skip
            pass
        case _:
            raise TrustListError(f"trust list: entry {place} is not laid out as an issuer's")
    numbers = [item for item in types if type(item) is int]
    names = [item for item in targets if isinstance(item, str)]
    if numbers != types or names != targets or numbers != sorted(set(numbers)):
        raise TrustListError(f"trust list: entry {place}: types are ascending integers, targets are texts")
    if type(role) is bool or role not in list(Role):
        raise TrustListError(f"trust list: entry {place}: role {role} is not known here")
    if type(algorithm) is bool or cose.verify_key_of(spki).algorithm not in _same_key_algorithms(algorithm):
        raise TrustListError(f"trust list: entry {place}: algorithm {algorithm} does not go with its key")
    return IssuerRights(
        issuer=issuer,
        key=VerifyKey(algorithm, spki),
        role=Role(role),
        types=frozenset(numbers),
        targets=tuple(names),
        highest_power_w=highest_power_w,
        highest_priority=highest_priority,
        expires_us=expires_us,
    )


def _same_key_algorithms(algorithm: int) -> tuple[int, ...]:
    """The default algorithms of the kinds of key that an algorithm may be used with: ESP256 shares P-256 with ES256."""
    return (cose.ES256,) if algorithm == cose.ESP256 else (algorithm,)


def _check_text(text: str, what: str) -> None:
    if not 1 <= len(text) <= MOST_TEXT or not text.isprintable():
        raise ValueError(f"{what}: 1 to {MOST_TEXT} printable characters are right, found {text[:60]!r}")


def _check_number(number: int, what: str) -> None:
    if type(number) is not int or not 0 <= number <= _MOST_NUMBER:
        raise ValueError(f"{what}: {str(number)[:30]} is not an integer from 0 to 2^63 - 1")
