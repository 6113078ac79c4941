"""Windows without evidence at the platform, as it counts them: 15 minutes in which it acknowledged nothing. Pure.

After two in a row the platform goes by the last verified window and dispatches 10 % less; after four it dispatches the
site no more until a person has looked (PLATFORM.md: Figures).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from agent.control.errors import RestoreError
from agent.evidence import cbor
from agent.evidence.errors import EvidenceError

WINDOW_US: Final = 900 * 1_000_000
DERATED_AFTER: Final = 2
REMOVED_AFTER: Final = 4
DERATED_PERMILLE: Final = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedWindows:
    """What is counted. Counting begins with the first acknowledgement ever."""

    window: int | None = None
    """Number of the present window since 1970; None: nothing was ever acknowledged."""
    heard: bool = False
    """Something was acknowledged in it."""
    in_a_row: int = 0
    total: int = 0
    removed: bool = False
    """Four in a row were missed, and no person has said that it was looked at."""

    @property
    def permille(self) -> int:
        """How much of the capacity the platform goes by."""
        if self.removed:
            return 0
        return DERATED_PERMILLE if self.in_a_row >= DERATED_AFTER else 1000


def step_windows(state: MissedWindows, now_us: int, *, heard: bool) -> MissedWindows:
    """The count at this moment. `heard`: something was acknowledged since the last look.

    Time gone back adds none. A second back over a boundary is waited for; after more, counting goes on from there.
    """
    window = now_us // WINDOW_US
    if state.window is None:
        return replace(state, window=window, heard=True) if heard else state
    if window < state.window - 1:
        return replace(state, window=window, heard=heard)
    if window > state.window:
        # The one that ended, and those in which we were off.
        missed = window - state.window - (1 if state.heard else 0)
        in_a_row = missed if state.heard else state.in_a_row + missed
        state = replace(
            state,
            window=window,
            heard=False,
            in_a_row=in_a_row,
            total=state.total + missed,
            removed=state.removed or in_a_row >= REMOVED_AFTER,
        )
    return replace(state, heard=state.heard or heard)


def looked(state: MissedWindows) -> MissedWindows:
    """A person has looked at it."""
    return replace(state, removed=False, in_a_row=0)


def encode_windows(state: MissedWindows) -> bytes:
    """For the store."""
    return cbor.encode([1, state.window, state.heard, state.in_a_row, state.total, state.removed])


def decode_windows(note: bytes) -> MissedWindows:
    """The stored count. Raises RestoreError."""
    try:
        match cbor.decode(note, what="missed windows"):
            case [1, int() | None as window, bool(heard), int(in_a_row), int(total), bool(removed)]:
                return MissedWindows(window=window, heard=heard, in_a_row=in_a_row, total=total, removed=removed)
    except EvidenceError as error:
        raise RestoreError(str(error)) from error
    raise RestoreError("missed windows: not laid out as version 1")
