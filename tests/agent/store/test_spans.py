"""Tests of the index of a batch's leaves."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store import StoreCorruptError, spans
from agent.store.spans import Leaf

LEAVES = st.lists(
    st.builds(
        Leaf,
        st.integers(1, 4095),
        st.integers(0, 1 << 60),
        st.none() | st.integers(0, 1 << 60),
    ),
    min_size=1,
    max_size=50,
)


@given(LEAVES)
def test_every_leaf_is_found_again_as_it_was(leaves: list[Leaf]) -> None:
    assert spans.decode(spans.encode(leaves)) == leaves


def test_a_reading_a_second_costs_less_than_ten_bytes() -> None:
    leaves = [Leaf(i, 1_760_000_000_000_000 + i * 1_000_000, 100_000 + i) for i in range(1, 101)]
    assert len(spans.encode(leaves)) / len(leaves) < 10


@pytest.mark.parametrize("damaged", [b"", b"\xff", cbor2.dumps(7), cbor2.dumps([1]), cbor2.dumps([0, 0, 1, 2])])
def test_a_damaged_index_is_said_to_be_damaged(damaged: bytes) -> None:
    with pytest.raises(StoreCorruptError):
        spans.decode(damaged)


@pytest.mark.parametrize("damaged", [b"", b"\xff", cbor2.dumps(7), cbor2.dumps([1, b"", 3])])
def test_a_damaged_batch_is_said_to_be_damaged(damaged: bytes) -> None:
    with pytest.raises(StoreCorruptError):
        spans.leaves_of(damaged)
