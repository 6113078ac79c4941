"""What a channel state says, given the state before it and the windows that it adds: one answer for both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.evidence import merkle, statements
from agent.evidence.cose import VerifyKey
from agent.evidence.errors import EvidenceError
from agent.evidence.statements import SettlementWindow
from agent.ledger.errors import LedgerError
from agent.ledger.state import NO_PREVIOUS, ChannelState, ChannelTerms
from agent.measure.reading import Quality


@dataclass(frozen=True, slots=True)
class ProvenWindow:
    """A window statement and its exact bytes."""

    window: SettlementWindow
    encoded: bytes


def read_window(encoded: bytes, device_id: str) -> ProvenWindow:
    """Reads the settlement window of a device. Raises LedgerError when it is something else."""
    try:
        window = statements.decode(encoded)
    except EvidenceError as error:
        raise LedgerError(f"settlement window of {device_id}: {error}") from error
    if not isinstance(window, SettlementWindow) or window.device_id != device_id:
        raise LedgerError(f"settlement window of {device_id}: the statement is about something else")
    if window.window_end_us <= window.window_start_us or window.net_energy_wh != window.import_wh - window.export_wh:
        raise LedgerError(f"settlement window of {device_id}: its times or its sum contradict each other")
    if window.import_wh < 0 or window.export_wh < 0:
        raise LedgerError(f"settlement window of {device_id}: energy is counted by direction and never negative")
    return ProvenWindow(window, encoded)


def between(windows: Iterable[ProvenWindow], from_us: int, to_us: int) -> list[ProvenWindow]:
    """The windows that lie in this time, each once, in order of time."""
    inside = {w.encoded: w for w in windows if from_us <= w.window.window_start_us and w.window.window_end_us <= to_us}
    return sorted(inside.values(), key=lambda w: w.window.window_start_us)


def of_newest_lives(windows: Sequence[ProvenWindow]) -> list[ProvenWindow]:
    """Without those that a later incarnation has closed anew: after a restore it counts that time from the register.

    In order of time. What overlaps within one incarnation stays, for `successor` to refuse.
    """
    return [
        item
        for item in windows
        if not any(
            other.window.incarnation > item.window.incarnation
            and other.window.window_start_us < item.window.window_end_us
            and item.window.window_start_us < other.window.window_end_us
            for other in windows
        )
    ]


def successor(
    before: ChannelState | None,
    windows: Sequence[ProvenWindow],
    *,
    terms: ChannelTerms,
    incarnation: int,
    version: int,
    device_key: VerifyKey,
    final: bool = False,
) -> ChannelState:
    """The state that adds these windows, at least one and in order of time, to the newest that both signed.

    Raises LedgerError when they overlap one another or what is settled.
    """
    if not windows:
        raise LedgerError("a channel state adds at least one window")
    end_us = 0 if before is None else before.window_end_us
    quality = Quality.GOOD
    for item in windows:
        if item.window.window_start_us < end_us:
            raise LedgerError(f"windows of {terms.device_id} overlap at {item.window.window_start_us}")
        end_us = item.window.window_end_us
        quality |= item.window.quality
    import_wh = (0 if before is None else before.import_wh) + sum(w.window.import_wh for w in windows)
    export_wh = (0 if before is None else before.export_wh) + sum(w.window.export_wh for w in windows)
    return ChannelState(
        chain_id=terms.chain_id,
        contract=terms.contract,
        channel_id=terms.channel_id,
        participant=terms.participant,
        counterparty=terms.counterparty,
        agreement_hash=terms.agreement_hash,
        incarnation=incarnation,
        version=version,
        previous_hash=NO_PREVIOUS if before is None else before.digest,
        window_start_us=windows[0].window.window_start_us,
        window_end_us=end_us,
        import_wh=import_wh,
        export_wh=export_wh,
        net_wh=import_wh - export_wh,
        meter_epoch=windows[-1].window.meter_epoch,
        windows_root=merkle.root([merkle.leaf_hash(w.encoded) for w in windows]),
        quality=quality,
        final=final,
        algorithm=device_key.algorithm,
        key_id=device_key.key_id,
    )
