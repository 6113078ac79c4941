"""The judge of the fault runs finds each violation when it is planted, and nothing in sound evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.clock import ClockQuality
from agent.evidence.batch import KeyProtection, SealedBatch, assemble, seal
from agent.evidence.cose import key_id_of
from agent.evidence.statements import Alarm, Sealing, Severity, Statement, encode
from agent.identity.did import did_of
from agent.measure.reading import Quality, Reading
from drivers.device import ValueSource
from hil_tests.faults.judge import SET_ASIDE, AtPlatform, Held, Judge, Rule, Told
from hil_tests.faults.source import registers
from hil_tests.rig.platform.keys import SoftwareKey

KEY = SoftwareKey.generate()
GATEWAY_ID = did_of(KEY.public_key_der)
ZERO_ROOT = bytes(32)
BOOT, OTHER_BOOT = bytes(16), bytes(range(16))


def reading(
    sequence: int, *, device_id: str = "meter-a", incarnation: int = 1, boot_id: bytes = BOOT, power_w: int = 39_600
) -> Reading:
    """What an agent makes of a look at the source every 100 ms."""

    def net_wh(at_ms: int) -> int:
        imported, exported = registers(device_id, at_ms)
        return (imported - exported) // 1000

    imported, exported = registers(device_id, sequence * 100)
    return Reading(
        device_id=device_id,
        incarnation=incarnation,
        boot_id=boot_id,
        sequence=sequence,
        timestamp_us=1_800_000_000_000_000 + sequence * 100_000,
        net_energy_wh=0 if sequence == 1 else net_wh(sequence * 100) - net_wh((sequence - 1) * 100),
        import_register_milliwatt_hours=imported,
        export_register_milliwatt_hours=exported,
        meter_epoch=1,
        power_w=power_w,
        voltage_millivolts=None,
        state_of_charge_permille=None,
        frequency_millihertz=None,
        quality=Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )


def sealed(
    number: int,
    previous: SealedBatch | None,
    *taken: Statement,
    incarnation: int = 1,
    key: SoftwareKey = KEY,
    boot_id: bytes = BOOT,
) -> SealedBatch:
    """A batch as the agent seals it."""
    sealing = Sealing(sealed_at_us=number, clock_quality=ClockQuality.SYNCED, clock_error_bound_us=1000)
    unsigned = assemble(
        [encode(statement) for statement in (sealing, *taken)],
        gateway_id=GATEWAY_ID,
        incarnation=incarnation,
        boot_id=boot_id,
        number=number,
        previous_root=ZERO_ROOT if previous is None else previous.root,
        key_protection=KeyProtection.SOFTWARE,
        algorithm=key.algorithm,
        key_id=key_id_of(key.public_key_der),
    )
    return seal(unsigned, key.sign_now(unsigned.to_be_signed))


class Case:
    """A sound gateway of three batches and two queued readings, for a test to spoil."""

    def __init__(self) -> None:
        first = sealed(1, None, reading(1), reading(1, device_id="meter-b"))
        second = sealed(2, first, reading(2), reading(2, device_id="meter-b"))
        self.batches = [first, second, sealed(3, second, reading(3))]
        self.queued: list[Statement] = [reading(4), reading(3, device_id="meter-b")]
        self.arrived = self.batches[:2]
        self.conflicts: list[str] = []
        self.acknowledged = {1: 2}
        self.complete = False
        statements = [*(leaf for batch in self.batches for leaf in batch.leaves[1:]), *map(encode, self.queued)]
        self.told = Told(statements, [(_place(batch), batch.root) for batch in self.batches])

    def rules(self) -> set[Rule]:
        """What the judge finds."""
        self.told.acknowledged = self.acknowledged
        held = Held([batch.encode() for batch in self.batches], [encode(statement) for statement in self.queued])
        there = AtPlatform([batch.encode() for batch in self.arrived], self.conflicts, self.complete)
        return {violation.rule for violation in Judge(GATEWAY_ID).look(self.told, held, there)}

    def seal_more(self, *taken: Statement, incarnation: int = 1, number: int | None = None) -> None:
        """One batch more, told of as the agent would."""
        last = self.batches[-1] if incarnation == 1 else None
        batch = sealed(len(self.batches) + 1 if number is None else number, last, *taken, incarnation=incarnation)
        self.batches.append(batch)
        self.told.sealed.append((_place(batch), batch.root))


def _place(batch: SealedBatch) -> tuple[int, int]:
    return batch.identity.incarnation, batch.identity.number


def lose_a_queued_reading(case: Case) -> None:
    case.queued.pop()


def lose_a_sealed_batch_at_the_end(case: Case) -> None:
    case.batches.pop()


def lose_a_batch_in_the_middle(case: Case) -> None:
    del case.batches[1]


def seal_other_content_under_the_same_number(case: Case) -> None:
    case.batches[2] = sealed(3, case.batches[1], reading(3), reading(4))


def seal_a_number_twice(case: Case) -> None:
    case.told.sealed.append(case.told.sealed[-1])


def deliver_another_batch_than_the_stored_one(case: Case) -> None:
    case.arrived = [case.batches[0], sealed(2, case.batches[0], reading(2))]


def deliver_a_batch_that_is_not_stored(case: Case) -> None:
    case.arrived = [*case.batches, sealed(4, case.batches[-1], reading(4))]


def show_a_batch_before_it_is_kept(case: Case) -> None:
    batch = sealed(4, case.batches[-1], reading(4))
    case.told.shown[1, 4, batch.root] = None


def show_another_batch_than_the_kept_one(case: Case) -> None:
    case.told.shown[1, 3, sealed(3, case.batches[1], reading(4)).root] = None


def seal_a_reading_twice(case: Case) -> None:
    case.seal_more(reading(3), reading(4))


def seal_a_reading_with_other_content(case: Case) -> None:
    case.seal_more(replace(reading(3), power_w=1), reading(4))


def reuse_a_sequence_after_a_restart(case: Case) -> None:
    case.seal_more(reading(3, boot_id=OTHER_BOOT))


def leave_a_sequence_out(case: Case) -> None:
    case.seal_more(reading(5))


def break_the_chain(case: Case) -> None:
    case.batches[2] = sealed(3, case.batches[0], reading(3))
    case.told.sealed[2] = (_place(case.batches[2]), case.batches[2].root)


def begin_an_incarnation_without_a_word(case: Case) -> None:
    case.seal_more(reading(1, incarnation=2), incarnation=2, number=1)


def count_energy_twice(case: Case) -> None:
    case.seal_more(replace(reading(4), net_energy_wh=reading(4).net_energy_wh + 1))


def lose_energy_of_a_gap(case: Case) -> None:
    case.seal_more(replace(reading(4), net_energy_wh=0))


def begin_a_meter_epoch(case: Case) -> None:
    case.seal_more(replace(reading(4), meter_epoch=2))


def show_registers_of_another_moment_each(case: Case) -> None:
    imported, _ = registers("meter-a", 401)
    case.seal_more(replace(reading(4), import_register_milliwatt_hours=imported))


def show_registers_of_another_device(case: Case) -> None:
    other = reading(4, device_id="meter-b")
    case.seal_more(replace(other, device_id="meter-a"))


def go_back_in_time(case: Case) -> None:
    case.seal_more(replace(reading(2), sequence=4))


def sign_with_another_key(case: Case) -> None:
    case.batches.append(sealed(4, case.batches[-1], reading(4), key=SoftwareKey.generate()))


def acknowledge_and_forget(case: Case) -> None:
    case.complete, case.acknowledged = True, {1: 3}


def contradict_at_the_platform(case: Case) -> None:
    case.conflicts.append("equivocation: meter-a 3")


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (lose_a_queued_reading, Rule.LOST),
        (lose_a_sealed_batch_at_the_end, Rule.LOST),
        (lose_a_sealed_batch_at_the_end, Rule.UNSEALED),
        (lose_a_batch_in_the_middle, Rule.CHAIN),
        (lose_a_batch_in_the_middle, Rule.SEQUENCE_GAP),
        (seal_other_content_under_the_same_number, Rule.BATCH_REUSED),
        (seal_a_number_twice, Rule.BATCH_REUSED),
        (deliver_another_batch_than_the_stored_one, Rule.BATCH_REUSED),
        (deliver_a_batch_that_is_not_stored, Rule.UNSEALED),
        (show_a_batch_before_it_is_kept, Rule.UNSEALED),
        (show_another_batch_than_the_kept_one, Rule.BATCH_REUSED),
        (seal_a_reading_twice, Rule.DOUBLED),
        (seal_a_reading_with_other_content, Rule.EQUIVOCATION),
        (reuse_a_sequence_after_a_restart, Rule.SEQUENCE_REUSED),
        (leave_a_sequence_out, Rule.SEQUENCE_GAP),
        (break_the_chain, Rule.CHAIN),
        (begin_an_incarnation_without_a_word, Rule.UNEXPLAINED),
        (count_energy_twice, Rule.ENERGY),
        (lose_energy_of_a_gap, Rule.ENERGY),
        (begin_a_meter_epoch, Rule.ENERGY),
        (show_registers_of_another_moment_each, Rule.REGISTERS),
        (show_registers_of_another_device, Rule.REGISTERS),
        (go_back_in_time, Rule.REGISTERS),
        (sign_with_another_key, Rule.UNVERIFIED),
        (acknowledge_and_forget, Rule.FORGOTTEN),
        (contradict_at_the_platform, Rule.CONFLICT),
    ],
)
def test_a_planted_violation_is_found(plant: Callable[[Case], None], rule: Rule) -> None:
    case = Case()
    plant(case)
    assert rule in case.rules()


def test_sound_evidence_is_left_alone() -> None:
    assert Case().rules() == set()


def test_a_platform_that_lags_or_has_lost_its_last_second_is_no_violation_before_the_end() -> None:
    case = Case()
    case.acknowledged = {1: 3}
    assert case.rules() == set()


def test_a_new_incarnation_that_a_signed_alarm_explains_is_no_violation() -> None:
    case = Case()
    told = Alarm(timestamp_us=1, severity=Severity.CRITICAL, code=SET_ASIDE, subject="store", text="damaged")
    case.seal_more(told, reading(1, incarnation=2), incarnation=2, number=1)
    assert case.rules() == set()


def test_a_run_goes_on_with_the_sequence_under_a_new_boot_id() -> None:
    case = Case()
    case.queued.clear()
    case.told.puts = [each for batch in case.batches for each in batch.leaves[1:]]
    case.seal_more(reading(4, boot_id=OTHER_BOOT))
    assert case.rules() == set()


def test_a_judge_may_look_again_and_finds_what_has_changed() -> None:
    case, judge = Case(), Judge(GATEWAY_ID)
    there = AtPlatform([], [], complete=False)
    held = Held([batch.encode() for batch in case.batches], [encode(statement) for statement in case.queued])
    assert judge.look(case.told, held, there) == []
    assert {v.rule for v in judge.look(case.told, replace(held, batches=held.batches[:2]), there)} >= {Rule.UNSEALED}
