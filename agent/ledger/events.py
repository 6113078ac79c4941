"""What goes into the leading side of a channel and what comes out of it: see `channel.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from agent.ledger.frames import Countersignature, Message, Proposal, Reestablish, Refusal
from agent.ledger.state import SignedState
from agent.store.rows import ChannelRow, Stage


@dataclass(frozen=True, slots=True)
class WindowClosed:
    """A window statement of the device, committed to the store before."""

    encoded: bytes


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The platform is reachable. `nonce`: 16 fresh random bytes."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The platform is not reachable."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A `Commit` output is durable."""

    version: int
    stage: Stage


@dataclass(frozen=True, slots=True)
class Signed:
    """The token's signature for a `Sign` output."""

    version: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class CounterRaised:
    """The hardware counter agreed with the store and was raised by one: no copy of the store can do that again."""


@dataclass(frozen=True, slots=True)
class CounterAhead:
    """The hardware counter was raised by a life of the store that this one does not know."""

    text: str
    """For a person."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """The meter was looked at for the state that the platform offers after a restore."""

    refused: str
    """Why it is not taken over; empty: it is."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Ask again for what is awaited: the store or the token had failed, or it is simply time."""


Input: TypeAlias = (
    WindowClosed
    | LinkUp
    | LinkDown
    | Committed
    | Signed
    | CounterRaised
    | CounterAhead
    | Adopt
    | Retry
    | Reestablish
    | Proposal
    | Countersignature
    | Refusal
)


@dataclass(frozen=True, slots=True)
class Commit:
    """Keep this row; then report Committed. Committing the same row again is no error."""

    row: ChannelRow
    settled: tuple[bytes, ...] = ()
    """Window statements that are settled with it: they need not be remembered as waiting any longer."""
    adopted: SignedState | None = None
    """The row is of this state, which the platform gave back: its earlier stages are to be kept with it, and windows
    begin at its end."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Have the device's key sign this digest; then report Signed."""

    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """To the platform. May be lost."""

    message: Message


@dataclass(frozen=True, slots=True)
class Keep:
    """Evidence of a conflict, to be kept as a note under this name for whoever settles it."""

    name: str
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Alert:
    """An alarm about this channel."""

    code: str
    text: str
    critical: bool = True


Output: TypeAlias = Commit | Sign | Send | Keep | Alert
