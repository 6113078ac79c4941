"""A counter and the store beside it: a copy that was left behind is known, a crash between two commits is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence import cbor
from agent.ledger.channel import Phase
from agent.ledger.counter import Known, Standing, compare, decode_known
from agent.ledger.errors import LedgerError
from agent.ledger.events import CounterAhead, CounterRaised
from tests.agent.ledger.bench import Bench
from tests.agent.ledger.examples import window
from tests.agent.ledger.test_channel import running, settle_window


@pytest.mark.parametrize(
    ("known", "counter", "standing"),
    [
        (None, 1, Standing.UNBOUND),
        (Known(7), 7, Standing.AGREED),
        (Known(7), 8, Standing.AHEAD),
        (Known(7), 6, Standing.BEHIND),
        (Known(7, 8), 7, Standing.AGREED),
        (Known(7, 8), 8, Standing.AGREED),
        (Known(7, 8), 9, Standing.AHEAD),
    ],
)
def test_how_counter_and_store_stand_to_each_other(known: Known | None, counter: int, standing: Standing) -> None:
    assert compare(known, counter) is standing


@given(st.lists(st.sampled_from(["intend", "raise", "confirm", "copy"]), max_size=60))
def test_a_crash_anywhere_leaves_them_agreed_and_a_copy_from_before_is_left_behind(steps: list[str]) -> None:
    counter, store = 5, Known(5)
    copies: list[Known] = []
    left_behind: list[Known] = []
    for step in steps:
        match step:
            case "intend":  # Whatever went before: the agent begins anew after a crash.
                store = Known(counter, counter + 1)
            case "raise" if store.intended == counter + 1:
                counter += 1
                left_behind += [copy for copy in copies if copy != store]
                copies = [copy for copy in copies if copy == store]
            case "confirm" if store.intended == counter:
                store = Known(counter)
            case "copy":
                copies.append(store)
        assert compare(store, counter) is Standing.AGREED
    assert all(compare(copy, counter) is Standing.AHEAD for copy in left_behind)


@pytest.mark.parametrize("known", [Known(0), Known(7), Known(7, 8)])
def test_what_is_known_is_read_back(known: Known) -> None:
    assert decode_known(known.encode()) == known


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        cbor.encode([2, 7, None]),
        cbor.encode([1, 7]),
        cbor.encode([1, -1, None]),
        cbor.encode([1, 7, 7]),
        cbor.encode(["1", 7, None]),
    ],
)
def test_what_is_damaged_is_refused(encoded: bytes) -> None:
    with pytest.raises(LedgerError, match="counter"):
        decode_known(encoded)


def test_behind_a_raised_counter_a_window_is_signed_without_the_platform_and_released_only_with_it() -> None:
    bench = running()
    settle_window(bench, 0)
    bench.start()
    bench.close_window(window(1))
    bench.settle()
    assert (bench.channel.wants_counter, len(bench.signed)) == (True, 1)
    bench.feed(CounterRaised())
    bench.settle()
    assert (len(bench.signed), bench.channel.phase, len(bench.released)) == (2, Phase.PROPOSED, 1)
    assert not bench.channel.wants_counter
    bench.prove(window(1))
    bench.connect()
    bench.settle()
    assert bench.platform.held is not None
    assert bench.platform.held.state.import_wh == 200


def test_an_intent_of_an_earlier_run_is_signed_behind_it() -> None:
    bench = running()
    bench.close_window(window(0))
    bench.do_one()
    bench.start()
    assert bench.channel.wants_counter
    bench.feed(CounterRaised())
    bench.settle()
    assert len(bench.signed) == 1


def test_a_copy_that_was_left_behind_freezes_and_signs_nothing() -> None:
    bench = running()
    settle_window(bench, 0)
    bench.start()
    bench.feed(CounterAhead("the counter is ahead"))
    bench.close_window(window(1))
    bench.feed(CounterRaised())
    bench.connect()
    bench.settle()
    assert (bench.channel.phase, bench.channel.frozen_because) == (Phase.FROZEN, "the counter is ahead")
    assert (len(bench.signed), bench.alerts) == (1, ["channel.counter_ahead"])
    assert not bench.channel.wants_counter


def test_a_restored_store_signs_nothing_behind_the_counter() -> None:
    bench = running()
    settle_window(bench, 0)
    box = Bench(bench.platform, bench.kept.copy(), incarnation=2)
    box.start(2, restored=True)
    box.close_window(window(1))
    assert not box.channel.wants_counter
    box.feed(CounterRaised())
    box.settle()
    assert box.signed == {}
