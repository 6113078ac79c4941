"""The first stretch of the road up: samples of all devices become readings, and readings are committed.

Drivers hand samples in without waiting. All that wait are measured together and put in one transaction. While the store
cannot take them, only the newest sample of each device is kept: registers are cumulative, so no energy is lost, and the
next reading says that it follows a gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import structlog

from agent.clock import Clock
from agent.evidence.signed_values import references, signed_statement
from agent.evidence.statements import Alarm, Kind, Severity, Statement, decode
from agent.measure.meter import MeteredDevice, step
from agent.measure.reading import MOST_SIGNED_VALUES, Quality, Reading
from agent.measure.state import MeasureError, MeterState
from agent.roads.desk import Desk
from agent.store import Store, StoreError
from drivers.device import Sample

NOTE_PREFIX: Final = "meter/"
MOST_WAITING: Final = 20_000
MOST_AT_ONCE: Final = 2048
"""Samples measured in one go and committed together: a backlog must not hold up the loop, and with it control."""
MOST_SIGNED_KEPT: Final = 256
"""Samples whose values are given up and whose signatures are not, while the store cannot take them; the newest."""
RETRY_S: Final = 1.0
WITNESSES: Final = 1000
"""So many readings are looked through for the newest one with registers, where a note is damaged."""
ALARM_SEVERITY: Final = Severity.WARNING

log = structlog.get_logger()


class Measuring:
    """One for all devices. `run` it in a task of its own; `offer` never blocks."""

    def __init__(
        self, devices: Sequence[MeteredDevice], *, desk: Desk, clock: Clock, incarnation: int, boot_id: bytes
    ) -> None:
        self._devices = {device.device_id: device for device in devices}
        self._desk = desk
        self._clock = clock
        self._incarnation = incarnation
        self._boot_id = boot_id
        self._states: dict[str, MeterState | None] = dict.fromkeys(self._devices)
        self._waiting: deque[Sample] = deque()
        self._arrived = asyncio.Event()
        self._committing = asyncio.Lock()
        self.latest: dict[str, Reading] = {}
        """The newest committed reading of each device."""
        self.trouble = ""
        """Why readings cannot be committed; empty while they can."""

    @property
    def readings(self) -> int:
        """How many readings all devices have given, since the first start of this store."""
        return sum(state.sequence for state in self._states.values() if state is not None)

    async def restore(self, store: Store) -> None:
        """Go on exactly where the last run stopped. Raises StoreError."""
        for device_id in self._devices:
            self._states[device_id] = await _state_of(store, device_id)

    async def add(self, device: MeteredDevice, store: Store) -> None:
        """Another device from now on; it goes on where it stopped if it was here before. Raises StoreError."""
        self._states[device.device_id] = await _state_of(store, device.device_id)
        self._devices[device.device_id] = device

    def offer(self, sample: Sample) -> None:
        """Take a sample of a configured device. Of a backlog that cannot be committed the newest ones stay."""
        if sample.device_id not in self._devices:
            raise ValueError(f"sample of {sample.device_id!r}, which is not configured")
        if len(self._waiting) >= MOST_WAITING:
            self._keep_newest()
        self._waiting.append(sample)
        self._arrived.set()

    async def run(self) -> None:
        """Measure and commit until cancelled."""
        while True:
            await self._arrived.wait()
            try:
                await self.commit_waiting()
                self.trouble = ""
            except StoreError as error:
                if not self.trouble:
                    log.error("measure.cannot_commit", reason=str(error))
                self.trouble = str(error)
                self._keep_newest()
                await asyncio.sleep(RETRY_S)

    async def commit_waiting(self) -> None:
        """Measure everything that waits and commit it. Raises StoreError; then it still waits.

        May be called beside `run`: one after the other, so that no sequence is given twice.
        """
        async with self._committing:
            await self._commit()

    async def _commit(self) -> None:
        """Everything that waited when it began, MOST_AT_ONCE samples to a transaction."""
        left = len(self._waiting)
        self._arrived.clear()
        # What arrives meanwhile may make room by dropping some of these.
        while (now := min(left, MOST_AT_ONCE, len(self._waiting))) > 0:
            taken = [self._waiting.popleft() for _ in range(now)]
            left -= now
            try:
                await self._commit_these(taken)
            except BaseException:
                self._arrived.set()
                raise

    async def _commit_these(self, taken: Sequence[Sample]) -> None:
        states = dict(self._states)
        made: list[Statement] = []
        readings: dict[str, Reading] = {}
        for sample in taken:
            at = self._clock.at(sample.monotonic_s)
            device = self._devices[sample.device_id]
            done = step(
                states[sample.device_id],
                sample,
                at,
                device=device,
                incarnation=self._incarnation,
                boot_id=self._boot_id,
            )
            states[sample.device_id] = done.state
            signed = [signed_statement(value, sample.device_id, at.wall_us) for value in sample.signed]
            made += signed
            if done.reading is not None:
                reading = done.reading
                if signed:
                    reading = replace(reading, signed_values=references(signed[:MOST_SIGNED_VALUES]))
                made.append(reading)
                readings[sample.device_id] = reading
            for oddity in done.oddities:
                log.warning(oddity.code, device=sample.device_id, text=oddity.text)
                made.append(
                    Alarm(
                        timestamp_us=at.wall_us,
                        severity=ALARM_SEVERITY,
                        code=oddity.code,
                        subject=sample.device_id,
                        text=oddity.text,
                    )
                )
        try:
            await self._desk.put(made, _notes(states, readings))
        except StoreError:
            self._waiting.extendleft(reversed(taken))
            raise
        # Sequences count only now: a put that failed has used none.
        self._states = states
        self.latest.update(readings)

    def _keep_newest(self) -> None:
        """The newest values of each device, and what meters signed beside the older ones, as far as there is room."""
        newest = {sample.device_id: sample for sample in self._waiting if not sample.measures_nothing}
        signed = [
            Sample(device_id=sample.device_id, monotonic_s=sample.monotonic_s, signed=sample.signed)
            for sample in self._waiting
            if sample.signed and sample is not newest.get(sample.device_id)
        ]
        self._waiting = deque([*signed[-MOST_SIGNED_KEPT:], *newest.values()])


async def _state_of(store: Store, device_id: str) -> MeterState | None:
    """Where a device's readings stopped; None: there are none. Raises StoreError."""
    note = await store.note(NOTE_PREFIX + device_id)
    if note is None:
        return None
    try:
        return MeterState.decode(note)
    except MeasureError as error:
        # The readings themselves are the next best witness: no sequence is used again.
        log.error("measure.note_damaged", device=device_id, reason=str(error))
        return await _from_readings(store, device_id)


async def _from_readings(store: Store, device_id: str) -> MeterState | None:
    """The state after the newest reading that the store holds; by sequence, for the clock may be anywhere."""
    newest = await _newest_sequence(store, device_id)
    encoded = await store.statements_after(device_id, Kind.READING, max(0, newest - WITNESSES))
    readings = [reading for reading in map(decode, encoded) if isinstance(reading, Reading)]
    if not readings:
        return None
    counted = (r for r in reversed(readings) if Quality.NO_REGISTER not in r.quality)
    return MeterState.from_reading(readings[-1], next(counted, None))


async def _newest_sequence(store: Store, device_id: str) -> int:
    """The highest sequence of a device's readings in the store, 0 when there is none."""

    async def any_above(sequence: int) -> bool:
        return bool(await store.statements_after(device_id, Kind.READING, sequence, limit=1))

    low, high = 0, 1
    while await any_above(high - 1):
        low, high = high, high * 2
    # Between: `low` is there or 0, nothing is from `high` on.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await any_above(middle - 1) else (low, middle)
    return low


def _notes(states: Mapping[str, MeterState | None], readings: Mapping[str, Reading]) -> dict[str, bytes | None]:
    notes: dict[str, bytes | None] = {}
    for device_id in readings:
        state = states[device_id]
        assert state is not None
        notes[NOTE_PREFIX + device_id] = state.encode()
    return notes
