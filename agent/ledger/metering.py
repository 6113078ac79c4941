"""The metering tree: which device is metered behind which, and that no energy is settled twice (DESIGN, Ledger)."""

from __future__ import annotations

from collections.abc import Sequence

from agent.evidence.statements import MeteringPoint, MeteringTree
from agent.ledger.errors import MeteringTreeError


def check(points: Sequence[MeteringPoint]) -> tuple[str, ...]:
    """Device ids of the settlement points, sorted.

    Raises MeteringTreeError when ids repeat, a parent is missing, parents form a circle, or two settlement points are
    on one path.
    """
    by_id = {point.device_id: point for point in points}
    if len(by_id) != len(points):
        raise MeteringTreeError("a device is in the metering tree twice")
    for point in points:
        settled = [p.device_id for p in _path(point, by_id) if p.settled]
        if len(settled) > 1:
            raise MeteringTreeError(f"energy would be settled twice: {' and '.join(settled[:2])} are on one path")
    return tuple(sorted(p.device_id for p in points if p.settled))


def unsettled(points: Sequence[MeteringPoint]) -> tuple[str, ...]:
    """Ends of the tree whose energy no settlement point counts, sorted: they give evidence only. For a warning."""
    by_id = {point.device_id: point for point in points}
    parents = {point.parent_id for point in points}
    ends = [point for point in points if point.device_id not in parents]
    return tuple(sorted(p.device_id for p in ends if not any(q.settled for q in _path(p, by_id))))


def metering_tree(points: Sequence[MeteringPoint], timestamp_us: int) -> MeteringTree:
    """The statement of a tree that was checked, in one order whatever the configuration's. Raises as `check`."""
    check(points)
    return MeteringTree(timestamp_us=timestamp_us, points=tuple(sorted(points, key=lambda p: p.device_id)))


def _path(point: MeteringPoint, by_id: dict[str, MeteringPoint]) -> list[MeteringPoint]:
    """A point and all above it."""
    path = [point]
    while (parent_id := path[-1].parent_id) is not None:
        parent = by_id.get(parent_id)
        if parent is None:
            raise MeteringTreeError(f"{path[-1].device_id}: its parent {parent_id} is not in the metering tree")
        if parent in path:
            raise MeteringTreeError(f"{point.device_id}: its parents form a circle at {parent_id}")
        path.append(parent)
    return path
