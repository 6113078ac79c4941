"""When a channel takes over the platform's newer state after a backup was put back, and where its windows begin then.

The state is ours: both signed it, in the life of the store that the backup does not know. It is taken over only behind
a signed restore marker, and only if the meter has counted at least as much as it says. Registers are the truth: the
windows that follow begin to count where the state stands on the meter, so that nothing is settled twice. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.ledger.errors import ChannelError
from agent.ledger.leading import Channel
from agent.ledger.settle import ProvenWindow
from agent.ledger.state import SignedState
from agent.ledger.window import Progress, Standing
from agent.measure.reading import Reading


@dataclass(frozen=True, slots=True)
class Counted:
    """Energy of a channel since it began, as the meter tells it."""

    meter_epoch: int
    import_wh: int
    export_wh: int


def hindrance(channel: Channel, held: SignedState) -> str:
    """Why the platform's newer state is not taken over, whatever the meter says; empty when only that is open.

    `held` is signed by the device's key and of the channel's terms; its platform signature is verified here.
    """
    if not channel.restored:
        return "no signed marker tells that a backup was put back"
    try:
        held.verify(channel.device_key, channel.platform_key)
    except ChannelError as error:
        return f"it is not countersigned by the platform: {error}"
    if held.state.incarnation >= channel.incarnation:
        return f"it is of incarnation {held.state.incarnation}, and this life of the store is {channel.incarnation}"
    if held.state.version < channel.version:
        return f"version {channel.version} was intended here already"
    current = channel.current
    if current is not None and current.state.order == held.state.order and current.state.digest != held.state.digest:
        return "another state of this name is intended here"
    settled = channel.settled
    if settled is not None:
        if settled.state.final:
            return "the channel ended with a state that both signed before it"
        before, after = settled.state, held.state
        if (
            after.window_end_us < before.window_end_us
            or after.import_wh < before.import_wh
            or after.export_wh < before.export_wh
        ):
            return "it says less than a state that both signed before it"
    known = _within(channel.waiting, held)
    all_known = bool(channel.waiting) and channel.waiting[-1].window.window_end_us >= held.state.window_end_us
    if all_known and _through(settled, known) != (held.state.import_wh, held.state.export_wh):
        return "it says another energy than the windows of that time, which are here"
    return ""


def begun(progress: Progress, first: Reading | None) -> Progress:
    """Where windows stand: in a backup from before the first of them, at the first reading, as close_window has it."""
    if progress.standing is not None or first is None:
        return progress
    registers = (first.import_register_milliwatt_hours, first.export_register_milliwatt_hours)
    return replace(progress, standing=Standing(first.timestamp_us, first.meter_epoch, *registers))


def counted(channel: Channel, progress: Progress, newest: Reading | None) -> Counted | None:
    """What the meter has counted for a channel: what is settled and closed, and what its registers rose by since.

    `newest`: the device's newest reading of this life of the store; None while there is none. Without registers on
    both sides the rise is not known: None.
    """
    standing = progress.standing
    if newest is None or standing is None or newest.meter_epoch != standing.meter_epoch:
        return None
    import_wh, export_wh = _through(channel.settled, channel.waiting)
    return Counted(
        newest.meter_epoch,
        import_wh + _rise_wh(standing.import_milliwatt_hours, newest.import_register_milliwatt_hours),
        export_wh + _rise_wh(standing.export_milliwatt_hours, newest.export_register_milliwatt_hours),
    )


def excess(held: SignedState, counted: Counted) -> str:
    """By what the state says more than the meter; empty when it does not."""
    state = held.state
    if state.meter_epoch != counted.meter_epoch:
        return f"it is of meter epoch {state.meter_epoch}, and the meter counts in epoch {counted.meter_epoch}"
    over = [
        f"{way} {said} Wh, by the meter {known} Wh at most"
        for way, said, known in (
            ("import", state.import_wh, counted.import_wh),
            ("export", state.export_wh, counted.export_wh),
        )
        if said > known
    ]
    return "it says more than the meter counted: " + ", ".join(over) if over else ""


def rebased(channel: Channel, progress: Progress, held: SignedState, last_sequence: int) -> Progress:
    """Where the windows after an adopted state begin: at its end, and at the register that it stands on.

    `last_sequence`: the newest reading that was measured before the state's end, as far as this store knows; it is in
    a window that the state settled.
    """
    import_wh, export_wh = _through(channel.settled, _within(channel.waiting, held))
    standing = progress.standing
    if standing is not None:
        standing = replace(
            standing,
            timestamp_us=max(standing.timestamp_us, held.state.window_end_us),
            import_milliwatt_hours=_moved(standing.import_milliwatt_hours, held.state.import_wh - import_wh),
            export_milliwatt_hours=_moved(standing.export_milliwatt_hours, held.state.export_wh - export_wh),
        )
    return Progress(
        max(progress.closed_until_us, held.state.window_end_us), max(progress.last_sequence, last_sequence), standing
    )


def _within(waiting: Sequence[ProvenWindow], held: SignedState) -> Sequence[ProvenWindow]:
    return [item for item in waiting if item.window.window_end_us <= held.state.window_end_us]


def _through(settled: SignedState | None, windows: Sequence[ProvenWindow]) -> tuple[int, int]:
    """Import and export in Wh since the channel began, through these windows after what is settled."""
    import_wh, export_wh = (0, 0) if settled is None else (settled.state.import_wh, settled.state.export_wh)
    return (
        import_wh + sum(item.window.import_wh for item in windows),
        export_wh + sum(item.window.export_wh for item in windows),
    )


def _rise_wh(before: int | None, now: int | None) -> int:
    return 0 if before is None or now is None else now // 1000 - before // 1000


def _moved(register: int | None, by_wh: int) -> int | None:
    return None if register is None else register + by_wh * 1000
