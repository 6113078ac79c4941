"""Writes proto/vectors/evidence: `python -m hil_tests.generate_vectors` from the root of the repository.

The same every time: a test compares the files with what this makes, so that neither changes unseen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

import cbor2

from agent.evidence import acknowledgement, batch, cbor, cose, merkle, statements
from hil_tests import (
    countersignature_cases,
    file_cases,
    proof_cases,
    quote_cases,
    signed_value_cases,
    telemetry_cases,
    thinning_cases,
)
from hil_tests import evidence_cases as made
from hil_tests.evidence_cases import Case, Json
from hil_tests.vector_files import VECTORS, text_of, write

FOLDER: Final = VECTORS / "evidence"


def main() -> None:
    """Write all files."""
    write(FOLDER, files())


def files() -> dict[str, str]:
    """File name -> content."""
    return {
        "keys.json": text_of(keys()),
        "statements.json": _cases(statement_cases()),
        "merkle.json": text_of(merkle_vectors()),
        "batches.json": _cases(batch_cases()),
        "receipts.json": _cases(receipt_cases()),
        "chains.json": _cases(chain_cases()),
        "acknowledgements.json": _cases(acknowledgement_cases()),
        "countersignatures.json": _cases(countersignature_cases.cases()),
        "signed_values.json": _cases(signed_value_cases.cases()),
        "partial_batches.json": _cases(thinning_cases.partial_cases()),
        "thinned_chains.json": _cases(thinning_cases.chain_cases()),
        "bundles.json": _cases(file_cases.bundle_cases()),
        "extracts.json": _cases(file_cases.extract_cases()),
        "json_exports.json": _cases(file_cases.json_cases()),
        "proofs.json": _cases(proof_cases.cases()),
        "attestations.json": _cases(quote_cases.cases()),
        "telemetry.json": _cases(telemetry_cases.cases()),
    }


def keys() -> Json:
    """The trusted keys, and the secrets behind them for whoever wants to make more vectors."""
    trusted: list[Json] = [
        {"gateway_id": gateway_id, "algorithm": key.algorithm, "public_key_der": key.public_key_der.hex(),
         "key_id": key.key_id.hex(), "secret": key.secret.hex()}
        for gateway_id, key in made.TRUSTED
    ]  # fmt: skip
    platform, device = made.PLATFORM_KEY, made.DEVICE_KEY
    return {
        "warning": "The secrets are public: never trust these keys outside tests.",
        "trusted": trusted,
        "countersigner": countersignature_cases.json_key(),
        "platform": {"algorithm": platform.algorithm, "public_key_der": platform.public_key_der.hex(),
                     "key_id": platform.key_id.hex(), "secret": platform.secret.hex()},
        "device": {"device_id": "battery-1", "algorithm": device.algorithm,
                   "public_key_der": device.public_key_der.hex(), "key_id": device.key_id.hex(),
                   "secret": device.secret.hex()},
    }  # fmt: skip


def statement_cases() -> Iterable[Case]:
    """One good statement of each kind with its fields, and what no decoder may take."""
    for statement in made.one_of_each():
        name = type(statement).__name__
        yield Case(name, None, {"statement": statements.encode(statement)}, {"fields": made.plain(statement)})
    good = cbor.decode(statements.encode(made.reading(1)), what="reading")
    assert isinstance(good, list)

    def wrong(name: str, error: str, encoded: bytes) -> Case:
        return Case(name, error, {"statement": encoded})

    def changed(name: str, error: str, place: int, value: cbor.Value) -> Case:
        return wrong(name, error, cbor.encode([*good[:place], value, *good[place + 1 :]]))

    encoded = cbor.encode(good)
    yield wrong("empty", "malformed", b"")
    yield wrong("cut short", "malformed", encoded[:-1])
    yield wrong("byte after the end", "malformed", encoded + b"\x00")
    yield wrong("indefinite array", "malformed", b"\x9f" + encoded[1:] + b"\xff")
    yield wrong("kind encoded longer than needed", "malformed", encoded[:1] + b"\x18\x01" + encoded[2:])
    yield wrong("a float", "malformed", cbor2.dumps([*good[:7], 1.5, *good[8:]]))
    yield wrong("a map instead of an array", "malformed", cbor.encode({1: 1}))
    yield wrong("a tag around it", "malformed", cbor.encode(cbor2.CBORTag(300, good)))
    yield wrong("text that is not UTF-8", "malformed", encoded.replace(b"battery-1", b"battery-\xff"))
    yield wrong("nested too deep", "malformed", b"\x81" * 400 + b"\x00")
    yield changed("kind is unknown", "unsupported", 0, 99)
    yield changed("kind is a boolean", "malformed", 0, True)
    yield changed("version is unknown", "unsupported", 1, 2)
    yield wrong("a field too few", "malformed", cbor.encode(good[:-1]))
    yield wrong("a field too many", "malformed", cbor.encode([*good, 0]))
    yield changed("device id is a byte string", "malformed", 2, b"battery-1")
    yield changed("incarnation is 0", "malformed", 3, 0)
    yield changed("boot id is short", "malformed", 4, bytes(15))
    yield changed("sequence is 0", "malformed", 5, 0)
    yield changed("time is negative", "malformed", 6, -1)
    yield changed("net energy is null", "malformed", 7, None)
    yield changed("net energy is beyond 64 bits", "malformed", 7, 1 << 63)
    yield changed("a register is negative", "malformed", 8, -1)
    yield changed("a quality flag is unknown", "malformed", 15, 1 << 20)
    yield changed("value source is unknown", "malformed", 16, 3)
    window = cbor.decode(statements.encode(made.one_of_each()[4]), what="window")
    assert isinstance(window, list)
    contradicting = cbor.encode([*window[:9], -901, *window[10:]])
    yield wrong("window whose net is not import minus export", "malformed", contradicting)
    yield from signed_value_cases.statement_cases()
    yield from thinning_cases.statement_cases()
    yield from quote_cases.statement_cases()


def merkle_vectors() -> Json:
    """Roots and paths of small trees over the leaves 00, 01 00, 02 00 00, ..."""
    trees: list[Json] = []
    for size in (0, 1, 2, 3, 4, 5, 6, 7, 8, 13):
        leaf_values = [bytes([i]) + bytes(i) for i in range(size)]
        tree = merkle.Tree([merkle.leaf_hash(leaf) for leaf in leaf_values])
        paths: list[Json] = [[sibling.hex() for sibling in tree.path(i)] for i in range(size)]
        trees.append({"leaves": [leaf.hex() for leaf in leaf_values], "root": tree.root.hex(), "paths": paths})
    return trees


def batch_cases() -> Iterable[Case]:
    """Sealed batches."""

    def good(name: str, sealed: batch.SealedBatch) -> Case:
        facts: dict[str, Json] = {
            "root": sealed.root.hex(), "hash": sealed.hash.hex(), "number": sealed.identity.number,
            "leaf_count": sealed.identity.leaf_count,
        }  # fmt: skip
        return Case(name, None, {"batch": sealed.encode()}, facts)

    def wrong(name: str, error: str, encoded: bytes) -> Case:
        return Case(name, error, {"batch": encoded})

    sealed = made.make_batch(made.leaves())
    yield good("five leaves", sealed)
    yield good("the least: two leaves", made.make_batch(made.leaves(readings=1)))
    yield good("every kind of statement", made.make_batch([statements.encode(s) for s in made.one_of_each()]))
    yield good("signed with ESP256", made.make_batch(made.leaves(), key=made.ESP256_KEY))
    yield good("signed with ES256K", made.make_batch(made.leaves(), key=made.ES256K_KEY))
    yield good("signed with Ed25519", made.make_batch(made.leaves(), key=made.ED25519_KEY))
    other_s = dataclasses.replace(sealed, signature=made.other_s(sealed.signature))
    yield good("the other s: the same batch as the first, by its hash", other_s)
    yield good("batch 2", made.make_batch(made.leaves(2), number=2, previous_root=sealed.root))

    for name, error, change in made.header_faults():
        yield wrong(f"header: {name}", error, made.forge(made.leaves(), change).encode())
    changed = dataclasses.replace
    first, *rest = sealed.leaves
    yield wrong(
        "bit flipped in a leaf",
        "signature",
        changed(sealed, leaves=(first, made.flip(rest[0], 20), *rest[1:])).encode(),
    )
    yield wrong("leaves swapped", "signature", changed(sealed, leaves=(first, rest[1], rest[0], *rest[2:])).encode())
    yield wrong("leaf removed", "proof", changed(sealed, leaves=sealed.leaves[:-1]).encode())
    yield wrong("leaf added", "proof", changed(sealed, leaves=(*sealed.leaves, rest[0])).encode())
    yield wrong(
        "bit flipped in the signature", "signature", changed(sealed, signature=made.flip(sealed.signature, 40)).encode()
    )
    yield wrong("signature cut short", "signature", changed(sealed, signature=sealed.signature[:-1]).encode())
    yield wrong(
        "signature in DER", "signature", changed(sealed, signature=b"\x30\x44\x02\x20" + sealed.signature).encode()
    )
    stranger = changed(sealed, signature=made.STRANGER_KEY.sign(sealed.to_be_signed))
    yield wrong("signed by another key under the trusted key's id", "signature", stranger.encode())
    yield wrong("one leaf only, and signed so", "proof", made.forge(made.leaves()[:1], lambda _: None).encode())
    yield wrong("leaf 0 is no sealing", "proof", made.make_batch(made.leaves()[1:]).encode())
    yield wrong("a second sealing", "proof", made.make_batch([*made.leaves(), first]).encode())
    yield wrong("a leaf that is no statement", "malformed", made.make_batch([first, b"\x00"]).encode())
    future = statements.encode(made.reading(1, incarnation=2))
    yield wrong("a reading of a later incarnation", "proof", made.make_batch([first, future]).encode())
    protected, signature, texts = sealed.protected, sealed.signature, list(sealed.leaves)

    def envelope(sign1: bytes) -> bytes:
        return cbor.encode([1, sign1, texts])  # type: ignore[list-item]  # lists are invariant

    yield wrong("payload attached", "malformed", envelope(made.raw_sign1(protected, {}, sealed.root, signature)))
    yield wrong(
        "unprotected header not empty", "malformed", envelope(made.raw_sign1(protected, {4: b""}, None, signature))
    )
    yield wrong("COSE_Sign1 without its tag", "malformed", envelope(cbor.encode([protected, {}, None, signature])))
    yield wrong("version is unknown", "unsupported", b"\x83\x09" + sealed.encode()[2:])
    yield wrong(
        "a leaf is text", "malformed", cbor.encode([1, made.raw_sign1(protected, {}, None, signature), ["a"] * 5])
    )
    yield wrong("byte after the end", "malformed", sealed.encode() + b"\x00")
    yield wrong("empty", "malformed", b"")


def receipt_cases() -> Iterable[Case]:
    """Receipts with their statements."""
    sealed = made.make_batch(made.leaves())
    proofs = batch.receipts(sealed, range(5))
    for index, receipt in enumerate(proofs):
        facts: dict[str, Json] = {"index": index, "root": sealed.root.hex()}
        yield Case(f"leaf {index} of 5", None, {"receipt": receipt, "statement": sealed.leaves[index]}, facts)
    second = sealed.leaves[1]
    tree = merkle.Tree([merkle.leaf_hash(leaf) for leaf in sealed.leaves])
    path = tree.path(1)

    def wrong(name: str, error: str, receipt: bytes, statement: bytes = second) -> Case:
        return Case(name, error, {"receipt": receipt, "statement": statement})

    def proof(*fields: cbor.Value) -> bytes:
        inner: list[cbor.Value] = [cbor.encode(list(fields))]
        return unprotected({batch.HEADER_VDP: {batch.PROOF_INCLUSION: inner}})

    def unprotected(header: made.Header, payload: bytes | None = None) -> bytes:
        return made.raw_sign1(sealed.protected, header, payload, sealed.signature)

    siblings: list[cbor.Value] = list(path)
    yield wrong("bit flipped in the statement", "signature", proofs[1], made.flip(second, 20))
    yield wrong("statement of another leaf", "signature", proofs[1], sealed.leaves[2])
    yield wrong("index of another leaf", "signature", proof(5, 0, siblings))
    yield wrong("bit flipped in the path", "signature", proof(5, 1, [made.flip(path[0], 0), *path[1:]]))
    yield wrong("path in the wrong order", "signature", proof(5, 1, siblings[::-1]))
    last = merkle.leaf_hash(sealed.leaves[4])
    assert merkle.root_from_path(last, 1, 2, tree.path(4)) == sealed.root
    smaller = proof(2, 1, list(tree.path(4)))
    yield wrong("leaf 4 of 5 passed off as leaf 1 of 2", "proof", smaller, sealed.leaves[4])
    yield wrong("index outside the tree", "proof", proof(5, 5, siblings))
    yield wrong("index is negative", "malformed", proof(5, -1, siblings))
    yield wrong("path too short", "proof", proof(5, 1, siblings[:-1]))
    yield wrong("path too long", "proof", proof(5, 1, [*siblings, bytes(32)]))
    yield wrong("path element of 31 bytes", "malformed", proof(5, 1, [path[0][:31], *path[1:]]))
    yield wrong("proof with a field more", "malformed", proof(5, 1, siblings, 0))
    inner = cbor.encode([5, 1, siblings])
    yield wrong("two proofs", "malformed", unprotected({396: {-1: [inner, inner]}}))
    yield wrong("no proof", "malformed", unprotected({}))
    yield wrong("a consistency proof beside it", "malformed", unprotected({396: {-2: [inner], -1: [inner]}}))
    yield wrong(
        "an unsigned label beside it", "malformed", unprotected({4: made.GATEWAY_KEY.key_id, 396: {-1: [inner]}})
    )
    yield wrong("payload attached", "malformed", unprotected({396: {-1: [inner]}}, sealed.root))
    for name, error, change in made.header_faults():
        forged = made.forge(made.leaves(), change)
        yield wrong(f"header: {name}", error, batch.receipt(forged, 1))
    flipped = dataclasses.replace(sealed, signature=made.flip(sealed.signature, 40))
    yield wrong("bit flipped in the signature", "signature", batch.receipt(flipped, 1))
    yield wrong("number changed after signing", "signature", _renumbered(sealed))
    no_sealing = made.make_batch(made.leaves()[1:])
    yield wrong("leaf 0 is no sealing", "proof", batch.receipt(no_sealing, 0), no_sealing.leaves[0])
    two = made.make_batch([sealed.leaves[0], sealed.leaves[0]])
    yield wrong("a sealing that is not leaf 0", "proof", batch.receipt(two, 1), two.leaves[1])
    odd = made.make_batch([sealed.leaves[0], b"\x80"])
    yield wrong("a leaf that is no statement", "malformed", batch.receipt(odd, 1), b"\x80")
    yield wrong("cut short", "malformed", proofs[1][:-1])
    yield wrong("empty", "malformed", b"")


def _renumbered(sealed: batch.SealedBatch) -> bytes:
    """The receipt of leaf 1 with another batch number in its header and the old signature."""
    header = cose.Sign1(sealed.protected, {}, None, b"").protected_map()
    made.identity(header)[4] = 2
    return batch.receipt(dataclasses.replace(sealed, protected=cbor.encode(header)), 1)


def chain_cases() -> Iterable[Case]:
    """Runs of good batches: a chain, or where it breaks first (`breaks_at`, index in the run)."""
    one = made.make_batch(made.leaves(1))
    two = made.make_batch(made.leaves(2), number=2, previous_root=one.root)
    three = made.make_batch(made.leaves(3), number=3, previous_root=two.root)
    other_two = made.make_batch(made.leaves(2, readings=3), number=2, previous_root=one.root)
    again = made.make_batch(made.leaves(1), incarnation=2)
    skipping = made.make_batch(made.leaves(2), incarnation=2, number=2, previous_root=one.root)

    def run(name: str, breaks_at: int | None, *batches: batch.SealedBatch) -> Case:
        facts: dict[str, Json] = {"batches": [b.encode().hex() for b in batches], "breaks_at": breaks_at}
        return Case(name, None if breaks_at is None else "proof", {}, facts)

    yield run("three in order", None, one, two, three)
    yield run("beginning in the middle", None, two, three)
    yield run("a new incarnation begins at 1", None, one, two, again)
    yield run("one is missing", 1, one, three)
    yield run("one comes twice", 2, one, two, two)
    yield run("two are swapped", 1, one, three, two)
    yield run("previous root is another batch's", 2, one, other_two, three)
    yield run("an earlier incarnation comes back", 1, again, one)
    yield run("a new incarnation does not begin at 1", 1, one, skipping)


def acknowledgement_cases() -> Iterable[Case]:
    """Acknowledgements by the platform."""
    root = made.make_batch(made.leaves()).root
    key = made.PLATFORM_KEY
    payload: list[cbor.Value] = [1, made.GATEWAY, 1, 1, root, made.START_US]
    header: made.Header = {1: key.algorithm, 4: key.key_id, 16: acknowledgement.TYP}

    def ack(fields: list[cbor.Value], protected: made.Header, signer: made.TestKey = key) -> bytes:
        encoded, head = cbor.encode(fields), cbor.encode(protected)
        return made.raw_sign1(head, {}, encoded, signer.sign(cose.to_be_signed(head, encoded)))

    good = ack(payload, header)
    facts: dict[str, Json] = {
        "gateway_id": made.GATEWAY, "incarnation": 1, "batch_number": 1, "root": root.hex(),
        "platform_time_us": made.START_US,
    }  # fmt: skip
    yield Case("up to batch 1", None, {"acknowledgement": good}, facts)

    def wrong(name: str, error: str, encoded: bytes) -> Case:
        return Case(name, error, {"acknowledgement": encoded})

    def changed(name: str, error: str, place: int, value: cbor.Value) -> Case:
        return wrong(name, error, ack([*payload[:place], value, *payload[place + 1 :]], header))

    yield wrong("bit flipped in the payload", "signature", good.replace(root, made.flip(root, 3)))
    yield wrong("bit flipped in the signature", "signature", made.flip(good, len(good) - 1))
    yield wrong("by another key", "signature", ack(payload, header | {4: made.STRANGER_KEY.key_id}, made.STRANGER_KEY))
    yield wrong("by another key under the platform's key id", "signature", ack(payload, header, made.STRANGER_KEY))
    yield wrong("algorithm is another than the key's", "unsupported", ack(payload, header | {1: cose.ESP256}))
    yield wrong("typ is a batch's", "unsupported", ack(payload, header | {16: batch.TYP}))
    yield wrong("a label is not of the format", "malformed", ack(payload, header | {395: 1}))
    protected = cbor.encode(header)
    detached = made.raw_sign1(protected, {}, None, key.sign(cose.to_be_signed(protected, cbor.encode(payload))))
    yield wrong("payload detached", "malformed", detached)
    yield changed("version is unknown", "unsupported", 0, 2)
    yield changed("incarnation is 0", "malformed", 2, 0)
    yield changed("batch number is 0", "malformed", 3, 0)
    yield changed("root is short", "malformed", 4, bytes(31))
    yield changed("time is negative", "malformed", 5, -1)
    yield wrong("a field more", "malformed", ack([*payload, 0], header))
    yield wrong("by the platform's key under another key id", "signature", ack(payload, header | {4: bytes(32)}))
    encoded = cbor.encode(payload)
    more = made.raw_sign1(protected, {99: 1}, encoded, key.sign(cose.to_be_signed(protected, encoded)))
    yield wrong("an unprotected header", "malformed", more)
    number = cbor.encode(1)
    alone = made.raw_sign1(protected, {}, number, key.sign(cose.to_be_signed(protected, number)))
    yield wrong("a number in place of its fields", "malformed", alone)
    yield changed("longer than 16,384 bytes", "malformed", 1, "x" * 16_384)
    yield wrong("empty", "malformed", b"")


def _cases(cases: Iterable[Case]) -> str:
    return text_of([case.json() for case in cases])


if __name__ == "__main__":
    main()
