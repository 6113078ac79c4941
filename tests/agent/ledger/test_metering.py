"""Tests of the metering tree: no energy is settled twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.evidence import statements
from agent.evidence.statements import MeteringPoint
from agent.ledger.errors import MeteringTreeError
from agent.ledger.metering import check, metering_tree, unsettled


def point(device_id: str, parent_id: str | None = None, settled: bool = False) -> MeteringPoint:
    return MeteringPoint(device_id=device_id, parent_id=parent_id, settled=settled)


SITE = [
    point("grid"),
    point("pv-1", "grid", True),
    point("garage", "grid", True),
    point("charger-1", "garage"),
    point("battery-1", "grid"),
]


def test_the_settlement_points_of_a_site_are_named() -> None:
    assert check(SITE) == ("garage", "pv-1")


def test_what_no_settlement_point_counts_is_named() -> None:
    assert unsettled(SITE) == ("battery-1",)


def test_two_settlement_points_on_one_path_are_refused() -> None:
    with pytest.raises(MeteringTreeError, match="charger-2 and garage"):
        check([*SITE, point("charger-2", "garage", True)])


def test_a_missing_parent_is_refused() -> None:
    with pytest.raises(MeteringTreeError, match="barn is not in"):
        check([*SITE, point("charger-2", "barn")])


def test_a_circle_is_refused() -> None:
    with pytest.raises(MeteringTreeError, match="circle"):
        check([point("a", "b"), point("b", "a")])


def test_a_device_that_is_there_twice_is_refused() -> None:
    with pytest.raises(MeteringTreeError, match="twice"):
        check([*SITE, point("grid")])


def test_the_statement_is_the_same_whatever_the_order_of_the_configuration() -> None:
    assert metering_tree(SITE, 5) == metering_tree(SITE[::-1], 5)
    assert statements.decode(statements.encode(metering_tree(SITE, 5))) == metering_tree(SITE, 5)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=10))
def test_a_tree_that_passes_has_at_most_one_settlement_point_above_any_device(shape: list[tuple[int, bool]]) -> None:
    points = [point(str(i), str(parent) if parent < i else None, settled) for i, (parent, settled) in enumerate(shape)]
    by_id = {p.device_id: p for p in points}

    def settled_on_path(p: MeteringPoint) -> int:
        return p.settled + (0 if p.parent_id is None else settled_on_path(by_id[p.parent_id]))

    try:
        check(points)
    except MeteringTreeError:
        assert max(map(settled_on_path, points)) > 1
    else:
        assert max(map(settled_on_path, points)) <= 1
