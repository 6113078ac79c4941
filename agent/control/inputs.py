"""Hard-wired inputs: what a line's level means, and from when on it counts (SAFETY 1 and 13). Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InputClamp:
    """What an active input asks of the plan. It is above every command from the network."""

    name: str
    export_limit_w: int | None = None
    import_limit_w: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Debounced:
    """A level that counts, and another one that may be about to."""

    active: bool
    changing_since_s: float | None = None
    """Since when the line has shown the other level; None: it shows this one."""


def step(state: Debounced | None, active: bool, debounce_s: float, now_s: float) -> Debounced:
    """The state after one look. The first look counts at once: nobody knows how long the level has stood."""
    if state is None:
        return Debounced(active=active)
    if active == state.active:
        return Debounced(active=active)
    since_s = now_s if state.changing_since_s is None else state.changing_since_s
    if now_s - since_s >= debounce_s:
        return Debounced(active=active)
    return Debounced(active=state.active, changing_since_s=since_s)
