"""Keeps the evidence within its space: acknowledged evidence goes first, then the oldest readings are merged.

In three steps, each one commit, so that whoever is killed in between goes on where he was: what stands for the readings
is put into the queue together with the plan; it is sealed as everything is; only then the leaves go, some batches at a
time, each with the plan moved on. So there is never a reading with neither its leaf nor a signed statement for it, and
none is merged twice. proto/EVIDENCE.md section 12.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Final

import cbor2
import structlog

from agent.clock import Clock, ClockQuality
from agent.config import Settings
from agent.evidence import statements
from agent.evidence.partial import cut, decode_any, numbered_leaves
from agent.evidence.statements import Kind, Severity, Thinning
from agent.evidence.thinning import MINUTE_SLOT_S, QUARTER_SLOT_S, Merger, coarsened, may_be_merged, old_batches
from agent.measure.reading import Reading
from agent.roads.alarms import Alarms
from agent.roads.desk import Desk
from agent.roads.keeping import KEPT_DAYS, boundary_sequences, worth_keeping
from agent.roads.live_windows import Live, live_readings
from agent.store import ConflictError, Cut, Kept, PlacedBatch, Store, StoreError

PLAN_NOTE: Final = "thinning/plan"
PLACE_NOTE: Final = "thinning/place/"
"""How far each pass has come, by the length of its slots."""
COUNT_NOTE: Final = "thinning/readings"
RUN_BATCHES: Final = 3_600
"""Merged in one go: an hour at one batch a second."""
RUN_US: Final = 6 * 3_600_000_000
"""Longest time that one run covers: within it a statement is found by the time that it begins with."""
STEP_BATCHES: Final = 128
"""Read, or cut in one transaction."""
FINE_STATEMENTS_BATCHES: Final = 64
BEGIN_SHARE: Final = 0.80
"""Of the space: from here on room is made ..."""
END_SHARE: Final = 0.75
"""... until here."""
YOUNGEST_S: Final = 3_600.0
"""Readings of the last hour are never merged."""
LEAST_RETAIN_DAYS: Final = 1 / 24
PRUNE_EVERY_S: Final = 600.0
LOOK_EVERY_S: Final = 1.0
PAUSE_S: Final = 0.02
"""Between steps: others want the disk too."""
DAY_US: Final = 86_400_000_000
REST_S: Final = 600.0
"""After a look that found nothing to merge: it has read all there is."""

log = structlog.get_logger()

LiveAt = Callable[[int], Awaitable[Mapping[str, Live]]]
"""Wall time -> by device that is settled, what of it must not be merged."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Leaves that a sealed statement stands for, or will: they go when it is sealed."""

    first_place: int
    last_place: int
    ranges: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """By device, sequences of readings."""
    leaves: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """By place, indexes."""

    def encode(self) -> bytes:
        ranges = {device_id: [list(each) for each in each_range] for device_id, each_range in self.ranges.items()}
        leaves = {place: list(indexes) for place, indexes in self.leaves.items()}
        return cbor2.dumps([1, self.first_place, self.last_place, ranges, leaves])


def _decode_plan(encoded: bytes) -> _Plan:
    _, first_place, last_place, ranges, leaves = cbor2.loads(encoded)
    return _Plan(first_place, last_place, {name: [(a, b) for a, b in each] for name, each in ranges.items()}, leaves)


class Thinner:
    """One for the gateway. `run` it in a task of its own."""

    def __init__(
        self,
        *,
        store: Store,
        desk: Desk,
        clock: Clock,
        most_bytes: int,
        retain_days: int,
        live_at: LiveAt,
        on_alarm: Callable[[Severity, str, str, str], None],
    ) -> None:
        self._store = store
        self._desk = desk
        self._clock = clock
        self._most_bytes = most_bytes
        self._retain_days = retain_days
        self._live_at = live_at
        self._on_alarm = on_alarm
        self._making_room = False
        self._said: set[str] = set()
        self._rest_until_s = float("-inf")
        self.merged_readings = 0
        """Since the first start of this store."""
        self.used_bytes = 0
        self.trouble = ""
        """Why no more room can be made; empty while it can or need not."""

    async def restore(self) -> None:
        """Take up the count. Raises StoreError."""
        note = await self._store.note(COUNT_NOTE)
        self.merged_readings = int(note) if note is not None else 0
        self.used_bytes = await self._store.used_bytes()

    async def run(self) -> None:
        """Delete what is old, and make room, until cancelled."""
        pruned_s = float("-inf")
        while True:
            more = False
            now = self._clock.now()
            try:
                if now.monotonic_s - pruned_s >= PRUNE_EVERY_S and now.quality is not ClockQuality.UNTRUSTED:
                    await self.prune(now.wall_us)
                    pruned_s = now.monotonic_s
                more = await self.look()
            except StoreError as error:
                self.trouble = str(error)
            await asyncio.sleep(PAUSE_S if more else LOOK_EVERY_S)

    async def prune(self, now_us: int) -> None:
        """Delete what was kept as long as it is to be. Raises StoreError."""
        await self._store.prune(now_us, self._retain_days, self._keep)
        await self._store.forget_kept(now_us - KEPT_DAYS * DAY_US)

    async def _keep(self, first_place: int, last_place: int) -> Sequence[Kept]:
        return await worth_keeping(self._store, first_place, last_place)

    async def look(self) -> bool:
        """Make room if it is needed: one step. True: there is more to do at once. Raises StoreError."""
        note = await self._store.note(PLAN_NOTE)
        if note is not None:
            return await self._carry_out(_decode_plan(note))
        self.used_bytes = await self._store.used_bytes()
        if self.used_bytes < self._most_bytes * (END_SHARE if self._making_room else BEGIN_SHARE):
            self._making_room, self.trouble = False, ""
            self._said.clear()
            return False
        self._making_room = True
        now = self._clock.now()
        if now.monotonic_s < self._rest_until_s:
            return False
        if now.quality is ClockQuality.UNTRUSTED:
            self.trouble = "no room is made while the time is not trusted: what is old is not known"
            return False
        if (
            await self._prune(now.wall_us)
            or await self._merge_readings(now.wall_us)
            or await self._coarsen(now.wall_us)
        ):
            self.trouble = ""
            return True
        await self._begin_again()
        self._rest_until_s = now.monotonic_s + REST_S
        self.trouble = (
            f"evidence takes {self.used_bytes >> 20} of {self._most_bytes >> 20} MiB, and nothing of it can be merged "
            "further: restore the link to the platform, or raise most_mib in [evidence]"
        )
        self._say(Severity.CRITICAL, "evidence.space", self.trouble)
        return False

    async def _prune(self, now_us: int) -> bool:
        """What the platform has goes before anything is merged that it has not, oldest first."""
        days = float(self._retain_days)
        while days >= LEAST_RETAIN_DAYS:
            if await self._store.prune(now_us, days, self._keep):
                if days < self._retain_days:
                    text = f"acknowledged evidence is kept for {days * 24:.0f} h only: the space is needed for the rest"
                    self._say(Severity.WARNING, "evidence.pruned_early", text)
                return True
            days /= 2
        return False

    async def _merge_readings(self, now_us: int) -> bool:
        """One run of batches: their readings become thinning statements. False: there are none."""
        place_note = f"{PLACE_NOTE}{MINUTE_SLOT_S}"
        after = int(await self._store.note(place_note) or b"0")
        before_us = now_us - round(YOUNGEST_S * 1e6)
        live = await self._live_at(now_us)
        while found := await self._store.thinnable(after, before_us, RUN_BATCHES):
            run = _first_run(found)
            after = run[-1].place
            merged = await self._merge(run, live)
            old = old_batches(run[0].incarnation, run[0].number, [batch.root for batch in run])
            made = [each for merger in merged.mergers.values() for each in merger.statements(old=old, at_us=now_us)]
            if not made:
                await self._store.set_note(place_note, str(after).encode())
                continue
            plan = _Plan(run[0].place, run[-1].place, ranges=merged.ranges)
            await self._begin(made, plan, {place_note: str(after).encode()}, merged.count)
            return True
        return False

    async def _merge(self, run: Sequence[PlacedBatch], live: Mapping[str, Live]) -> _Merged:
        merged = _Merged()
        boundaries = await boundary_sequences(self._store, run[0].place, run[-1].place)
        for first in range(0, len(run), STEP_BATCHES):
            part = run[first : first + STEP_BATCHES]
            held = await self._store.spans_between(part[0].place, part[-1].place)
            wanted: defaultdict[int, dict[int, None]] = defaultdict(dict)
            for span in held:
                if span.kind != Kind.READING or span.device_id is None:
                    continue
                stay, under = boundaries.get(span.device_id, ()), live.get(span.device_id)
                for leaf in span.leaves:
                    if leaf.sequence is None or leaf.sequence in stay:
                        continue
                    if under is None or not under.covers(leaf.sequence, leaf.timestamp_us):
                        wanted[span.place][leaf.index] = None
            if not wanted:
                continue
            for place, encoded in await self._store.bodies_between(part[0].place, part[-1].place):
                if place in wanted:
                    await asyncio.to_thread(merged.take, encoded, wanted[place])
        return merged

    async def _coarsen(self, now_us: int) -> bool:
        """Minutes become quarters of an hour. False: there are none."""
        place_note = f"{PLACE_NOTE}{QUARTER_SLOT_S}"
        after = int(await self._store.note(place_note) or b"0")
        while found := await self._store.holding(Kind.THINNING, after, FINE_STATEMENTS_BATCHES):
            after = found[-1].place
            made: list[Thinning] = []
            leaves: dict[int, list[int]] = {}
            for batch in found:
                own = old_batches(batch.incarnation, batch.number, [batch.root])
                for index, leaf in await self._thinnings_at(batch.place):
                    fine = statements.decode(leaf)
                    if isinstance(fine, Thinning) and fine.slot_s < QUARTER_SLOT_S:
                        coarse = coarsened(fine, leaf, slot_s=QUARTER_SLOT_S, old=own, at_us=now_us)
                        if len(coarse.slots) < len(fine.slots):
                            made.append(coarse)
                            leaves.setdefault(batch.place, []).append(index)
            if made:
                plan = _Plan(found[0].place, found[-1].place, leaves=leaves)
                await self._begin(made, plan, {place_note: str(after).encode()}, 0)
                return True
            await self._store.set_note(place_note, str(after).encode())
        return False

    async def _thinnings_at(self, place: int) -> list[tuple[int, bytes]]:
        """Thinning statements of a batch, by index. What else is in it may be of a later version of this gateway."""
        held = await self._store.spans_between(place, place)
        indexes = {leaf.index for span in held if span.kind == Kind.THINNING for leaf in span.leaves}
        body = await self._store.body_at(place)
        leaves = [] if body is None else numbered_leaves(decode_any(body))
        return [(index, leaf) for index, leaf in leaves if index in indexes]

    async def _begin(
        self, made: Sequence[Thinning], plan: _Plan, notes: Mapping[str, bytes | None], count: int
    ) -> None:
        total = self.merged_readings + count
        await self._desk.put(made, {**notes, PLAN_NOTE: plan.encode(), COUNT_NOTE: str(total).encode()})
        self.merged_readings = total
        log.info("evidence.thinned", statements=len(made), readings=count)
        text = "the space for evidence runs out: the oldest readings are merged, their energy is kept exactly"
        self._say(Severity.WARNING, "evidence.thinning", text)

    async def _carry_out(self, plan: _Plan) -> bool:
        """Take the leaves out, of some of the batches. False: what stands for them waits for its signature."""
        gone, rest = await self._next_part(plan)
        cuts = []
        for place, indexes in gone.items():
            encoded = await self._store.body_at(place)
            if encoded is not None and indexes:
                cuts.append(Cut(place, await asyncio.to_thread(_without, encoded, indexes), frozenset(indexes)))
        try:
            encoded_rest = None if rest is None else rest.encode()
            await self._store.cut(cuts, {PLAN_NOTE: encoded_rest}, Kind.THINNING)
        except ConflictError:
            return False
        return True

    async def _next_part(self, plan: _Plan) -> tuple[dict[int, set[int]], _Plan | None]:
        """Indexes by place, and what is left of the plan."""
        if plan.leaves:
            places = sorted(plan.leaves)
            rest = {place: plan.leaves[place] for place in places[STEP_BATCHES:]}
            gone = {place: set(plan.leaves[place]) for place in places[:STEP_BATCHES]}
            return gone, replace(plan, leaves=rest) if rest else None
        last = min(plan.last_place, plan.first_place + STEP_BATCHES - 1)
        gone = {}
        for span in await self._store.spans_between(plan.first_place, last):
            if span.kind == Kind.READING and span.device_id is not None:
                ranges = plan.ranges.get(span.device_id, ())
                gone.setdefault(span.place, set()).update(
                    leaf.index for leaf in span.leaves if leaf.sequence is not None and _within(leaf.sequence, ranges)
                )
        return gone, None if last == plan.last_place else replace(plan, first_place=last + 1)

    async def _begin_again(self) -> None:
        """What was under a live window root may be so no more: the next look begins at the oldest again."""
        await self._store.set_notes({f"{PLACE_NOTE}{MINUTE_SLOT_S}": None, f"{PLACE_NOTE}{QUARTER_SLOT_S}": None})

    def _say(self, severity: Severity, code: str, text: str) -> None:
        """Once until there is room again."""
        if code not in self._said:
            self._said.add(code)
            self._on_alarm(severity, code, "store", text)


def _first_run(found: Sequence[PlacedBatch]) -> Sequence[PlacedBatch]:
    """The batches up to the first that ends too late; at least one."""
    end_us = found[0].first_us + RUN_US
    return list(takewhile(lambda batch: batch.last_us < end_us, found)) or found[:1]


def make_thinner(settings: Settings, *, store: Store, desk: Desk, clock: Clock, alarms: Alarms) -> Thinner:
    """As the configuration wants it. Without a platform no window is ever closed, and no root is live."""
    settled = [device.id for device in settings.device if device.settled and settings.platform is not None]

    async def live_at(now_us: int) -> Mapping[str, Live]:
        window_us, grace_us = settings.settlement.window_s * 1_000_000, settings.settlement.grace_s * 1_000_000
        return await live_readings(store, settled, now_us=now_us, window_us=window_us, grace_us=grace_us)

    return Thinner(
        store=store,
        desk=desk,
        clock=clock,
        most_bytes=settings.evidence.most_mib << 20,
        retain_days=settings.evidence.retain_days,
        live_at=live_at,
        on_alarm=alarms.raise_alarm,
    )


class _Merged:
    """What the readings of one run become, device by device."""

    def __init__(self) -> None:
        self.mergers: dict[str, Merger] = {}
        self.ranges: dict[str, list[tuple[int, int]]] = {}
        self.count = 0

    def take(self, encoded: bytes, wanted: Collection[int]) -> None:
        """Readings of one batch, by index."""
        for index, leaf in numbered_leaves(decode_any(encoded)):
            if index not in wanted:
                continue
            reading = statements.decode(leaf)
            if not isinstance(reading, Reading) or not may_be_merged(reading):
                continue
            self.mergers.setdefault(reading.device_id, Merger(MINUTE_SLOT_S)).take(reading, leaf)
            ranges = self.ranges.setdefault(reading.device_id, [])
            if ranges and ranges[-1][1] == reading.sequence - 1:
                ranges[-1] = ranges[-1][0], reading.sequence
            else:
                ranges.append((reading.sequence, reading.sequence))
            self.count += 1


def _within(sequence: int, ranges: Sequence[tuple[int, int]]) -> bool:
    return any(first <= sequence <= last for first, last in ranges)


def _without(encoded: bytes, gone: Collection[int]) -> bytes:
    batch = decode_any(encoded)
    left = {index for index, _ in numbered_leaves(batch)} - set(gone)
    # Of a batch with nothing but its time left the time goes too: its path costs more than all the rest.
    return cut(batch, left if left - {0} else ()).encode()
