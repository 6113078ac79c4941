"""A self-certifying identifier: a history of signed entries, whose first one is its name and commits to the next key.

proto/IDENTITY.md. Pure: (state, entry) -> state, or an error. An entry is an order that owner and operator signed, and
the seal of the gateway's own keys over it. The name is the hash of the first order, so that nobody can make another
history of that name; each entry names the hash of the next key, so that a stolen one cannot rotate to a thief's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent.evidence import cbor
from agent.evidence.cose import VerifyKey
from agent.evidence.countersignature import Policy
from agent.evidence.errors import EvidenceError
from agent.evidence.fields import Fields
from agent.evidence.verify import ChainPosition, TrustedKey
from agent.identity import cosign
from agent.identity.cosign import Cosigned
from agent.identity.did import base58
from agent.identity.errors import HistoryError
from agent.identity.orders import (
    MOST_BYTES,
    Kind,
    Order,
    commitment_of,
    decode_envelope,
    decode_order,
    decode_position,
    encode_position,
)
from agent.identity.subject import MOST_TEXT, Party, Subject

SEAL_TYPE: Final = "v2g-gateway/identity-entry+cose"
MAGIC: Final = "v2g-gateway/identity"
FORMAT_VERSION: Final = 1
MOST_HISTORY_BYTES: Final = 4 << 20
MOST_ENTRIES: Final = 1024
PREFIX: Final = "did:v2g:z"
_SHA256: Final = b"\x12\x20"
"""Multihash: SHA-256, 32 bytes."""


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """A key and the part of the gateway's chain of batches that it signed."""

    number: int
    """From 1."""
    key: VerifyKey
    after: ChainPosition | None
    """The last batch of the epochs before, None: it signs from the first."""
    until: ChainPosition | None
    """The last batch of this one. None: it is the present one, or it signed nothing."""
    over: bool
    countersigner: VerifyKey | None = None
    """The second key, which countersigns the roots of this part; None: none was named."""

    @property
    def empty(self) -> bool:
        """It is over and signed nothing that is to be believed."""
        return self.over and self.until is None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityState:
    """What a history says at its end."""

    gateway_id: str
    number: int
    """Of the newest entry."""
    head: bytes
    """Hash of the newest entry."""
    applied_us: int
    """When the newest entry was carried out, by the gateway's clock; orders nothing."""
    next: tuple[bytes, ...]
    subject: Subject
    epochs: tuple[KeyEpoch, ...]
    """All keys there ever were, the present one last."""

    @property
    def key(self) -> VerifyKey:
        """The one that signs now."""
        return self.epochs[-1].key

    def trusted_keys(self, policy: Policy = Policy.EITHER) -> list[TrustedKey]:
        """What a verifier of evidence needs: each key, for the part of the chain that it signed.

        With `both` and `pq-only` the second key goes with it. Not with `either`: there a signature by the second key,
        which is in a file, would stand for one by the token's.
        """
        return [
            TrustedKey(
                self.gateway_id,
                epoch.key,
                epoch.after,
                epoch.until,
                countersigner=None if policy is Policy.EITHER else epoch.countersigner,
                policy=policy,
            )
            for epoch in self.epochs
            if not epoch.empty
        ]


@dataclass(frozen=True, slots=True)
class Seal:
    """What the gateway adds when it carries out an order."""

    order_hash: bytes
    applied_us: int
    closing: ChainPosition | None
    """The last batch of the key that ends here; None when none ends, or it signed nothing."""

    def encode(self) -> bytes:
        """The body that the gateway's keys sign."""
        closing = None if self.closing is None else encode_position(self.closing)
        return cbor.encode([FORMAT_VERSION, self.order_hash, self.applied_us, closing])


def identifier_of(first: Order) -> str:
    """The name that a first order gives: base58btc of the multihash of its body."""
    return PREFIX + base58(_SHA256 + first.hash)


def signers_of(state: IdentityState | None, order: Order) -> tuple[Party, ...]:
    """Who must sign an order: owner and operator, those that there are and those that it brings in."""
    parties = [order.subject.owner, order.subject.operator]
    if state is not None and order.kind is Kind.REPLACE and order.recovery_key is not None:
        lost = lost_party(state, order)
        parties.append(Party(f"the recovery key of {lost.name}"[:MOST_TEXT], order.recovery_key))
    elif state is not None:
        parties += [state.subject.owner, state.subject.operator]
    return tuple({party.key.key_id: party for party in parties}.values())


def lost_party(state: IdentityState, order: Order) -> Party:
    """Whose key a replacement replaces. Raises HistoryError where it is not just one's."""
    before, after = state.subject, order.subject
    changed = [
        was
        for was, is_now in ((before.owner, after.owner), (before.operator, after.operator))
        if was.key.key_id != is_now.key.key_id
    ]
    if len(changed) != 1:
        raise HistoryError(f"order {order.number}: a replacement replaces the key of owner or operator, of one of them")
    return changed[0]


def check_order(state: IdentityState | None, envelope: Cosigned) -> Order:
    """The order, if it follows from the state and everybody who must has signed it. Raises HistoryError."""
    order = decode_order(envelope.payload)
    _check_place(state, order)
    if state is not None:
        _check_content(state, order)
    parties = signers_of(state, order)
    try:
        signed = envelope.verified_by(party.key for party in parties)
    except EvidenceError as error:
        raise HistoryError(f"order {order.number}: {error}") from error
    missing = [party.name for party in parties if party.key.key_id not in signed]
    if missing:
        raise HistoryError(f"order {order.number}: not signed by {', '.join(missing)}; both owner and operator must")
    return order


def sealers_of(state: IdentityState | None, order: Order) -> tuple[VerifyKey, ...]:
    """Which keys of the gateway seal an order: the present one, and the one that takes over.

    In a recovery the present one is lost: owner and operator stand for it.
    """
    if state is None or order.kind is Kind.RECOVER or state.key.key_id == order.key.key_id:
        return (order.key,)
    return (state.key, order.key)


def seal_of(order: Order, *, applied_us: int, closing: ChainPosition | None) -> Cosigned:
    """What the gateway's keys are to sign. `closing` counts for a rotation only."""
    if order.kind is not Kind.ROTATE:
        closing = order.believed
    return Cosigned(SEAL_TYPE, Seal(order.hash, applied_us, closing).encode())


def encode_entry(order: Cosigned, seal: Cosigned) -> bytes:
    """The finished entry."""
    return cbor.encode([order.encode(), seal.encode()])


def step(state: IdentityState | None, entry: bytes) -> IdentityState:
    """The state after an entry; `state` is None before the first. Raises HistoryError, and nothing has changed."""
    where = "entry 0" if state is None else f"entry {state.number + 1}"
    try:
        value = cbor.decode(entry, what=where, most_bytes=2 * MOST_BYTES)
        match value:
            case [bytes(order_bytes), bytes(seal_bytes)]:
                pass
            case _:
                raise HistoryError(f"{where}: not an array of an order and its seal")
        order = check_order(state, decode_envelope(order_bytes))
        sealed = cosign.decode(seal_bytes, typ=SEAL_TYPE, what=f"{where}: seal", most_bytes=MOST_BYTES)
        sealers = sealers_of(state, order)
        signed = sealed.verified_by(sealers)
        if len(signed) != len(sealers):
            raise HistoryError(f"{where}: {len(sealers)} keys of the gateway must seal it, {len(signed)} did")
        seal = _decode_seal(sealed.payload, where)
    except EvidenceError as error:
        raise HistoryError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    if seal.order_hash != order.hash:
        raise HistoryError(f"{where}: its seal is of another order")
    return _after(state, order, seal, hashlib.sha256(sealed.payload).digest(), where)


def replay(entries: Iterable[bytes], *, gateway_id: str | None = None) -> IdentityState:
    """The state at the end of a history. `gateway_id`: whose it must be. Raises HistoryError."""
    state: IdentityState | None = None
    for entry in entries:
        state = step(state, entry)
        if gateway_id is not None and state.gateway_id != gateway_id:
            raise HistoryError(f"the history is of {state.gateway_id}, not of {gateway_id[:80]}")
    if state is None:
        raise HistoryError("the history has no entry")
    return state


def device_keys(entries: Iterable[bytes], device_id: str) -> dict[bytes, VerifyKey]:
    """The keys that a device ever had, by their ids, as a history that was replayed names them. Raises HistoryError."""
    found: dict[bytes, VerifyKey] = {}
    for entry in entries:
        for device in decode_order(order_of(entry).payload).subject.devices:
            if device.device_id == device_id and device.key is not None:
                found[device.key.key_id] = device.key
    return found


def order_of(entry: bytes) -> Cosigned:
    """The order in an entry of a history that was replayed. Raises HistoryError."""
    value = cbor.decode(entry, what="entry", most_bytes=2 * MOST_BYTES)
    match value:
        case [bytes(order_bytes), bytes()]:
            return decode_envelope(order_bytes)
    raise HistoryError("entry: not an array of an order and its seal")


def continues(newer: Sequence[bytes], older: Sequence[bytes]) -> bool:
    """Whether a history is another one with entries added.

    By content: the same signatures may be written in another form (ECDSA).
    """
    if len(newer) < len(older):
        return False
    ours, theirs = replay(older), replay(newer[: len(older)])
    return ours.head == theirs.head


def encode_history(entries: Iterable[bytes]) -> bytes:
    """A history as a file."""
    listed: list[cbor.Value] = list(entries)
    return cbor.encode([MAGIC, FORMAT_VERSION, listed])


def decode_history(encoded: bytes) -> tuple[bytes, ...]:
    """The entries in a file, none of them verified: `replay` does that. Raises HistoryError."""
    try:
        value = cbor.decode(encoded, what="history", most_bytes=MOST_HISTORY_BYTES)
    except EvidenceError as error:
        raise HistoryError(f"this is no history of a gateway: {error}") from error
    match value:
        case [str(magic), int(version), list(listed)] if magic == MAGIC and type(version) is int:
            if version != FORMAT_VERSION:
                raise HistoryError(f"history: format version {version} is not known here")
            entries = tuple(item for item in listed if isinstance(item, bytes))
            if len(entries) == len(listed) and 1 <= len(entries) <= MOST_ENTRIES:
                return entries
            raise HistoryError(f"history: 1 to {MOST_ENTRIES} entries, each a byte string, are right")
    raise HistoryError(f"this is no history of a gateway: it does not begin with [{MAGIC}, {FORMAT_VERSION}, ...]")


def _check_place(state: IdentityState | None, order: Order) -> None:
    if state is None:
        if order.kind is not Kind.CREATE:
            raise HistoryError("order: the first one creates the identifier; there is no history that this one follows")
        return
    if order.kind is Kind.CREATE:
        raise HistoryError(f"order: creates an identifier, and there is {state.gateway_id} already")
    if order.gateway_id != state.gateway_id:
        raise HistoryError(f"order: is for {str(order.gateway_id)[:80]}, not for {state.gateway_id}")
    if order.number != state.number + 1 or order.previous != state.head:
        raise HistoryError(
            f"order {order.number}: does not follow entry {state.number} of this history; propose it anew from the "
            "present state"
        )


def _check_content(state: IdentityState, order: Order) -> None:
    what = f"order {order.number}"
    changes_key = order.key.key_id != state.key.key_id
    if order.kind.keeps_key and (changes_key or order.key != state.key or order.next != state.next):
        raise HistoryError(f"{what}: a {order.kind.name.lower()} keeps the key and the commitment to the next one")
    _check_recovery_keys(state, order, what)
    if order.kind is Kind.REPLACE:
        _check_replacement(state, order, what)
        return
    if order.kind is Kind.CHANGE:
        if order.subject == state.subject:
            raise HistoryError(f"{what}: changes nothing")
        if state.subject.countersigner not in (None, order.subject.countersigner):
            raise HistoryError(f"{what}: the second key ends with the first one: change it by a rotation")
        return
    if order.key.key_id in {epoch.key.key_id for epoch in state.epochs}:
        raise HistoryError(f"{what}: its key has been used before; a key that has ended never comes back")
    if order.kind is Kind.ROTATE:
        if commitment_of(order.key) not in state.next:
            raise HistoryError(f"{what}: its key is not the one that the entry before committed to")
        if replace(order.subject, countersigner=state.subject.countersigner) != state.subject:
            raise HistoryError(f"{what}: a rotation changes keys of the gateway only; change the rest by a change")


def _check_recovery_keys(state: IdentityState, order: Order, what: str) -> None:
    """Who comes in brings a recovery key of its own, or none: else the one who left could come back with it."""
    for was, is_now in ((state.subject.owner, order.subject.owner), (state.subject.operator, order.subject.operator)):
        if was.key.key_id != is_now.key.key_id and is_now.recovery is not None and is_now.recovery == was.recovery:
            raise HistoryError(f"{what}: the new key of {is_now.name} has the recovery key of the one before")


def _check_replacement(state: IdentityState, order: Order, what: str) -> None:
    lost = lost_party(state, order)
    assert order.recovery_key is not None
    if lost.recovery is None or commitment_of(order.recovery_key) != lost.recovery:
        raise HistoryError(f"{what}: its recovery key is not the one that was committed to for {lost.name}")
    before, after = state.subject, order.subject
    if lost is before.owner:
        after = replace(after, owner=replace(after.owner, key=lost.key, recovery=lost.recovery))
    else:
        after = replace(after, operator=replace(after.operator, key=lost.key, recovery=lost.recovery))
    if after != before:
        raise HistoryError(f"{what}: a replacement changes a lost key and nothing else; change the rest by a change")


def _decode_seal(payload: bytes, where: str) -> Seal:
    try:
        value = cbor.decode(payload, what=f"{where}: seal", most_bytes=MOST_BYTES)
        if not isinstance(value, list):
            raise HistoryError(f"{where}: its seal is not an array")
        fields = Fields(value)
        version = fields.number()
        if version != FORMAT_VERSION:
            raise HistoryError(f"{where}: seal of format version {version} is not known here")
        seal = Seal(fields.octets(32), fields.count(), decode_position(fields))
        fields.end()
    except (ValueError, TypeError) as error:
        raise HistoryError(f"{where}: seal: {error}") from error
    return seal


def _after(state: IdentityState | None, order: Order, seal: Seal, head: bytes, where: str) -> IdentityState:
    if order.kind is not Kind.ROTATE and seal.closing != order.believed:
        raise HistoryError(f"{where}: its seal ends a key elsewhere than its order says")
    if state is None:
        return IdentityState(
            gateway_id=identifier_of(order),
            number=0,
            head=head,
            applied_us=seal.applied_us,
            next=order.next,
            subject=order.subject,
            epochs=(KeyEpoch(1, order.key, None, None, over=False, countersigner=order.subject.countersigner),),
        )
    epochs = state.epochs
    second = order.subject.countersigner
    if order.kind.keeps_key:
        epochs = (*epochs[:-1], replace(epochs[-1], countersigner=second or epochs[-1].countersigner))
    else:
        last, closing = epochs[-1], seal.closing
        if closing is not None and last.after is not None and closing.place <= last.after.place:
            raise HistoryError(f"{where}: ends a key before it began")
        ended = replace(last, until=closing, over=True)
        after = last.after if closing is None else closing
        epochs = (*epochs[:-1], ended, KeyEpoch(last.number + 1, order.key, after, None, False, second))
    return replace(
        state,
        number=order.number,
        head=head,
        applied_us=seal.applied_us,
        next=order.next,
        subject=order.subject,
        epochs=epochs,
    )
