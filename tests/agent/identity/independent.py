"""A verifier of histories written from proto/IDENTITY.md alone: it shares no code with agent/identity.

Refuses by raising. Strict CBOR, key and signature checks come from the stranger's verifier of evidence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.agent.evidence import independent as evidence
from tests.agent.evidence.independent import refuse_unless

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
CURVES = {-7: "secp256r1", -9: "secp256r1", -47: "secp256k1", -19: "ed25519"}


@dataclass
class Epoch:
    number: int
    key: Any
    after: Any
    until: Any = None
    over: bool = False
    countersigner: Any = None


@dataclass
class State:
    gateway_id: str
    entries: int
    head: bytes
    key: Any
    next: Any
    subject: Any
    epochs: list[Epoch] = field(default_factory=list)


def sha256(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


def strict(encoded: bytes) -> Any:
    """EVIDENCE.md section 1; tag 98 in place of 18."""
    value: Any = cbor2.loads(encoded)
    if isinstance(value, cbor2.CBORTag):
        refuse_unless(value.tag == 98, "tag")
        refuse_unless(encoded == b"\xd8\x62" + evidence.dump(value.value, 1), "not deterministic")
        return value.value
    refuse_unless(evidence.dump(value, 0) == encoded, "not deterministic")
    return value


def signers(message: bytes, typ: str, keys: list[Any]) -> tuple[bytes, set[bytes]]:
    """Section 2: the body, and whose signatures are on it. `keys` are those that may sign."""
    refuse_unless(len(message) <= 131_072, "size")
    protected, unprotected, body, signatures = strict(message)
    refuse_unless(unprotected == {} and strict(protected) == {16: typ}, "header")
    trusted = {sha256(spki): (alg, spki) for alg, spki in keys}
    seen: list[bytes] = []
    refuse_unless(len(signatures) <= 16, "signatures")
    for own, more, signature in signatures:
        header = strict(own)
        refuse_unless(set(header) == {1, 4} and more == {}, "header of a signature")
        kid = header[4]
        refuse_unless(kid in trusted, "stranger")
        alg, spki = trusted[kid]
        refuse_unless(header[1] == alg, "algorithm")
        signed = evidence.dump(["Signature", protected, own, b"", body], 0)
        evidence.check_signature(spki, alg, signed, signature)
        seen.append(kid)
    refuse_unless(seen == sorted(set(seen)), "order of signatures")
    return body, set(seen)


def replay(encoded: bytes) -> State:
    """Sections 2 to 5."""
    refuse_unless(len(encoded) <= 4 << 20, "size")
    magic, version, entries = strict(encoded)
    refuse_unless((magic, version) == ("v2g-gateway/identity", 1), "head")
    refuse_unless(1 <= len(entries) <= 1024, "entries")
    state: State | None = None
    for entry in entries:
        state = step(state, entry)
    assert state is not None
    return state


def step(state: State | None, entry: bytes) -> State:
    order_message, seal_message = strict(entry)
    order_body = strict(order_message)[2]
    fields = strict(order_body)
    version, kind, gateway_id, number, previous, issued, key, following, subject, believed = fields[:10]
    refuse_unless(version in (1, 2) and kind in (0, 1, 2, 3, 4), "version or kind")
    refuse_unless(len(fields) == (10 if version == 1 else 11), "fields")
    shown = fields[10] if version == 2 else None
    if shown is not None:
        check_key(shown)
    refuse_unless((shown is not None) == (kind == 4), "recovery key")
    evidence.field(issued, "count")
    check_key(key)
    check_subject(subject, version)
    subject = subject if version == 2 else with_nulls(subject)
    recoveries = [party[2] for party in subject[:2] if party[2] is not None]
    refuse_unless(version == 1 or kind == 4 or recoveries != [] or subject[5] is not None, "version 2 without need")
    check_position(believed)
    refuse_unless(1 <= len(following) <= 4 and all(type(c) is bytes and len(c) == 32 for c in following), "next")
    commitment = sha256(evidence.dump(key, 0))
    refuse_unless(not commitments(key) & set(following), "next is the key")
    owner, operator = subject[0][1], subject[1][1]
    refuse_unless(key[1] not in (owner[1], operator[1]), "own orders")
    in_use = set(following).union(*(commitments(one) for one in (key, owner, operator, *([shown] if shown else []))))
    refuse_unless(len(set(recoveries)) == len(recoveries) and not set(recoveries) & in_use, "recovery in use")
    refuse_unless(believed is None or kind == 3, "believed")
    parties = [owner, operator]
    sealers = [key]
    if state is None:
        refuse_unless((kind, gateway_id, number, previous) == (0, None, 0, None), "first")
    else:
        refuse_unless(kind != 0 and gateway_id == state.gateway_id, "gateway")
        refuse_unless(number == state.entries and previous == state.head, "place")
        before = state.subject
        for was, now in zip(before[:2], subject[:2], strict=True):
            refuse_unless(was[1][1] == now[1][1] or now[2] is None or now[2] != was[2], "recovery of who left")
        parties += [before[0][1], before[1][1]] if kind != 4 else [shown]
        if kind == 4:
            lost = [n for n in (0, 1) if before[n][1][1] != subject[n][1][1]]
            refuse_unless(len(lost) == 1 and before[lost[0]][2] == sha256(evidence.dump(shown, 0)), "whose recovery")
            put_back = list(subject)
            put_back[lost[0]] = [subject[lost[0]][0], *before[lost[0]][1:]]
            refuse_unless(key == state.key and following == state.next and put_back == before, "replacement")
        used = [epoch.key[1] for epoch in state.epochs]
        if kind == 2:
            refuse_unless(key == state.key and following == state.next and subject != state.subject, "change")
            refuse_unless(before[5] is None or subject[5] == before[5], "second key")
        elif kind != 4:
            refuse_unless(key[1] not in used, "used before")
        if kind == 1:
            refuse_unless(commitment in state.next and subject[:5] == before[:5], "rotation")
            sealers.append(state.key)
    body, by = signers(order_message, "v2g-gateway/identity-order+cose", parties)
    refuse_unless(by == {sha256(party[1]) for party in parties}, "who signed")
    seal_body, sealed_by = signers(seal_message, "v2g-gateway/identity-entry+cose", sealers)
    refuse_unless(sealed_by == {sha256(one[1]) for one in sealers}, "who sealed")
    seal_version, order_hash, applied, closing = strict(seal_body)
    refuse_unless(seal_version == 1 and order_hash == sha256(body), "seal")
    evidence.field(applied, "count")
    check_position(closing)
    refuse_unless(kind == 1 or closing == believed, "closing")
    head = sha256(seal_body)
    if state is None:
        return State(
            name_of(sha256(order_body)),
            1,
            head,
            key,
            following,
            subject,
            [Epoch(1, key, None, countersigner=subject[5])],
        )
    if kind in (2, 4):
        state.epochs[-1].countersigner = subject[5] or state.epochs[-1].countersigner
    else:
        last = state.epochs[-1]
        refuse_unless(closing is None or last.after is None or closing[:2] > last.after[:2], "closing before")
        last.until, last.over = closing, True
        after = last.after if closing is None else closing
        state.epochs.append(Epoch(last.number + 1, key, after, countersigner=subject[5]))
    return State(state.gateway_id, state.entries + 1, head, key, following, subject, state.epochs)


def name_of(digest: bytes) -> str:
    """Section 1."""
    number, digits = int.from_bytes(b"\x12\x20" + digest), ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return f"did:v2g:z{digits}"


def check_key(key: Any) -> None:
    alg, spki = key
    public = load_der_public_key(spki)
    kind = public.curve.name if isinstance(public, ec.EllipticCurvePublicKey) else "ed25519"
    refuse_unless(CURVES.get(alg) == kind, "algorithm does not go with the key")


def commitments(key: Any) -> set[bytes]:
    """To a key, under each algorithm that goes with it."""
    names = (-7, -9) if key[0] in (-7, -9) else (key[0],)
    return {sha256(evidence.dump([name, key[1]], 0)) for name in names}


def check_position(place: Any) -> None:
    if place is not None:
        incarnation, number, root = place
        evidence.field(incarnation, "ordinal")
        evidence.field(number, "ordinal")
        refuse_unless(type(root) is bytes and len(root) == 32, "root")


def check_text(text: Any) -> None:
    refuse_unless(type(text) is str and 1 <= len(text) <= 255 and text.isprintable(), "text")


def with_nulls(subject: Any) -> Any:
    """As version 2 has it."""
    return [[*subject[0], None], [*subject[1], None], *subject[2:], None]


def facts(state: State) -> dict[str, Any]:
    seconds = [None if epoch.countersigner is None else sha256(epoch.countersigner[1]).hex() for epoch in state.epochs]
    owner, operator = (sha256(party[1][1]).hex() for party in state.subject[:2])
    return {"owner_key": owner, "operator_key": operator, "countersigners": seconds}


def check_subject(subject: Any, version: int) -> None:
    """Section 3."""
    refuse_unless(len(subject) == (5 if version == 1 else 6), "subject")
    owner, operator, location, ratings, devices = subject[:5]
    for name, key, *recovery in (owner, operator):
        check_text(name)
        check_key(key)
        refuse_unless(len(recovery) == version - 1, "party")
        refuse_unless(all(r is None or (type(r) is bytes and len(r) == 32) for r in recovery), "recovery")
    if version == 2 and subject[5] is not None:
        alg, spki = subject[5]
        refuse_unless(alg == -49, "second key")
        load_der_public_key(spki)
    refuse_unless(owner[1][1] != operator[1][1], "dual control")
    if location is not None:
        latitude, longitude, grid = location
        refuse_unless(1 <= grid <= 1_000_000 and latitude % grid == 0 and longitude % grid == 0, "grid")
        refuse_unless(abs(latitude) <= 90_000_000 and abs(longitude) <= 180_000_000, "place")
    ids = [device[0] for device in devices]
    refuse_unless(ids == sorted(set(ids)) and len(ids) <= 256 and len(ratings) <= 256, "devices")
    for device_id, serial, key, meter_key, certificate in devices:
        check_text(device_id)
        refuse_unless(type(serial) is str, "serial")
        if key is not None:
            check_key(key)
        refuse_unless(meter_key is None or (type(meter_key) is bytes and meter_key != b""), "meter key")
        refuse_unless(certificate is None or (type(certificate) is bytes and len(certificate) == 32), "certificate")
    for device_id, name, value, unit, certificate in ratings:
        refuse_unless(device_id is None or device_id in ids, "rating of nothing")
        for text in (name, unit, certificate):
            check_text(text)
        evidence.field(value, "count")


def believes(state: State, incarnation: int, number: int, root: bytes, kid: bytes) -> Any:
    """Section 6: the key of a batch. Raises unless it is the gateway's for that batch."""
    for epoch in state.epochs:
        if sha256(epoch.key[1]) != kid or (epoch.over and epoch.until is None):
            continue
        place = [incarnation, number]
        refuse_unless(epoch.after is None or place > epoch.after[:2], "before its epoch")
        if epoch.until is not None:
            refuse_unless(place <= epoch.until[:2], "after its epoch")
            refuse_unless(place != epoch.until[:2] or root == epoch.until[2], "another last batch")
        return epoch.key
    raise evidence.RefusedError("not a key of this gateway")
