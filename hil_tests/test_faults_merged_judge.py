"""The judge of the fault runs knows merged readings and backups: it takes sound ones and finds each planted wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.evidence.batch import SealedBatch
from agent.evidence.partial import PartialBatch, cut
from agent.evidence.statements import Alarm, Severity, Statement, Thinning, encode
from agent.evidence.thinning import Merger, old_batches
from agent.measure.reading import Quality
from hil_tests.faults.judge import AtPlatform, Held, Judge, Rule, Told
from hil_tests.test_faults_judge import GATEWAY_ID, reading, sealed

READINGS = [reading(n) for n in range(1, 9)]
ALARM = Alarm(timestamp_us=1, severity=Severity.INFO, code="x", subject="y", text="z")
FIRST = sealed(1, None, *READINGS[:4], ALARM)
SECOND = sealed(2, FIRST, *READINGS[4:])


def thinning(of: Sequence[int] = range(2, 8), **changes: object) -> Thinning:
    """What stands for these readings of the two batches; `changes` replace fields."""
    merger = Merger(60)
    for n in of:
        merger.take(READINGS[n - 1], encode(READINGS[n - 1]))
    (made,) = merger.statements(old=old_batches(1, 1, [FIRST.root, SECOND.root]), at_us=2_000_000_000_000_000)
    return replace(made, **changes)  # type: ignore[arg-type]  # field names are checked when it runs


def left(batch: SealedBatch, *gone: int) -> SealedBatch | PartialBatch:
    """Without the readings of these sequences."""
    leaves = {encode(READINGS[n - 1]) for n in gone}
    return cut(batch, {index for index, leaf in enumerate(batch.leaves) if leaf not in leaves})


THINNED = [left(FIRST, 2, 3, 4), left(SECOND, 5, 6, 7)]


def look(
    batches: Sequence[SealedBatch | PartialBatch],
    *said: Statement,
    queued: Sequence[Statement] = (),
    platform: Sequence[SealedBatch | PartialBatch] = (),
    told: Told | None = None,
) -> set[Rule]:
    """The rules that are broken, with a third batch that says this."""
    third = [sealed(3, SECOND, *said)] if said else []
    promised = told or Told([encode(each) for each in READINGS])
    held = Held([each.encode() for each in (*batches, *third)], [encode(each) for each in queued])
    arrived = AtPlatform([each.encode() for each in platform], (), complete=False)
    return {violation.rule for violation in Judge(GATEWAY_ID).look(promised, held, arrived)}


def test_merged_readings_are_not_lost() -> None:
    assert look(THINNED, thinning()) == set()
    assert look([FIRST, SECOND], thinning()) == set(), "sealed, and the leaves have not gone"
    assert look([THINNED[0], SECOND], thinning()) == set(), "some of them have"
    assert look(THINNED, thinning(), platform=[FIRST, SECOND]) == set()


def test_leaves_go_only_when_what_stands_for_them_is_sealed() -> None:
    assert Rule.LOST in look(THINNED, queued=[thinning()])


def test_a_leaf_that_nothing_stands_for_is_lost() -> None:
    assert Rule.LOST in look([left(FIRST, 1, 2, 3, 4), THINNED[1]], thinning())
    alarm_gone = cut(FIRST, {0, 1})
    told = Told([*map(encode, READINGS), encode(ALARM)])
    assert Rule.LOST in look([alarm_gone, THINNED[1]], thinning(), told=told)


def test_what_the_platform_was_sent_whole_must_be_here_though_nobody_was_promised_it() -> None:
    assert look([left(FIRST, 1, 2, 3, 4), THINNED[1]], thinning(), told=Told(), platform=[FIRST]) >= {Rule.LOST}


@pytest.mark.parametrize(
    "wrong",
    [
        thinning(net_energy_wh=10**6, slots=(replace(thinning().slots[0], net_energy_wh=10**6),)),
        thinning(slots=(replace(thinning().slots[0], import_register_milliwatt_hours=1),)),
        thinning(readings_root=bytes(32)),
        thinning(old=(old_batches(1, 1, [SECOND.root, FIRST.root]),)),
    ],
    ids=["energy", "registers", "root", "old roots"],
)
def test_a_false_word_for_merged_readings_is_found(wrong: Thinning) -> None:
    assert Rule.THINNED in look(THINNED, wrong)


def test_readings_that_are_merged_twice_are_found() -> None:
    assert Rule.THINNED in look(THINNED, thinning(), thinning(thinned_at_us=2_000_000_000_000_001))


def test_what_a_backup_gave_up_is_not_lost_and_its_numbers_are_never_used_again() -> None:
    restored = Alarm(timestamp_us=1, severity=Severity.WARNING, code="store.restored", subject="store", text="t")
    # The backup has the first batch; the next life goes on from there.
    goes_on = replace(reading(5, incarnation=9), net_energy_wh=READINGS[4].net_energy_wh)
    after = sealed(1, None, restored, goes_on, incarnation=9)
    told = Told([encode(each) for each in READINGS], given_up={encode(each) for each in READINGS[4:]})
    told.places_given_up = {(1, 2)}
    told.sealed = [((1, 1), FIRST.root), ((1, 2), SECOND.root)]
    assert look([FIRST, after], told=told, platform=[FIRST, SECOND, after]) == set()
    assert look([FIRST, after], told=replace(told, given_up=set())) == {Rule.LOST}
    assert look([FIRST, after], told=replace(told, places_given_up=set())) == {Rule.UNSEALED}
    again = sealed(2, FIRST, restored, reading(5))
    assert Rule.BATCH_REUSED in look([FIRST, again], told=told)
    silent = sealed(1, None, goes_on, incarnation=9)
    assert look([FIRST, silent], told=told) == {Rule.UNEXPLAINED}


def test_a_life_after_a_backup_begins_where_the_backup_stood() -> None:
    restored = Alarm(timestamp_us=1, severity=Severity.WARNING, code="store.restored", subject="store", text="t")
    told = Told([encode(each) for each in READINGS[:4]])
    gap = sealed(1, None, restored, replace(reading(6, incarnation=9), net_energy_wh=0), incarnation=9)
    assert Rule.SEQUENCE_GAP in look([FIRST, gap], told=told)
    nothing = replace(reading(5, incarnation=9), net_energy_wh=0, quality=Quality.GOOD)
    assert Rule.ENERGY in look([FIRST, sealed(1, None, restored, nothing, incarnation=9)], told=told)
