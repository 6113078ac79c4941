"""The cases behind the vectors of what `export` writes: bundles, extracts, and both as JSON, good and wrong.

Their gateway's name is its key, so `v2g-gateway verify FILE --gateway NAME` takes these files as they are.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from agent.evidence import batch, cbor, statements
from agent.evidence.bundle import MAGIC, BundleHead, Scope, encode_batch_item
from agent.evidence.extract import JSON_TAIL, json_batch, json_head
from agent.evidence.partial import PartialBatch, cut
from agent.evidence.statements import Statement
from hil_tests import evidence_cases as made
from hil_tests import quote_cases, signed_value_cases, thinning_cases
from hil_tests.evidence_cases import Case, Json

GATEWAY: Final = made.FILES_GATEWAY
HEAD: Final = BundleHead(GATEWAY, (made.FILES_KEY.public_key_der,))
SCOPE: Final = Scope("battery-1", made.START_US, made.START_US + 100_000_000)
EXTRACT: Final = BundleHead(GATEWAY, (made.FILES_KEY.public_key_der,), SCOPE)
AnyBatch = batch.SealedBatch | PartialBatch
_make: Final = functools.partial(made.make_batch, gateway_id=GATEWAY, key=made.FILES_KEY)


def _encoded(said: Iterable[Statement]) -> list[bytes]:
    return [statements.encode(each) for each in said]


def _chain() -> tuple[batch.SealedBatch, batch.SealedBatch, batch.SealedBatch]:
    """Three batches with two readings of battery-1 and one of pv-1 each."""
    run: list[batch.SealedBatch] = []
    for number in (1, 2, 3):
        of: list[Statement] = [
            made.sealing(number), made.reading(2 * number - 1), made.reading(number, device_id="pv-1"),
            made.reading(2 * number),
        ]  # fmt: skip
        previous = run[-1].root if run else batch.FIRST_PREVIOUS_ROOT
        run.append(_make(_encoded(of), number=number, previous_root=previous))
    return run[0], run[1], run[2]


def _file(head: bytes, *batches: AnyBatch) -> bytes:
    return head + b"".join(encode_batch_item(each.encode()) for each in batches)


def _facts(batches: Sequence[AnyBatch], scope: Scope | None = None, missing: int = 0) -> dict[str, Json]:
    facts: dict[str, Json] = {"gateway_id": GATEWAY, "numbers": [each.identity.number for each in batches]}
    if scope is not None:
        facts |= {"device_id": scope.device_id, "from_us": scope.from_us, "to_us": scope.to_us, "missing": missing}
    return facts


def _head_of(*fields: cbor.Value) -> bytes:
    return cbor.encode(list(fields))


def bundle_cases() -> Iterable[Case]:
    """Runs of the chain."""
    one, two, three = _chain()
    keys: list[cbor.Value] = list(HEAD.public_keys_der)
    head = HEAD.encode()

    def good(name: str, *batches: AnyBatch, before: bytes = head) -> Case:
        return Case(name, None, {"bundle": _file(before, *batches)}, _facts(batches))

    def wrong(name: str, error: str, content: bytes) -> Case:
        return Case(name, error, {"bundle": content})

    yield good("three batches", one, two, three)
    yield good("a head alone: there is nothing in it")
    yield good("beginning in the middle", two, three)
    yield good("a batch with gaps in the place of a whole one", one, thinning_cases.partial(two, 0, 2), three)
    yield good("a new incarnation", one, two, _make(made.leaves(9), incarnation=2))
    yield good("no keys in the head: they are a help only", one, before=BundleHead(GATEWAY, ()).encode())
    yield wrong("empty", "malformed", b"")
    yield wrong("one batch without a head", "malformed", one.encode() + one.encode())
    yield wrong("begins with another word", "malformed", _file(_head_of("bundle", 1, GATEWAY, keys), one))
    yield wrong("version is unknown", "unsupported", _file(_head_of(MAGIC, 3, GATEWAY, keys), one))
    yield wrong("version is a boolean", "malformed", _file(_head_of(MAGIC, True, GATEWAY, keys), one))
    yield wrong("gateway id is a byte string", "malformed", _file(_head_of(MAGIC, 1, GATEWAY.encode(), keys), one))
    yield wrong("a key is text", "malformed", _file(_head_of(MAGIC, 1, GATEWAY, ["key"]), one))
    yield wrong("keys are missing", "malformed", _file(_head_of(MAGIC, 1, GATEWAY), one))
    yield wrong("a field more in the head", "malformed", _file(_head_of(MAGIC, 1, GATEWAY, keys, 0), one))
    scope: list[cbor.Value] = [SCOPE.device_id, SCOPE.from_us, SCOPE.to_us]
    yield wrong("device and period in version 1", "malformed", _file(_head_of(MAGIC, 1, GATEWAY, keys, scope), one))
    yield wrong("head of no stated length", "malformed", _file(b"\x9f" + head[1:] + b"\xff", one))
    yield wrong("head encoded longer than needed", "malformed", _file(b"\x98\x04" + head[1:], one))
    yield wrong("a batch is text", "malformed", head + cbor.encode("batch"))
    yield wrong("a batch that is no byte string around it", "malformed", head + one.encode())
    item = encode_batch_item(one.encode())
    assert item[0] == 0x59
    yield wrong("length of a batch encoded longer than needed", "malformed", head + b"\x5a\x00\x00" + item[1:])
    yield wrong("a batch of no stated length", "malformed", head + b"\x5f" + item + b"\xff")
    yield wrong("a batch that claims more than 1,048,576 bytes", "malformed", head + b"\x5a\x00\x10\x00\x01" + item)
    yield wrong("cut short in a batch", "malformed", _file(head, one, two)[:-1])
    yield wrong("byte after the last batch", "malformed", _file(head, one) + b"\xff")
    yield wrong("a batch that is none", "malformed", head + cbor.encode(b"\x80"))
    other = made.make_batch(made.leaves(2), number=2, previous_root=one.root)
    yield wrong("a batch of another gateway, trusted too", "malformed", _file(head, one, other))
    yield wrong("the head names another gateway", "malformed", _file(BundleHead(made.GATEWAY, ()).encode(), one))
    stranger = made.make_batch(
        made.leaves(2), number=2, previous_root=one.root, gateway_id=GATEWAY, key=made.STRANGER_KEY
    )
    strange = BundleHead(GATEWAY, (*HEAD.public_keys_der, made.STRANGER_KEY.public_key_der)).encode()
    yield wrong("a batch by a key that only the head vouches for", "signature", _file(strange, one, stranger))
    first, second, *rest = two.leaves
    flipped = dataclasses.replace(two, leaves=(first, made.flip(second, 20), *rest))
    yield wrong("bit flipped in a leaf", "signature", _file(head, one, flipped, three))
    yield wrong("one is missing", "proof", _file(head, one, three))
    yield wrong("one comes twice", "proof", _file(head, one, two, two))
    yield wrong("two are swapped", "proof", _file(head, two, one, three))
    again = _make(_encoded([made.sealing(4), made.reading(1, power_w=0)]), number=4, previous_root=three.root)
    yield wrong("one reading with two contents", "proof", _file(head, one, two, three, again))
    boot = _make(_encoded([made.sealing(4), made.reading(6, boot_id=bytes(16))]), number=4, previous_root=three.root)
    yield wrong("one sequence in two boots", "proof", _file(head, one, two, three, boot))


def _extract() -> tuple[AnyBatch, AnyBatch, AnyBatch]:
    """What is of battery-1."""
    one, two, three = (cut(each, {0, 1, 3}) for each in _chain())
    return one, two, three


def extract_cases() -> Iterable[Case]:
    """One device and period."""
    one, two, three = _extract()
    head = EXTRACT.encode()
    keys: list[cbor.Value] = list(HEAD.public_keys_der)
    s = SCOPE

    def good(name: str, *batches: AnyBatch, missing: int = 0) -> Case:
        return Case(name, None, {"bundle": _file(head, *batches)}, _facts(batches, s, missing))

    def wrong(name: str, error: str, content: bytes) -> Case:
        return Case(name, error, {"bundle": content})

    def headed(*scope: cbor.Value) -> bytes:
        return _file(_head_of(MAGIC, 2, GATEWAY, keys, list(scope)), one)

    yield good("one device of two", one, two, three)
    yield good("nothing of it is here")
    yield good("two readings are missing, and that shows", one, three, missing=2)
    merged = thinning_cases.thinning([made.reading(n) for n in (3, 4)], [_chain()[1].root], first_number=2)
    of: list[Statement] = [made.sealing(4), *merged]
    stands = _make(_encoded(of), number=4, previous_root=_chain()[2].root)
    yield good("two readings are merged", one, three, stands)
    later: list[Statement] = [made.sealing(9), made.reading(1, incarnation=2)]
    yield good("a new incarnation, with lower numbers", three, _make(_encoded(later), incarnation=2))
    yield wrong("batches descend", "proof", _file(head, two, one))
    yield wrong("one comes twice", "proof", _file(head, one, two, two))
    whole, *_ = _chain()
    yield wrong("a statement of another device", "proof", _file(head, whole))
    again = _make(_encoded([made.sealing(4), made.reading(1, power_w=0)]), number=4, previous_root=_chain()[2].root)
    yield wrong("one reading with two contents", "proof", _file(head, one, again))
    leaf = one.encode().replace(b"battery-1", b"battery-3")
    yield wrong("bit flipped in a leaf", "signature", head + encode_batch_item(leaf))
    yield wrong("device and period are missing", "malformed", _file(_head_of(MAGIC, 2, GATEWAY, keys), one))
    yield wrong("device id is a byte string", "malformed", headed(b"battery-1", s.from_us, s.to_us))
    yield wrong("beginning is a boolean", "malformed", headed(s.device_id, True, s.to_us))
    yield wrong("beginning is negative", "malformed", headed(s.device_id, -1, s.to_us))
    yield wrong("end is null", "malformed", headed(s.device_id, s.from_us, None))
    yield wrong("end is not after the beginning", "malformed", headed(s.device_id, s.to_us, s.to_us))
    yield wrong("a field more beside the period", "malformed", headed(s.device_id, s.from_us, s.to_us, 0))


def json_cases() -> Iterable[Case]:
    """The same as text."""
    chain, extract = _chain(), _extract()

    def text(head: BundleHead, batches: Sequence[AnyBatch]) -> str:
        return json_head(head) + ",".join(json_batch(each.encode()) for each in batches) + JSON_TAIL

    def good(name: str, head: BundleHead, batches: Sequence[AnyBatch]) -> Case:
        return Case(name, None, {}, {"json": text(head, batches), **_facts(batches, head.scope)})

    def wrong(name: str, error: str, content: str) -> Case:
        return Case(name, error, {}, {"json": content})

    written = text(EXTRACT, extract)

    def changed(name: str, error: str, change: Callable[[dict[str, Any]], None]) -> Case:
        said = json.loads(written)
        change(said)
        return wrong(name, error, json.dumps(said))

    def replaced(name: str, old: str, new: str, error: str = "malformed") -> Case:
        assert old in written
        return wrong(name, error, written.replace(old, new, 1))

    value = signed_value_cases.signed_value()
    signed: list[Statement] = [value, signed_value_cases.signed_reading(value)]
    everything = _make(_encoded([*made.one_of_each(), thinning_cases.EXAMPLE, quote_cases.EXAMPLE, *signed]))
    yield good("a run of the chain", HEAD, chain)
    yield good("an extract", EXTRACT, extract)
    yield good("every kind of statement in words", HEAD, [everything])
    yield good("no batches", HEAD, [])
    yield replaced("a value in words is another", '"power_w": -3600', '"power_w": -3601')
    yield replaced("true in words where 1 is signed", '"incarnation": 1, "boot_id"', '"incarnation": true, "boot_id"')
    yield replaced("a fraction in words", '"power_w": -3600', '"power_w": -3600.0')
    yield replaced("a name is there twice", '"power_w": -3600', '"power_w": -3600, "power_w": -3600')
    yield replaced("a word more", '"power_w": -3600', '"power_w": -3600, "verified": true')
    yield replaced("the number of a batch is another", '"number": 1', '"number": 2')
    yield replaced("an index is another", '"index": 1', '"index": 2')
    yield replaced("a kind is another", '"kind": "reading"', '"kind": "alarm"')
    yield replaced("digits in capitals", f'"batch": "{extract[0].encode().hex()}"',
                   f'"batch": "{extract[0].encode().hex().upper()}"')  # fmt: skip
    yield replaced("batch is not hexadecimal", '"batch": "83', '"batch": "8g')
    yield changed("a statement is not in words", "malformed", lambda said: said["batches"][0]["statements"].pop())
    yield changed("words without a batch", "malformed", lambda said: said["batches"][0].pop("batch"))
    yield changed("a batch is no object", "malformed", lambda said: said["batches"].insert(0, "83"))
    yield changed("a field is missing", "malformed", lambda said: said.pop("keys"))
    yield changed("a field more", "malformed", lambda said: said.update(note="x"))
    yield changed("another format", "malformed", lambda said: said.update(format="v2g-gateway/proof"))
    yield changed("version is unknown", "unsupported", lambda said: said.update(version=2))
    yield changed("version is a boolean", "malformed", lambda said: said.update(version=True))
    yield changed("a device without a period", "malformed", lambda said: said.update(from_us=None))
    yield changed("a period without a device", "malformed", lambda said: said.update(device_id=None))
    yield changed("end is not after the beginning", "malformed", lambda said: said.update(to_us=said["from_us"]))
    yield changed("a key is no hexadecimal", "malformed", lambda said: said.update(keys=["key"]))
    yield changed("of another gateway", "malformed", lambda said: said.update(gateway_id=made.GATEWAY))
    yield changed("batches descend", "proof", lambda said: said["batches"].reverse())
    yield wrong("cut short", "malformed", written[:-4])
    yield wrong("an array", "malformed", "[]")
    yield wrong("nothing but brackets", "malformed", "{" + '"a":{' * 5000)
    flipped = extract[0].encode().replace(b"battery-1", b"battery-3")
    yield wrong("bit flipped in a leaf, and in its words", "signature",
                json_head(EXTRACT) + json_batch(flipped) + JSON_TAIL)  # fmt: skip
