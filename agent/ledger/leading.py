"""What the leading side of a channel remembers: its phase, what both signed, what is under way, and how it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from agent.evidence.cose import VerifyKey
from agent.ledger.settle import ProvenWindow, between, read_window
from agent.ledger.state import ChannelTerms, SignedState, decode_signed
from agent.store.rows import ChannelRow, Stage

MOST_WINDOWS: Final = 96
"""Of one state: a day of quarter hours, so that a long outage is settled in pieces that a platform can check."""


class Phase(Enum):
    """Where the channel is."""

    RESTING = "resting"
    INTENDING = "intending"
    """Waits for the commit of the intent."""
    SIGNING = "signing"
    """Waits for the token."""
    KEEPING = "keeping"
    """Waits for the commit of our signature."""
    PROPOSED = "proposed"
    """Waits for the platform's countersignature."""
    CLOSING = "closing"
    """Waits for the commit of the countersignature."""
    FROZEN = "frozen"
    """Our history and the platform's differ, or the counter's: nothing is signed until a person has looked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """The state of the machine. Only `settled`, `current` and `waiting` outlive the process, as rows and notes."""

    terms: ChannelTerms
    incarnation: int
    device_key: VerifyKey
    platform_key: VerifyKey
    phase: Phase = Phase.RESTING
    settled: SignedState | None = None
    """The newest that both signed."""
    version: int = 0
    """The highest that was ever intended."""
    current: SignedState | None = None
    """Under way: intended, perhaps signed, perhaps countersigned and not yet committed."""
    waiting: tuple[ProvenWindow, ...] = ()
    """Closed windows that are not in `settled`, in order of time; those in `current` included."""
    question: bytes | None = None
    """Nonce of our question that the platform has not answered."""
    in_step: bool = False
    """The link is up and the platform has answered over it."""
    established: bool = False
    """The platform has answered since this start of the agent."""
    counted: bool = False
    """The hardware counter was raised since this start: our states are the newest though the platform was not asked."""
    restored: bool = False
    """A backup was put back by a person, a signed marker tells of it, and the platform has not answered since."""
    offered: SignedState | None = None
    """The platform's newer state, to be adopted once the meter has shown that it counted as much."""
    frozen_because: str = ""
    refused: bool = False
    """The platform refused the newest state: nothing is proposed until another window closes."""
    alerted: tuple[int, frozenset[str]] = (0, frozenset())
    """A version, and the codes of the alerts that were raised while it was the highest: one of each is enough."""

    @property
    def may_sign(self) -> bool:
        """Whether a state that is made now can have no twin that this store does not know."""
        return self.established or self.counted

    @property
    def wants_counter(self) -> bool:
        """Whether the hardware counter would let something be signed that waits for the platform."""
        if self.may_sign or self.restored:
            return False
        return self.phase is Phase.SIGNING or (self.phase is Phase.RESTING and bool(self.waiting) and not self.refused)


def start(
    terms: ChannelTerms,
    *,
    incarnation: int,
    device_key: VerifyKey,
    platform_key: VerifyKey,
    newest: ChannelRow | None,
    countersigned: ChannelRow | None,
    waiting: Sequence[bytes],
    conflicts: Sequence[bytes] = (),
    restored: bool = False,
) -> Channel:
    """The channel as the store has it: its newest row, its newest COUNTERSIGNED row, window statements not settled.

    `conflicts`: what Keep has given to be kept. With one of this channel it is frozen from the start: a platform that
    once showed our other history must not get a second one by denying it after a restart.
    `restored`: a person put a backup back, and the channel has not been in step since.
    Raises LedgerError when what is stored does not hold together.
    """
    settled = None if countersigned is None else decode_signed(countersigned.encoded)
    from_us = 0 if settled is None else settled.state.window_end_us
    windows = between((read_window(encoded, terms.device_id) for encoded in waiting), from_us, 1 << 63)
    channel = Channel(
        terms=terms,
        incarnation=incarnation,
        device_key=device_key,
        platform_key=platform_key,
        settled=settled,
        waiting=tuple(windows),
        version=0 if newest is None else newest.version,
        restored=restored,
    )
    for kept in map(decode_signed, conflicts):
        if kept.state.channel_id == terms.channel_id:
            return replace(channel, phase=Phase.FROZEN, frozen_because=foreign(kept, "is signed by us, too"))
    if newest is None or newest.stage is Stage.COUNTERSIGNED:
        return channel
    current = decode_signed(newest.encoded)
    return replace(channel, current=current, phase=Phase.SIGNING if newest.stage is Stage.INTENT else Phase.PROPOSED)


def foreign(held: SignedState, why: str) -> str:
    """What to say of a state that our key signed and that is not in this store."""
    return f"{held.state}: {why}, and this store does not know it; was a backup restored, or a card cloned?"
