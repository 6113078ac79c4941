"""Taking over the platform's newer state after a restore: only behind the marker, never more than the meter says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ledger import adoption
from agent.ledger.adoption import Counted
from agent.ledger.channel import Phase
from agent.ledger.events import Adopt, Committed, LinkUp, Retry
from agent.ledger.settle import of_newest_lives, read_window
from agent.ledger.state import SignedState
from agent.ledger.window import Progress, Standing
from agent.measure.reading import Quality, Reading
from agent.store import Stage
from drivers.device import ValueSource
from tests.agent.ledger.bench import Bench
from tests.agent.ledger.examples import DEVICE_KEY, FIRST_US, OTHER_KEY, TERMS, WINDOW_US, window
from tests.agent.ledger.test_channel import running, settle_window

METER_EPOCH = 1


def progress(windows: int, *, import_wh: int, export_wh: int) -> Progress:
    """After so many windows, with the registers at this much."""
    standing = Standing(FIRST_US + windows * WINDOW_US, METER_EPOCH, import_wh * 1000 + 400, export_wh * 1000)
    return Progress(FIRST_US + windows * WINDOW_US, 2 * windows, standing)


def metered(*, import_wh: int | None, export_wh: int | None, epoch: int = METER_EPOCH) -> Reading:
    """A reading of the life after the restore."""
    return Reading(
        device_id=TERMS.device_id,
        incarnation=2,
        boot_id=bytes(16),
        sequence=99,
        timestamp_us=FIRST_US + 90 * WINDOW_US,
        net_energy_wh=0,
        import_register_milliwatt_hours=None if import_wh is None else import_wh * 1000,
        export_register_milliwatt_hours=None if export_wh is None else export_wh * 1000,
        meter_epoch=epoch,
        power_w=None,
        voltage_millivolts=None,
        state_of_charge_permille=None,
        frequency_millihertz=None,
        quality=Quality.GOOD,
        source=ValueSource.OPEN_BUS,
    )


def put_back(*, after: int = 1, lost: int = 2, incarnation: int = 2) -> Bench:
    """A box whose backup has `after` settled windows, while the platform has `lost` more; connected."""
    bench = running()
    for number in range(after):
        settle_window(bench, number)
    backup = bench.kept.copy()
    for number in range(after, after + lost):
        settle_window(bench, number)
    box = Bench(bench.platform, backup, incarnation)
    box.start(incarnation, restored=True)
    box.connect()
    box.settle()
    return box


def test_a_newer_state_of_ours_is_offered_and_taken_over_once_the_meter_agrees() -> None:
    box = put_back()
    held = box.platform.held
    assert (box.channel.offered, box.channel.phase) == (held, Phase.RESTING)
    box.feed(Adopt(""))
    box.settle()
    assert (box.adopted, box.channel.settled, box.channel.frozen_because) == ([held], held, "")
    assert box.alerts == ["channel.adopted"]
    assert (box.channel.restored, box.channel.offered, box.signed) == (False, None, {})
    # The next window is signed on top of it.
    box.prove(window(3, incarnation=2))
    box.close_window(window(3, incarnation=2))
    box.settle()
    assert box.platform.held is not None
    state = box.platform.held.state
    assert (state.incarnation, state.version, state.import_wh) == (2, 4, 400)
    assert held is not None
    assert state.previous_hash == held.state.digest


def test_nothing_is_signed_while_the_meter_has_not_been_heard() -> None:
    box = put_back()
    box.close_window(window(9))
    box.feed(Retry())
    box.settle()
    assert (box.signed, box.adopted) == ({}, [])


def test_a_meter_that_counted_less_freezes_and_keeps_both() -> None:
    box = put_back()
    box.feed(Adopt("it says more than the meter counted"))
    box.settle()
    assert box.channel.phase is Phase.FROZEN
    assert "more than the meter counted" in box.channel.frozen_because
    assert box.alerts == ["channel.platform_ahead"]
    assert len(box.kept.conflicts) == 1
    assert not box.channel.restored, "the marker is spent, and windows are closed again"
    box.close_window(window(9))
    box.settle()
    assert box.signed == {}


def test_without_a_marker_nothing_is_taken_over() -> None:
    bench = running()
    settle_window(bench, 0)
    backup = bench.kept.copy()
    settle_window(bench, 1)
    clone = Bench(bench.platform, backup, incarnation=2)
    clone.connect()
    clone.settle()
    assert (clone.channel.offered, clone.channel.phase) == (None, Phase.FROZEN)
    clone.feed(Adopt(""))
    clone.settle()
    assert (clone.adopted, clone.channel.phase) == ([], Phase.FROZEN)


def test_a_state_that_we_did_not_sign_is_no_state_to_take_over() -> None:
    bench = running()
    settle_window(bench, 0)
    box = Bench(bench.platform, bench.kept.copy(), incarnation=2)
    box.start(2, restored=True)
    held = bench.platform.held
    assert held is not None
    ahead = replace(held.state, version=9)
    bench.platform.held = SignedState(ahead, OTHER_KEY.sign(ahead.digest), held.platform_signature)
    box.connect()
    box.settle()
    assert (box.alerts, box.channel.offered) == (["channel.bad_answer"], None)
    assert not box.channel.established


def test_a_state_that_the_platform_did_not_sign_is_not_taken_over() -> None:
    box = put_back()
    held = box.platform.held
    assert held is not None
    for signature in (b"", OTHER_KEY.sign(held.state.digest)):
        box.platform.held = SignedState(held.state, held.gateway_signature, signature)
        other = Bench(box.platform, box.kept.copy(), incarnation=2)
        other.start(2, restored=True)
        other.connect()
        other.settle()
        assert other.channel.phase is Phase.FROZEN
        assert "not countersigned" in other.channel.frozen_because


def test_a_copy_of_the_restored_box_does_not_take_over_what_the_box_went_on_to_sign() -> None:
    box = put_back()
    copied = box.kept.copy()
    box.feed(Adopt(""))
    box.settle()
    box.prove(window(3, incarnation=2))
    box.close_window(window(3, incarnation=2))
    box.settle()
    clone = Bench(box.platform, copied, incarnation=2)
    clone.start(2, restored=True)
    clone.connect()
    clone.settle()
    assert (clone.channel.phase, clone.channel.offered) == (Phase.FROZEN, None)
    assert "this life of the store" in clone.channel.frozen_because


def test_another_energy_than_windows_that_are_here_is_not_taken_over() -> None:
    bench = running()
    settle_window(bench, 0)
    bench.disconnect()
    bench.close_window(window(1))
    bench.settle()
    backup = bench.kept.copy()
    assert bench.platform.held is not None
    other = replace(bench.platform.held.state, version=2, window_end_us=FIRST_US + 2 * WINDOW_US, incarnation=1)
    box = Bench(bench.platform, backup, incarnation=2)
    box.start(2, restored=True)
    assert adoption.hindrance(box.channel, SignedState(other, DEVICE_KEY.sign(other.digest))) != ""


def test_a_restart_before_it_is_committed_offers_it_again_and_one_after_it_goes_on() -> None:
    box = put_back()
    box.feed(Adopt(""))
    box.start(2, restored=True)
    box.connect()
    box.settle()
    assert box.channel.offered == box.platform.held
    box.feed(Adopt(""))
    box.settle()
    box.start(2)
    box.connect()
    box.settle()
    assert (box.channel.settled, box.channel.phase) == (box.platform.held, Phase.RESTING)
    assert box.channel.established


def test_a_conflict_that_was_kept_is_no_hindrance_once_a_person_put_a_backup_back() -> None:
    box = put_back()
    box.feed(Adopt("it says more than the meter counted"))
    box.settle()
    assert box.kept.conflicts
    again = Bench(box.platform, box.kept.copy(), incarnation=3)
    again.start(3, restored=True)
    assert again.channel.frozen_because
    again.connect()
    again.settle()
    again.feed(Adopt(""))
    again.settle()
    assert again.channel.settled == box.platform.held
    assert again.channel.phase is Phase.RESTING


def test_a_report_of_a_commit_for_a_new_link_does_not_lose_the_state() -> None:
    box = put_back()
    box.feed(Adopt(""))
    commit = box.todo.popleft()
    box.feed(LinkUp(b"n" * 16))
    box.todo.appendleft(commit)
    box.settle()
    assert box.channel.settled == box.platform.held
    box.feed(Committed(3, Stage.COUNTERSIGNED))
    assert box.channel.phase is Phase.RESTING


# What the meter says


def test_what_the_meter_counted_is_what_is_settled_and_closed_and_what_it_rose_by_since() -> None:
    box = put_back(after=2, lost=1)
    place = progress(2, import_wh=5_000, export_wh=70)
    found = adoption.counted(box.channel, place, metered(import_wh=5_150, export_wh=100))
    assert found == Counted(METER_EPOCH, 200 + 150, 60 + 30)


@pytest.mark.parametrize(
    ("import_wh", "export_wh", "says"),
    [(300, 90, ""), (299, 90, "import 300 Wh, by the meter 299"), (300, 89, "export 90 Wh"), (900, 900, "")],
)
def test_a_state_says_at_most_what_the_meter_counted(import_wh: int, export_wh: int, says: str) -> None:
    box = put_back(after=1, lost=2)
    held = box.platform.held
    assert held is not None
    found = adoption.excess(held, Counted(METER_EPOCH, import_wh, export_wh))
    assert says in found
    assert bool(says) == bool(found)
    assert "meter epoch" in adoption.excess(held, Counted(METER_EPOCH + 1, 10_000, 10_000))


def test_a_meter_of_another_epoch_or_a_backup_without_registers_tells_nothing() -> None:
    box = put_back()
    assert adoption.counted(box.channel, progress(1, import_wh=1, export_wh=1), None) is None
    assert adoption.counted(box.channel, Progress(FIRST_US), metered(import_wh=1, export_wh=1)) is None
    other = metered(import_wh=1, export_wh=1, epoch=2)
    assert adoption.counted(box.channel, progress(1, import_wh=1, export_wh=1), other) is None


@given(rise_wh=st.integers(0, 10_000), lost=st.integers(1, 5), start_wh=st.integers(0, 1 << 40))
def test_what_is_settled_and_what_follows_add_up_to_the_register(rise_wh: int, lost: int, start_wh: int) -> None:
    box = put_back(after=1, lost=lost)
    held = box.platform.held
    assert held is not None
    place = progress(1, import_wh=start_wh, export_wh=start_wh)
    now = metered(import_wh=start_wh + 100 * lost + rise_wh, export_wh=start_wh + 30 * lost)
    found = adoption.counted(box.channel, place, now)
    assert found is not None
    assert adoption.excess(held, found) == ""
    moved = adoption.rebased(box.channel, place, held, 17)
    assert (moved.closed_until_us, moved.last_sequence) == (held.state.window_end_us, 17)
    assert moved.standing is not None
    assert moved.standing.import_milliwatt_hours is not None
    assert now.import_register_milliwatt_hours is not None
    following = now.import_register_milliwatt_hours // 1000 - moved.standing.import_milliwatt_hours // 1000
    assert held.state.import_wh + following == found.import_wh


def test_windows_that_are_here_and_not_in_the_state_are_not_counted_twice() -> None:
    bench = running()
    settle_window(bench, 0)
    bench.disconnect()
    bench.close_window(window(1))
    bench.close_window(window(2))
    bench.settle()
    backup = bench.kept.copy()
    bench.prove(window(1))
    bench.connect()
    bench.deliver_one()
    bench.settle()
    box = Bench(bench.platform, backup, incarnation=2)
    box.start(2, restored=True)
    held = box.platform.held
    assert held is not None
    place = progress(3, import_wh=900, export_wh=90)
    moved = adoption.rebased(box.channel, place, held, 0)
    assert moved == place


def test_of_two_lives_windows_of_one_time_the_newer_lifes_count() -> None:
    def proven(number: int, incarnation: int, import_wh: int = 100) -> bytes:
        return window(number, incarnation=incarnation, import_wh=import_wh)

    read = [
        read_window(encoded, TERMS.device_id)
        for encoded in (proven(0, 1), proven(1, 1), proven(1, 2, 7), proven(2, 2, 8), proven(3, 1))
    ]
    kept = [(item.window.incarnation, item.window.import_wh) for item in of_newest_lives(read)]
    assert kept == [(1, 100), (2, 7), (2, 8), (1, 100)]
