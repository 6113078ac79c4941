"""The judge: what must be true of a gateway's evidence after any fault, whatever the fault was.

Pure: what the store's callers were promised (`Told`), what the store holds, what the platform holds -> violations.
Knows nothing of faults, and trusts nothing that the gateway says of itself: every batch is verified under its key.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.evidence.errors import EvidenceError
from agent.evidence.statements import Alarm, decode
from agent.evidence.verify import ChainPosition, TrustedKey, VerifiedBatch, Verifier, follow
from agent.identity.did import key_of_did
from agent.measure.reading import Reading
from hil_tests.faults.source import moment_of

SET_ASIDE: Final = "store.set_aside"
"""Code of the signed alarm that explains a new incarnation."""


class Rule(StrEnum):
    """What was broken."""

    LOST = "a statement whose put had returned is gone"
    UNSEALED = "a batch that was released (sealed, shown or sent) is gone, or another one has its number"
    EQUIVOCATION = "one identity has two contents"
    DOUBLED = "one reading was sealed twice"
    SEQUENCE_REUSED = "a sequence was given out again by another run"
    SEQUENCE_GAP = "a sequence is missing among a device's readings"
    BATCH_REUSED = "a batch number has two contents"
    CHAIN = "the chain of batches is broken"
    UNEXPLAINED = "a new incarnation that no signed statement explains"
    ENERGY = "the energy of the readings is not the difference of the registers"
    REGISTERS = "a reading's registers are none that the meter ever showed"
    UNVERIFIED = "a batch that does not verify"
    FORGOTTEN = "what was acknowledged is not at the platform"
    CONFLICT = "the platform was shown what contradicts itself"
    CHANNEL_FORK = "a channel's version has two states, or one was signed that must not be"
    CHANNEL_LOST = "a stage of a channel's state that was kept is gone"
    UNSETTLED = "the channel did not get on again after the fault"
    STUCK = "the gateway did not get on again after the fault"
    DIED = "the gateway ended by itself"


LOSSES: Final = frozenset({Rule.LOST})


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be."""

    rule: Rule
    what: str

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.rule.value}: {self.what}"


Place = tuple[int, int]
"""(incarnation, number) of a batch."""


@dataclass(frozen=True, slots=True)
class ChannelStage:
    """One stage of one state of a channel, as the store was given it."""

    incarnation: int
    version: int
    stage: int
    encoded: bytes

    @property
    def text(self) -> str:
        return f"state {self.incarnation}.{self.version}, stage {self.stage}"


@dataclass(slots=True)
class Told:
    """What the store promised to its callers: written down outside of it, when the call had returned."""

    puts: list[bytes] = field(default_factory=list)
    """Statements."""
    sealed: list[tuple[Place, bytes]] = field(default_factory=list)
    """With the root."""
    acknowledged: dict[int, int] = field(default_factory=dict)
    """Highest number by incarnation."""
    shown: dict[tuple[int, int, bytes], None] = field(default_factory=dict)
    """Incarnation, number and root of batches whose readings somebody outside was shown, in order."""

    channel: list[ChannelStage] = field(default_factory=list)
    """Stages of the states of a settled device's channel."""

    def copy(self) -> Told:
        """What was told so far: taken before looking, for what is told later need not be found."""
        return Told([*self.puts], [*self.sealed], {**self.acknowledged}, {**self.shown}, [*self.channel])


@dataclass(frozen=True, slots=True)
class Held:
    """What the store has."""

    batches: Sequence[bytes]
    """In wire form, in the order of sealing."""
    queued: Sequence[bytes]
    """Statements that wait to be sealed."""


@dataclass(frozen=True, slots=True)
class AtPlatform:
    """What the platform has."""

    batches: Sequence[bytes]
    """In wire form, in the order of arrival."""
    conflicts: Sequence[str]
    complete: bool
    """It has had time to get everything: at the end of a run."""


class Judge:
    """For one gateway. Remembers nothing between looks but which bytes it has verified already."""

    def __init__(self, gateway_id: str) -> None:
        self._verifier = Verifier([TrustedKey(gateway_id, key_of_did(gateway_id))])
        self._verified: dict[bytes, VerifiedBatch] = {}

    def look(self, told: Told, held: Held, platform: AtPlatform) -> list[Violation]:
        """Everything that is wrong."""
        found: list[Violation] = []
        batches = self._verify(held.batches, "the store's", found)
        arrived = self._verify(platform.batches, "the platform's", found)
        found += _chain(batches)
        found += _numbers(batches, arrived, told)
        found += _promises(told, held, batches, arrived)
        found += _readings(batches, arrived)
        found += [Violation(Rule.CONFLICT, text) for text in dict.fromkeys(platform.conflicts)]
        if platform.complete:
            there = {_place(batch) for batch in arrived}
            found += [
                Violation(Rule.FORGOTTEN, _name(place))
                for place in map(_place, batches)
                if place[1] <= told.acknowledged.get(place[0], 0) and place not in there
            ]
        return found

    def _verify(self, encoded: Iterable[bytes], whose: str, found: list[Violation]) -> list[VerifiedBatch]:
        good = []
        for each in encoded:
            key = hashlib.sha256(each).digest()
            try:
                if key not in self._verified:
                    self._verified[key] = self._verifier.verify_batch(each)
            except EvidenceError as error:
                found.append(Violation(Rule.UNVERIFIED, f"{whose}: {error}"))
            else:
                good.append(self._verified[key])
        return good


def _chain(batches: Sequence[VerifiedBatch]) -> list[Violation]:
    found = []
    at: ChainPosition | None = None
    explained: dict[int, bool] = {}
    for batch in batches:
        try:
            follow(at, batch)
        except EvidenceError as error:
            found.append(Violation(Rule.CHAIN, str(error)))
        at = batch.position
        incarnation = batch.identity.incarnation
        explained[incarnation] = explained.get(incarnation, False) or any(
            isinstance(each.statement, Alarm) and each.statement.code == SET_ASIDE for each in batch.statements
        )
    for incarnation in sorted(explained)[1:]:
        if not explained[incarnation]:
            found.append(Violation(Rule.UNEXPLAINED, f"incarnation {incarnation}"))
    return found


def _numbers(batches: Sequence[VerifiedBatch], arrived: Sequence[VerifiedBatch], told: Told) -> list[Violation]:
    """One number, one content: in the store, at the platform, and among what was once called sealed."""
    found = []
    roots: dict[Place, bytes] = {}
    said = [*told.sealed, *_shown(told)]
    for place, root in [*((_place(batch), batch.root) for batch in (*batches, *arrived)), *said]:
        if roots.setdefault(place, root) != root:
            found.append(Violation(Rule.BATCH_REUSED, _name(place)))
    counted = Counter(place for place, _ in told.sealed)
    found += [Violation(Rule.BATCH_REUSED, f"{_name(p)} was sealed {n} times") for p, n in counted.items() if n > 1]
    return found


def _promises(
    told: Told, held: Held, batches: Sequence[VerifiedBatch], arrived: Sequence[VerifiedBatch]
) -> list[Violation]:
    places = {_place(batch): batch.root for batch in batches}
    kept = {each.encoded for batch in batches for each in batch.statements}
    kept.update(held.queued)
    found = [Violation(Rule.LOST, _about(each)) for each in told.puts if each not in kept]
    released = [*told.sealed, *_shown(told), *((_place(batch), batch.root) for batch in arrived)]
    found += [Violation(Rule.UNSEALED, _name(place)) for place, root in released if places.get(place) != root]
    return found


def _readings(batches: Sequence[VerifiedBatch], arrived: Sequence[VerifiedBatch]) -> list[Violation]:
    found: list[Violation] = []
    contents: dict[tuple[str, int, bytes, int], bytes] = {}
    boots: dict[tuple[str, int, int], bytes] = {}
    sealed: set[tuple[str, int, bytes, int]] = set()
    devices: dict[tuple[str, int], list[Reading]] = {}
    for ours, batch in [*((True, each) for each in batches), *((False, each) for each in arrived)]:
        for each in batch.statements:
            reading = each.statement
            if not isinstance(reading, Reading):
                continue
            name = f"{reading.device_id} {reading.incarnation}.{reading.sequence}"
            identity = (reading.device_id, reading.incarnation, reading.boot_id, reading.sequence)
            if contents.setdefault(identity, each.encoded) != each.encoded:
                found.append(Violation(Rule.EQUIVOCATION, name))
            elif ours and identity in sealed:
                found.append(Violation(Rule.DOUBLED, name))
            boot = boots.setdefault((reading.device_id, reading.incarnation, reading.sequence), reading.boot_id)
            if boot != reading.boot_id:
                found.append(Violation(Rule.SEQUENCE_REUSED, name))
            if ours:
                sealed.add(identity)
                devices.setdefault((reading.device_id, reading.incarnation), []).append(reading)
    for (device_id, incarnation), readings in devices.items():
        found += _meter(device_id, incarnation, readings)
    return found


def _meter(device_id: str, incarnation: int, readings: Sequence[Reading]) -> list[Violation]:
    """One device's readings of one incarnation, in the order of sealing: no hole, and the registers' own energy."""
    name = f"{device_id} of incarnation {incarnation}"
    found = []
    sequences = [reading.sequence for reading in readings]
    missing = sorted(set(range(1, max(sequences) + 1)) - set(sequences))
    if missing:
        found.append(Violation(Rule.SEQUENCE_GAP, f"{name}: {missing[:5]}, {len(missing)} in all"))
    before: int | None = None
    for reading in sorted(readings, key=lambda each: each.sequence):
        imported, exported = reading.import_register_milliwatt_hours, reading.export_register_milliwatt_hours
        moment = None if imported is None or exported is None else moment_of(device_id, imported, exported)
        if moment is None or (before is not None and moment < before):
            found.append(Violation(Rule.REGISTERS, f"{name}, reading {reading.sequence}: {imported}, {exported}"))
        else:
            before = moment
    found += _energy(name, readings)
    return found


def _energy(name: str, readings: Sequence[Reading]) -> list[Violation]:
    in_order = sorted(readings, key=lambda each: each.sequence)
    first, last = in_order[0], in_order[-1]
    if {reading.meter_epoch for reading in in_order} != {first.meter_epoch}:
        return [Violation(Rule.ENERGY, f"{name}: the meter was never replaced, and a new epoch began")]
    said = sum(reading.net_energy_wh for reading in in_order[1:])
    counted = _net_wh(last) - _net_wh(first)
    if said != counted:
        return [Violation(Rule.ENERGY, f"{name}: readings say {said} Wh, registers {counted} Wh")]
    return []


def _net_wh(reading: Reading) -> int:
    return ((reading.import_register_milliwatt_hours or 0) - (reading.export_register_milliwatt_hours or 0)) // 1000


def _shown(told: Told) -> list[tuple[Place, bytes]]:
    return [((incarnation, number), root) for incarnation, number, root in told.shown]


def _place(batch: VerifiedBatch) -> Place:
    return batch.identity.incarnation, batch.identity.number


def _name(place: Place) -> str:
    return f"batch {place[1]} of incarnation {place[0]}"


def _about(encoded: bytes) -> str:
    try:
        statement = decode(encoded)
    except EvidenceError as error:
        return str(error)
    if isinstance(statement, Reading):
        return f"{statement.device_id} {statement.incarnation}.{statement.sequence}"
    return f"{type(statement).__name__} {hashlib.sha256(encoded).hexdigest()[:12]}"
