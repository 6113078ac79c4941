"""Orders: what is to become of an identifier, signed by its owner and its operator over one and the same body.

proto/IDENTITY.md section 4. An order says everything that its entry in the history will say, save when it was carried
out and where the old key's evidence ended: those only the gateway knows (history.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from agent.evidence import cbor
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import EvidenceError
from agent.evidence.fields import Fields
from agent.evidence.verify import ChainPosition
from agent.identity import cosign
from agent.identity.cosign import Cosigned
from agent.identity.errors import HistoryError
from agent.identity.subject import Subject, decode_key, decode_subject, encode_key, encode_subject, possible_keys

TYPE: Final = "v2g-gateway/identity-order+cose"
FORMAT_VERSIONS: Final = (1, 2)
"""2 where there are recovery keys or a second key to tell of; else 1, as long ago."""
MOST_BYTES: Final = 128 * 1024
MOST_NEXT: Final = 4


class Kind(IntEnum):
    """What an order does."""

    CREATE = 0
    ROTATE = 1
    """To the key that the entry before committed to. Nothing else changes."""
    CHANGE = 2
    """Of owner, operator, location, ratings or devices. The key stays."""
    RECOVER = 3
    """To a key that nobody committed to: the token is lost, or a replacement gateway takes over."""
    REPLACE = 4
    """The lost key of owner or operator: by the recovery key that it was committed to, and the other one."""

    @property
    def keeps_key(self) -> bool:
        """The gateway's key goes on."""
        return self in (Kind.CHANGE, Kind.REPLACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The body of an order. Raises ValueError for what no order can say."""

    kind: Kind
    gateway_id: str | None
    """None in the first, whose hash becomes the identifier."""
    number: int
    """Of the entry that it makes: 0 for the first."""
    previous: bytes | None
    """Hash of the entry before."""
    issued_us: int
    key: VerifyKey
    """Signs evidence from this entry on."""
    next: tuple[bytes, ...]
    """Commitments to the key after that, one of which a rotation must show."""
    subject: Subject
    believed: ChainPosition | None
    """Of a recovery: the last batch of the lost key that is to be believed, None: none."""
    recovery_key: VerifyKey | None = None
    """Of a replacement: the key that was committed to for the one that is lost."""

    def __post_init__(self) -> None:
        first = self.kind is Kind.CREATE
        if (
            first is not (self.number == 0)
            or first is not (self.gateway_id is None)
            or first is not (not self.previous)
        ):
            raise ValueError("the first order, and no other, creates: number 0, without gateway id and previous entry")
        if self.previous is not None and len(self.previous) != 32:
            raise ValueError("the hash of the previous entry has 32 bytes")
        if not 1 <= len(self.next) <= MOST_NEXT or any(len(commitment) != 32 for commitment in self.next):
            raise ValueError(f"1 to {MOST_NEXT} commitments of 32 bytes to the next key are right")
        if commitments_to(self.key) & set(self.next):
            raise ValueError("the next key is the key itself")
        if self.believed is not None and self.kind is not Kind.RECOVER:
            raise ValueError("only a recovery says up to which batch the key before is believed")
        if self.key.key_id in (self.subject.owner.key.key_id, self.subject.operator.key.key_id):
            raise ValueError("the gateway's key is that of its owner or operator: it could sign its own orders")

        if (self.recovery_key is not None) is not (self.kind is Kind.REPLACE):
            raise ValueError("a replacement, and nothing else, shows a recovery key")
        parties = (self.subject.owner, self.subject.operator)
        in_use = {*self.next}.union(*(commitments_to(key) for key in (self.key, *(party.key for party in parties))))
        if self.recovery_key is not None:
            in_use |= commitments_to(self.recovery_key)
        for party in parties:
            if party.recovery in in_use:
                raise ValueError(f"the recovery key of {party.name} is a key that is in use: it could be lost with it")

    @property
    def version(self) -> int:
        """Of its format: the lowest that can say it."""
        return 2 if self.kind is Kind.REPLACE else self.subject.version

    def encode(self) -> bytes:
        """The body that is signed."""
        place = self.believed
        commitments: list[cbor.Value] = list(self.next)
        return cbor.encode([
            self.version, int(self.kind), self.gateway_id, self.number, self.previous, self.issued_us,
            encode_key(self.key), commitments, encode_subject(self.subject, self.version),
            None if place is None else encode_position(place),
            *([] if self.version == 1 else [None if self.recovery_key is None else encode_key(self.recovery_key)]),
        ])  # fmt: skip

    @property
    def hash(self) -> bytes:
        """What the order is, whoever signed it."""
        return hashlib.sha256(self.encode()).digest()


def commitment_of(key: VerifyKey) -> bytes:
    """What an entry says of the next key without showing it: SHA-256 of its encoding."""
    return hashlib.sha256(cbor.encode(encode_key(key))).digest()


def commitments_to(key: VerifyKey) -> set[bytes]:
    """Those to the key under each algorithm that it may have: a P-256 key goes by two names and is one key."""
    return {commitment_of(key), *(commitment_of(each) for each in possible_keys(key.public_key_der))}


def draft(order: Order) -> Cosigned:
    """The order as it goes to those who must sign it."""
    return Cosigned(TYPE, order.encode())


def decode_envelope(encoded: bytes) -> Cosigned:
    """An order with its signatures, none of which is verified. Raises HistoryError."""
    try:
        return cosign.decode(encoded, typ=TYPE, what="order", most_bytes=MOST_BYTES)
    except EvidenceError as error:
        raise HistoryError(f"this is no order as `identity propose` writes it: {error}") from error


def decode_order(body: bytes) -> Order:
    """The order of a body. Raises HistoryError."""
    try:
        value = cbor.decode(body, what="order", most_bytes=MOST_BYTES)
        if not isinstance(value, list):
            raise HistoryError("order: not an array")
        fields = Fields(value)
        version = fields.number()
        if version not in FORMAT_VERSIONS:
            raise HistoryError(f"order: format version {version} is not known here")
        kind = fields.number()
        if kind not in list(Kind):
            raise HistoryError(f"order: kind {kind} is not known here")
        gateway_id, number, previous = fields.text_or_none(), fields.count(), fields.octets_or_none()
        issued_us, key = fields.count(), decode_key(fields.items())
        commitments = fields.items()
        following = tuple(item for item in commitments if isinstance(item, bytes))
        if len(following) != len(commitments):
            raise HistoryError("order: a commitment to the next key is no byte string")
        subject, believed = decode_subject(fields.items(), version), decode_position(fields)
        shown = None if version == 1 else fields.items_or_none()
        fields.end()
        order = Order(
            kind=Kind(kind), gateway_id=gateway_id, number=number, previous=previous, issued_us=issued_us, key=key,
            next=following, subject=subject, believed=believed,
            recovery_key=None if shown is None else decode_key(shown),
        )  # fmt: skip
        if order.version != version:
            # Else one content would have two hashes.
            raise HistoryError(f"order: is of format version {version}, and {order.version} is enough for it")
        return order
    except (EvidenceError, ValueError, TypeError) as error:
        raise HistoryError(f"order: {error}") from error


def encode_position(place: ChainPosition) -> list[cbor.Value]:
    return [place.incarnation, place.number, place.root]


def decode_position(fields: Fields) -> ChainPosition | None:
    """Raises ValueError or TypeError."""
    value = fields.items_or_none()
    if value is None:
        return None
    own = Fields(value)
    place = ChainPosition(own.ordinal(), own.ordinal(), own.octets(32))
    own.end()
    return place
