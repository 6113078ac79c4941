"""The cases of proto/vectors/identity/recoveries.json: recovery keys of owner and operator, and the second key.

Format version 2 of orders. Keys are deterministic and published with the vectors: never trust them outside tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from agent.evidence import cbor, cose
from agent.evidence.cose import VerifyKey
from agent.identity import history
from agent.identity.history import IdentityState
from agent.identity.orders import Kind, Order, commitment_of
from agent.identity.subject import Party, Subject
from hil_tests.countersignature_cases import SecondKey
from hil_tests.evidence_cases import Json, TestKey
from hil_tests.identity_cases import (
    BOTH,
    CLOSING,
    FIRST,
    NEW_OWNER,
    OPERATOR,
    OWNER,
    REPLACEMENT,
    SECOND,
    SUBJECT,
    THIEF,
    THIRD,
    HistoryCase,
    create,
    created,
    entry,
    facts_of,
    fields_of,
    follow,
    of_body,
    recovery,
    rotation,
)

OWNER_RECOVERY: Final = TestKey("owner's recovery", cose.ED25519)
OPERATOR_RECOVERY: Final = TestKey("operator's recovery", cose.ES256)
NEXT_RECOVERY: Final = TestKey("owner's recovery after that", cose.ES256)
FOUND_AGAIN: Final = TestKey("owner with another key", cose.ES256)
COUNTERSIGNER: Final = SecondKey("countersigner")
LATER_COUNTERSIGNER: Final = SecondKey("countersigner after the rotation")

KEYS: Final = (OWNER_RECOVERY, OPERATOR_RECOVERY, NEXT_RECOVERY, FOUND_AGAIN)

SAFE: Final = replace(
    SUBJECT,
    owner=replace(SUBJECT.owner, recovery=commitment_of(OWNER_RECOVERY.verify_key)),
    operator=replace(SUBJECT.operator, recovery=commitment_of(OPERATOR_RECOVERY.verify_key)),
    countersigner=COUNTERSIGNER.verify_key,
)


def facts(state: IdentityState) -> dict[str, Json]:
    """What a verifier must come to, beyond the facts of every history."""
    seconds: list[Json] = [
        None if epoch.countersigner is None else epoch.countersigner.key_id.hex() for epoch in state.epochs
    ]
    return {
        "owner_key": state.subject.owner.key.key_id.hex(),
        "operator_key": state.subject.operator.key.key_id.hex(),
        "countersigners": seconds,
    }


def safe() -> tuple[bytes, IdentityState]:
    """Created with recovery keys and a second key."""
    made = entry(create(subject=SAFE), BOTH, [FIRST])
    return made, history.step(None, made)


def with_owner(subject: Subject, key: TestKey, following: TestKey | None) -> Subject:
    commitment = None if following is None else commitment_of(following.verify_key)
    return replace(subject, owner=Party(subject.owner.name, key.verify_key, commitment))


def replacement(state: IdentityState, following: TestKey | None = NEXT_RECOVERY, shown: TestKey | None = None) -> Order:
    """The owner's lost key is replaced."""
    shown = OWNER_RECOVERY if shown is None else shown
    subject = with_owner(state.subject, FOUND_AGAIN, following)
    return follow(state, Kind.REPLACE, subject=subject, recovery_key=shown.verify_key)


ALL_THREE: Final = (OPERATOR, OWNER_RECOVERY, FOUND_AGAIN)


def cases() -> Iterator[HistoryCase]:
    """Good ones first."""

    def good(name: str, *entries: bytes) -> HistoryCase:
        state = history.replay(entries)
        return HistoryCase(name, entries, state, facts=facts(state))

    first, state = safe()
    yield good("created with recovery keys and a second key", first)
    replaced = entry(replacement(state), ALL_THREE, [FIRST])
    yield good("the owner's lost key is replaced", first, replaced)
    after = history.step(state, replaced)
    again_subject = with_owner(after.subject, OWNER, None)
    again = follow(after, Kind.REPLACE, subject=again_subject, recovery_key=NEXT_RECOVERY.verify_key)
    yield good(
        "replaced again, without another recovery key",
        first,
        replaced,
        entry(again, (OPERATOR, NEXT_RECOVERY, OWNER), [FIRST]),
    )
    itself = follow(
        state,
        Kind.REPLACE,
        subject=with_owner(state.subject, OWNER_RECOVERY, NEXT_RECOVERY),
        recovery_key=OWNER_RECOVERY.verify_key,
    )
    yield good(
        "the recovery key takes the place of the lost one", first, entry(itself, (OPERATOR, OWNER_RECOVERY), [FIRST])
    )
    theirs = replace(state.subject, operator=Party(SUBJECT.operator.name, REPLACEMENT.verify_key, NEXT_COMMITMENT))
    operators = follow(state, Kind.REPLACE, subject=theirs, recovery_key=OPERATOR_RECOVERY.verify_key)
    yield good(
        "the operator's lost key is replaced",
        first,
        entry(operators, (OWNER, OPERATOR_RECOVERY, REPLACEMENT), [FIRST]),
    )
    old, plain = created()
    brought = follow(plain, Kind.CHANGE, subject=SAFE)
    yield good("a history without them gets them by a change", old, entry(brought, BOTH, [FIRST]))
    rotate = rotation(state, SECOND, THIRD)
    yield good("a rotation keeps the second key", first, entry(rotate, BOTH, [FIRST, SECOND], closing=CLOSING))
    both = replace(rotate, subject=replace(SAFE, countersigner=LATER_COUNTERSIGNER.verify_key))
    yield good("a rotation brings another second key", first, entry(both, BOTH, [FIRST, SECOND], closing=CLOSING))
    yield good("a recovery without a second key", first, _recovered_without(state))

    for name, made in wrong_replacements(state):
        yield HistoryCase(name, (first, made))
    yield HistoryCase("replacement where no recovery key was named", (old, _bare_replacement(plain)))
    for name, made in wrong_firsts():
        yield HistoryCase(name, (made,))


NEXT_COMMITMENT: Final = commitment_of(NEXT_RECOVERY.verify_key)


def wrong_replacements(state: IdentityState) -> Iterator[tuple[str, bytes]]:
    order = replacement(state)
    yield "replacement without the other party", entry(order, (OWNER_RECOVERY, FOUND_AGAIN), [FIRST])
    yield "replacement without the recovery key", entry(order, (OPERATOR, FOUND_AGAIN), [FIRST])
    yield "replacement without the new key's word", entry(order, (OPERATOR, OWNER_RECOVERY), [FIRST])
    yield "replacement with the lost key beside", entry(order, (*ALL_THREE, OWNER), [FIRST])
    yield "replacement by the lost key instead of the recovery key", entry(order, (*BOTH, FOUND_AGAIN), [FIRST])
    yield "replacement that the gateway did not seal", entry(order, ALL_THREE, [])
    thief = replacement(state, shown=THIEF)
    yield "replacement by a recovery key that nobody named", entry(thief, (OPERATOR, THIEF, FOUND_AGAIN), [FIRST])
    other = fields_of(order)
    other[10] = [OPERATOR_RECOVERY.algorithm, OPERATOR_RECOVERY.public_key_der]
    by_other = (OPERATOR, OPERATOR_RECOVERY, FOUND_AGAIN)
    yield "replacement of the owner by the operator's recovery key", of_body(cbor.encode(other), by_other)
    fields = fields_of(order)
    fields[8][0][2] = commitment_of(_by_other_name(FOUND_AGAIN))  # type: ignore[index]  # owner's
    yield (
        "replacement that commits to the new key by its other algorithm",
        of_body(cbor.encode(fields), ALL_THREE),
    )
    kept = replace(order, subject=replace(order.subject, location=None))
    yield "replacement that changes the place too", entry(kept, ALL_THREE, [FIRST])
    named = replace(order, subject=replace(order.subject, owner=replace(order.subject.owner, name="Somebody")))
    yield "replacement that changes the name too", entry(named, ALL_THREE, [FIRST])
    second = replace(order, subject=replace(order.subject, countersigner=None))
    yield "replacement that drops the second key", entry(second, ALL_THREE, [FIRST])
    next_key = replace(order, next=(bytes(32),))
    yield "replacement that changes the commitment", entry(next_key, ALL_THREE, [FIRST])
    two = replace(order.subject, operator=Party(SUBJECT.operator.name, REPLACEMENT.verify_key))
    everybody = (OPERATOR, OWNER_RECOVERY, FOUND_AGAIN, REPLACEMENT)
    yield "replacement of both at once", entry(replace(order, subject=two), everybody, [FIRST])
    nobody = replace(order, subject=replace(state.subject, owner=replace(state.subject.owner, recovery=None)))
    yield "replacement of nobody", entry(nobody, (*BOTH, OWNER_RECOVERY), [FIRST])
    fields = fields_of(order)
    fields[8][0][2] = commitment_of(OWNER_RECOVERY.verify_key)  # type: ignore[index]  # owner's
    yield "replacement that names the spent recovery key again", of_body(cbor.encode(fields), ALL_THREE)
    sale = replace(
        state.subject, owner=Party("B. Buyer", NEW_OWNER.verify_key, commitment_of(OWNER_RECOVERY.verify_key))
    )
    yield (
        "sold, and the seller's recovery key stays",
        entry(follow(state, Kind.CHANGE, subject=sale), (*BOTH, NEW_OWNER), [FIRST]),
    )
    another = replace(state.subject, countersigner=LATER_COUNTERSIGNER.verify_key)
    yield "a change of the second key", entry(follow(state, Kind.CHANGE, subject=another), BOTH, [FIRST])
    dropped = replace(state.subject, countersigner=None)
    yield "a change that drops the second key", entry(follow(state, Kind.CHANGE, subject=dropped), BOTH, [FIRST])
    rotate = rotation(state, SECOND, THIRD)
    lost = replace(rotate, subject=replace(SAFE, owner=replace(SAFE.owner, recovery=NEXT_COMMITMENT)))
    yield (
        "a rotation that changes a recovery key",
        entry(lost, BOTH, [FIRST, SECOND], closing=CLOSING),
    )


def wrong_firsts() -> Iterator[tuple[str, bytes]]:
    order = create(subject=SAFE)

    def changed(*path_and_value: object) -> bytes:
        *path, value = path_and_value
        fields = fields_of(order)
        inner: list[cbor.Value] = fields
        for place in path[:-1]:
            inner = inner[place]  # type: ignore[call-overload]  # arrays in arrays
        inner[path[-1]] = value  # type: ignore[call-overload]  # as above
        return of_body(cbor.encode(fields))

    yield "unknown format version", changed(0, 3)
    yield "format version 1 with the fields of 2", changed(0, 1)
    yield "a creation that shows a recovery key", changed(10, [cose.ED25519, OWNER_RECOVERY.public_key_der])
    yield "commitment to a recovery key of 31 bytes", changed(8, 0, 2, bytes(31))
    yield "recovery key is the owner's own", changed(8, 0, 2, commitment_of(OWNER.verify_key))
    yield "owner's recovery key is the operator's", changed(8, 0, 2, commitment_of(OPERATOR.verify_key))
    owners = commitment_of(_by_other_name(OWNER))
    yield "operator's recovery key is the owner's by its other algorithm", changed(8, 1, 2, owners)
    yield "next key is the key itself by its other algorithm", changed(7, [commitment_of(_by_other_name(FIRST))])
    yield "recovery key is the gateway's", changed(8, 0, 2, commitment_of(FIRST.verify_key))
    yield "recovery key is the gateway's next", changed(8, 0, 2, commitment_of(SECOND.verify_key))
    yield "owner and operator have one recovery key", changed(8, 0, 2, commitment_of(OPERATOR_RECOVERY.verify_key))
    yield "the second key is of the first one's kind", changed(8, 5, [cose.ES256, SECOND.public_key_der])
    plain = fields_of(create())
    plain[0] = 2
    subject = plain[8]
    assert isinstance(subject, list)
    plain[8] = [[*_list(subject[0]), None], [*_list(subject[1]), None], *subject[2:], None]
    yield "format version 2 without need", of_body(cbor.encode([*plain, None]))


def _by_other_name(key: TestKey) -> VerifyKey:
    """A P-256 key is both ES256's and ESP256's, and one key all the same."""
    assert key.algorithm == cose.ES256
    return VerifyKey(cose.ESP256, key.public_key_der)


def _list(value: cbor.Value) -> list[cbor.Value]:
    assert isinstance(value, list)
    return value


def _recovered_without(state: IdentityState) -> bytes:
    order = replace(recovery(state), subject=replace(SAFE, countersigner=None))
    return entry(order, BOTH, [REPLACEMENT])


def _bare_replacement(state: IdentityState) -> bytes:
    return entry(replacement(state), ALL_THREE, [FIRST])


def json_of(case: HistoryCase) -> dict[str, Json]:
    """As in the file."""
    shown = case.json()
    return shown if case.state is None else shown | facts_of(case.state) | case.facts
