"""Closes settlement windows, and carries each settled device's channel: commits, signs and sends what it asks for.

The ledger decides; here are its hands. Outputs are carried out in their order, one after the other per channel, so that
an intent is durable before it is signed, and a signature before it is released.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from agent.clock import Clock
from agent.evidence import statements
from agent.evidence.cose import VerifyKey
from agent.evidence.statements import Alarm, Kind, Severity
from agent.ledger import adoption, events
from agent.ledger import channel as channels
from agent.ledger.channel import Channel, Phase
from agent.ledger.errors import LedgerError
from agent.ledger.frames import NONCE_BYTES, from_wire, to_wire
from agent.ledger.state import ChannelTerms, SignedState
from agent.ledger.window import Progress, close_window, decode_progress, due, first_progress
from agent.measure.reading import Reading
from agent.roads import restored
from agent.roads.desk import Desk
from agent.roads.offline import Counter, OfflineSigning
from agent.roads.reopening import reopen_windows
from agent.roads.window_notes import BEFORE_NOTE, CLOSED_NOTE, PROGRESS_NOTE, WAITING_NOTE
from agent.store import ChannelRow, Stage, Store, StoreError
from agent.uplink.errors import LinkDownError
from drivers.device import Signer, SignerUnavailableError
from proto.energysettlement.v1.gateway_pb2 import ChannelFrame

SETTLE_MOST_S: Final = 5.0
"""Readings that were measured before the boundary may still be on their way for this long."""
RETRY_S: Final = 10.0
CONFLICT_NOTE: Final = "channel-conflict/"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledDevice:
    """One settlement point."""

    device_id: str
    period_s: float
    signer: Signer
    terms: ChannelTerms


class Settling:
    """One for the gateway. `run` it in a task of its own; frames of the platform come in by `receive`.

    `send` gives a frame to the uplink; it raises LinkDownError when there is no link. `commands_of` gives the hashes of
    the commands that were in force for a device between two times.
    """

    def __init__(
        self,
        devices: Sequence[SettledDevice],
        *,
        store: Store,
        desk: Desk,
        clock: Clock,
        platform_key: VerifyKey,
        window_s: int,
        send: Callable[[ChannelFrame], Awaitable[None]],
        commands_of: Callable[[str, int, int], Sequence[bytes]],
        counter: Counter | None = None,
    ) -> None:
        self._devices = {device.device_id: device for device in devices}
        self._store = store
        self._desk = desk
        self._clock = clock
        self._platform_key = platform_key
        self._window_us = window_s * 1_000_000
        self._settle_us = round(min(SETTLE_MOST_S, window_s / 3) * 1e6)
        self._send = send
        self._commands_of = commands_of
        self._channels: dict[str, Channel] = {}
        self._progress: dict[str, Progress] = {}
        self._locks = {device_id: asyncio.Lock() for device_id in self._devices}
        self.windows_closed = 0
        self.windows_countersigned = 0
        self.last_window_end_us: int | None = None
        self._troubles: dict[str, str] = {}
        self.offline = OfflineSigning(counter, store=store, desk=desk, clock=clock)

    @property
    def trouble(self) -> str:
        """Why windows or channels wait, by device; empty when they do not."""
        waiting = {
            device_id: "a backup was put back: its windows wait until the platform and the meter have been heard"
            for device_id, channel in self._channels.items()
            if channel.restored and channel.phase is not Phase.FROZEN
        }
        return "; ".join(f"{device_id}: {reason}" for device_id, reason in (waiting | self._troubles).items())

    @property
    def windows_waiting(self) -> int:
        """Closed, and not signed by both sides yet."""
        return sum(len(channel.waiting) for channel in self._channels.values())

    @property
    def frozen(self) -> dict[str, str]:
        """Channels in conflict, with the reason."""
        return {
            device_id: channel.frozen_because
            for device_id, channel in self._channels.items()
            if channel.phase is Phase.FROZEN
        }

    async def restore(self) -> None:
        """Take up channels and windows where the store has them. Raises StoreError or LedgerError."""
        left_behind = await self.offline.look()
        for device in self._devices.values():
            channel_id = device.terms.channel_id
            newest = await self._store.channel_newest(channel_id)
            under_way = newest is not None and newest.stage is not Stage.COUNTERSIGNED
            await reopen_windows(self._store, self._desk, device.device_id, under_way=under_way)
            note = await self._store.note(PROGRESS_NOTE + device.device_id)
            if note is not None:
                self._progress[device.device_id] = decode_progress(note)
            waiting = await self._store.notes(f"{WAITING_NOTE}{device.device_id}/")
            conflicts = await self._store.notes(f"{CONFLICT_NOTE}{device.device_id}/")
            signer = device.signer
            self._channels[device.device_id] = channels.start(
                device.terms,
                incarnation=self._store.incarnation,
                device_key=VerifyKey(signer.algorithm, signer.public_key_der),
                platform_key=self._platform_key,
                newest=newest,
                countersigned=await self._store.channel_newest(channel_id, Stage.COUNTERSIGNED),
                waiting=list(waiting.values()),
                conflicts=list(conflicts.values()),
                restored=await restored.is_pending(self._store, device.device_id),
            )
            # After a restore the counter is ahead by right: the platform tells what is missing.
            if left_behind and not self._channels[device.device_id].restored:
                await self._advance(device, events.CounterAhead(left_behind))
        note = await self._store.note(CLOSED_NOTE)
        self.windows_closed = int(note) if note is not None else 0
        self.windows_countersigned = self.windows_closed - self.windows_waiting

    async def run(self) -> None:
        """Close what is due, and ask again for what channels wait for, until cancelled."""
        asked_again_s = self._clock.monotonic_s()
        while True:
            ask_again = self._clock.monotonic_s() - asked_again_s >= RETRY_S
            if ask_again:
                asked_again_s = self._clock.monotonic_s()
            for device in self._devices.values():
                await self._see_to(device, ask_again=ask_again)
            await asyncio.sleep(min(1.0, self._window_us / 10e6))

    async def _see_to(self, device: SettledDevice, *, ask_again: bool) -> None:
        """What is due for one device. What stops one settlement point stops no other."""
        try:
            await self._close_due(device)
            await self._look_at_meter(device)
            if ask_again:
                if self._channels[device.device_id].wants_counter and await self.offline.may_sign():
                    await self._advance(device, events.CounterRaised())
                await self._advance(device, events.Retry())
                self._troubles.pop(device.device_id, None)
        except (StoreError, SignerUnavailableError, LedgerError) as error:
            if device.device_id not in self._troubles:
                log.warning("settle.waits", device=device.device_id, reason=str(error))
            self._troubles[device.device_id] = str(error)

    async def connected(self) -> None:
        """The link came up: every channel asks the platform what it holds."""
        for device in self._devices.values():
            await self._advance(device, events.LinkUp(secrets.token_bytes(NONCE_BYTES)))

    async def receive(self, frame: ChannelFrame) -> None:
        """A frame of the platform. Raises LedgerError for one that is malformed or about no channel of ours."""
        device = self._devices.get(frame.device_id)
        if device is None or frame.channel_id != device.terms.channel_id:
            raise LedgerError(f"channel frame about {frame.device_id[:64]!r}, which has no such channel here")
        await self._advance(device, from_wire(frame))

    async def _look_at_meter(self, device: SettledDevice) -> None:
        """Whether the meter has counted what the platform's newer state says, after a restore."""
        channel = self._channels[device.device_id]
        held = channel.offered
        if held is None or channel.phase is Phase.CLOSING or not await restored.is_sealed(self._store):
            return
        progress = self._progress.get(device.device_id)
        if progress is None:
            refused = "no window of this device is in the backup"
        else:
            readings = [reading for reading, _ in await self._readings_after(device, progress.last_sequence)]
            newest = _newest_with_register(readings, self._store.incarnation)
            if newest is None:
                return
            counted = adoption.counted(channel, adoption.begun(progress, readings[0]), newest)
            unlike = "its registers are not those that the backup knows: another meter?"
            refused = unlike if counted is None else adoption.excess(held, counted)
        await self._advance(device, events.Adopt(refused))

    async def _readings_after(self, device: SettledDevice, sequence: int) -> list[tuple[Reading, bytes]]:
        readings = []
        for leaf in await self._store.statements_after(device.device_id, Kind.READING, sequence):
            reading = statements.decode(leaf)
            assert isinstance(reading, Reading)
            readings.append((reading, leaf))
        return readings

    async def _close_due(self, device: SettledDevice) -> None:
        if self._channels[device.device_id].restored:
            return  # Where its windows begin is known when the platform has answered.
        now = self._clock.now()
        progress = self._progress.get(device.device_id)
        if progress is None:
            progress = first_progress(now, window_us=self._window_us)
            if progress is None:
                return
            await self._store.set_note(PROGRESS_NOTE + device.device_id, progress.encode())
            self._progress[device.device_id] = progress
        for end_us in due(progress, now, window_us=self._window_us, settle_us=self._settle_us):
            await self._close(device, end_us)

    async def _close(self, device: SettledDevice, end_us: int) -> None:
        progress = self._progress[device.device_id]
        closed = close_window(
            progress,
            await self._readings_after(device, progress.last_sequence),
            device_id=device.device_id,
            incarnation=self._store.incarnation,
            end_us=end_us,
            tolerance_us=round(2e6 * device.period_s),
            command_hashes=self._commands_of(device.device_id, progress.closed_until_us, end_us),
        )
        statement = statements.encode(closed.window)
        await self._desk.put(
            [closed.window],
            {
                PROGRESS_NOTE + device.device_id: closed.progress.encode(),
                _key(WAITING_NOTE, device.device_id, statement): statement,
                _key(BEFORE_NOTE, device.device_id, statement): progress.encode(),
                CLOSED_NOTE: str(self.windows_closed + 1).encode(),
            },
        )
        self._progress[device.device_id] = closed.progress
        self.windows_closed += 1
        self.last_window_end_us = end_us
        log.info("window.closed", device=device.device_id, end_us=end_us, net_wh=closed.window.net_energy_wh)
        await self._advance(device, events.WindowClosed(statement))

    async def _advance(self, device: SettledDevice, happened: events.Input) -> None:
        """One input into the channel, and everything that follows from it."""
        async with self._locks[device.device_id]:
            inputs: list[events.Input] = [happened]
            before = self._channels[device.device_id]
            while inputs:
                channel, outputs = channels.step(self._channels[device.device_id], inputs.pop(0))
                self._channels[device.device_id] = channel
                for output in outputs:
                    inputs.extend(await self._carry_out(device, output))
            channel = self._channels[device.device_id]
            if before.restored and not channel.restored:
                await self._store.set_notes(await restored.done(self._store, device.device_id))
        if channel.established and not before.established and all(c.established for c in self._channels.values()):
            await self.offline.in_step()

    async def _carry_out(self, device: SettledDevice, output: events.Output) -> list[events.Input]:
        """What there is to report back."""
        match output:
            case events.Commit(row=row, settled=settled, adopted=adopted):
                kept = (WAITING_NOTE, BEFORE_NOTE)
                notes: dict[str, bytes | None] = {
                    _key(name, device.device_id, window): None for name in kept for window in settled
                }
                rows = [row]
                if adopted is not None:
                    progress, more, rows = await self._taken_over(device, adopted)
                    await self._desk.put([], notes | more, rows)
                    self._progress[device.device_id] = progress
                else:
                    await self._desk.put([], notes, rows)
                self.windows_countersigned += len(settled)
                return [events.Committed(row.version, row.stage)]
            case events.Sign(version=version, digest=digest):
                return [events.Signed(version, await device.signer.sign_digest(digest))]
            case events.Send(message=message):
                try:
                    await self._send(to_wire(device.device_id, device.terms.channel_id, message))
                except LinkDownError as error:
                    # The next connection begins with the question what the platform holds.
                    log.debug("channel.not_sent", device=device.device_id, reason=str(error))
            case events.Keep(name=name, encoded=encoded):
                await self._store.set_note(f"{CONFLICT_NOTE}{device.device_id}/{name}", encoded)
            case events.Alert(code=code, text=text, critical=critical):
                log.error(code, device=device.device_id, text=text)
                alarm = Alarm(
                    timestamp_us=self._clock.now().wall_us,
                    severity=Severity.CRITICAL if critical else Severity.WARNING,
                    code=code,
                    subject=device.device_id,
                    text=text,
                )
                await self._desk.put([alarm])
        return []

    async def _taken_over(
        self, device: SettledDevice, held: SignedState
    ) -> tuple[Progress, dict[str, bytes | None], list[ChannelRow]]:
        """What is committed with an adopted state: where windows go on, what is ended with it, its rows."""
        channel = self._channels[device.device_id]
        progress = self._progress[device.device_id]
        readings = [reading for reading, _ in await self._readings_after(device, progress.last_sequence)]
        before = [
            reading.sequence
            for reading in readings
            if reading.incarnation != self._store.incarnation and reading.timestamp_us <= held.state.window_end_us
        ]
        progress = adoption.begun(progress, readings[0] if readings else None)
        moved = adoption.rebased(channel, progress, held, max(before, default=0))
        notes: dict[str, bytes | None] = {
            PROGRESS_NOTE + device.device_id: moved.encode(),
            f"{CONFLICT_NOTE}{device.device_id}/conflict/{held.state.digest.hex()}": None,
        }
        stages = (SignedState(held.state), SignedState(held.state, held.gateway_signature), held)
        rows = [
            ChannelRow(held.state.channel_id, *held.state.order, stage, signed.encode())
            for stage, signed in zip(Stage, stages, strict=True)
        ]
        return moved, notes | await restored.done(self._store, device.device_id), rows


def _newest_with_register(readings: Sequence[Reading], incarnation: int) -> Reading | None:
    """Of this life of the store."""
    for reading in reversed(readings):
        if reading.incarnation != incarnation:
            return None
        if (reading.import_register_milliwatt_hours, reading.export_register_milliwatt_hours) != (None, None):
            return reading
    return None


def _key(note: str, device_id: str, statement: bytes) -> str:
    return f"{note}{device_id}/{hashlib.sha256(statement).hexdigest()}"
