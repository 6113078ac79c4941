"""The side that follows: what a platform does with a proposal and with a question. Pure; the platform keeps and signs.

Before a countersignature leaves, the platform has committed the state with it: `held` is always what it committed last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum

from agent.evidence.cose import VerifyKey
from agent.ledger.errors import ChannelError, LedgerError
from agent.ledger.frames import Countersignature, Proposal, Reestablish, Refusal, reestablish
from agent.ledger.settle import between, of_newest_lives, read_window, successor
from agent.ledger.state import ChannelState, ChannelTerms, SignedState, decode_state


class Ruling(Enum):
    """What to do with a proposal."""

    COUNTERSIGN = "countersign"
    """Sign `digest`, commit, answer with `countersigned`."""
    REPEAT = "repeat"
    """It is the state that is held: answer with `repeated` again; sign nothing."""
    WAIT = "wait"
    """Windows that it settles have not arrived: judge it again when more have."""
    REFUSE = "refuse"
    """Answer with `refused`; never countersign this version."""
    FORK = "fork"
    """As REFUSE, and keep both: two states of one name, signed by one key, are proof against the gateway."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A ruling on one proposal. `state` is None only when it could not even be read."""

    ruling: Ruling
    reason: str
    state: ChannelState | None
    gateway_signature: bytes = b""

    @property
    def digest(self) -> bytes:
        """What to sign."""
        return bytes(32) if self.state is None else self.state.digest

    def countersigned(self, platform_signature: bytes) -> SignedState:
        """What to commit, once signed."""
        assert self.state is not None
        return SignedState(self.state, self.gateway_signature, platform_signature)

    def refused(self) -> Refusal:
        """What to send for REFUSE and FORK."""
        incarnation, version = (0, 0) if self.state is None else self.state.order
        return Refusal(incarnation=incarnation, version=version, digest=self.digest, reason=self.reason)


def countersignature(signed: SignedState) -> Countersignature:
    """The message that gives a committed state's countersignature, also for Ruling.REPEAT (of what is held)."""
    return Countersignature(
        incarnation=signed.state.incarnation,
        version=signed.state.version,
        digest=signed.state.digest,
        platform_signature=signed.platform_signature,
    )


def judge(
    held: SignedState | None,
    proposal: Proposal,
    terms: ChannelTerms,
    device_key: VerifyKey,
    windows: Sequence[bytes],
) -> Verdict:
    """Rule on a proposal. `windows`: the device's settlement window statements from verified batches, in any order;
    those settled before may be left out.

    Checks, in this order: layout, terms, signature, name against what is held, chain, then every field against the
    state that the windows give.
    """
    try:
        state = decode_state(proposal.state)
    except ChannelError as error:
        return Verdict(Ruling.REFUSE, str(error), None)

    def verdict(ruling: Ruling, reason: str = "") -> Verdict:
        return Verdict(ruling, reason, state, proposal.gateway_signature)

    if not state.has_terms(terms):
        return verdict(Ruling.REFUSE, f"{state}: its terms are not those agreed for device {terms.device_id}")
    try:
        SignedState(state, proposal.gateway_signature).verify(device_key)
    except ChannelError as error:
        return verdict(Ruling.REFUSE, str(error))
    before = None if held is None else held.state
    if before is not None:
        if state.order == before.order:
            if state.digest == before.digest:
                return verdict(Ruling.REPEAT)
            return verdict(Ruling.FORK, f"{state}: another state of this name is countersigned")
        if state.incarnation < before.incarnation or state.version <= before.version:
            return verdict(Ruling.REFUSE, f"{state}: {before.incarnation}.{before.version} is countersigned already")
        if before.final:
            return verdict(Ruling.REFUSE, f"{state}: the channel ended with {before.incarnation}.{before.version}")
    # The first state of a channel says where it begins; after that no window may be left out.
    from_us = state.window_start_us if before is None else before.window_end_us
    try:
        read = (read_window(w, terms.device_id) for w in windows)
        added = of_newest_lives(between(read, from_us, state.window_end_us))
        if not added or added[-1].window.window_end_us < state.window_end_us:
            return verdict(Ruling.WAIT, f"{state}: its last window has not arrived")
        expected = successor(
            before,
            added,
            terms=terms,
            incarnation=state.incarnation,
            version=state.version,
            device_key=device_key,
            final=state.final,
        )
    except LedgerError as error:
        return verdict(Ruling.REFUSE, str(error))
    wrong = [f.name for f in fields(ChannelState) if getattr(state, f.name) != getattr(expected, f.name)]
    if wrong:
        return verdict(
            Ruling.REFUSE, f"{state}: {', '.join(wrong)} do not follow from the state before and the windows"
        )
    return verdict(Ruling.COUNTERSIGN)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to do with a question. `adopt`, where there is one, is committed before the message is sent."""

    message: Reestablish
    adopt: SignedState | None = None
    """We had lost it: it carries our own signature."""


def answer(
    held: SignedState | None,
    question: Reestablish,
    terms: ChannelTerms,
    device_key: VerifyKey,
    platform_key: VerifyKey,
) -> Answer:
    """Tell the newest state that both signed; take the gateway's when it is newer and carries our own signature.

    Raises ChannelError when the question presents a state that does not hold; there is nothing to answer then.
    """
    adopt = None
    if question.platform_signature:
        presented = SignedState(decode_state(question.state), question.gateway_signature, question.platform_signature)
        presented.verify(device_key, platform_key)
        if not presented.state.has_terms(terms):
            raise ChannelError(f"{presented.state}: its terms are not those agreed for device {terms.device_id}")
        if held is None or presented.state.version > held.state.version:
            adopt = held = presented
    return Answer(reestablish(held, question.nonce, is_answer=True), adopt)
