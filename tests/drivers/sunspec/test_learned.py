"""What was learned of a function comes back whole or not at all, and only for the firmware that it was learned of."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.sunspec.learned import MOST_KEPT_BYTES, NOTHING_LEARNED, Learned, Timer, Writing, recalled

everything = st.builds(
    Learned, writing=st.sampled_from(Writing), timer=st.sampled_from(Timer), in_percent=st.booleans()
)


@given(everything, st.text(max_size=40))
def test_what_was_learned_comes_back_as_it_was_kept(learned: Learned, version: str) -> None:
    assert recalled(learned.kept(version), version) == learned


@given(st.one_of(st.none(), st.binary(max_size=60), st.recursive(st.none() | st.text(), st.lists).map(orjson.dumps)))
def test_anything_else_is_nothing_learned(kept: bytes | None) -> None:
    assert recalled(kept, "1.0") == NOTHING_LEARNED


@pytest.mark.parametrize("spoilt", [{"writing": "WORDS"}, {"timer": 7}, {"version": "1.1"}, {"writing": ["RUNS"]}])
def test_a_record_with_a_wrong_part_is_nothing_learned(spoilt: dict[str, object]) -> None:
    content = orjson.loads(Learned(writing=Writing.SINGLES, timer=Timer.STUCK, in_percent=True).kept("1.0"))
    assert recalled(orjson.dumps(content), "1.0") != NOTHING_LEARNED
    assert recalled(orjson.dumps(content | spoilt), "1.0") == NOTHING_LEARNED
    assert recalled(orjson.dumps(content | {"more": "x" * MOST_KEPT_BYTES}), "1.0") == NOTHING_LEARNED
