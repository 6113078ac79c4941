"""The side that leads: the gateway's half of one off-chain channel, as a table of transitions.

A state is intended, then signed, then sent, then countersigned, and each of these is committed before the next:

    RESTING -> INTENDING -> SIGNING -> KEEPING -> PROPOSED -> CLOSING -> RESTING

so that a crash anywhere leaves either nothing outside or exactly what is stored. One state is under way at a time;
windows that close meanwhile wait and go together into the next. What is sent again is always the stored bytes.

Nothing is signed after a start until the platform has told the newest state that it holds, or the hardware counter was
raised: a restored backup or a cloned card shows itself there, and the channel freezes instead of signing a second
history. Behind a signed restore marker the platform's newer state is taken over: `adoption.py`.

`step` is pure. The caller carries the outputs out, in their order, and reports back with Committed and Signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeAlias

from agent.ledger.adoption import hindrance
from agent.ledger.eip712 import verify_digest
from agent.ledger.errors import ChannelError, LedgerError
from agent.ledger.events import (
    Adopt,
    Alert,
    Commit,
    Committed,
    CounterAhead,
    CounterRaised,
    Input,
    Keep,
    LinkDown,
    LinkUp,
    Output,
    Retry,
    Send,
    Sign,
    Signed,
    WindowClosed,
)
from agent.ledger.frames import Countersignature, Proposal, Reestablish, Refusal, reestablish
from agent.ledger.leading import MOST_WINDOWS, Channel, Phase, foreign, start
from agent.ledger.settle import read_window, successor
from agent.ledger.state import SignedState, decode_state
from agent.store.rows import ChannelRow, Stage

__all__ = ["MOST_WINDOWS", "Channel", "Outcome", "Phase", "start", "step"]

Outcome: TypeAlias = "tuple[Channel, list[Output]]"


def step(channel: Channel, happened: Input) -> Outcome:
    """What follows from an input. Raises LedgerError for a report about a version that was never intended."""
    if isinstance(happened, Committed | Signed) and happened.version > channel.version:
        raise LedgerError(f"channel of {channel.terms.device_id}: nothing was asked for version {happened.version}")
    handler = _ANYWHERE.get(type(happened)) or _TABLE[channel.phase].get(type(happened))
    if handler is not None:
        return _alerted_once(*handler(channel, happened))
    # A late or repeated report or message. What matters of it comes again with the next Retry or question.
    return channel, []


def _alerted_once(channel: Channel, outputs: list[Output]) -> Outcome:
    """Without the alerts that were raised before about this version: each is signed, stored and sent, and a peer that
    lies again and again must not fill the disk with them."""
    version, codes = channel.alerted
    if version != channel.version:
        codes = frozenset()
    kept = [output for output in outputs if not (isinstance(output, Alert) and output.code in codes)]
    codes |= {output.code for output in kept if isinstance(output, Alert)}
    return replace(channel, alerted=(channel.version, codes)), kept


def _window_closed(channel: Channel, happened: WindowClosed) -> Outcome:
    window = read_window(happened.encoded, channel.terms.device_id)
    if any(window.encoded == held.encoded for held in channel.waiting):
        return channel, []
    settled_until_us = 0 if channel.settled is None else channel.settled.state.window_end_us
    end_us = channel.waiting[-1].window.window_end_us if channel.waiting else settled_until_us
    if window.window.window_start_us < end_us:
        raise LedgerError(f"window of {channel.terms.device_id} at {window.window.window_start_us} overlaps another")
    return _propose(replace(channel, waiting=(*channel.waiting, window), refused=False))


def _propose(channel: Channel) -> Outcome:
    """Begin the next state where nothing is under way and there is something to settle."""
    if channel.phase is not Phase.RESTING or not channel.may_sign or not channel.waiting or channel.refused:
        return channel, []
    version = channel.version + 1
    state = successor(
        None if channel.settled is None else channel.settled.state,
        channel.waiting[:MOST_WINDOWS],
        terms=channel.terms,
        incarnation=channel.incarnation,
        version=version,
        device_key=channel.device_key,
    )
    channel = replace(channel, phase=Phase.INTENDING, version=version, current=SignedState(state))
    return channel, _awaited(channel)


def _awaited(channel: Channel) -> list[Output]:
    """What the phase waits for, asked for (again). Always the same bytes."""
    current = channel.current
    if current is None:
        return []
    match channel.phase:
        case Phase.INTENDING:
            return [_commit(channel, current, Stage.INTENT)]
        case Phase.SIGNING if channel.may_sign:
            return [Sign(current.state.version, current.state.digest)]
        case Phase.KEEPING:
            return [_commit(channel, current, Stage.SIGNED)]
        case Phase.PROPOSED if channel.in_step:
            return [Send(Proposal(state=current.state.encode(), gateway_signature=current.gateway_signature))]
        case Phase.CLOSING:
            # The platform's state, where it is not what was signed here.
            adopted = current if channel.offered is not None else None
            return [replace(_commit(channel, current, Stage.COUNTERSIGNED), adopted=adopted)]
    return []


def _commit(channel: Channel, signed: SignedState, stage: Stage) -> Commit:
    state = signed.state
    settled: tuple[bytes, ...] = ()
    if stage is Stage.COUNTERSIGNED:
        settled = tuple(w.encoded for w in channel.waiting if w.window.window_end_us <= state.window_end_us)
    return Commit(ChannelRow(state.channel_id, state.incarnation, state.version, stage, signed.encode()), settled)


def _committed(awaited: Stage, then: Phase) -> Callable[[Channel, Committed], Outcome]:
    def handler(channel: Channel, happened: Committed) -> Outcome:
        if (happened.version, happened.stage) != (_current(channel).state.version, awaited):
            return channel, []
        channel = replace(channel, phase=then)
        return channel, _awaited(channel)

    return handler


def _settled(channel: Channel, happened: Committed) -> Outcome:
    current = _current(channel)
    if (happened.version, happened.stage) != (current.state.version, Stage.COUNTERSIGNED):
        return channel, []
    waiting = tuple(w for w in channel.waiting if w.window.window_end_us > current.state.window_end_us)
    channel = replace(channel, phase=Phase.RESTING, settled=current, current=None, waiting=waiting)
    if channel.offered is None:
        return _propose(channel)
    return _retry(replace(channel, offered=None, established=True, restored=False), Retry())


def _signed(channel: Channel, happened: Signed) -> Outcome:
    current = _current(channel)
    if happened.version != current.state.version:
        return channel, []
    signed = replace(current, gateway_signature=happened.signature)
    try:
        signed.verify(channel.device_key)
    except ChannelError as error:
        # Never released; the next Retry asks the token again.
        return channel, [Alert("channel.bad_signature", f"our own signature does not hold: {error}")]
    channel = replace(channel, phase=Phase.KEEPING, current=signed)
    return channel, _awaited(channel)


def _countersigned(channel: Channel, happened: Countersignature) -> Outcome:
    current = _current(channel)
    if (happened.incarnation, happened.version) != current.state.order:
        return channel, []
    if happened.digest != current.state.digest:
        return channel, [Alert("channel.bad_countersignature", f"{current.state}: the platform signed another digest")]
    return _take_countersignature(channel, happened.platform_signature)


def _take_countersignature(channel: Channel, signature: bytes) -> Outcome:
    current = _current(channel)
    try:
        verify_digest(channel.platform_key, current.state.digest, signature)
    except ChannelError as error:
        return channel, [Alert("channel.bad_countersignature", f"{current.state}: {error}")]
    channel = replace(channel, phase=Phase.CLOSING, current=replace(current, platform_signature=signature))
    return channel, _awaited(channel)


def _refused(channel: Channel, happened: Refusal) -> Outcome:
    state = _current(channel).state
    if (happened.incarnation, happened.version, happened.digest) != (*state.order, state.digest):
        return channel, []
    # The version is spent. Its windows go into the next state, which the next closing window begins.
    alert = Alert("channel.refused", f"{state}: the platform refused: {happened.reason[:200]}")
    return replace(channel, phase=Phase.RESTING, current=None, refused=True), [alert]


def _link_up(channel: Channel, happened: LinkUp) -> Outcome:
    channel = replace(channel, question=happened.nonce, in_step=False)
    if channel.phase is not Phase.CLOSING:
        channel = replace(channel, offered=None)
    return channel, [Send(reestablish(channel.settled, happened.nonce, is_answer=False))]


def _link_down(channel: Channel, _: LinkDown) -> Outcome:
    return replace(channel, question=None, in_step=False), []


def _retry(channel: Channel, _: Retry) -> Outcome:
    if channel.phase is Phase.RESTING:
        return _propose(channel)
    return channel, _awaited(channel)


def _counter_raised(channel: Channel, _: CounterRaised) -> Outcome:
    if channel.phase is Phase.FROZEN or channel.restored:
        return channel, []
    return _retry(replace(channel, counted=True), Retry())


def _counter_ahead(channel: Channel, happened: CounterAhead) -> Outcome:
    if channel.phase is Phase.FROZEN:
        return channel, []
    channel = replace(channel, phase=Phase.FROZEN, frozen_because=happened.text)
    return channel, [Alert("channel.counter_ahead", happened.text)]


def _adopt(channel: Channel, happened: Adopt) -> Outcome:
    held = channel.offered
    if held is None or channel.phase is Phase.CLOSING:
        return channel, []
    if happened.refused:
        channel = replace(channel, offered=None)
        return _freeze(channel, held, "channel.platform_ahead", f"is signed by us, too, and {happened.refused}")
    channel = replace(
        channel,
        phase=Phase.CLOSING,
        current=held,
        version=held.state.version,
        in_step=True,
        frozen_because="",
        refused=False,
    )
    text = f"{held.state}: taken over from the platform after a backup was put back; its signature there is ours"
    return channel, [*_awaited(channel), Alert("channel.adopted", text, critical=False)]


def _reestablish(channel: Channel, happened: Reestablish) -> Outcome:
    if not happened.is_answer:
        return channel, [Send(reestablish(channel.settled, happened.nonce, is_answer=True))]
    if channel.question is None or happened.nonce != channel.question:
        return channel, []
    channel = replace(channel, question=None)
    held = None
    if happened.version:
        try:
            held = SignedState(decode_state(happened.state), happened.gateway_signature, happened.platform_signature)
            held.verify(channel.device_key)
        except ChannelError as error:
            # No proof of anything; a liar, or a platform that lost our key.
            return channel, [Alert("channel.bad_answer", f"the platform presents a state that is not ours: {error}")]
        if (held.state.version, held.state.incarnation) != (happened.version, happened.incarnation):
            return channel, [Alert("channel.bad_answer", "the platform's answer names another state than it presents")]
        if not held.state.has_terms(channel.terms):
            # Our key may have signed it, under other terms: that is another channel, with versions of its own.
            return channel, [Alert("channel.bad_answer", f"{held.state}: the platform presents another channel")]
    settled = channel.settled
    newer = held is not None and (settled is None or held.state.version > settled.state.version)
    if held is not None and newer and not hindrance(channel, held):
        return replace(channel, offered=held), []
    if channel.phase is Phase.FROZEN:
        # Kept again, for the store may have failed when it was first seen; the same name, so the same note.
        ours = [known.state.digest for known in (settled, channel.current) if known is not None]
        channel = replace(channel, restored=False)
        return channel, [] if held is None or held.state.digest in ours else [_kept(held)]
    if held is None or (settled is not None and held.state.version < settled.state.version):
        if settled is None:
            return _resume(channel)
        # Our question carried its own signature on what it has lost; a platform that follows the rules takes it back.
        text = f"{settled.state}: the platform countersigned it and holds {'nothing' if held is None else held.state}"
        return channel, [Alert("channel.platform_behind", text)]
    if settled is not None and held.state.version == settled.state.version:
        if held.state.digest != settled.state.digest:
            return _freeze(channel, held, "channel.fork", "another state of this name is signed by us")
        return _resume(channel)
    current = channel.current
    if current is not None and held.state.digest == current.state.digest and channel.phase in _RELEASED:
        if channel.phase is Phase.PROPOSED and held.platform_signature:
            # The countersignature was lost on its way.
            channel, outputs = _take_countersignature(channel, held.platform_signature)
            if channel.phase is not Phase.CLOSING:
                return channel, outputs
        return _resume(channel)
    if current is not None and held.state.order == current.state.order and held.state.digest != current.state.digest:
        return _freeze(channel, held, "channel.fork", "another state of this name is signed by us")
    why = "the platform holds a newer state that we signed"
    if channel.restored:
        why += f"; it is not taken over, for {hindrance(channel, held)}"
    return _freeze(channel, held, "channel.platform_ahead", why)


def _resume(channel: Channel) -> Outcome:
    return _retry(replace(channel, in_step=True, established=True, restored=False), Retry())


def _freeze(channel: Channel, held: SignedState, code: str, why: str) -> Outcome:
    text = foreign(held, why)
    # The marker is spent: windows are closed again, as those of every frozen channel.
    channel = replace(channel, phase=Phase.FROZEN, in_step=True, frozen_because=text, restored=False)
    return channel, [_kept(held), Alert(code, text)]


def _kept(held: SignedState) -> Keep:
    return Keep(f"conflict/{held.state.digest.hex()}", held.encode())


def _current(channel: Channel) -> SignedState:
    assert channel.current is not None, channel.phase
    return channel.current


_Handler: TypeAlias = Callable[[Channel, Any], Outcome]

_RELEASED: Final = (Phase.PROPOSED, Phase.CLOSING)
"""Phases in which the platform may rightly hold the state that is under way."""

_ANYWHERE: Final[Mapping[type, _Handler]] = {
    WindowClosed: _window_closed,
    LinkUp: _link_up,
    LinkDown: _link_down,
    CounterRaised: _counter_raised,
    CounterAhead: _counter_ahead,
    Adopt: _adopt,
    Reestablish: _reestablish,
    Retry: _retry,
}

_TABLE: Final[Mapping[Phase, Mapping[type, _Handler]]] = {
    Phase.RESTING: {},
    Phase.INTENDING: {Committed: _committed(Stage.INTENT, Phase.SIGNING)},
    Phase.SIGNING: {Signed: _signed},
    Phase.KEEPING: {Committed: _committed(Stage.SIGNED, Phase.PROPOSED)},
    Phase.PROPOSED: {Countersignature: _countersigned, Refusal: _refused},
    Phase.CLOSING: {Committed: _settled},
    Phase.FROZEN: {},
}
