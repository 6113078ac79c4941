"""The cases behind proto/vectors/identity: good histories of an identifier, and one of each way of being wrong.

Keys and signatures are deterministic, and the keys are published with the vectors: never trust them outside tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import cbor2

from agent.evidence import cbor, cose
from agent.evidence.batch import SealedBatch
from agent.evidence.verify import ChainPosition
from agent.identity import history, orders
from agent.identity.cosign import Cosigned
from agent.identity.history import IdentityState
from agent.identity.orders import Kind, Order, commitment_of
from agent.identity.subject import DeviceIdentity, Location, Party, Rating, Subject
from hil_tests.evidence_cases import START_US, Json, TestKey, leaves, make_batch

OWNER: Final = TestKey("owner", cose.ES256)
OPERATOR: Final = TestKey("operator", cose.ED25519)
NEW_OWNER: Final = TestKey("owner after the sale", cose.ES256K)
FIRST: Final = TestKey("evidence 1", cose.ES256)
SECOND: Final = TestKey("evidence 2", cose.ESP256)
THIRD: Final = TestKey("evidence 3", cose.ED25519)
FOURTH: Final = TestKey("evidence 4", cose.ES256K)
REPLACEMENT: Final = TestKey("evidence of the replacement", cose.ES256)
THIEF: Final = TestKey("a thief", cose.ES256)
DEVICE: Final = TestKey("device", cose.ES256)

KEYS: Final = (OWNER, OPERATOR, NEW_OWNER, FIRST, SECOND, THIRD, FOURTH, REPLACEMENT, THIEF, DEVICE)

SUBJECT: Final = Subject(
    owner=Party("A. Owner", OWNER.verify_key),
    operator=Party("Grid Operator Ltd", OPERATOR.verify_key),
    location=Location(52_520_000, -13_410_000, 10_000),
    ratings=(
        Rating(device_id=None, name="export", value=30_000, unit="W", certificate="Body 1, no. 4711"),
        Rating(device_id="charger-1", name="discharge", value=11_000, unit="W", certificate="Body 2, no. 12"),
    ),
    devices=(
        DeviceIdentity(
            device_id="charger-1",
            serial_number="SN-0001",
            key=DEVICE.verify_key,
            meter_key=DEVICE.public_key_der,
            charger_certificate=bytes(range(32)),
        ),
        DeviceIdentity(device_id="meter-1", serial_number="", key=None, meter_key=None, charger_certificate=None),
    ),
)
CLOSING: Final = ChainPosition(1, 7, bytes([7]) * 32)
LATER: Final = ChainPosition(2, 3, bytes([3]) * 32)


@dataclass(frozen=True)
class HistoryCase:
    """`state` is None for what must be refused."""

    name: str
    entries: tuple[bytes, ...] = ()
    state: IdentityState | None = None
    encoded: bytes | None = None
    """The whole file, where it is not just the entries."""
    facts: dict[str, Json] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        encoded = history.encode_history(self.entries) if self.encoded is None else self.encoded
        shown: dict[str, Json] = {"name": self.name, "valid": self.state is not None, "history": encoded.hex()}
        if self.state is not None:
            shown |= facts_of(self.state)
        return shown


def facts_of(state: IdentityState) -> dict[str, Json]:
    """What a verifier must come to."""

    def place(of: ChainPosition | None) -> Json:
        return None if of is None else [of.incarnation, of.number, of.root.hex()]

    epochs: list[Json] = [
        {"number": e.number, "algorithm": e.key.algorithm, "key_id": e.key.key_id.hex(), "after": place(e.after),
         "until": place(e.until), "over": e.over}
        for e in state.epochs
    ]  # fmt: skip
    return {
        "gateway_id": state.gateway_id,
        "entries": state.number + 1,
        "head": state.head.hex(),
        "owner": state.subject.owner.name,
        "operator": state.subject.operator.name,
        "epochs": epochs,
    }


# -- Making entries ---------------------------------------------------------------------------------------------------


def create(key: TestKey = FIRST, following: TestKey = SECOND, subject: Subject = SUBJECT) -> Order:
    return Order(
        kind=Kind.CREATE, gateway_id=None, number=0, previous=None, issued_us=START_US, key=key.verify_key,
        next=(commitment_of(following.verify_key),), subject=subject, believed=None,
    )  # fmt: skip


def follow(state: IdentityState, kind: Kind, **changes: object) -> Order:
    """An order that follows; without changes it keeps everything."""
    kept = {
        "gateway_id": state.gateway_id, "number": state.number + 1, "previous": state.head,
        "issued_us": START_US + (state.number + 1) * 1_000_000, "key": state.key, "next": state.next,
        "subject": state.subject, "believed": None,
    }  # fmt: skip
    return Order(kind=kind, **(kept | changes))  # type: ignore[arg-type]  # by name, as the cases write them


def sign(body: Cosigned, *keys: TestKey) -> Cosigned:
    for key in keys:
        body = body.with_signature(key.verify_key, key.sign(body.to_be_signed(key.verify_key)))
    return body


def entry(
    order: Order,
    by: Sequence[TestKey],
    seals: Sequence[TestKey],
    *,
    closing: ChainPosition | None = None,
    seal: Cosigned | None = None,
) -> bytes:
    """An entry, whether its signers are the right ones or not."""
    sealed = history.seal_of(order, applied_us=order.issued_us + 1, closing=closing) if seal is None else seal
    return history.encode_entry(sign(orders.draft(order), *by), sign(sealed, *seals))


BOTH: Final = (OWNER, OPERATOR)


def created() -> tuple[bytes, IdentityState]:
    made = entry(create(), BOTH, [FIRST])
    return made, history.step(None, made)


def rotation(state: IdentityState, key: TestKey, following: TestKey) -> Order:
    return follow(state, Kind.ROTATE, key=key.verify_key, next=(commitment_of(following.verify_key),))


def rotated() -> tuple[tuple[bytes, ...], IdentityState]:
    """Created, and rotated to the second key after batch 7."""
    first, state = created()
    second = entry(rotation(state, SECOND, THIRD), BOTH, [FIRST, SECOND], closing=CLOSING)
    return (first, second), history.step(state, second)


def sold(state: IdentityState) -> Order:
    owner = Party("B. Buyer", NEW_OWNER.verify_key)
    return follow(state, Kind.CHANGE, subject=replace(SUBJECT, owner=owner))


def recovery(state: IdentityState, believed: ChainPosition | None = LATER) -> Order:
    following = (commitment_of(FOURTH.verify_key),)
    return follow(state, Kind.RECOVER, key=REPLACEMENT.verify_key, next=following, believed=believed)


# -- Cases ------------------------------------------------------------------------------------------------------------


def cases() -> Iterator[HistoryCase]:
    """Good ones first."""
    first, state = created()
    yield HistoryCase("created", (first,), state)
    two, second = rotated()
    yield HistoryCase("rotated to another algorithm of the same curve", two, second)
    empty = entry(rotation(state, SECOND, THIRD), BOTH, [FIRST, SECOND])
    yield HistoryCase("rotated before the first batch", (first, empty), history.step(state, empty))
    third = entry(rotation(second, THIRD, FOURTH), BOTH, [SECOND, THIRD], closing=LATER)
    yield HistoryCase("rotated twice, to Ed25519", (*two, third), history.step(second, third))
    sale = entry(sold(second), (OWNER, OPERATOR, NEW_OWNER), [SECOND])
    yield HistoryCase("another owner: signed by all three", (*two, sale), history.step(second, sale))
    gone = entry(recovery(second), BOTH, [REPLACEMENT])
    yield HistoryCase("a replacement gateway takes over", (*two, gone), history.step(second, gone))
    nothing = entry(recovery(second, None), BOTH, [REPLACEMENT])
    yield HistoryCase("recovered, nothing of the lost key is believed", (*two, nothing), history.step(second, nothing))
    other_form = entry(create(), (OPERATOR, OWNER), [FIRST])
    yield HistoryCase("signatures asked for in another order", (other_form,), state)

    for name, made in wrong_firsts():
        yield HistoryCase(name, (made,))
    for name, made in wrong_followers(state):
        yield HistoryCase(name, (first, made))
    for name, made in wrong_after_rotation(second):
        yield HistoryCase(name, (*two, made))
    yield from wrong_files(two)


def wrong_firsts() -> Iterator[tuple[str, bytes]]:
    order = create()
    seal = history.seal_of(order, applied_us=1, closing=None)
    yield "created without the operator", entry(order, [OWNER], [FIRST])
    yield "created without the owner", entry(order, [OPERATOR], [FIRST])
    yield "created without anybody", entry(order, [], [FIRST])
    yield "created with a stranger beside both", entry(order, [*BOTH, THIEF], [FIRST])
    yield "created without the gateway's seal", entry(order, BOTH, [])
    yield "sealed by another key", entry(order, BOTH, [THIEF])
    yield "sealed by the owner", entry(order, BOTH, [OWNER])
    yield (
        "seal is of another order",
        entry(order, BOTH, [FIRST], seal=replace(seal, payload=_seal([1, bytes(32), 1, None]))),
    )
    yield (
        "seal with an unknown version",
        entry(order, BOTH, [FIRST], seal=replace(seal, payload=_seal([2, order.hash, 1, None]))),
    )
    yield (
        "seal ends a key where none ends",
        entry(order, BOTH, [FIRST], seal=replace(seal, payload=_seal([1, order.hash, 1, [1, 1, bytes(32)]]))),
    )
    yield (
        "seal with a field more",
        entry(order, BOTH, [FIRST], seal=replace(seal, payload=_seal([1, order.hash, 1, None, 0]))),
    )
    yield "seal has the type of an order", entry(order, BOTH, [FIRST], seal=replace(seal, typ=orders.TYPE))
    mislabelled = sign(Cosigned(history.SEAL_TYPE, order.encode()), *BOTH)
    yield "order has the type of a seal", history.encode_entry(mislabelled, sign(seal, FIRST))
    good = entry(order, BOTH, [FIRST])
    yield "bit flipped in a name", good.replace(b"A. Owner", b"B. Owner")
    yield "the last signature flipped", good[:-1] + bytes([good[-1] ^ 1])
    yield "signature twice by one key", _raw(order, lambda made: [made[0], made[0]], seal)
    yield "signatures in descending order", _raw(order, lambda made: made[::-1], seal)
    yield (
        "a header that is not protected",
        _raw(order, lambda made: [[one[0], {4: b"x"}, one[2]] for one in made], seal),
    )
    faults: tuple[tuple[str, int, cbor.Value], ...] = (
        ("unknown format version", 0, 2),
        ("unknown kind", 1, 9),
        ("a first order that names a gateway", 2, "did:v2g:zQm"),
        ("a first order that is not number 0", 3, 1),
        ("a first order with a previous entry", 4, bytes(32)),
        ("issued before 1970", 5, -1),
        ("algorithm does not go with the key", 6, [cose.ES256K, FIRST.public_key_der]),
        ("key is no key", 6, [cose.ES256, b"key"]),
        ("no commitment to a next key", 7, []),
        ("commitment of 31 bytes", 7, [bytes(31)]),
        ("next key is the key itself", 7, [commitment_of(FIRST.verify_key)]),
        ("a creation that says what is believed", 9, [1, 1, bytes(32)]),
    )
    for name, place, value in faults:
        yield name, _changed(order, place, value)
    subject_faults: tuple[tuple[str, int, cbor.Value], ...] = (
        ("owner and operator have one key", 1, ["Same", [OWNER.algorithm, OWNER.public_key_der]]),
        ("the gateway's key is its owner's", 0, ["Gateway", [FIRST.algorithm, FIRST.public_key_der]]),
        ("owner without a name", 0, ["", [OWNER.algorithm, OWNER.public_key_der]]),
        ("place finer than its grid", 2, [52_520_001, 0, 10_000]),
        ("place beyond the pole", 2, [91_000_000, 0, 10_000]),
        ("rating of a device that is not listed", 3, [["pv-9", "export", 1, "W", "Body"]]),
        ("a negative rating", 3, [[None, "export", -1, "W", "Body"]]),
        ("devices out of order", 4, [["b", "", None, None, None], ["a", "", None, None, None]]),
        ("fingerprint of a certificate is short", 4, [["a", "", None, None, bytes(31)]]),
    )
    for name, place, value in subject_faults:
        yield name, _changed_subject(order, place, value)
    follower = follow(created()[1], Kind.ROTATE, key=SECOND.verify_key, next=(commitment_of(THIRD.verify_key),))
    yield "the first entry is missing", entry(follower, BOTH, [FIRST, SECOND], closing=CLOSING)


def wrong_followers(state: IdentityState) -> Iterator[tuple[str, bytes]]:
    rotate = rotation(state, SECOND, THIRD)
    both = [FIRST, SECOND]
    yield "created again", entry(create(THIEF), BOTH, [THIEF])
    yield "the same entry again", created()[0]
    yield "rotation to a key that nobody committed to", entry(rotation(state, THIEF, THIRD), BOTH, [FIRST, THIEF])
    key_but_not_algorithm = replace(rotate, key=cose.VerifyKey(cose.ES256, SECOND.public_key_der))
    by_es256 = [FIRST, replace(SECOND, algorithm=cose.ES256)]
    yield "the committed key with another algorithm", entry(key_but_not_algorithm, BOTH, by_es256, closing=CLOSING)
    yield "rotation that the gateway's old key did not seal", entry(rotate, BOTH, [SECOND], closing=CLOSING)
    yield "rotation that the new key did not seal", entry(rotate, BOTH, [FIRST], closing=CLOSING)
    yield "rotation without the operator", entry(rotate, [OWNER], both, closing=CLOSING)
    yield "rotation without the owner", entry(rotate, [OPERATOR], both, closing=CLOSING)
    yield (
        "rotation that changes the operator's name",
        entry(replace(rotate, subject=replace(SUBJECT, operator=Party("Other", OPERATOR.verify_key))), BOTH, both),
    )
    yield "rotation back to its own key", entry(replace(rotate, key=FIRST.verify_key), BOTH, [FIRST])
    yield "previous entry is another", entry(replace(rotate, previous=bytes(32)), BOTH, both)
    yield "a number is left out", entry(replace(rotate, number=2), BOTH, both)
    yield "for another gateway", entry(replace(rotate, gateway_id="did:v2g:zAnother"), BOTH, both)
    yield "change that changes nothing", entry(follow(state, Kind.CHANGE), BOTH, [FIRST])
    moved = replace(SUBJECT, location=None)
    yield "change of the place without the owner", entry(follow(state, Kind.CHANGE, subject=moved), [OPERATOR], [FIRST])
    yield (
        "change that changes the key",
        entry(follow(state, Kind.CHANGE, subject=moved, key=REPLACEMENT.verify_key), BOTH, [FIRST, REPLACEMENT]),
    )
    yield (
        "change that changes the commitment",
        entry(follow(state, Kind.CHANGE, subject=moved, next=(bytes(32),)), BOTH, [FIRST]),
    )
    yield "another owner without the new one's word", entry(sold(state), BOTH, [FIRST])
    yield "another owner without the old one's word", entry(sold(state), [NEW_OWNER, OPERATOR], [FIRST])
    yield "recovery by the operator alone", entry(recovery(state), [OPERATOR], [REPLACEMENT])
    yield "recovery that its own key did not seal", entry(recovery(state), BOTH, [FIRST])
    other = history.seal_of(recovery(state, CLOSING), applied_us=1, closing=None)
    swapped = replace(other, payload=_seal([1, recovery(state).hash, 1, [1, 7, bytes([7]) * 32]]))
    yield (
        "recovery sealed with another last batch than ordered",
        entry(recovery(state), BOTH, [REPLACEMENT], seal=swapped),
    )


def wrong_after_rotation(state: IdentityState) -> Iterator[tuple[str, bytes]]:
    back = rotation(state, THIRD, FOURTH)
    yield "a key that has ended comes back", entry(replace(recovery(state), key=FIRST.verify_key), BOTH, [FIRST])
    yield "a key ends before it began", entry(back, BOTH, [SECOND, THIRD], closing=ChainPosition(1, 6, bytes(32)))
    yield "a key ends where it began", entry(back, BOTH, [SECOND, THIRD], closing=CLOSING)


def wrong_files(entries: tuple[bytes, ...]) -> Iterator[HistoryCase]:
    good = history.encode_history(entries)
    yield HistoryCase("no entry", encoded=cbor.encode([history.MAGIC, 1, []]))
    yield HistoryCase("another format version", encoded=cbor.encode([history.MAGIC, 2, list(entries)]))
    yield HistoryCase("another magic", encoded=cbor.encode(["history", 1, list(entries)]))
    yield HistoryCase("an entry that is no byte string", encoded=cbor.encode([history.MAGIC, 1, [1]]))
    yield HistoryCase("a byte after the end", encoded=good + b"\x00")
    yield HistoryCase("cut short", encoded=good[:-1])
    yield HistoryCase("empty file", encoded=b"")
    yield HistoryCase("an entry of three parts", (*entries[:1], cbor.encode([b"", b"", b""])))
    yield HistoryCase("the second entry alone", entries[1:])


def _seal(fields: list[cbor.Value]) -> bytes:
    return cbor.encode(fields)


def fields_of(order: Order) -> list[cbor.Value]:
    value = cbor.decode(order.encode(), what="order")
    assert isinstance(value, list)
    return value


def _changed(order: Order, place: int, value: cbor.Value) -> bytes:
    fields = fields_of(order)
    fields[place] = value
    return of_body(cbor.encode(fields))


def _changed_subject(order: Order, place: int, value: cbor.Value) -> bytes:
    fields = fields_of(order)
    subject = fields[8]
    assert isinstance(subject, list)
    subject[place] = value
    return of_body(cbor.encode(fields))


def of_body(body: bytes, by: Sequence[TestKey] = BOTH) -> bytes:
    """An entry around a body that no order can have, with the right signatures."""
    order_hash = hashlib.sha256(body).digest()
    seal = Cosigned(history.SEAL_TYPE, _seal([1, order_hash, START_US, None]))
    return history.encode_entry(sign(Cosigned(orders.TYPE, body), *by), sign(seal, FIRST))


def _raw(order: Order, change: Callable[[list[list[cbor.Value]]], Sequence[cbor.Value]], seal: Cosigned) -> bytes:
    """The created entry, with its list of signatures changed behind everybody's back."""
    value = cbor.decode(sign(orders.draft(order), *BOTH).encode(), what="order")
    assert isinstance(value, cbor2.CBORTag)
    signatures: list[list[cbor.Value]] = value.value[3]
    value.value[3] = list(change(signatures))
    return cbor.encode([cbor.encode(value), sign(seal, FIRST).encode()])


# -- Evidence across a rotation ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpochCase:
    """A batch, and whether it is believed by somebody who holds the history."""

    name: str
    entries: tuple[bytes, ...]
    batch: bytes
    believed: bool

    def json(self) -> dict[str, Json]:
        encoded = history.encode_history(self.entries)
        return {
            "name": self.name,
            "valid": self.believed,
            "history": encoded.hex(),
            "batch": self.batch.hex(),
        }


def epoch_cases() -> Iterator[EpochCase]:
    """A rotation after batch 2, and a recovery after batch 3 that believes no more than that one."""
    first, state = created()

    def batch(number: int, key: TestKey, *, incarnation: int = 1, readings: int = 4) -> SealedBatch:
        previous = bytes(32) if number == 1 else bytes([number]) * 32
        return make_batch(
            leaves(number, readings), number=number, previous_root=previous, incarnation=incarnation, key=key,
            gateway_id=state.gateway_id,
        )  # fmt: skip

    def at(sealed: SealedBatch) -> ChainPosition:
        return ChainPosition(sealed.identity.incarnation, sealed.identity.number, sealed.root)

    last, third = batch(2, FIRST), batch(3, SECOND)
    rotate = entry(rotation(state, SECOND, THIRD), BOTH, [FIRST, SECOND], closing=at(last))
    rotated_state = history.step(state, rotate)
    recover = entry(recovery(rotated_state, at(third)), BOTH, [REPLACEMENT])
    two, three = (first, rotate), (first, rotate, recover)
    early = entry(rotation(state, SECOND, THIRD), BOTH, [FIRST, SECOND])

    def case(name: str, entries: tuple[bytes, ...], sealed: SealedBatch, *, believed: bool) -> EpochCase:
        return EpochCase(name, entries, sealed.encode(), believed)

    yield case("the first key before the rotation", two, batch(1, FIRST), believed=True)
    yield case("the last batch of the first key", two, last, believed=True)
    yield case("the second key after the rotation", two, third, believed=True)
    yield case("the second key in a later incarnation", two, batch(1, SECOND, incarnation=2), believed=True)
    yield case("the first key after it ended", two, batch(3, FIRST), believed=False)
    yield case("the first key in a later incarnation", two, batch(1, FIRST, incarnation=2), believed=False)
    yield case("another batch in the place of the last", two, batch(2, FIRST, readings=3), believed=False)
    yield case("the second key before the rotation", two, batch(2, SECOND), believed=False)
    yield case("the second key without its entry", (first,), third, believed=False)
    yield case("a key that signed nothing", (first, early), batch(1, FIRST), believed=False)
    yield case("its successor from the first batch on", (first, early), batch(1, SECOND), believed=True)
    yield case("the lost key as far as it is believed", three, third, believed=True)
    yield case("the lost key beyond", three, batch(4, SECOND), believed=False)
    yield case("the replacement", three, batch(1, REPLACEMENT, incarnation=2), believed=True)
    yield case("a thief", three, batch(1, THIEF, incarnation=2), believed=False)
