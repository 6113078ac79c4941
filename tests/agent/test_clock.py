"""How far wall time is trusted: synchronised kernel, platform's witness, holdover, reboot, and jumps of the clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agent.clock import DRIFT_PPM, HOLDOVER_LIMIT_US, SYNCED_FOR_S, WITNESS_MARGIN_US, Clock, ClockQuality

NOON_US = 1_800_000_000_000_000


@dataclass
class Machine:
    """A kernel whose clocks a test turns by hand."""

    realtime_us: int = NOON_US
    monotonic_s: float = 1000.0
    kernel_error_us: int | None = None
    boot_id: str = "boot-1"

    def clock(self, restored: bytes | None = None) -> Clock:
        return Clock(
            restored=restored,
            realtime_us=lambda: self.realtime_us,
            monotonic_s=lambda: self.monotonic_s,
            kernel_error_us=lambda: self.kernel_error_us,
            kernel_boot_id=self.boot_id,
        )

    def pass_time(self, seconds: float) -> None:
        self.monotonic_s += seconds
        self.realtime_us += round(seconds * 1e6)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_without_any_witness_time_is_untrusted_and_has_no_bound(machine: Machine) -> None:
    now = machine.clock().now()
    assert (now.wall_us, now.quality, now.error_bound_us) == (NOON_US, ClockQuality.UNTRUSTED, None)


def test_a_synchronised_kernel_is_trusted_with_its_own_bound(machine: Machine) -> None:
    machine.kernel_error_us = 1500
    now = machine.clock().now()
    assert (now.quality, now.error_bound_us) == (ClockQuality.SYNCED, 1500)


def test_after_the_kernel_loses_its_source_time_is_held_over_with_a_growing_bound(machine: Machine) -> None:
    machine.kernel_error_us = 1000
    clock = machine.clock()
    clock.now()
    machine.kernel_error_us = None
    machine.pass_time(SYNCED_FOR_S + 1)
    first = clock.now()
    machine.pass_time(3600)
    later = clock.now()
    assert first.quality is later.quality is ClockQuality.HOLDOVER
    assert first.error_bound_us is not None
    assert later.error_bound_us == first.error_bound_us + 3600 * DRIFT_PPM


def test_holdover_ends_when_the_bound_is_too_wide(machine: Machine) -> None:
    machine.kernel_error_us = 0
    clock = machine.clock()
    clock.now()
    machine.kernel_error_us = None
    machine.pass_time(HOLDOVER_LIMIT_US / DRIFT_PPM + 1)
    assert clock.now().quality is ClockQuality.UNTRUSTED


def test_setting_the_system_clock_moves_nothing_once_time_is_anchored(machine: Machine) -> None:
    clock = machine.clock()
    clock.witness(NOON_US, round_trip_s=0.0)
    before = clock.now().wall_us
    machine.realtime_us += 3_600_000_000
    machine.monotonic_s += 1
    assert clock.now().wall_us == before + 1_000_000


def test_the_platforms_word_corrects_a_clock_that_is_years_off(machine: Machine) -> None:
    machine.realtime_us = 0
    clock = machine.clock()
    clock.witness(NOON_US, round_trip_s=0.2)
    now = clock.now()
    assert now.wall_us == NOON_US + 100_000
    assert (now.quality, now.error_bound_us) == (ClockQuality.SYNCED, WITNESS_MARGIN_US + 100_000)


def test_a_witness_that_agrees_does_not_make_time_jump(machine: Machine) -> None:
    clock = machine.clock()
    clock.witness(NOON_US, round_trip_s=0.0)
    machine.pass_time(10)
    clock.witness(NOON_US + 10_000_000 + 90_000, round_trip_s=0.0)
    assert clock.now().wall_us == NOON_US + 10_000_000


def test_the_kernel_is_believed_before_the_platform(machine: Machine) -> None:
    machine.kernel_error_us = 1000
    clock = machine.clock()
    clock.witness(NOON_US + 60_000_000, round_trip_s=0.0)
    assert clock.now().wall_us == NOON_US


def test_a_restart_of_the_process_keeps_trust(machine: Machine) -> None:
    clock = machine.clock()
    clock.witness(NOON_US, round_trip_s=0.0)
    machine.pass_time(30)
    again = machine.clock(restored=clock.state())
    assert not again.rebooted
    assert again.now().quality is ClockQuality.SYNCED
    assert again.now().wall_us == NOON_US + 30_000_000


def test_a_restart_of_the_process_gives_no_trust_that_was_not_there(machine: Machine) -> None:
    clock = machine.clock()
    assert clock.rebooted
    machine.pass_time(30)
    again = machine.clock(restored=clock.state())
    assert again.rebooted, "nothing has vouched for the time since the reboot"
    assert machine.clock(restored=again.state()).rebooted


def test_a_reboot_loses_trust_and_time_does_not_go_back(machine: Machine) -> None:
    clock = machine.clock()
    clock.witness(NOON_US, round_trip_s=0.0)
    kept = clock.state()
    machine.boot_id, machine.monotonic_s, machine.realtime_us = "boot-2", 5.0, 0
    again = machine.clock(restored=kept)
    assert again.rebooted
    now = again.now()
    assert (now.wall_us, now.quality) == (NOON_US, ClockQuality.UNTRUSTED)


def test_untrusted_time_does_not_raise_the_floor(machine: Machine) -> None:
    machine.realtime_us = NOON_US * 2
    kept = machine.clock().state()
    machine.realtime_us = NOON_US
    assert machine.clock(restored=kept).now().wall_us == NOON_US


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"floor_us": "x"}', b"\xff\xfe"])
def test_a_damaged_note_costs_trust_and_not_the_start(machine: Machine, damage: bytes) -> None:
    clock = machine.clock(restored=damage)
    assert clock.rebooted
    assert clock.now().quality is ClockQuality.UNTRUSTED


def test_an_earlier_moment_is_given_its_own_wall_time(machine: Machine) -> None:
    clock = machine.clock()
    clock.witness(NOON_US, round_trip_s=0.0)
    assert clock.at(machine.monotonic_s - 2.5).wall_us == NOON_US - 2_500_000
