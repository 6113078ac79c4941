"""The cases behind the vectors of thinning: batches with gaps, thinning statements, and chains that were thinned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from agent.evidence import batch, cbor, cose, statements
from agent.evidence.partial import Gap, PartialBatch, cut
from agent.evidence.statements import Statement, Thinning
from agent.evidence.thinning import QUARTER_SLOT_S, Merger, coarsened, old_batches
from agent.measure.reading import Quality, Reading
from hil_tests import evidence_cases as made
from hil_tests.evidence_cases import Case, Json

AT_US: Final = made.START_US + 7_200_000_000


def partial(sealed: batch.SealedBatch, *keep: int) -> PartialBatch:
    """The batch with these leaves only."""
    left = cut(sealed, keep)
    assert isinstance(left, PartialBatch)
    return left


def partial_cases() -> Iterable[Case]:
    """Batches with gaps."""
    five, eight = made.make_batch(made.leaves()), made.make_batch(made.leaves(readings=7))

    def good(name: str, left: PartialBatch) -> Case:
        facts: dict[str, Json] = {
            "root": left.root.hex(), "hash": left.hash.hex(), "number": left.identity.number,
            "indexes": [index for index, _ in left.numbered], "absent": left.absent,
        }  # fmt: skip
        return Case(name, None, {"batch": left.encode()}, facts)

    def wrong(name: str, error: str, encoded: bytes) -> Case:
        return Case(name, error, {"batch": encoded})

    def with_nodes(*nodes: bytes | Gap) -> bytes:
        return replace(partial(five, 0), nodes=nodes).encode()

    yield good("leaves 0 and 3 of 5", partial(five, 0, 3))
    yield good("leaf 4 of 5, without the sealing", partial(five, 4))
    yield good("nothing left of 5", partial(five))
    yield good("leaves 0, 2 and 7 of 8", partial(eight, 0, 2, 7))
    left = partial(five, 0, 3)
    leaf, *rest = five.leaves
    one, four = Gap(1, bytes(32)), Gap(4, bytes(32))
    whole = next(node.root for node in left.nodes if isinstance(node, Gap))
    yield wrong("bit flipped in a leaf", "signature", left.encode().replace(b"battery-1", b"battery-3"))
    yield wrong("bit flipped in a gap", "signature", left.encode().replace(whole, made.flip(whole, 5)))
    yield wrong(
        "bit flipped in the signature", "signature", left.encode().replace(five.signature, made.flip(five.signature, 9))
    )
    yield wrong(
        "a leaf of another batch",
        "signature",
        with_nodes(leaf, *(rest[1] if node == rest[2] else node for node in left.nodes[1:])),
    )
    yield wrong("leaves swapped", "signature", with_nodes(rest[0], leaf, Gap(2, bytes(32)), one))
    yield wrong("whole under the version of gaps", "malformed", with_nodes(*five.leaves))
    yield wrong("gaps under the version of the whole", "malformed", b"\x83\x01" + left.encode()[2:])
    yield wrong("two gaps that are one", "malformed", with_nodes(leaf, *(one,) * 3, rest[3]))
    yield wrong("a gap that is no subtree", "proof", with_nodes(leaf, Gap(3, bytes(32)), one))
    yield wrong("a gap larger than the tree", "proof", with_nodes(Gap(6, bytes(32))))
    yield wrong("fewer leaves than the header says", "proof", with_nodes(four))
    yield wrong("more leaves than the header says", "proof", with_nodes(four, leaf, one))
    protected, signature = five.protected, five.signature

    def raw(*nodes: cbor.Value) -> bytes:
        sign1 = cose.Sign1(protected, {}, None, signature).encode()
        return cbor.encode([3, sign1, list(nodes)])

    yield wrong("a gap of no leaves", "malformed", raw(leaf, [0, bytes(32)], [4, bytes(32)]))
    yield wrong("a gap with a short hash", "malformed", raw([5, bytes(31)]))
    yield wrong("a gap with a field more", "malformed", raw([5, bytes(32), 0]))
    yield wrong("a node of another type", "malformed", raw(leaf, None, [3, bytes(32)]))


def run(count: int) -> list[Reading]:
    """Readings a second apart whose energies are what their registers say: 1 Wh of export each."""
    return [made.reading(n, net_energy_wh=0 if n == 1 else -1) for n in range(1, count + 1)]


def thinning(readings: Sequence[Reading], roots: Sequence[bytes], first_number: int = 1) -> list[Thinning]:
    """What these readings of these batches become."""
    merger = Merger(60)
    for reading in readings:
        merger.take(reading, statements.encode(reading))
    return merger.statements(old=old_batches(1, first_number, roots), at_us=AT_US)


EXAMPLE: Final = thinning(run(130)[1:], [bytes([n]) * 32 for n in range(3)])[0]


def statement_cases() -> Iterable[Case]:
    """Thinning statements, good and wrong."""
    coarse = coarsened(
        EXAMPLE, statements.encode(EXAMPLE), slot_s=QUARTER_SLOT_S, old=old_batches(1, 9, [bytes(32)]), at_us=AT_US
    )
    for name, each in (("Thinning", EXAMPLE), ("Thinning of a thinning", coarse)):
        yield Case(name, None, {"statement": statements.encode(each)}, {"fields": made.plain(each)})

    def wrong(name: str, changed: Thinning) -> Case:
        return Case(f"thinning: {name}", "malformed", {"statement": statements.encode(changed)})

    first, second, *rest = EXAMPLE.slots
    yield wrong("energy is not the sum of the slots", replace(EXAMPLE, net_energy_wh=-1))
    yield wrong("count is not that of the slots", replace(EXAMPLE, reading_count=1))
    yield wrong(
        "slots overlap", replace(EXAMPLE, slots=(first, replace(second, first_sequence=first.last_sequence), *rest))
    )
    yield wrong("no slots", replace(EXAMPLE, slots=(), reading_count=1, net_energy_wh=0))
    yield wrong("no old batches", replace(EXAMPLE, old=()))
    yield wrong(
        "a run of batches ends before it begins", replace(EXAMPLE, old=(replace(EXAMPLE.old[0], first_number=9),))
    )
    yield wrong("what it replaces is no hash", replace(EXAMPLE, replaces=b"x"))
    yield wrong("slots longer than a day", replace(EXAMPLE, slot_s=86_401))
    yield wrong(
        "one end of the powers is missing", replace(EXAMPLE, slots=(replace(first, lowest_power_w=None), second, *rest))
    )
    yield wrong(
        "a quality flag is unknown", replace(EXAMPLE, slots=(replace(first, quality=Quality(1 << 20)), second, *rest))
    )


def chain_cases() -> Iterable[Case]:
    """Chains of batches that hold by themselves, and whether what is said of thinning is so."""
    readings = run(9)
    whole: list[batch.SealedBatch] = []
    for number in (1, 2, 3):
        of: list[Statement] = [made.sealing(number), *readings[3 * number - 3 : 3 * number]]
        previous = whole[-1].root if whole else batch.FIRST_PREVIOUS_ROOT
        whole.append(made.make_batch([statements.encode(s) for s in of], number=number, previous_root=previous))
    roots = [sealed.root for sealed in whole]
    thinned = [partial(whole[0], 0, 1), partial(whole[1]), partial(whole[2])]
    (good,) = thinning(readings[1:], roots)

    def case(
        name: str, said: Sequence[Thinning], batches: Sequence[batch.SealedBatch | PartialBatch], ok: bool
    ) -> Case:
        of: list[Statement] = [made.sealing(4), *said]
        last = made.make_batch([statements.encode(s) for s in of], number=4, previous_root=whole[-1].root)
        facts: dict[str, Json] = {"batches": [each.encode().hex() for each in (*batches, last)]}
        if ok:
            facts |= {"merged_readings": 8, "net_energy_wh": -8}
        return Case(name, None if ok else "proof", {}, facts)

    (slot,) = good.slots
    one_more = replace(slot, net_energy_wh=-9)
    yield case("thinned", [good], thinned, True)
    yield case("the leaves are still there: the same readings", [good], whole, True)
    yield case("the old batches are not all there", [good], thinned[1:], True)
    yield case("names other roots", [replace(good, old=(old_batches(1, 1, roots[::-1]),))], thinned, False)
    yield case(
        "energy is not what the registers say", [replace(good, net_energy_wh=-9, slots=(one_more,))], thinned, False
    )
    yield case("readings merged twice", [good, replace(good, thinned_at_us=AT_US + 1)], thinned, False)
    short = thinning(readings[1:5], roots)[0]
    digest = hashlib.sha256(statements.encode(good)).digest()
    yield case("replaces a statement of other readings", [good, replace(short, replaces=digest)], thinned, False)
